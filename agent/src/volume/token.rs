//! Service account tokens for projected volumes.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;

/// A token and when it has to be replaced.
#[derive(Clone)]
pub struct Token {
    /// The signed token.
    pub value: String,
    /// At 80 % of its life, at the latest after a day.
    pub refresh_at: Instant,
}

const DEFAULT_SECONDS: i64 = 3600;
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Asks the API server for a token bound to the pod.
pub async fn request(
    client: &Client,
    pod: &Pod,
    projection: &ServiceAccountTokenProjection,
) -> Result<Token, kube::Error> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    let account = account.filter(|name| !name.is_empty()).unwrap_or("default");
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: projection.audience.iter().cloned().collect(),
            expiration_seconds: Some(projection.expiration_seconds.unwrap_or(DEFAULT_SECONDS)),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        },
        ..TokenRequest::default()
    };
    let api = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
    let answer = api.create_token_request(account, &PostParams::default(), &request).await?;
    let (value, life) = match answer.status {
        Some(status) => {
            let expires = status.expiration_timestamp.0;
            let life = Duration::try_from(expires.duration_since(jiff::Timestamp::now()));
            (status.token, life.unwrap_or_default())
        }
        None => Default::default(),
    };
    Ok(Token { value, refresh_at: Instant::now() + refresh_after(life) })
}

fn refresh_after(life: Duration) -> Duration {
    (life * 4 / 5).clamp(Duration::from_secs(1), LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_replaced_before_they_expire() {
        assert_eq!(refresh_after(Duration::from_secs(3600)), Duration::from_secs(2880));
        assert_eq!(refresh_after(Duration::from_secs(365 * 86400)), LONGEST);
    }
}
