//! Lifecycle hooks: what a container runs right after its start and right before its end.

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;
use tokio::time::timeout;

use crate::probe::{self, Target, http};

/// Longest an HTTP hook may take to answer, and a TCP hook to connect.
const HTTP_PATIENCE: Duration = Duration::from_secs(30);

/// Runs a hook to its end; the error is what an event says.
pub async fn run(handler: &LifecycleHandler, target: &Target) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let (code, output) = probe::run(target, command.clone()).await?;
        if code != 0 {
            return Err(format!(
                "Exec lifecycle hook ({command:?}) exited with {code}: {}",
                output.trim_end()
            ));
        }
        return Ok(());
    }
    if let Some(action) = &handler.http_get {
        return http::hook(action, target, HTTP_PATIENCE).await;
    }
    if let Some(action) = &handler.tcp_socket {
        let port = probe::port(&action.port, &target.ports)?;
        let host = target.host.to_string();
        let connected =
            timeout(HTTP_PATIENCE, probe::connect(&target.container, &host, port)).await;
        return match connected {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("dial tcp {host}:{port}: i/o timeout")),
        };
    }
    if let Some(sleep) = &handler.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
    Ok(())
}
