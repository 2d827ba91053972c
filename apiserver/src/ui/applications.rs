//! Applications that users have opened through the API's proxy.
//!
//! An application is shown without an origin (see [`super::harden`]), so that what it loads looks
//! like what a page of another origin loads: both say `cross-site` and neither says where it is from.
//! A page that the user has not opened here may load nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::request::Parts;

use super::guard;
use crate::error::ApiError;
use crate::request::RequestInfo;
use crate::security::User;

/// Time in which an application may load things after the user has opened it or it has last loaded
/// something.
const OPEN_FOR: Duration = Duration::from_secs(600);
/// Applications that are kept; the one that ends first makes room.
const KEPT_MAX: usize = 64;

/// The applications that are open, by user and target, with their ends.
#[derive(Default)]
pub(super) struct Applications(Mutex<HashMap<(String, String), Instant>>);

impl Applications {
    /// Notes that the user opens an application, or refuses what a page of another origin loads
    /// of one that is not open. To be asked once the user is known and may use the proxy.
    pub(super) fn admit(
        &self,
        parts: &Parts,
        info: &RequestInfo,
        user: &User,
        now: Instant,
    ) -> Result<(), ApiError> {
        if info.subresource != "proxy" {
            return Ok(());
        }
        let target = format!("{}/{}/{}", info.resource, info.namespace, info.name);
        let key = (user.name.clone(), target);
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, ends| *ends > now);
        match guard::load(parts) {
            guard::Load::Own => {}
            guard::Load::OpenedByUser => {
                if open.len() >= KEPT_MAX
                    && let Some(first) = open.iter().min_by_key(|(_, ends)| **ends)
                {
                    let first = first.0.clone();
                    open.remove(&first);
                }
                open.insert(key, now + OPEN_FOR);
            }
            guard::Load::Foreign => match open.get_mut(&key) {
                Some(ends) => *ends = now + OPEN_FOR,
                None => {
                    return Err(guard::foreign(
                        "open the application itself before a page loads parts of it",
                    ));
                }
            },
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use http::{Method, Request};

    use super::*;
    use crate::request::Query;

    const APP: &str = "/api/v1/namespaces/default/services/app/proxy/";
    const OTHER: &str = "/api/v1/namespaces/default/services/other/proxy/";
    const OPEN: [(&str, &str); 3] = [
        ("sec-fetch-site", "none"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
    ];
    const LOAD: [(&str, &str); 3] = [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "no-cors"),
        ("sec-fetch-dest", "image"),
    ];

    fn admits(
        applications: &Applications,
        user: &str,
        path: &str,
        headers: &[(&str, &str)],
        now: Instant,
    ) -> bool {
        let mut request = Request::builder().method(Method::GET).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let info = RequestInfo::parse(&parts.method, &parts.uri, &Query::parse(""));
        applications.admit(&parts, &info, &User::authenticated(user, &[]), now).is_ok()
    }

    #[test]
    fn only_opened_applications_load_parts() {
        let applications = Applications::default();
        let now = Instant::now();
        let load = |user: &str, path: &str, now| admits(&applications, user, path, &LOAD, now);
        assert!(!load("jane", APP, now), "nothing is open");
        assert!(admits(&applications, "jane", APP, &[], now), "clients that are no browsers pass");
        assert!(admits(&applications, "jane", APP, &OPEN, now));
        assert!(load("jane", APP, now));
        assert!(!load("jane", OTHER, now), "another application");
        assert!(!load("joe", APP, now), "another user");
        let later = now + OPEN_FOR / 2;
        assert!(load("jane", APP, later), "use keeps it open");
        assert!(load("jane", APP, now + OPEN_FOR));
        assert!(!load("jane", APP, later + 2 * OPEN_FOR));
        // A link on a page of another origin opens nothing.
        let link = [("sec-fetch-site", "cross-site"), OPEN[1], OPEN[2]];
        assert!(!admits(&applications, "jane", OTHER, &LOAD, now));
        assert!(admits(&applications, "jane", OTHER, &link, now));
        assert!(!admits(&applications, "jane", OTHER, &LOAD, now));
    }

    #[test]
    fn applications_that_are_kept_are_bounded() {
        let applications = Applications::default();
        let now = Instant::now();
        for n in 0..=KEPT_MAX {
            let path = format!("/api/v1/namespaces/default/services/app{n}/proxy/");
            assert!(admits(&applications, "jane", &path, &OPEN, now));
        }
        assert_eq!(applications.0.lock().unwrap().len(), KEPT_MAX);
    }
}
