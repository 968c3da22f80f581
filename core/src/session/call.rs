//! Calls to protected resources, with a token or with the token of a session.

use std::time::Duration;

use http::{HeaderMap, Method, Uri};

use crate::oauth::token::{Token, TokenType};
use crate::request::effect::{Answer, Effect, Next, Reason, Retrying, Until};
use crate::request::exchange::{CallRequest, Delivered, Exchange, Subject};
use crate::request::read_headers::{IDEMPOTENCY_KEY, X_IDEMPOTENCY_KEY};
use crate::request::retry::{RetrySafety, RetryState};
use crate::session::shared::{Polled, SessionId, Shared, TokenWait};
use crate::session::step::Task;
use crate::session::step::sealed::Sealed;
use crate::types::endpoint::HttpTarget;
use crate::types::error::Error;
use crate::types::input::InvalidInput;
use crate::types::time::{RequestContext, UnixTime};

/// A call to a protected resource (RFC 9449 §7, RFC 6750 §2.1). The request itself stays with the
/// application.
///
/// After 429, 502, 503, 504 and a lost connection, an idempotent request (RFC 9110 §9.2.2) is
/// retried. Any other request is retried only if nothing was sent, after 429, and after a 503 with
/// `Retry-After`.
///
/// A call of a session is sent once more if the server rejects a token that the session had before
/// the call. A rejection of a new token is the result; after two of those in a row from one origin,
/// its rejections cause no token request for 30 s.
#[must_use = "a call does nothing until a driver runs it"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    source: Source,
    method: Method,
    uri: Uri,
    safety: RetrySafety,
    retry: RetryState,
    /// The session's token generation at the start.
    started: u64,
    wait: TokenWait,
    /// Whether the server has rejected a token of the session.
    is_second: bool,
    is_awaiting_token: bool,
    /// The request that awaits an answer, and its token.
    sending: Option<(Token, Exchange)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Token(Token),
    Session(SessionId),
}

impl Token {
    /// Starts a call to a protected resource with this token.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the URL can't be the target of a proof or is plain `http` with a
    /// host other than loopback, if the token type has no known authentication scheme, or if the
    /// token is bound to an unknown key.
    pub fn authorize(&self, method: &Method, uri: &Uri) -> Result<Call, InvalidInput> {
        check(self)?;
        Call::new(Source::Token(self.clone()), method, uri)
    }
}

impl SessionId {
    /// Starts a call to a protected resource with the token of this session.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the URL can't be the target of a proof or is plain `http` with a
    /// host other than loopback.
    pub fn call(self, method: &Method, uri: &Uri) -> Result<Call, InvalidInput> {
        Call::new(Source::Session(self), method, uri)
    }
}

impl Call {
    fn new(source: Source, method: &Method, uri: &Uri) -> Result<Self, InvalidInput> {
        if !HttpTarget::parse(uri)?.is_confidential() {
            return Err(InvalidInput::new(
                "url",
                "must be https://, or http:// with a loopback host",
            ));
        }
        Ok(Self {
            source,
            method: method.clone(),
            uri: uri.clone(),
            safety: RetrySafety::for_method(method),
            retry: RetryState::default(),
            started: 0,
            wait: TokenWait::default(),
            is_second: false,
            is_awaiting_token: false,
            sending: None,
        })
    }

    /// Permits retries as for a `GET` if `headers`, those of the application's request, contain an
    /// idempotency key (`Idempotency-Key` or `X-Idempotency-Key`). The headers themselves are not
    /// added to the call.
    pub fn detect_idempotency_key(mut self, headers: &HeaderMap) -> Self {
        if [IDEMPOTENCY_KEY, X_IDEMPOTENCY_KEY]
            .into_iter()
            .any(|name| headers.contains_key(name))
        {
            self.safety = RetrySafety::Idempotent;
        }
        self
    }

    /// Declares that the request can be sent only once, because sending it consumes its body. It is
    /// never retried.
    pub fn single_use_body(mut self) -> Self {
        self.safety = RetrySafety::Never;
        self
    }

    /// Sets the timeout of the whole call: for a session's, from its start; otherwise from its first
    /// request. No delay starts that would end after the timeout. Default: 30 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.retry.set_timeout(timeout);
        self
    }

    /// Sets the maximum number of attempts, the first one included, if they end in transient
    /// failures. Retries with a corrected proof are not counted. Default: 4.
    pub fn max_attempts(mut self, max_attempts: u8) -> Self {
        self.retry.set_max_attempts(max_attempts);
        self
    }

    fn start(&mut self, id: u64, shared: &mut Shared, context: &RequestContext) -> Next<Delivered> {
        let session = match &self.source {
            Source::Token(token) => {
                let token = token.clone();
                return self.send(id, token, shared, context);
            }
            Source::Session(session) => *session,
        };
        self.retry.start_attempt(context.now);
        let Some(data) = shared.session(session) else {
            return Next::Done(Err(Error::LoginRequired));
        };
        self.started = data.tokens.generation();
        self.get_token(id, session, shared, context)
    }

    fn get_token(
        &mut self,
        id: u64,
        session: SessionId,
        shared: &mut Shared,
        context: &RequestContext,
    ) -> Next<Delivered> {
        let now = context.now;
        let deadline = now.saturating_add(self.retry.time_left(now));
        match shared.poll_token(session, &mut self.wait, deadline, now) {
            Polled::Token(token) => {
                if self.is_second {
                    shared.servers.retrying(Retrying {
                        wait: Duration::ZERO,
                        reason: Reason::TokenRejected,
                    });
                }
                self.send(id, token, shared, context)
            }
            Polled::Wait(time) => {
                self.is_awaiting_token = true;
                Next::Effect(Effect::Wait(Until {
                    time,
                    unless_generation: Some(shared.generation()),
                }))
            }
            // Without a new token, the application gets the response that rejected the token.
            Polled::Failed(_) if self.is_second => Next::Done(Ok(Delivered {
                token_rejected: true,
            })),
            Polled::Failed(error) => Next::Done(Err(error)),
        }
    }

    fn send(
        &mut self,
        id: u64,
        token: Token,
        shared: &mut Shared,
        context: &RequestContext,
    ) -> Next<Delivered> {
        if let Err(invalid) = check(&token) {
            return Next::Done(Err(invalid.into()));
        }
        let has_other_token = match &self.source {
            Source::Session(session) if !self.is_second => {
                let (uri, started, now) = (&self.uri, self.started, context.now);
                let data = shared.session(*session);
                data.is_some_and(|data| data.tokens.is_replaceable(&token, uri, started, now))
            }
            _ => false,
        };
        let request = CallRequest {
            method: self.method.clone(),
            uri: self.uri.clone(),
            authorization: token.authorization().clone(),
            has_other_token,
            proof: token.key().map(|key| (key.clone(), token.ath())),
        };
        let mut exchange = Exchange::new(Subject::Call(request), self.safety);
        exchange.retry = self.retry;
        self.exchange(id, (token, exchange), Answer::Go, shared, context)
    }

    fn exchange(
        &mut self,
        id: u64,
        (token, mut exchange): (Token, Exchange),
        answer: Answer<'_>,
        shared: &mut Shared,
        context: &RequestContext,
    ) -> Next<Delivered> {
        if let (Source::Session(session), Answer::Go | Answer::Signed(_)) = (&self.source, &answer)
        {
            let data = shared.session(*session);
            if data.is_none_or(|data| data.tokens.is_logged_out()) {
                // A log-out ends the calls that wait for a permit, a retry or a signature.
                shared.servers.abandon(id, context.now);
                return Next::Done(Err(Error::LoginRequired));
            }
        }
        let is_status_only = matches!(answer, Answer::StatusOnly(_));
        let status = match &answer {
            Answer::Head { status, .. } | Answer::StatusOnly(status) => Some(*status),
            _ => None,
        };
        let delivered = match exchange.advance(id, answer, &mut shared.servers, context) {
            Next::Done(Ok(delivered)) => delivered,
            next => {
                self.sending = Some((token, exchange));
                return next;
            }
        };
        let (Source::Session(session), Some(status)) = (&self.source, status) else {
            return Next::Done(Ok(delivered));
        };
        let session = *session;
        let Some(data) = shared.session(session) else {
            return Next::Done(Ok(delivered));
        };
        let (tokens, now) = (&mut data.tokens, context.now);
        if !delivered.token_rejected {
            tokens.token_accepted(&self.uri, status);
            return Next::Done(Ok(delivered));
        }
        let is_replaced = tokens.token_rejected(&token, &self.uri, self.started, now);
        let may_repeat = match is_status_only {
            true => self.safety == RetrySafety::Idempotent,
            false => exchange.is_repeatable(),
        };
        if !is_replaced || !may_repeat || self.is_second {
            return Next::Done(Ok(delivered));
        }
        self.is_second = true;
        self.wait = TokenWait::default();
        self.get_token(id, session, shared, context)
    }
}

/// Returns an error if no request can be authorized with the token.
fn check(token: &Token) -> Result<(), InvalidInput> {
    match token.token_type() {
        TokenType::Dpop if token.key().is_none() => Err(InvalidInput::new(
            "token",
            "must have a known key: it is of type DPoP, so the client needs its key",
        )),
        TokenType::Bearer | TokenType::Dpop => Ok(()),
        TokenType::Other(_) => Err(InvalidInput::new(
            "token",
            "must be of type Bearer or DPoP to authorize a request",
        )),
    }
}

impl Sealed for Call {}

impl Task for Call {
    type Output = Delivered;

    fn advance(
        &mut self,
        id: u64,
        answer: Answer<'_>,
        shared: &mut Shared,
        context: &RequestContext,
    ) -> Next<Delivered> {
        match (self.sending.take(), &self.source) {
            (Some(sending), _) => self.exchange(id, sending, answer, shared, context),
            (None, Source::Session(session)) if self.is_awaiting_token => {
                self.get_token(id, *session, shared, context)
            }
            (None, _) => self.start(id, shared, context),
        }
    }
}

/// A usable token of a session.
#[must_use = "it does nothing until a driver runs it"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetToken {
    session: SessionId,
    timeout: Duration,
    deadline: Option<UnixTime>,
    wait: TokenWait,
}

impl SessionId {
    /// Returns a usable token of this session, and fetches or refreshes it if necessary. Waits for a
    /// refresh in progress for at most `timeout`.
    pub fn token(self, timeout: Duration) -> GetToken {
        GetToken {
            session: self,
            timeout,
            deadline: None,
            wait: TokenWait::default(),
        }
    }
}

impl Sealed for GetToken {}

impl Task for GetToken {
    type Output = Token;

    fn advance(
        &mut self,
        _id: u64,
        _answer: Answer<'_>,
        shared: &mut Shared,
        context: &RequestContext,
    ) -> Next<Token> {
        let now = context.now;
        let deadline = *self
            .deadline
            .get_or_insert(now.saturating_add(self.timeout));
        match shared.poll_token(self.session, &mut self.wait, deadline, now) {
            Polled::Token(token) => Next::Done(Ok(token)),
            Polled::Failed(error) => Next::Done(Err(error)),
            Polled::Wait(time) => Next::Effect(Effect::Wait(Until {
                time,
                unless_generation: Some(shared.generation()),
            })),
        }
    }
}
