//! The known state of servers: their nonces, clock offsets and algorithm names.

use std::fmt;

use http::HeaderMap;
use serde::Serialize;

use crate::jose::Algorithm;
use crate::request::clock_offset::ClockOffset;
use crate::types::endpoint::{Endpoint, HttpTarget, Origin};
use crate::types::{input::InvalidInput, nonce::Nonce, time::UnixTime};
use crate::wire::json::JsonValue;

/// The role in which a server receives a request. One origin may have both, with separate nonces
/// (RFC 9449 §8, §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "OAuth has these two")]
pub enum Role {
    /// Issues tokens.
    AuthorizationServer,
    /// Accepts tokens.
    ResourceServer,
}

impl Role {
    /// Returns the name used in JSON.
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

/// The known state of each origin in each role: its latest nonce, updated from every response; its
/// clock offset and its name for the client's signature algorithm, updated from rejections. A
/// driver shares one value between all operations and calls.
///
/// Bounded: beyond [`ServerState::CAPACITY`] entries, each for one origin in one role, the one
/// updated longest ago is evicted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerState {
    /// Ordered by last update, the latest at the end.
    servers: Vec<ServerEntry>,
}

/// The known state of one server in one role.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ServerEntry {
    origin: Origin,
    role: Role,
    last_seen: UnixTime,
    pub(crate) nonce: Option<Nonce>,
    /// The server's name for the algorithm of the client's key, for a key whose algorithm has two
    /// names.
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) clock_offset: ClockOffset,
}

impl ServerState {
    /// The maximum number of entries, each for one origin in one role.
    pub const CAPACITY: usize = 64;

    /// Creates an empty state.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn get(&self, role: Role, target: &HttpTarget<'_>) -> Option<&ServerEntry> {
        self.position(role, target)
            .and_then(|at| self.servers.get(at))
    }

    /// Records the nonce of a response, if it has one.
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
            .and_then(|entry| entry.nonce.as_ref());
        if let Some(nonce) = Nonce::from_headers_or_known(before, headers) {
            self.update_at(at, role, target, now, |entry| entry.nonce = Some(nonce));
        }
    }

    /// Updates the entry of a server, and moves it to the end.
    pub(crate) fn update(
        &mut self,
        role: Role,
        target: &HttpTarget<'_>,
        now: UnixTime,
        update: impl FnOnce(&mut ServerEntry),
    ) {
        self.update_at(self.position(role, target), role, target, now, update);
    }

    fn update_at(
        &mut self,
        at: Option<usize>,
        role: Role,
        target: &HttpTarget<'_>,
        now: UnixTime,
        update: impl FnOnce(&mut ServerEntry),
    ) {
        let mut entry = match at {
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
        entry.last_seen = now;
        update(&mut entry);
        if self.servers.len() >= Self::CAPACITY {
            self.servers.remove(0);
        }
        self.servers.push(entry);
    }

    fn position(&self, role: Role, target: &HttpTarget<'_>) -> Option<usize> {
        self.servers
            .iter()
            .rposition(|entry| entry.role == role && entry.origin.matches(target))
    }

    /// Merges the state of `other`: for each server, the newer entry is kept.
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

    /// Returns the nonces as JSON, to be stored for the next process. Nonces are not secret. Clock
    /// offsets and algorithm names are omitted.
    pub fn to_json(&self) -> String {
        // Serializing strings and numbers to memory can't fail.
        serde_json::to_string(&self.to_stored()).unwrap_or_default()
    }

    /// Parses the output of [`to_json`](Self::to_json). Nonces of servers last updated before
    /// `since` are dropped.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the input is anything else.
    pub fn from_json(json: &str, since: UnixTime) -> Result<Self, InvalidInput> {
        let stored = JsonValue::parse(json).and_then(|stored| Self::from_stored(stored, since));
        stored.ok_or(InvalidInput::StoredState {
            name: "server state",
            rule: "must be JSON that `ServerState::to_json` wrote",
        })
    }

    pub(crate) fn to_stored(&self) -> Vec<StoredServer> {
        self.servers.iter().filter_map(StoredServer::new).collect()
    }

    pub(crate) fn from_stored(stored: JsonValue<'_>, since: UnixTime) -> Option<Self> {
        let mut state = Self::new();
        for entry in stored.as_array()? {
            let entry = entry.as_object()?;
            let role = Role::from_name(&entry.str("role")?)?;
            let origin = entry.str("origin")?;
            let endpoint = Endpoint::https_or_loopback(&origin).ok()?;
            let nonce = Nonce::new(&entry.str("nonce")?).ok()?;
            let received_at = UnixTime::from_millis(entry.get("last_seen")?.as_u64()?);
            if received_at >= since {
                state.update(role, &endpoint.target(), received_at, |entry| {
                    entry.nonce = Some(nonce)
                });
            }
        }
        Some(state)
    }
}

/// With all that is known of the servers, unlike the stored state.
#[cfg(feature = "record")]
mod record {
    use serde_json::Value;

    use super::{Nonce, Origin, Role, ServerEntry, ServerState};
    use crate::request::recorded::{Recorded, recorded};
    use crate::request::stand_ins::StandIns;
    use crate::types::endpoint::Endpoint;

    recorded!(struct ServerState { servers });
    recorded!(struct ServerEntry { origin, role, last_seen, nonce, algorithm, clock_offset });
    recorded!(
        enum Role {
            AuthorizationServer,
            ResourceServer,
        }
    );

    impl Recorded for Origin {
        fn to_record(&self, _: &mut StandIns) -> Value {
            self.to_string().into()
        }

        fn from_record(record: &Value) -> Option<Self> {
            let endpoint = Endpoint::https_or_loopback(record.as_str()?).ok()?;
            Some(endpoint.target().origin())
        }
    }

    impl Recorded for Nonce {
        fn to_record(&self, stand_ins: &mut StandIns) -> Value {
            stand_ins.nonce(self.as_str()).into()
        }

        fn from_record(record: &Value) -> Option<Self> {
            Self::new(record.as_str()?).ok()
        }
    }
}

impl fmt::Debug for ServerEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.origin, self.role, self.nonce)
    }
}

/// The stored form of a server's entry.
#[derive(Serialize)]
pub(crate) struct StoredServer {
    origin: String,
    role: &'static str,
    nonce: String,
    /// When the server's entry was last updated, in milliseconds since 1970.
    last_seen: u64,
}

impl StoredServer {
    fn new(entry: &ServerEntry) -> Option<Self> {
        Some(Self {
            origin: entry.origin.to_string(),
            role: entry.role.name(),
            nonce: entry.nonce.as_ref()?.as_str().to_owned(),
            last_seen: entry.last_seen.as_millis(),
        })
    }
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1000);

    fn record(state: &mut ServerState, role: Role, url: &str, nonce: &str) {
        let uri: Uri = url.parse().unwrap();
        let headers =
            HeaderMap::from_iter([("dpop-nonce".parse().unwrap(), nonce.parse().unwrap())]);
        state.record_nonce(role, &HttpTarget::parse(&uri).unwrap(), &headers, NOW);
    }

    fn nonce<'a>(state: &'a ServerState, role: Role, url: &str) -> Option<&'a str> {
        let uri: Uri = url.parse().unwrap();
        state
            .get(role, &HttpTarget::parse(&uri).unwrap())
            .and_then(|entry| entry.nonce.as_ref())
            .map(Nonce::as_str)
    }

    #[test]
    fn a_nonce_belongs_to_an_effective_origin_and_a_role() {
        let mut state = ServerState::new();
        record(
            &mut state,
            Role::AuthorizationServer,
            "https://A.example/token",
            "as",
        );
        record(
            &mut state,
            Role::ResourceServer,
            "https://a.example:443/me",
            "rs",
        );
        assert_eq!(
            nonce(&state, Role::AuthorizationServer, "https://a.example:443/x"),
            Some("as")
        );
        assert_eq!(
            nonce(&state, Role::ResourceServer, "https://a.example/"),
            Some("rs")
        );
        assert_eq!(
            nonce(&state, Role::ResourceServer, "https://a.example:8443/"),
            None
        );
        assert_eq!(
            nonce(&state, Role::ResourceServer, "http://a.example/"),
            None
        );
        record(
            &mut state,
            Role::ResourceServer,
            "https://a.example/",
            "newer",
        );
        assert_eq!(
            nonce(&state, Role::ResourceServer, "https://a.example/"),
            Some("newer")
        );
    }

    #[test]
    fn the_server_updated_longest_ago_is_evicted_first() {
        let mut state = ServerState::new();
        for at in 0..ServerState::CAPACITY {
            record(
                &mut state,
                Role::ResourceServer,
                &format!("https://h{at}.example/"),
                "n",
            );
        }
        record(
            &mut state,
            Role::ResourceServer,
            "https://h0.example/",
            "again",
        );
        record(
            &mut state,
            Role::ResourceServer,
            "https://new.example/",
            "n",
        );
        assert_eq!(state.servers.len(), ServerState::CAPACITY);
        assert_eq!(
            nonce(&state, Role::ResourceServer, "https://h0.example/"),
            Some("again")
        );
        assert_eq!(
            nonce(&state, Role::ResourceServer, "https://h1.example/"),
            None
        );
    }

    #[test]
    fn merging_keeps_the_newer_state_of_each_server() {
        let at = |secs, names: [(&str, &str); 2]| {
            let mut state = ServerState::new();
            for (host, nonce) in names {
                record(
                    &mut state,
                    Role::ResourceServer,
                    &format!("https://{host}.example/"),
                    nonce,
                );
            }
            for entry in &mut state.servers {
                entry.last_seen = UnixTime::from_secs(secs);
            }
            state
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
        // The entry updated longest ago is still the first to be evicted.
        assert!(
            ours.servers
                .first()
                .is_some_and(|entry| entry.last_seen == UnixTime::from_secs(999))
        );
    }

    #[test]
    fn nonces_survive_json_unless_they_are_old() {
        let mut state = ServerState::new();
        record(
            &mut state,
            Role::AuthorizationServer,
            "http://[::1]:8080/",
            "!#[]",
        );
        let json = state.to_json();
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
            r#"[{"origin":"http://evil.example/","role":"ResourceServer","nonce":"n","last_seen":9000000}]"#,
        ] {
            assert!(ServerState::from_json(bad, NOW).is_err(), "{bad}");
        }
    }
}
