//! Grammars of names, keys and values, with the messages Kubernetes gives when one is broken
//! (upstream `k8s.io/apimachinery/pkg/util/validation`).

const LABEL_1123: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_1123: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// The longest DNS label.
pub const LABEL_MAX_BYTES: usize = 63;
/// The longest DNS subdomain.
pub const SUBDOMAIN_MAX_BYTES: usize = 253;

/// `must be no more than max bytes`.
pub fn max_len_error(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// `must be non-empty`.
pub fn empty_error() -> String {
    "must be non-empty".to_owned()
}

/// `must be between low and high, inclusive`.
pub fn range_error(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// A message about a regular expression, with examples.
pub fn regex_error(message: &str, regex: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{regex}')");
    }
    let list: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{regex}')", list.join(" or "))
}

fn is_lower_alnum(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label_1123(text: &str) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            is_lower_alnum(*first)
                && is_lower_alnum(*last)
                && bytes.iter().all(|b| is_lower_alnum(*b) || *b == b'-')
        }
        _ => false,
    }
}

/// A lower-case RFC 1123 label, at most 63 bytes.
pub fn dns1123_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_MAX_BYTES {
        errors.push(max_len_error(LABEL_MAX_BYTES));
    }
    if !is_label_1123(text) {
        if text.split('.').all(is_label_1123) {
            // A subdomain was given where only a label will do.
            errors.push("must not contain dots".to_owned());
        } else {
            errors.push(regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters \
                 or '-', and must start and end with an alphanumeric character",
                LABEL_1123,
                &["my-name", "123-abc"],
            ));
        }
    }
    errors
}

/// A lower-case RFC 1123 subdomain, at most 253 bytes.
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > SUBDOMAIN_MAX_BYTES {
        errors.push(max_len_error(SUBDOMAIN_MAX_BYTES));
    }
    if !text.split('.').all(is_label_1123) {
        errors.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
             '-' or '.', and must start and end with an alphanumeric character",
            SUBDOMAIN_1123,
            &["example.com"],
        ));
    }
    errors
}

/// An RFC 1123 subdomain that may begin with `*.`.
pub fn wildcard_dns1123_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > SUBDOMAIN_MAX_BYTES {
        errors.push(max_len_error(SUBDOMAIN_MAX_BYTES));
    }
    let rest_is_valid =
        text.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(is_label_1123));
    if !rest_is_valid {
        errors.push(regex_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS \
             subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and \
             end with an alphanumeric character",
            &format!("\\*\\.{SUBDOMAIN_1123}"),
            &["*.example.com"],
        ));
    }
    errors
}

/// An RFC 1035 label (a letter first), at most 63 bytes: Service names.
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_MAX_BYTES {
        errors.push(max_len_error(LABEL_MAX_BYTES));
    }
    if !is_label_1123(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        errors.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start \
             with an alphabetic character, and end with an alphanumeric character",
            LABEL_1035,
            &["my-name", "abc-123"],
        ));
    }
    errors
}

fn is_qualified_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        }
        _ => false,
    }
}

const QUALIFIED_MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and \
                                 must start and end with an alphanumeric character";
const QUALIFIED_EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];

/// A qualified name, `[prefix/]name`: label keys, annotation keys, resource names.
pub fn label_key(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push(format!("prefix part {}", empty_error()));
            } else {
                errors.extend(
                    dns1123_subdomain(prefix).into_iter().map(|m| format!("prefix part {m}")),
                );
            }
            *name
        }
        _ => {
            let rule = regex_error(QUALIFIED_MESSAGE, QUALIFIED, QUALIFIED_EXAMPLES);
            return vec![format!(
                "a qualified name {rule} with an optional DNS subdomain prefix and '/' \
                 (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push(format!("name part {}", empty_error()));
    } else if name.len() > LABEL_MAX_BYTES {
        errors.push(format!("name part {}", max_len_error(LABEL_MAX_BYTES)));
    }
    if !is_qualified_part(name) {
        let rule = regex_error(QUALIFIED_MESSAGE, QUALIFIED, QUALIFIED_EXAMPLES);
        errors.push(format!("name part {rule}"));
    }
    errors
}

/// A label value: empty, or at most 63 bytes of alphanumerics, `-`, `_` and `.`.
pub fn label_value(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_MAX_BYTES {
        errors.push(max_len_error(LABEL_MAX_BYTES));
    }
    if !text.is_empty() && !is_qualified_part(text) {
        errors.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', \
             '_' or '.', and must start and end with an alphanumeric character",
            &format!("({QUALIFIED})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > SUBDOMAIN_MAX_BYTES {
        errors.push(max_len_error(SUBDOMAIN_MAX_BYTES));
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if text.is_empty() || !text.bytes().all(legal) {
        errors.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    errors.extend(dots(text));
    errors
}

fn dots(text: &str) -> Option<String> {
    match text {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if text.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// An environment variable name: printable ASCII without `=`.
pub fn env_var_name(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec![format!("environment variable name {}", empty_error())];
    }
    if text.bytes().any(|b| !(b' '..=b'~').contains(&b) || b == b'=') {
        return vec![
            "a valid environment variable name must consist only of printable ASCII characters \
             other than '='"
                .to_owned(),
        ];
    }
    Vec::new()
}

/// A port name: at most 15 of lower-case letters, digits and single hyphens, one letter at least.
pub fn port_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 15 {
        errors.push(max_len_error(15));
    }
    if text.is_empty() || !text.bytes().all(|b| is_lower_alnum(b) || b == b'-') {
        errors
            .push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        errors.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        errors.push("must not begin or end with a hyphen".into());
    }
    errors
}

/// A port number, 1 to 65535.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec![range_error(1, 65535)] }
}

/// A user or group id that fits in 32 bits without sign.
pub fn unix_id(id: i64) -> Vec<String> {
    let max = i64::from(i32::MAX);
    if (0..=max).contains(&id) { Vec::new() } else { vec![range_error(0, max)] }
}

/// An IP address in canonical text form of either family.
pub fn ip(text: &str) -> Vec<String> {
    match text.parse::<std::net::IpAddr>() {
        Ok(_) => Vec::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// What is wrong with an address that traffic is to be sent to (upstream `ValidateNonSpecialIP`).
pub fn reachable_ip(text: &str) -> Option<String> {
    let ip: std::net::IpAddr = text.parse().ok()?;
    let (link_local, link_local_multicast) = match ip {
        std::net::IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        std::net::IpAddr::V6(v6) => {
            (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] & 0xff0f == 0xff02)
        }
    };
    if ip.is_unspecified() {
        Some(format!("may not be unspecified ({ip})"))
    } else if ip.is_loopback() {
        Some("may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned())
    } else if link_local {
        Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned())
    } else if link_local_multicast {
        Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned())
    } else {
        None
    }
}

/// A header name of an HTTP probe.
pub fn http_header_name(text: &str) -> Vec<String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if text.is_empty() || !text.bytes().all(legal) {
        return vec![regex_error(
            "a valid HTTP header must consist of alphanumeric characters or '-'",
            "[-A-Za-z0-9]+",
            &["X-Header-Name"],
        )];
    }
    Vec::new()
}

/// A percentage such as `25%`.
pub fn percent(text: &str) -> Vec<String> {
    let digits = text.strip_suffix('%').unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return vec![regex_error(
            "a valid percent string must be a numeric string followed by an ending '%'",
            "[0-9]+%",
            &["1%", "93%"],
        )];
    }
    Vec::new()
}

/// A name that can be one segment of a URL path (RBAC objects).
pub fn path_segment(text: &str) -> Vec<String> {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    path_segment_prefix(text)
}

/// The beginning of a [`path_segment`].
pub fn path_segment_prefix(text: &str) -> Vec<String> {
    ["/", "%"]
        .iter()
        .filter(|bad| text.contains(**bad))
        .map(|bad| format!("may not contain '{bad}'"))
        .collect()
}

/// Replaces a trailing dash, so that a generateName is judged as the name it becomes.
pub fn mask_trailing_dash(name: &str) -> String {
    match name.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => {
            let mut masked = rest.to_owned();
            masked.pop();
            masked.push('a');
            masked
        }
        _ => name.to_owned(),
    }
}

/// Name rules as a kind states them; `prefix` marks a generateName.
pub fn subdomain_name(name: &str, prefix: bool) -> Vec<String> {
    if prefix { dns1123_subdomain(&mask_trailing_dash(name)) } else { dns1123_subdomain(name) }
}

/// As [`subdomain_name`], for RFC 1123 labels.
pub fn label_name(name: &str, prefix: bool) -> Vec<String> {
    if prefix { dns1123_label(&mask_trailing_dash(name)) } else { dns1123_label(name) }
}

/// As [`subdomain_name`], for RFC 1035 labels.
pub fn label_1035_name(name: &str, prefix: bool) -> Vec<String> {
    if prefix { dns1035_label(&mask_trailing_dash(name)) } else { dns1035_label(name) }
}

/// As [`subdomain_name`], for path segments.
pub fn path_segment_name(name: &str, prefix: bool) -> Vec<String> {
    if prefix { path_segment_prefix(name) } else { path_segment(name) }
}

#[cfg(test)]
mod tests {
    use super::mask_trailing_dash;

    #[test]
    fn trailing_dash_is_masked_behind_any_letter() {
        for (name, masked) in
            [("web-", "wea"), ("é-", "a"), ("aé-", "aa"), ("-", "-"), ("a-", "a"), ("", "")]
        {
            assert_eq!(mask_trailing_dash(name), masked, "{name:?}");
        }
    }
}
