//! Calls of protected resources: headers for anybody's request, and what its response means for the token.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header::AUTHORIZATION};

use crate::dpop::{Corrections, DPOP, Nonce, Objection, Occasion, Said, sensitive};
use crate::endpoint::{Target, server_at};
use crate::error::{Error, Lost, Misuse, Sent};
use crate::origins::{Origins, Role};
use crate::signing::{Assemble, Signing, Unsigned, sealed::Sealed};
use crate::time::{Ambient, UnixTime};
use crate::token::{Token, TokenType};
use crate::tries::{Repeat, Tries, seed};
use crate::turns::Outcome;
use crate::wire::challenge::{self, Challenge};
use crate::wire::refusal::{self, Secrets};
use crate::wire::retry_after;

impl Token {
    /// Begins a call of a protected resource (RFC 9449 §7, RFC 6750 §2.1).
    ///
    /// # Errors
    /// `Misuse` for a URL that a proof can't name, plain `http` beyond this machine, a token whose type has no
    /// known scheme, and a bound token whose key isn't known.
    pub fn authorize(&self, method: &Method, uri: &Uri) -> Result<ResourceCall, Misuse> {
        ResourceCall::new(self, method, uri)
    }
}

/// A call of a protected resource, before its next request. Its body never passes through here.
///
/// It goes the way of an [`Exchange`](crate::Exchange): prepared, sent by whoever has the request, judged,
/// perhaps prepared again. After 429, 502, 503, 504 and a lost connection an idempotent request (RFC 9110 §9.2.2)
/// is sent again; any other only if nothing was sent, after 429, and after a 503 that names a time to come back.
#[must_use = "a call does nothing until it is prepared and sent"]
#[derive(Debug)]
pub struct ResourceCall {
    token: Token,
    method: Method,
    uri: Uri,
    repeat: Repeat,
    tries: Tries,
    corrections: Corrections,
}

/// By one of these the server tells a repetition from a second request (draft-ietf-httpapi-idempotency-key-header;
/// the other is the name that Moov and Treasury Prime have for it).
const IDEMPOTENCY_KEYS: [HeaderName; 2] =
    [HeaderName::from_static("idempotency-key"), HeaderName::from_static("x-idempotency-key")];

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
        Ok(Self {
            token: token.clone(),
            method: method.clone(),
            uri: uri.clone(),
            repeat: Repeat::of(method),
            tries: Tries::default(),
            corrections: Corrections::default(),
        })
    }

    /// Looks at the request's own headers: with an `Idempotency-Key` it may be repeated like a `GET`.
    pub fn with_headers(mut self, headers: &HeaderMap) -> Self {
        if IDEMPOTENCY_KEYS.into_iter().any(|name| headers.contains_key(name)) {
            self.repeat = Repeat::Freely;
        }
        self
    }

    /// Says that the request can't be sent a second time, because its body is used up by the first.
    pub fn unrepeatable(mut self) -> Self {
        self.repeat = Repeat::Never;
        self
    }

    /// How long the whole call may take, counted from its first request: no wait is begun that would end later.
    /// 30 s unless set.
    pub fn within(mut self, budget: Duration) -> Self {
        self.tries.within(budget);
        self
    }

    /// How often the request may fail in passing until that is the result. Proofs that are made anew on the
    /// server's wish don't count. 4 unless set.
    pub fn at_most(mut self, sends: u8) -> Self {
        self.tries.at_most(sends);
        self
    }

    /// Whether its requests have proofs.
    pub fn is_bound(&self) -> bool {
        self.token.key().is_some()
    }

    /// How long to wait before the next request goes out. Zero at first, and after a refused proof.
    pub fn wait(&self) -> Duration {
        self.tries.wait()
    }

    /// Makes the headers of the next request; for a bound token they must be signed.
    ///
    /// # Errors
    /// None that [`Token::authorize`] has not ruled out.
    pub fn prepare(mut self, origins: &Origins, ambient: Ambient) -> Result<Signing<Authorized>, Error> {
        self.tries.begin(ambient.now);
        let seed = seed(&ambient);
        let Some(key) = self.token.key() else {
            return Ok(Signing::Ready(Authorized::new(
                PendingResource { call: self, said: None, seed },
                None,
            )));
        };
        let target = Target::of(&self.uri)?;
        let ath = Some(self.token.ath());
        let occasion = Occasion { role: Role::ResourceServer, method: &self.method, target, ath };
        let (to_sign, said) = occasion.prove(key, origins, ambient);
        let pending = PendingResource { call: self, said: Some(said), seed };
        Ok(Signing::Needs(Unsigned::new(to_sign, pending)))
    }

    /// Whether it goes on after a failure that may pass.
    fn again(&mut self, asked: Option<Duration>, now: UnixTime, seed: u64) -> bool {
        // What the server knew before the pause, it may have forgotten: its nonce, for one.
        self.corrections = Corrections::default();
        self.tries.again(asked, Duration::ZERO, now, seed)
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
    type Draft = PendingResource;

    fn assemble(pending: PendingResource, jws: Vec<u8>) -> Result<Signing<Self>, Error> {
        Ok(Signing::Ready(Self::new(pending, Some(sensitive(jws)))))
    }
}

impl Authorized {
    fn new(pending: PendingResource, proof: Option<HeaderValue>) -> Self {
        let authorization = pending.call.token.authorization().clone();
        Self { headers: AuthHeaders { authorization, proof }, pending }
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
            Some(proof) => headers.insert(DPOP, proof),
            None => headers.remove(DPOP),
        };
    }
}

/// A call whose request is under way.
#[must_use]
#[derive(Debug)]
pub struct PendingResource {
    call: ResourceCall,
    /// What the request's proof says.
    said: Option<Said>,
    /// Random, for the pause that may follow.
    seed: u64,
}

/// What a response means for the token.
#[must_use]
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a driver must handle every case")]
pub enum Judged {
    /// Nothing: it is the application's.
    Deliver,
    /// Prepare the call and send it again, after its [`wait`](ResourceCall::wait): the server wants another proof, with
    /// its new nonce (RFC 9449 §9), at its clock's time, or under its name for the algorithm; or it is busy.
    Again(ResourceCall),
    /// The token is refused (RFC 6750 §3.1 `invalid_token`, or a bare 401). The response is the application's
    /// all the same.
    Rejected,
}

impl PendingResource {
    /// Says that no response came, and whether anything may have been sent.
    ///
    /// # Errors
    /// `Lost` where the request isn't sent again by itself.
    pub fn lost(self, sent: Sent, now: UnixTime) -> Result<ResourceCall, Error> {
        let Self { mut call, seed, .. } = self;
        let repeatable = call.repeat.after_loss(sent);
        if repeatable && call.repeat != Repeat::Never && call.again(None, now, seed) {
            return Ok(call);
        }
        Err(Error::Lost(Lost { sent, repeatable }))
    }

    /// What the head of a response means for the calls that wait for their [turn](crate::Turns).
    pub fn outcome(&self, status: StatusCode, headers: &HeaderMap) -> Outcome {
        let sent = self.said.as_ref().and_then(Said::nonce);
        let nonce = Nonce::of_server_with(sent, headers);
        match nonce {
            Some(nonce) if sent != Some(&nonce) => match sent {
                Some(_) if code(status, &Challenge::all(headers)) == Some("use_dpop_nonce") => Outcome::Stale,
                _ => Outcome::Changed,
            },
            _ => Outcome::Settled,
        }
    }

    /// Takes the head of the response, whatever its status.
    ///
    /// # Errors
    /// `Server`, with the code `use_dpop_nonce`, where a server is content with no nonce.
    pub fn judge(
        self,
        status: StatusCode,
        headers: &HeaderMap,
        origins: &mut Origins,
        now: UnixTime,
    ) -> Result<Judged, Error> {
        let Self { mut call, said, seed } = self;
        let uri = call.uri.clone();
        let (role, target) = (Role::ResourceServer, Target::of(&uri)?);
        origins.hear(role, &target, headers, now);
        if !status.is_client_error() && !status.is_server_error() {
            return Ok(Judged::Deliver);
        }
        let asked = retry_after::read(headers, now);
        if call.repeat.after(status, asked) && call.again(asked, now, seed) {
            return Ok(Judged::Again(call));
        }
        if !status.is_client_error() {
            return Ok(Judged::Deliver);
        }
        let challenges = Challenge::all(headers);
        let code = code(status, &challenges);
        let description = challenges.iter().find_map(|challenge| challenge.param("error_description"));
        let objection = Objection { code, description, headers };
        let is_bound = said.is_some();
        let answered = said
            .is_some_and(|said| call.corrections.answer(&objection, &said, (role, &target), origins, now));
        if answered {
            call.tries.at_once();
            // It was the proof's fault, not the token's.
            return Ok(if call.repeat == Repeat::Never { Judged::Deliver } else { Judged::Again(call) });
        }
        match challenge::error(&challenges) {
            Some("use_dpop_nonce") if is_bound => {
                let secrets = Secrets::from_iter([call.token.access_token().expose()]);
                Err(refusal::read(server_at(&call.uri), status, headers, &[], &secrets, now).into())
            }
            Some("invalid_token") => Ok(Judged::Rejected),
            None if status == StatusCode::UNAUTHORIZED => Ok(Judged::Rejected),
            _ => Ok(Judged::Deliver),
        }
    }
}

/// The error of a refusal. Some servers challenge by the nonce alone, without a word of it.
fn code(status: StatusCode, challenges: &[Challenge]) -> Option<&str> {
    let speechless = challenges.is_empty() || challenges.iter().any(|challenge| challenge.is("DPoP"));
    let meant = if status == StatusCode::UNAUTHORIZED && speechless { Some("use_dpop_nonce") } else { None };
    challenge::error(challenges).or(meant)
}
