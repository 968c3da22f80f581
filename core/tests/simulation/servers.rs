//! The servers: one that issues tokens and rotates refresh tokens, and one that takes them.

use crate::storage::parse_name;
use crate::tasks::Reply;

/// How a server treats refresh tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rotation {
    pub(crate) rotates: bool,
    /// For how long a consumed token still gets its successor, in milliseconds.
    pub(crate) grace: u64,
    /// Whether a consumed token revokes the whole login.
    pub(crate) detects_reuse: bool,
}

/// The login of one client at its authorization server.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) rotation: Rotation,
    pub(crate) refresh_tokens: Vec<RefreshToken>,
    /// When each access token expires.
    pub(crate) access_tokens: Vec<u64>,
    pub(crate) revoked: Option<Revoked>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct RefreshToken {
    pub(crate) consumed_at: Option<u64>,
    pub(crate) successor: Option<usize>,
    /// Sends that got no answer.
    pub(crate) unanswered: u32,
    pub(crate) sends: u32,
    /// Whether it has ever been in the storage.
    pub(crate) was_saved: bool,
}

/// Why a login has ended at its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Revoked {
    /// A consumed refresh token was used again, after its successor had been lost.
    Reuse,
    /// The same, by a process whose clock had jumped while it had the lease.
    ReuseAfterClockJump,
    /// By the server itself.
    ByServer,
}

/// A request to an authorization server, on its way.
#[derive(Clone, Debug)]
pub(crate) struct TokenRequest {
    pub(crate) client: usize,
    /// `None` for client credentials.
    pub(crate) refresh_token: Option<usize>,
    pub(crate) proof: Proof,
    /// Whether the storage had a descendant of the refresh token when the request was sent.
    pub(crate) was_superseded: bool,
    pub(crate) clock_jumped: bool,
}

/// What a server checks in a proof.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    pub(crate) nonce: Option<String>,
    /// Whether its time is that of the server's clock.
    pub(crate) is_dated: bool,
    /// Whether it names the algorithm as the resource server does.
    pub(crate) is_named: bool,
}

/// The nonces of one server in one role.
#[derive(Clone, Debug)]
pub(crate) struct Nonces {
    pub(crate) prefix: String,
    pub(crate) number: u32,
    pub(crate) required: bool,
}

impl Nonces {
    pub(crate) fn current(&self) -> String {
        format!("{}{}", self.prefix, self.number)
    }

    /// Whether a proof has the nonce that is wanted.
    pub(crate) fn accepts(&self, nonce: Option<&str>) -> bool {
        !self.required || nonce == Some(&*self.current())
    }
}

const LIFETIME: u64 = 3;

impl Login {
    pub(crate) fn new(rotation: Rotation) -> Self {
        Self {
            rotation,
            refresh_tokens: vec![RefreshToken::default()],
            access_tokens: Vec::new(),
            revoked: None,
        }
    }

    /// Issues an access token, with a refresh token if there is one.
    pub(crate) fn issue(
        &mut self,
        client: usize,
        refresh_token: Option<usize>,
        is_bound: bool,
        now: u64,
    ) -> String {
        let access = self.access_tokens.len();
        self.access_tokens.push(now + LIFETIME * 1000);
        let refresh = refresh_token
            .map(|number| format!(r#","refresh_token":"r{client}.{number}""#))
            .unwrap_or_default();
        let kind = if is_bound { "DPoP" } else { "Bearer" };
        format!(
            r#"{{"access_token":"a{client}.{access}","token_type":"{kind}","expires_in":{LIFETIME}{refresh}}}"#
        )
    }

    /// Takes a refresh token. Returns the one that the answer has, or `None` for `invalid_grant`.
    /// `Err` if the client has used a token again without need.
    pub(crate) fn refresh(
        &mut self,
        request: &TokenRequest,
        number: usize,
        now: u64,
    ) -> Result<Option<usize>, String> {
        if self.revoked.is_some() {
            return Ok(None);
        }
        if !self.rotation.rotates {
            return Ok(Some(number));
        }
        let next = self.refresh_tokens.len();
        let token = &mut self.refresh_tokens[number];
        let Some(consumed_at) = token.consumed_at else {
            token.consumed_at = Some(now);
            token.successor = Some(next);
            self.refresh_tokens.push(RefreshToken::default());
            return Ok(Some(next));
        };
        let successor = token.successor.unwrap();
        let is_fresh = self.refresh_tokens[successor].consumed_at.is_none();
        if is_fresh && now < consumed_at + self.rotation.grace {
            return Ok(Some(successor));
        }
        if request.was_superseded && !request.clock_jumped {
            return Err(format!(
                "refresh token {number} was sent again, though its successor had been stored"
            ));
        }
        if self.rotation.detects_reuse {
            self.revoked = Some(match request.was_superseded {
                true => Revoked::ReuseAfterClockJump,
                false => Revoked::Reuse,
            });
        }
        Ok(None)
    }

    /// The newest refresh token.
    pub(crate) fn newest(&self) -> usize {
        self.refresh_tokens.len() - 1
    }
}

/// Reads the body of a token request. The client is that of its `client_id`.
pub(crate) fn read_body(body: &[u8]) -> Result<(usize, Option<(usize, usize)>), String> {
    let text = std::str::from_utf8(body).unwrap();
    let field = |name: &str| {
        text.split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    };
    let client = field("client_id").and_then(|id| id.strip_prefix('c')?.parse().ok());
    let client = client.ok_or("a token request has no client_id")?;
    let refresh_token = field("refresh_token").map(|name| parse_name(name, 'r').unwrap());
    Ok((client, refresh_token))
}

pub(crate) fn refusal(code: &str, status: u16, nonce: Option<String>) -> Reply {
    Reply::Response {
        status,
        body: format!(r#"{{"error":"{code}"}}"#),
        nonce,
        date: None,
    }
}
