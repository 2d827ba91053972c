//! Login links, sessions and terminal tokens: random, kept as digests, each with an end.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};

use crate::security::User;

/// How long a login link is good.
pub(super) const LOGIN_LIFETIME: Duration = Duration::from_secs(300);
/// How long a session lasts at most.
pub(super) const SESSION_LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// A session that nobody has used for this long is over.
pub(super) const SESSION_IDLE: Duration = Duration::from_secs(2 * 3600);
/// How long a terminal token is good.
pub(super) const TERMINAL_LIFETIME: Duration = Duration::from_secs(30);
/// The most that are kept of each; of the user that has the most, the one that ends first makes
/// room.
pub(super) const KEPT_MAX: usize = 64;
/// Bytes of randomness in a token.
const TOKEN_BYTES: usize = 32;

type Digest = [u8; 32];

/// A session that has begun.
pub(super) struct Begun {
    /// The token of the cookie.
    pub(super) session: String,
    /// The token that the page itself keeps and sends.
    pub(super) page: String,
    pub(super) user: User,
}

struct Kept {
    user: User,
    /// That of the page's token, of a session.
    page: Option<Digest>,
    ends: Instant,
    used: Instant,
}

impl Kept {
    fn new(user: User, now: Instant, lifetime: Duration) -> Self {
        Self { user, page: None, ends: now + lifetime, used: now }
    }
}

/// Who may come in. The clock is the caller's.
#[derive(Default)]
pub(super) struct Sessions {
    logins: HashMap<Digest, Kept>,
    sessions: HashMap<Digest, Kept>,
    terminals: HashMap<Digest, Kept>,
}

impl Sessions {
    /// A token that [`Self::exchange`] takes once.
    pub(super) fn login_token(&mut self, user: User, now: Instant) -> String {
        keep(&mut self.logins, Kept::new(user, now, LOGIN_LIFETIME), now)
    }

    /// The user that a login token is for; the token stays good.
    pub(super) fn offered(&self, token: &str, now: Instant) -> Option<User> {
        let login = self.logins.get(&digest_of(token)).filter(|kept| kept.ends > now)?;
        Some(login.user.clone())
    }

    /// Turns a login token into a session; the token is used up.
    pub(super) fn exchange(&mut self, token: &str, now: Instant) -> Option<Begun> {
        let login = self.logins.remove(&digest_of(token)).filter(|kept| kept.ends > now)?;
        let (user, page) = (login.user.clone(), random_token());
        let session = Kept::new(login.user, now, SESSION_LIFETIME);
        let session = Kept { page: Some(digest_of(&page)), ..session };
        Some(Begun { session: keep(&mut self.sessions, session, now), page, user })
    }

    /// The user of a live session, for requests with the page's token.
    pub(super) fn user(&mut self, token: &str, page: &str, now: Instant) -> Option<User> {
        let page = digest_of(page);
        let kept = self.sessions.get(&digest_of(token))?;
        if kept.page != Some(page) {
            return None;
        }
        self.user_by_cookie(token, now)
    }

    /// The user of a live session, for what shows in another way that it comes from the page.
    pub(super) fn user_by_cookie(&mut self, token: &str, now: Instant) -> Option<User> {
        let key = digest_of(token);
        let kept = self.sessions.get_mut(&key)?;
        if kept.ends <= now || kept.used + SESSION_IDLE <= now {
            self.sessions.remove(&key);
            return None;
        }
        kept.used = now;
        Some(kept.user.clone())
    }

    /// Ends a session.
    pub(super) fn end(&mut self, token: &str) {
        self.sessions.remove(&digest_of(token));
    }

    /// A token that opens one terminal for this user.
    pub(super) fn terminal_token(&mut self, user: &User, now: Instant) -> String {
        keep(&mut self.terminals, Kept::new(user.clone(), now, TERMINAL_LIFETIME), now)
    }

    /// Uses a terminal token up; says whether it was good and this user's.
    pub(super) fn opens_terminal(&mut self, token: &str, user: &User, now: Instant) -> bool {
        self.terminals
            .remove(&digest_of(token))
            .is_some_and(|kept| kept.ends > now && kept.user.name == user.name)
    }
}

/// Puts an entry under a new random token, which it returns.
fn keep(map: &mut HashMap<Digest, Kept>, entry: Kept, now: Instant) -> String {
    map.retain(|_, kept| kept.ends > now);
    if map.len() >= KEPT_MAX {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for kept in map.values().chain([&entry]) {
            *counts.entry(&kept.user.name).or_default() += 1;
        }
        let of_most = |kept: &Kept| counts.get(kept.user.name.as_str()).copied();
        let first = map.iter().min_by_key(|(_, kept)| (Reverse(of_most(kept)), kept.ends));
        if let Some(first) = first.map(|(key, _)| *key) {
            map.remove(&first);
        }
    }
    let token = random_token();
    map.insert(digest_of(&token), entry);
    token
}

fn random_token() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; TOKEN_BYTES]>())
}

/// Tokens are looked up by digest, so that neither the memory nor the time a look-up takes tells
/// anything about them.
fn digest_of(token: &str) -> Digest {
    let mut bytes = Digest::default();
    bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jane() -> User {
        User::authenticated("jane", &["system:masters"])
    }

    #[test]
    fn a_login_link_works_once_and_for_a_while() {
        let mut sessions = Sessions::default();
        let start = Instant::now();
        let token = sessions.login_token(jane(), start);
        assert_eq!(sessions.offered(&token, start), Some(jane()));
        assert!(sessions.offered(&token, start + LOGIN_LIFETIME).is_none(), "too late");
        let begun = sessions.exchange(&token, start).expect("a fresh link works");
        assert_eq!(begun.user, jane());
        let (session, page) = (&begun.session, &begun.page);
        assert_eq!(sessions.user(session, page, start), Some(jane()));
        for wrong in ["", "1", session] {
            assert_eq!(sessions.user(session, wrong, start), None, "of another page");
        }
        assert_eq!(sessions.user(page, page, start), None);
        assert!(sessions.exchange(&token, start).is_none(), "once only");
        assert!(sessions.offered(&token, start).is_none());
        let late = sessions.login_token(jane(), start);
        assert!(sessions.exchange(&late, start + LOGIN_LIFETIME).is_none(), "too late");
        assert!(sessions.exchange("", start).is_none());
    }

    #[test]
    fn sessions_end_by_age_by_idleness_and_on_request() {
        let mut sessions = Sessions::default();
        let start = Instant::now();
        let open = |sessions: &mut Sessions| {
            let token = sessions.login_token(jane(), start);
            sessions.exchange(&token, start).expect("a fresh link works").session
        };
        let idle = open(&mut sessions);
        assert!(sessions.user_by_cookie(&idle, start + SESSION_IDLE).is_none());
        let old = open(&mut sessions);
        let mut now = start;
        while now + SESSION_IDLE / 2 < start + SESSION_LIFETIME {
            now += SESSION_IDLE / 2;
            assert!(sessions.user_by_cookie(&old, now).is_some());
        }
        assert!(sessions.user_by_cookie(&old, start + SESSION_LIFETIME).is_none());
        let ended = open(&mut sessions);
        sessions.end(&ended);
        assert!(sessions.user_by_cookie(&ended, start).is_none());
    }

    #[test]
    fn a_terminal_token_is_one_users_and_opens_one_terminal() {
        let mut sessions = Sessions::default();
        let now = Instant::now();
        let token = sessions.terminal_token(&jane(), now);
        assert!(sessions.opens_terminal(&token, &jane(), now));
        assert!(!sessions.opens_terminal(&token, &jane(), now), "once only");
        let token = sessions.terminal_token(&jane(), now);
        let joe = User::authenticated("joe", &[]);
        assert!(!sessions.opens_terminal(&token, &joe, now), "somebody else's");
        let token = sessions.terminal_token(&jane(), now);
        assert!(!sessions.opens_terminal(&token, &jane(), now + TERMINAL_LIFETIME), "too late");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut sessions = Sessions::default();
        let now = Instant::now();
        let tokens: Vec<String> = (0..=KEPT_MAX as u64)
            .map(|n| sessions.login_token(jane(), now + Duration::from_secs(n)))
            .collect();
        assert_eq!(sessions.logins.len(), KEPT_MAX);
        assert!(sessions.exchange(&tokens[0], now).is_none(), "the oldest made room");
        assert!(sessions.exchange(&tokens[KEPT_MAX], now).is_some());
    }

    #[test]
    fn one_user_does_not_displace_another() {
        let mut sessions = Sessions::default();
        let now = Instant::now();
        let token = sessions.terminal_token(&jane(), now);
        let joe = User::authenticated("joe", &[]);
        for n in 0..3 * KEPT_MAX as u64 {
            sessions.terminal_token(&joe, now + Duration::from_millis(n));
        }
        assert_eq!(sessions.terminals.len(), KEPT_MAX);
        assert!(sessions.opens_terminal(&token, &jane(), now));
    }
}
