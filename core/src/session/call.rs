//! Calls to protected resources, with a token or with the token of a session.

use std::{mem, time::Duration};

use http::{HeaderMap, Method, Uri};
#[cfg(feature = "record")]
use serde_json::Value;

use crate::oauth::token::{Token, TokenType};
use crate::request::attempt::Reason;
use crate::request::effect::{Answer, Effect, Next};
use crate::request::exchange::{CallRequest, CallToken, Delivered, Exchange, Subject};
use crate::request::read_headers::{IDEMPOTENCY_KEY, X_IDEMPOTENCY_KEY};
use crate::request::retry::RetrySafety;
#[cfg(feature = "record")]
use crate::request::{recorded::Recorded, retry::RetryState};
#[cfg(feature = "record")]
use crate::session::recorder::Recorder;
use crate::session::shared::{Polled, SessionId, Shared, TokenWait};
use crate::session::step::sealed::Sealed;
use crate::session::step::{Task, TaskContext};
use crate::types::{endpoint::HttpUri, error::Error, input::InvalidInput, time::UnixTime};

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
    /// The request, its limits and its retries.
    exchange: Exchange,
    /// The session's token generation at the start.
    started: u64,
    wait: TokenWait,
    /// Whether the server has rejected a token of the session.
    is_second: bool,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Token(Token),
    Session(SessionId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Start,
    AwaitingToken,
    /// The request with this token is being authorized or sent.
    Sending(Token),
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
        let uri = HttpUri::new(uri)?;
        if !uri.target().is_confidential() {
            return Err(InvalidInput::new(
                "url",
                "must be https://, or http:// with a loopback host",
            ));
        }
        let request = CallRequest {
            method: method.clone(),
            uri,
            token: None,
        };
        let safety = RetrySafety::for_method(method);
        Ok(Self {
            source,
            exchange: Exchange::new(Subject::Call(request), safety),
            started: 0,
            wait: TokenWait::default(),
            is_second: false,
            stage: Stage::Start,
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
            self.exchange.safety = RetrySafety::Idempotent;
        }
        self
    }

    /// Declares that the request can be sent only once, because sending it consumes its body. It is
    /// never retried.
    pub fn single_use_body(mut self) -> Self {
        self.exchange.safety = RetrySafety::Never;
        self
    }

    /// Sets the timeout of the whole call: for a session's, from its start; otherwise from its first
    /// request. No delay starts that would end after the timeout. Default: 30 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.exchange.retry.set_timeout(timeout);
        self
    }

    /// Sets the maximum number of attempts, the first one included, if they end in transient
    /// failures. Retries with a corrected proof are not counted. Default: 4.
    pub fn max_attempts(mut self, max_attempts: u8) -> Self {
        self.exchange.retry.set_max_attempts(max_attempts);
        self
    }

    /// Returns the call as it was recorded. `session` is its session, unless it has a token.
    #[cfg(feature = "record")]
    pub(crate) fn from_record(record: &Value, session: Option<SessionId>) -> Option<Self> {
        let source = match session {
            Some(session) => Source::Session(session),
            None => Source::Token(Token::from_record(record.get("token")?)?),
        };
        let uri = record.get("url")?.as_str()?.parse().ok()?;
        let mut call =
            Self::new(source, &Method::from_record(record.get("method")?)?, &uri).ok()?;
        call.exchange.safety = RetrySafety::from_record(record.get("safety")?)?;
        call.exchange.retry = RetryState::from_record(record.get("retry")?)?;
        Some(call)
    }

    fn start(&mut self, cx: &mut TaskContext<'_>) -> Next<Delivered> {
        let session = match &self.source {
            Source::Token(token) => {
                let token = token.clone();
                return self.send(token, false, cx);
            }
            Source::Session(session) => *session,
        };
        self.exchange.retry.start_attempt(cx.now());
        let Some(data) = cx.shared.session(session) else {
            return Next::Done(Err(Error::LoginRequired));
        };
        self.started = data.tokens.generation();
        self.get_token(session, cx)
    }

    fn get_token(&mut self, session: SessionId, cx: &mut TaskContext<'_>) -> Next<Delivered> {
        let (now, shared) = (cx.now(), &mut *cx.shared);
        let deadline = now.saturating_add(self.exchange.retry.time_left(now));
        let token = match shared.poll_token(session, &mut self.wait, deadline, now) {
            Polled::Token(token) => token,
            Polled::Wait(time) => {
                self.stage = Stage::AwaitingToken;
                return Next::Effect(Effect::wait_for_change(shared.generation(), time));
            }
            // Without a new token, the application gets the response that rejected the token.
            Polled::Failed(_) if self.is_second => {
                return Next::Done(Ok(Delivered {
                    token_rejected: true,
                }));
            }
            Polled::Failed(error) => return Next::Done(Err(error)),
        };
        if self.is_second {
            let retrying = self.exchange.retrying(Reason::TokenRejected);
            shared.servers.retrying(retrying);
        }
        let (target, started) = (self.exchange.subject.target(), self.started);
        let data = shared.session(session).filter(|_| !self.is_second);
        let has_other =
            data.is_some_and(|data| data.tokens.is_replaceable(&token, &target, started, now));
        self.send(token, has_other, cx)
    }

    fn send(&mut self, token: Token, has_other: bool, cx: &mut TaskContext<'_>) -> Next<Delivered> {
        if let Err(invalid) = check(&token) {
            return Next::Done(Err(invalid.into()));
        }
        self.exchange.authorize(CallToken {
            authorization: token.authorization().clone(),
            proof: token.key().map(|key| (key.clone(), token.ath())),
            is_of_session: matches!(self.source, Source::Session(_)),
            has_other,
        });
        self.exchange(token, Answer::Go, cx)
    }

    fn exchange(
        &mut self,
        token: Token,
        answer: Answer<'_>,
        cx: &mut TaskContext<'_>,
    ) -> Next<Delivered> {
        let now = cx.now();
        let (status, is_status_only) = match &answer {
            Answer::Head { status, .. } => (Some(*status), false),
            Answer::StatusOnly(status) => (Some(*status), true),
            _ => (None, false),
        };
        let delivered = match self.exchange.advance(answer, &mut cx.turn()) {
            Next::Done(Ok(delivered)) => delivered,
            // A log-out ends the calls that wait for a permit, a retry or a signature.
            Next::Effect(effect) if effect.sends() && self.has_ended(cx.shared) => {
                cx.shared.servers.abandon(cx.id, now);
                return Next::Done(Err(Error::LoginRequired));
            }
            next => {
                self.stage = Stage::Sending(token);
                return next;
            }
        };
        let (Source::Session(session), Some(status)) = (&self.source, status) else {
            return Next::Done(Ok(delivered));
        };
        let (session, target) = (*session, self.exchange.subject.target());
        let Some(data) = cx.shared.session(session) else {
            return Next::Done(Ok(delivered));
        };
        if !delivered.token_rejected {
            data.tokens.token_accepted(&target, status);
            return Next::Done(Ok(delivered));
        }
        let is_replaced = data
            .tokens
            .token_rejected(&token, &target, self.started, now);
        let may_repeat = match is_status_only {
            true => self.exchange.safety == RetrySafety::Idempotent,
            false => self.exchange.is_repeatable(),
        };
        if !is_replaced || !may_repeat || self.is_second {
            return Next::Done(Ok(delivered));
        }
        self.is_second = true;
        self.wait = TokenWait::default();
        self.get_token(session, cx)
    }

    /// Returns whether the session of this call has ended.
    fn has_ended(&self, shared: &Shared) -> bool {
        matches!(self.source, Source::Session(session) if shared.has_ended(session))
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

    fn session(&self) -> Option<SessionId> {
        match self.source {
            Source::Session(session) => Some(session),
            Source::Token(_) => None,
        }
    }

    fn advance(&mut self, answer: Answer<'_>, cx: &mut TaskContext<'_>) -> Next<Delivered> {
        match (mem::replace(&mut self.stage, Stage::Start), &self.source) {
            (Stage::Sending(token), _) => self.exchange(token, answer, cx),
            (Stage::AwaitingToken, Source::Session(session)) => self.get_token(*session, cx),
            _ => self.start(cx),
        }
    }

    #[cfg(feature = "record")]
    fn record(&self, recorder: &mut Recorder) -> bool {
        let Subject::Call(call) = &self.exchange.subject else {
            return false;
        };
        let stand_ins = &mut recorder.stand_ins;
        let mut record = serde_json::json!({
            "method": call.method.to_record(stand_ins),
            "url": call.uri.to_record(stand_ins),
            "safety": self.exchange.safety.to_record(stand_ins),
            "retry": self.exchange.retry.to_record(stand_ins),
        });
        let (name, source) = match &self.source {
            Source::Token(token) => ("token", token.to_record(stand_ins)),
            Source::Session(session) => ("session", recorder.session_number(*session).into()),
        };
        if let Some(record) = record.as_object_mut() {
            record.insert(name.to_owned(), source);
        }
        recorder.start("call", record);
        true
    }

    #[cfg(feature = "record")]
    fn outcome(&self, delivered: &Delivered) -> String {
        match delivered.token_rejected {
            true => "a response that rejects the token".to_owned(),
            false => "a response".to_owned(),
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

    fn advance(&mut self, _answer: Answer<'_>, cx: &mut TaskContext<'_>) -> Next<Token> {
        let (now, shared) = (cx.now(), &mut *cx.shared);
        let deadline = *self
            .deadline
            .get_or_insert(now.saturating_add(self.timeout));
        match shared.poll_token(self.session, &mut self.wait, deadline, now) {
            Polled::Token(token) => Next::Done(Ok(token)),
            Polled::Failed(error) => Next::Done(Err(error)),
            Polled::Wait(time) => Next::Effect(Effect::wait_for_change(shared.generation(), time)),
        }
    }

    #[cfg(feature = "record")]
    fn record(&self, recorder: &mut Recorder) -> bool {
        let session = recorder.session_number(self.session);
        let timeout = self.timeout.to_record(&mut recorder.stand_ins);
        recorder.start(
            "token",
            serde_json::json!({ "session": session, "timeout": timeout }),
        );
        true
    }

    #[cfg(feature = "record")]
    fn outcome(&self, token: &Token) -> String {
        match token.expires_at() {
            Some(at) => format!("a token, expires at {} s", at.as_secs()),
            None => "a token, without an expiry".to_owned(),
        }
    }
}
