//! Calls of protected resources: headers for anybody's request, and what its response means for the token.

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header::AUTHORIZATION};

use crate::dpop::{Draft, Nonce, sensitive};
use crate::endpoint::Target;
use crate::error::{Error, Lost, Misuse, Sent};
use crate::exchange::MAX_CHALLENGES;
use crate::origins::{Origins, Role};
use crate::signing::{Assemble, Signing, Unsigned, sealed::Sealed};
use crate::time::{Ambient, UnixTime};
use crate::token::{Token, TokenType};
use crate::wire::challenge::{self, Challenge};

/// A call of a protected resource, before its next request. Its body never passes through here.
///
/// It goes the way of an [`Exchange`](crate::Exchange): prepared, sent by whoever has the request, judged,
/// perhaps prepared again.
#[must_use = "a call does nothing until it is prepared and sent"]
#[derive(Clone, Debug)]
pub struct ResourceCall {
    token: Token,
    method: Method,
    uri: Uri,
    challenges: u8,
}

impl ResourceCall {
    pub(crate) fn new(token: &Token, method: &Method, uri: &Uri) -> Result<Self, Misuse> {
        if !Target::of(uri)?.is_private() {
            return Err(Misuse::new("url", "must be https://, or http:// with a loopback host"));
        }
        match token.token_type() {
            TokenType::Dpop if token.key().is_none() => {
                return Err(Misuse::new(
                    "token",
                    "must be bound to a key that is known here: it is of type DPoP",
                ));
            }
            TokenType::Bearer | TokenType::Dpop => {}
            TokenType::Other(_) => {
                return Err(Misuse::new("token", "must be of type Bearer or DPoP to authorize a request"));
            }
        }
        Ok(Self { token: token.clone(), method: method.clone(), uri: uri.clone(), challenges: 0 })
    }

    /// Makes the headers of the next request; for a bound token they must be signed.
    ///
    /// # Errors
    /// None that [`Token::authorize`] has not ruled out.
    pub fn prepare(self, origins: &Origins, ambient: Ambient) -> Result<Signing<Authorized>, Error> {
        let authorization = self.token.authorization().clone();
        let Some(key) = self.token.key().cloned() else {
            let headers = AuthHeaders { authorization, proof: None };
            return Ok(Signing::Ready(Authorized {
                headers,
                pending: PendingResource { call: self, nonce: None },
            }));
        };
        let target = Target::of(&self.uri)?;
        let nonce = origins.nonce(Role::ResourceServer, &target).cloned();
        let ath = Some(self.token.ath());
        let draft = Draft { method: &self.method, target, nonce: nonce.as_ref(), ath, lifetime: None };
        let to_sign = draft.sign_request(&key, &ambient);
        let headers = AuthHeaders { authorization, proof: None };
        Ok(Signing::Needs(Unsigned::new(
            to_sign,
            Authorized { headers, pending: PendingResource { call: self, nonce } },
        )))
    }
}

/// The headers for a request, and what will judge its response.
#[must_use]
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a driver takes it apart")]
pub struct Authorized {
    /// To be applied to the request.
    pub headers: AuthHeaders,
    /// To be shown the response's head.
    pub pending: PendingResource,
}

impl Sealed for Authorized {}

impl Assemble for Authorized {
    type Draft = Self;

    fn assemble(mut draft: Self, jws: String) -> Result<Signing<Self>, Error> {
        draft.headers.proof = Some(sensitive(jws));
        Ok(Signing::Ready(draft))
    }
}

/// `Authorization`, and `DPoP` for a bound token; both marked sensitive.
#[must_use]
#[derive(Debug)]
pub struct AuthHeaders {
    authorization: HeaderValue,
    proof: Option<HeaderValue>,
}

impl AuthHeaders {
    /// Puts them among a request's headers, in place of any that were there.
    pub fn apply(self, headers: &mut HeaderMap) {
        headers.insert(AUTHORIZATION, self.authorization);
        match self.proof {
            Some(proof) => headers.insert("dpop", proof),
            None => headers.remove("dpop"),
        };
    }
}

/// A call whose request is under way.
#[must_use]
#[derive(Debug)]
pub struct PendingResource {
    call: ResourceCall,
    nonce: Option<Nonce>,
}

/// What a response means for the token.
#[must_use]
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a driver must handle every case")]
pub enum Judged {
    /// Nothing: it is the application's.
    Deliver,
    /// The server wants a proof with its new nonce (RFC 9449 §9): prepare the call and send it again.
    Again(ResourceCall),
    /// The token is refused (RFC 6750 §3.1 `invalid_token`, or a bare 401). The response is the application's
    /// all the same.
    Rejected,
}

impl PendingResource {
    /// Says that no response came, and whether anything may have been sent.
    pub fn lost(self, sent: Sent) -> Error {
        let repeatable = sent == Sent::No || self.call.method.is_idempotent();
        Error::Lost(Lost { sent, repeatable })
    }

    /// Takes the head of the response, whatever its status.
    ///
    /// # Errors
    /// None that [`Token::authorize`] has not ruled out.
    pub fn judge(
        self,
        status: StatusCode,
        headers: &HeaderMap,
        origins: &mut Origins,
        now: UnixTime,
    ) -> Result<Judged, Error> {
        let Self { mut call, nonce: proved } = self;
        let nonce = Nonce::of(headers);
        if let Some(nonce) = &nonce {
            origins.learn(Role::ResourceServer, &Target::of(&call.uri)?, nonce.clone(), now);
        }
        if !status.is_client_error() {
            return Ok(Judged::Deliver);
        }
        let challenges = Challenge::all(headers);
        let error = challenge::error(&challenges);
        let bare = status == StatusCode::UNAUTHORIZED && challenges.is_empty();
        let new_nonce = nonce.is_some() && nonce != proved;
        let proves = call.token.key().is_some();
        // Some servers challenge by the nonce alone.
        if proves
            && new_nonce
            && (error == Some("use_dpop_nonce") || bare)
            && call.challenges < MAX_CHALLENGES
        {
            call.challenges += 1;
            return Ok(Judged::Again(call));
        }
        match error {
            Some("invalid_token") => Ok(Judged::Rejected),
            None if status == StatusCode::UNAUTHORIZED => Ok(Judged::Rejected),
            _ => Ok(Judged::Deliver),
        }
    }
}
