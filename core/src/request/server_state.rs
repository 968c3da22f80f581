//! What has been learned of each server: the nonces that it asks for, its clock, its name for an algorithm.

use std::fmt;

use http::HeaderMap;
use serde::Serialize;

use crate::jose::Algorithm;
use crate::request::clock_offset::ClockOffset;
use crate::types::endpoint::{Endpoint, HttpTarget, Origin};
use crate::types::input::InvalidInput;
use crate::types::nonce::Nonce;
use crate::types::time::UnixTime;
use crate::wire::json::JsonValue;

/// In which part a server is asked. One origin may play both, and their nonces are two (RFC 9449 §8, §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "OAuth has these two")]
pub enum Role {
    /// It issues tokens.
    AuthorizationServer,
    /// It takes them.
    ResourceServer,
}

impl Role {
    /// As it is written down.
    fn name(self) -> &'static str {
        match self {
            Self::AuthorizationServer => "AuthorizationServer",
            Self::ResourceServer => "ResourceServer",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::AuthorizationServer, Self::ResourceServer]
            .into_iter()
            .find(|role| role.name() == name)
    }
}

/// What is known of each origin in each role: its latest nonce, learned from every response; how far its clock
/// is from ours, and its name for our algorithm, learned from refusals. The memory of all exchanges and calls
/// that a driver performs.
///
/// Bounded: beyond [`ServerState::CAPACITY`] the one that was heard of longest ago is forgotten.
#[derive(Clone, Debug, Default)]
pub struct ServerState {
    /// The one heard of last stands last.
    servers: Vec<ServerEntry>,
}

/// What is known of one server in one role.
#[derive(Clone)]
pub(crate) struct ServerEntry {
    origin: Origin,
    role: Role,
    last_seen: UnixTime,
    pub(crate) nonce: Option<Nonce>,
    /// The name by which it knows the algorithm of our key, where that has two.
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) clock_offset: ClockOffset,
}

impl ServerState {
    /// How many origins are remembered.
    pub const CAPACITY: usize = 64;

    /// Nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn get(&self, role: Role, target: &HttpTarget<'_>) -> Option<&ServerEntry> {
        self.position(role, target)
            .and_then(|at| self.servers.get(at))
    }

    /// Learns from any response: its nonce, if it has one.
    pub(crate) fn record_nonce(
        &mut self,
        role: Role,
        target: &HttpTarget<'_>,
        headers: &HeaderMap,
        now: UnixTime,
    ) {
        let at = self.position(role, target);
        let before = at
            .and_then(|at| self.servers.get(at))
            .and_then(|known| known.nonce.as_ref());
        if let Some(nonce) = Nonce::from_headers_or_known(before, headers) {
            self.update_at(at, role, target, now, |known| known.nonce = Some(nonce));
        }
    }

    /// Adds to what is known of a server; it is the one heard of last from now on.
    pub(crate) fn update(
        &mut self,
        role: Role,
        target: &HttpTarget<'_>,
        now: UnixTime,
        note: impl FnOnce(&mut ServerEntry),
    ) {
        self.update_at(self.position(role, target), role, target, now, note);
    }

    fn update_at(
        &mut self,
        at: Option<usize>,
        role: Role,
        target: &HttpTarget<'_>,
        now: UnixTime,
        note: impl FnOnce(&mut ServerEntry),
    ) {
        let mut known = match at {
            Some(at) => self.servers.remove(at),
            None => ServerEntry {
                origin: target.origin(),
                role,
                last_seen: now,
                nonce: None,
                algorithm: None,
                clock_offset: ClockOffset::default(),
            },
        };
        known.last_seen = now;
        note(&mut known);
        if self.servers.len() >= Self::CAPACITY {
            self.servers.remove(0);
        }
        self.servers.push(known);
    }

    fn position(&self, role: Role, target: &HttpTarget<'_>) -> Option<usize> {
        self.servers
            .iter()
            .rposition(|known| known.role == role && known.origin.matches(target))
    }

    /// Learns what another has learned of the same servers, where that is newer.
    pub fn merge(&mut self, other: &Self) {
        for theirs in &other.servers {
            let same =
                |ours: &ServerEntry| ours.role == theirs.role && ours.origin == theirs.origin;
            match self.servers.iter().position(same) {
                Some(at)
                    if self
                        .servers
                        .get(at)
                        .is_some_and(|ours| theirs.last_seen <= ours.last_seen) =>
                {
                    continue;
                }
                Some(at) => drop(self.servers.remove(at)),
                None => {}
            }
            let at = self
                .servers
                .partition_point(|ours| ours.last_seen <= theirs.last_seen);
            self.servers.insert(at, theirs.clone());
            if self.servers.len() > Self::CAPACITY {
                self.servers.remove(0);
            }
        }
    }

    /// What is known, as JSON, to be kept for the next process. Nonces are no secrets.
    pub fn to_json(&self) -> String {
        // Strings and numbers, written to memory, can't fail.
        serde_json::to_string(&self.to_stored()).unwrap_or_default()
    }

    /// What [`to_json`](Self::to_json) wrote, but for nonces learned before `since`.
    ///
    /// # Errors
    /// `InvalidInput` for anything else.
    pub fn from_json(json: &str, since: UnixTime) -> Result<Self, InvalidInput> {
        let stored = JsonValue::parse(json).and_then(|stored| Self::from_stored(stored, since));
        stored.ok_or(InvalidInput::new(
            "origins",
            "must be what `ServerState::to_json` wrote",
        ))
    }

    pub(crate) fn to_stored(&self) -> Vec<StoredServer> {
        self.servers.iter().filter_map(StoredServer::new).collect()
    }

    pub(crate) fn from_stored(stored: JsonValue<'_>, since: UnixTime) -> Option<Self> {
        let mut origins = Self::new();
        for entry in stored.as_array()? {
            let entry = entry.as_object()?;
            let role = Role::from_name(&entry.str("role")?)?;
            let origin = entry.str("origin")?;
            let endpoint = Endpoint::https_or_loopback(&origin).ok()?;
            let target = HttpTarget::parse(endpoint.uri()).ok()?;
            let nonce = Nonce::new(&entry.str("nonce")?).ok()?;
            let learned = UnixTime::from_millis(entry.get("learned")?.as_u64()?);
            if learned >= since {
                origins.update(role, &target, learned, |known| known.nonce = Some(nonce));
            }
        }
        Some(origins)
    }
}

impl fmt::Debug for ServerEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.origin, self.role, self.nonce)
    }
}

/// What is written down of a server.
#[derive(Serialize)]
pub(crate) struct StoredServer {
    origin: String,
    role: &'static str,
    nonce: String,
    /// Milliseconds since 1970.
    learned: u64,
}

impl StoredServer {
    fn new(known: &ServerEntry) -> Option<Self> {
        Some(Self {
            origin: known.origin.to_string(),
            role: known.role.name(),
            nonce: known.nonce.as_ref()?.as_str().to_owned(),
            learned: known.last_seen.as_millis(),
        })
    }
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1000);

    fn learn(origins: &mut ServerState, role: Role, url: &str, nonce: &str) {
        let uri: Uri = url.parse().unwrap();
        let headers =
            HeaderMap::from_iter([("dpop-nonce".parse().unwrap(), nonce.parse().unwrap())]);
        origins.record_nonce(role, &HttpTarget::parse(&uri).unwrap(), &headers, NOW);
    }

    fn nonce<'a>(origins: &'a ServerState, role: Role, url: &str) -> Option<&'a str> {
        let uri: Uri = url.parse().unwrap();
        origins
            .get(role, &HttpTarget::parse(&uri).unwrap())
            .and_then(|known| known.nonce.as_ref())
            .map(Nonce::as_str)
    }

    #[test]
    fn a_nonce_belongs_to_an_effective_origin_and_a_role() {
        let mut origins = ServerState::new();
        learn(
            &mut origins,
            Role::AuthorizationServer,
            "https://A.example/token",
            "as",
        );
        learn(
            &mut origins,
            Role::ResourceServer,
            "https://a.example:443/me",
            "rs",
        );
        assert_eq!(
            nonce(
                &origins,
                Role::AuthorizationServer,
                "https://a.example:443/x"
            ),
            Some("as")
        );
        assert_eq!(
            nonce(&origins, Role::ResourceServer, "https://a.example/"),
            Some("rs")
        );
        assert_eq!(
            nonce(&origins, Role::ResourceServer, "https://a.example:8443/"),
            None
        );
        assert_eq!(
            nonce(&origins, Role::ResourceServer, "http://a.example/"),
            None
        );
        learn(
            &mut origins,
            Role::ResourceServer,
            "https://a.example/",
            "newer",
        );
        assert_eq!(
            nonce(&origins, Role::ResourceServer, "https://a.example/"),
            Some("newer")
        );
    }

    #[test]
    fn the_one_heard_of_longest_ago_is_forgotten_first() {
        let mut origins = ServerState::new();
        for at in 0..ServerState::CAPACITY {
            learn(
                &mut origins,
                Role::ResourceServer,
                &format!("https://h{at}.example/"),
                "n",
            );
        }
        learn(
            &mut origins,
            Role::ResourceServer,
            "https://h0.example/",
            "again",
        );
        learn(
            &mut origins,
            Role::ResourceServer,
            "https://new.example/",
            "n",
        );
        assert_eq!(origins.servers.len(), ServerState::CAPACITY);
        assert_eq!(
            nonce(&origins, Role::ResourceServer, "https://h0.example/"),
            Some("again")
        );
        assert_eq!(
            nonce(&origins, Role::ResourceServer, "https://h1.example/"),
            None
        );
    }

    #[test]
    fn of_two_memories_the_newer_word_on_each_server_counts() {
        let at = |secs, names: [(&str, &str); 2]| {
            let mut origins = ServerState::new();
            for (host, nonce) in names {
                learn(
                    &mut origins,
                    Role::ResourceServer,
                    &format!("https://{host}.example/"),
                    nonce,
                );
            }
            for known in &mut origins.servers {
                known.last_seen = UnixTime::from_secs(secs);
            }
            origins
        };
        let mut ours = at(1000, [("a", "ours"), ("b", "ours")]);
        ours.merge(&at(999, [("a", "theirs"), ("c", "theirs")]));
        assert_eq!(
            nonce(&ours, Role::ResourceServer, "https://a.example/"),
            Some("ours")
        );
        assert_eq!(
            nonce(&ours, Role::ResourceServer, "https://c.example/"),
            Some("theirs")
        );
        assert_eq!(
            nonce(&ours, Role::AuthorizationServer, "https://c.example/"),
            None
        );
        ours.merge(&at(1001, [("a", "theirs"), ("b", "theirs")]));
        assert_eq!(
            nonce(&ours, Role::ResourceServer, "https://a.example/"),
            Some("theirs")
        );
        assert_eq!(ours.servers.len(), 3);
        // The one heard of longest ago still goes first.
        assert!(
            ours.servers
                .first()
                .is_some_and(|known| known.last_seen == UnixTime::from_secs(999))
        );
    }

    #[test]
    fn what_is_known_survives_its_json_unless_it_is_old() {
        let mut origins = ServerState::new();
        learn(
            &mut origins,
            Role::AuthorizationServer,
            "http://[::1]:8080/",
            "!#[]",
        );
        let json = origins.to_json();
        let again = ServerState::from_json(&json, NOW).unwrap();
        assert_eq!(
            nonce(&again, Role::AuthorizationServer, "http://[::1]:8080/t"),
            Some("!#[]")
        );
        let later = ServerState::from_json(&json, UnixTime::from_secs(1001)).unwrap();
        assert!(later.servers.is_empty());
        for bad in [
            "",
            "[{}]",
            r#"[{"origin":"http://evil.example/","role":"ResourceServer","nonce":"n","learned":9000000}]"#,
        ] {
            assert!(ServerState::from_json(bad, NOW).is_err(), "{bad}");
        }
    }
}
