//! The storage that the processes share: a state by name, leases that expire, and fences.

use std::hash::{Hash, Hasher};

/// The stored state of one name, and the lease on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) state: Option<Vec<u8>>,
    lease: Option<Lease>,
    /// The fence of the last lease.
    last_fence: u64,
    /// The fence under which the state was saved.
    saved_fence: u64,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    fence: u64,
    expires: u64,
}

/// All stored states.
#[derive(Clone, Debug, Default)]
pub(crate) struct Storage(Vec<(String, Entry)>);

/// What a stored state says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) attempts_left: u8,
    pub(crate) is_tombstone: bool,
    /// Whether it is a tombstone that names the tokens of the login. That of a process without the
    /// login does not.
    pub(crate) ends_login: bool,
    /// The client and the number of its refresh token.
    pub(crate) refresh_token: Option<(usize, usize)>,
    /// The client and the number of its access token.
    pub(crate) access_token: Option<(usize, usize)>,
    pub(crate) has_token: bool,
}

impl Storage {
    pub(crate) fn entry(&mut self, name: &str) -> &mut Entry {
        let at = self.0.iter().position(|(known, _)| known == name);
        let at = at.unwrap_or_else(|| {
            self.0.push((name.to_owned(), Entry::default()));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }
}

impl Storage {
    pub(crate) fn hash_states(&self, hasher: &mut impl Hasher) {
        for (name, entry) in &self.0 {
            (name, &entry.state).hash(hasher);
            (entry.lease.map(|lease| lease.fence), entry.saved_fence).hash(hasher);
        }
    }
}

impl Entry {
    /// Gives the lease, and its fence, if no other one is unexpired.
    pub(crate) fn lease(&mut self, now: u64, ttl: u64) -> Option<u64> {
        if self.lease.is_some_and(|lease| now < lease.expires) {
            return None;
        }
        self.last_fence += 1;
        let expires = now + ttl;
        let fence = self.last_fence;
        self.lease = Some(Lease { fence, expires });
        Some(fence)
    }

    /// Whether the lease with this fence is the last one, and unexpired.
    pub(crate) fn is_held(&self, fence: u64, now: u64) -> bool {
        self.lease
            .is_some_and(|lease| lease.fence == fence && now < lease.expires)
    }

    /// Saves a state, unless a later lease has saved one.
    pub(crate) fn save(&mut self, fence: u64, state: Vec<u8>) -> bool {
        if fence < self.saved_fence {
            return false;
        }
        self.saved_fence = fence;
        self.state = Some(state);
        true
    }

    /// Whether no later lease has been given than the one with this fence.
    pub(crate) fn is_last(&self, fence: u64) -> bool {
        fence == self.last_fence
    }

    pub(crate) fn release(&mut self, fence: u64) {
        self.lease = self.lease.filter(|lease| lease.fence != fence);
    }

    pub(crate) fn stored(&self) -> Option<Stored> {
        self.state.as_deref().map(Stored::read)
    }
}

impl Stored {
    pub(crate) fn read(state: &[u8]) -> Self {
        let text = std::str::from_utf8(state).unwrap();
        let after = |member: &str| text.split_once(member).map(|(_, rest)| rest);
        let attempts = after("\"attempts_left\":").unwrap();
        let attempts = attempts
            .split(|c: char| !c.is_ascii_digit())
            .next()
            .unwrap();
        let name = |member| after(member)?.split('"').next();
        let refresh_token = name("\"refresh_token\":\"");
        let access_token = name("\"access_token\":\"");
        let is_tombstone = text.contains("\"logged_out\":true");
        Self {
            attempts_left: attempts.parse().unwrap(),
            is_tombstone,
            ends_login: is_tombstone && text.contains("\"descends_from\""),
            refresh_token: refresh_token.map(|name| parse_name(name, 'r').unwrap()),
            access_token: access_token.map(|name| parse_name(name, 'a').unwrap()),
            has_token: access_token.is_some(),
        }
    }
}

/// Parses the name of a token: `r0.12` is the refresh token 12 of client 0.
pub(crate) fn parse_name(name: &str, kind: char) -> Option<(usize, usize)> {
    let (client, number) = name.strip_prefix(kind)?.split_once('.')?;
    Some((client.parse().ok()?, number.parse().ok()?))
}
