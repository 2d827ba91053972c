//! Certificates: what goes into them and whether one at hand will still do. No files here.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{Authority, PkiError};

/// A certificate is replaced when less than this share of its life remains.
const RENEW_IN_LAST: u32 = 3;

/// A key and its certificate.
#[derive(Clone)]
pub(super) struct Leaf {
    pub(super) certificate_pem: String,
    pub(super) key_pem: String,
    pub(super) certificate: CertificateDer<'static>,
    /// The last moment at which it should be in use.
    pub(super) renew_at: SystemTime,
    /// Sorted text of the subject alternative names.
    pub(super) names: Vec<String>,
}

impl Leaf {
    /// Reads what [`Leaf::pem`] wrote; `None` when it is anything else.
    pub(super) fn parse(pem: &str) -> Option<Self> {
        let start = pem.find("-----BEGIN CERTIFICATE-----")?;
        let (key_pem, certificate_pem) = pem.split_at(start);
        Self::new(key_pem.to_owned(), certificate_pem.to_owned())
    }

    fn new(key_pem: String, certificate_pem: String) -> Option<Self> {
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).ok()?;
        let (_, parsed) = X509Certificate::from_der(&certificate).ok()?;
        let key = KeyPair::from_pem(&key_pem).ok()?;
        if *parsed.public_key().subject_public_key.data != *rcgen::PublicKeyData::der_bytes(&key) {
            return None;
        }
        let end = UNIX_EPOCH
            + Duration::from_secs(u64::try_from(parsed.validity().not_after.timestamp()).ok()?);
        let issued = issued_at(&parsed)?;
        let renew_at = end - end.duration_since(issued).ok()? / RENEW_IN_LAST;
        let names = subject_alt_names(&parsed);
        Some(Self { certificate_pem, key_pem, certificate, renew_at, names })
    }

    /// Key first, certificate after.
    pub(super) fn pem(&self) -> String {
        format!("{}{}", self.key_pem, self.certificate_pem)
    }

    /// Whether this authority signed it and it need not be renewed yet.
    pub(super) fn is_good(&self, authority: &Authority, now: SystemTime) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(&self.certificate) else { return false };
        let Ok((_, issuer)) = X509Certificate::from_der(&authority.certificate) else {
            return false;
        };
        now < self.renew_at && parsed.verify_signature(Some(issuer.public_key())).is_ok()
    }
}

/// The moment of issue is kept in the serial number, because validity itself begins in 1970 so
/// that a machine whose clock starts there can use its certificates.
fn issued_at(certificate: &X509Certificate<'_>) -> Option<SystemTime> {
    let serial = certificate.raw_serial();
    let head: [u8; 8] = serial.get(..8)?.try_into().ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(u64::from_be_bytes(head) & SERIAL_TIME))
}

/// The serial number is 16 bytes: a set bit so that no leading zero is lost, the moment of issue
/// in 62 bits, and 8 random bytes.
const SERIAL_TIME: u64 = (1 << 62) - 1;

fn serial(now: SystemTime) -> rcgen::SerialNumber {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let head = (seconds & SERIAL_TIME) | (1 << 62);
    let mut bytes = head.to_be_bytes().to_vec();
    bytes.extend_from_slice(&rand::random::<[u8; 8]>());
    rcgen::SerialNumber::from(bytes)
}

fn subject_alt_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let mut names: Vec<String> = extension
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => Some(IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string()),
                16 => Some(IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
                _ => None,
            },
            _ => None,
        })
        .collect();
    names.sort();
    names
}

fn params(name: &str, groups: &[&str], now: SystemTime, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for group in groups {
        params
            .distinguished_name
            .push(DnType::OrganizationName, DnValue::Utf8String((*group).to_owned()));
    }
    params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(name.to_owned()));
    params.serial_number = Some(serial(now));
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch;
    params.not_after = epoch + (now.duration_since(UNIX_EPOCH).unwrap_or_default() + validity);
    params
}

/// A self-signed authority; returns its certificate, PEM.
pub(super) fn authority(
    key: &KeyPair,
    now: SystemTime,
    validity: Duration,
) -> Result<String, PkiError> {
    let mut params = params("coracle-ca", &[], now, validity);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    let certificate =
        params.self_signed(key).map_err(|error| PkiError::Sign("coracle-ca".to_owned(), error))?;
    Ok(certificate.pem())
}

/// A client certificate: `name` is the user, `groups` are its groups.
pub(super) fn client(
    authority: &Authority,
    name: &str,
    groups: &[&str],
    now: SystemTime,
    validity: Duration,
) -> Result<Leaf, PkiError> {
    let mut params = params(name, groups, now, validity);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    sign(authority, params, name)
}

/// A certificate for servers with these names and addresses.
pub(super) fn server(
    authority: &Authority,
    name: &str,
    subject_alt_names: &[String],
    now: SystemTime,
    validity: Duration,
) -> Result<Leaf, PkiError> {
    let mut params = params(name, &[], now, validity);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for name in subject_alt_names {
        let san = match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(
                name.as_str().try_into().map_err(|error| PkiError::Sign(name.clone(), error))?,
            ),
        };
        params.subject_alt_names.push(san);
    }
    sign(authority, params, name)
}

fn sign(
    authority: &Authority,
    mut params: CertificateParams,
    name: &str,
) -> Result<Leaf, PkiError> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(PkiError::Generate)?;
    let certificate = params
        .signed_by(&key, &authority.issuer)
        .map_err(|error| PkiError::Sign(name.to_owned(), error))?;
    Leaf::new(key.serialize_pem(), certificate.pem())
        .ok_or_else(|| PkiError::Sign(name.to_owned(), rcgen::Error::CouldNotParseCertificate))
}
