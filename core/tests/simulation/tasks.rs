//! The tasks of a process: what each waits for, and the answers that continue it.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use keybound_core::driver::{
    Delivered, GetToken, LogOut, Refresh, RequestContext, Shared, Step, Task, Until,
};
use keybound_core::jose::{Algorithm, Signature};
use keybound_core::{Call, Cause, Error, SecretBytes, Sent, Token, UnixTime};

/// A task between two steps.
#[derive(Debug)]
pub(crate) struct Running {
    /// Its number in the world.
    pub(crate) number: u64,
    /// Grows with each step, so that only the first answer to an effect counts.
    pub(crate) turn: u32,
    pub(crate) step: AnyStep,
    pub(crate) need: NeedKind,
    pub(crate) before: NeedKind,
    /// The generation that ends its wait.
    pub(crate) unless_generation: Option<u64>,
    /// When it started, in the world's time.
    pub(crate) started: u64,
    /// The time of its last step, by the clock of its process. A driver waits from then on: its
    /// clock may have jumped since.
    pub(crate) stepped: UnixTime,
    /// The fence of its lease.
    pub(crate) fence: Option<u64>,
    /// The newest refresh token that had been saved when it loaded the state.
    pub(crate) loaded: Option<usize>,
    /// Whether its last save was refused or failed.
    pub(crate) save_failed: bool,
    /// The refresh token in the last state that it saved.
    pub(crate) saved: Option<usize>,
    /// Whether that state names the tokens of a login that it ends.
    pub(crate) ends_login: bool,
    pub(crate) requests: u32,
    /// Whether the clock of its process has jumped since it started.
    pub(crate) clock_jumped: bool,
    /// The access token of its last request.
    pub(crate) used: Option<usize>,
    pub(crate) status: u16,
    pub(crate) is_probe: bool,
    /// Whether its single-use token is on the way.
    pub(crate) sent: Option<usize>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there are few of them at a time")]
pub(crate) enum AnyStep {
    Call(Step<Call>),
    Token(Step<GetToken>),
    Refresh(Step<Refresh>),
    LogOut(Step<LogOut>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskKind {
    Call,
    Token,
    Refresh,
    LogOut,
}

impl TaskKind {
    /// A number below 4.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Call => 0,
            Self::Token => 1,
            Self::Refresh => 2,
            Self::LogOut => 3,
        }
    }
}

impl NeedKind {
    /// A number below 16.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Send => 1,
            Self::Call => 2,
            Self::Sign => 3,
            Self::Wait => 4,
            Self::Lease => 5,
            Self::Load => 6,
            Self::Save => 7,
            Self::Release => 8,
            Self::Fetch => 9,
        }
    }
}

/// What a step needs, in the model's terms.
#[derive(Debug)]
pub(crate) enum Need {
    Send(String, Option<HeaderValue>, Vec<u8>, Duration),
    Call(HeaderMap, Duration),
    Sign,
    Wait(Until),
    Lease(String, Duration),
    Load(String),
    Save(String, Vec<u8>),
    Release(String),
    Fetch,
    Done(Ended),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum NeedKind {
    #[default]
    Nothing,
    Send,
    Call,
    Sign,
    Wait,
    Lease,
    Load,
    Save,
    Release,
    Fetch,
}

/// The result of a task.
#[derive(Debug)]
pub(crate) enum Ended {
    Call(Result<Delivered, Error>),
    Token(Result<Token, Error>),
    Refresh,
    LogOut(Result<(), Error>),
}

/// An answer to an effect.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Response {
        status: u16,
        body: String,
        nonce: Option<String>,
        date: Option<String>,
    },
    Head {
        status: u16,
        nonce: Option<String>,
        date: Option<String>,
        challenge: &'static str,
        retry_after: Option<&'static str>,
    },
    StatusOnly(u16),
    NotSent,
    NoResponse,
    Signed(bool),
    Leased(Result<Option<u64>, ()>),
    Loaded(Result<Option<Vec<u8>>, ()>),
    /// The state is loaded, and can't be read.
    Unreadable,
    Saved(Result<bool, ()>),
    Released,
    Woken,
    Fetched(Result<String, ()>),
}

impl Reply {
    /// A number for each kind of answer, below 32.
    pub(crate) fn index(&self) -> usize {
        match self {
            Self::Response { status: 200, .. } => 0,
            Self::Response {
                status: 400, body, ..
            } if body.contains("nonce") => 1,
            Self::Response { status: 400, .. } => 2,
            Self::Response { .. } => 3,
            Self::Head { status: 200, .. } => 4,
            Self::Head {
                status: 401,
                challenge,
                ..
            } if challenge.contains("nonce") => 5,
            Self::Head { status: 401, .. } => 6,
            Self::Head { .. } => 7,
            Self::StatusOnly(_) => 8,
            Self::NotSent => 9,
            Self::NoResponse => 10,
            Self::Signed(true) => 11,
            Self::Signed(false) => 12,
            Self::Leased(Ok(Some(_))) => 13,
            Self::Leased(Ok(None)) => 14,
            Self::Leased(Err(())) => 15,
            Self::Loaded(Ok(Some(_))) => 16,
            Self::Loaded(Ok(None)) => 17,
            Self::Loaded(Err(())) => 18,
            Self::Saved(Ok(true)) => 19,
            Self::Saved(Ok(false)) => 20,
            Self::Saved(Err(())) => 21,
            Self::Released => 22,
            Self::Woken => 23,
            Self::Fetched(Ok(_)) => 24,
            Self::Fetched(Err(())) => 25,
            Self::Unreadable => 26,
        }
    }
}

fn cause() -> Cause {
    Cause::new("the storage is down")
}

impl AnyStep {
    pub(crate) fn kind(&self) -> TaskKind {
        match self {
            Self::Call(_) => TaskKind::Call,
            Self::Token(_) => TaskKind::Token,
            Self::Refresh(_) => TaskKind::Refresh,
            Self::LogOut(_) => TaskKind::LogOut,
        }
    }

    pub(crate) fn id(&self) -> Option<u64> {
        match self {
            Self::Call(step) => step.id(),
            Self::Token(step) => step.id(),
            Self::Refresh(step) => step.id(),
            Self::LogOut(step) => step.id(),
        }
    }

    pub(crate) fn answer(self, reply: Reply, shared: &mut Shared, context: RequestContext) -> Self {
        match self {
            Self::Call(step) => Self::Call(answer(step, reply, shared, context)),
            Self::Token(step) => Self::Token(answer(step, reply, shared, context)),
            Self::Refresh(step) => Self::Refresh(answer(step, reply, shared, context)),
            Self::LogOut(step) => Self::LogOut(answer(step, reply, shared, context)),
        }
    }

    /// Takes what the step needs. The step itself keeps what takes the answer.
    pub(crate) fn need(&mut self) -> Need {
        match self {
            Self::Call(Step::Done(done)) => Need::Done(Ended::Call(done.clone())),
            Self::Token(Step::Done(done)) => Need::Done(Ended::Token(done.clone())),
            Self::Refresh(Step::Done(_)) => Need::Done(Ended::Refresh),
            Self::LogOut(Step::Done(done)) => Need::Done(Ended::LogOut(done.clone().map(|_| ()))),
            Self::Call(step) => need(step),
            Self::Token(step) => need(step),
            Self::Refresh(step) => need(step),
            Self::LogOut(step) => need(step),
        }
    }
}

impl Need {
    pub(crate) fn kind(&self) -> NeedKind {
        match self {
            Self::Send(..) => NeedKind::Send,
            Self::Call(..) => NeedKind::Call,
            Self::Sign => NeedKind::Sign,
            Self::Wait(_) => NeedKind::Wait,
            Self::Lease(..) => NeedKind::Lease,
            Self::Load(_) => NeedKind::Load,
            Self::Save(..) => NeedKind::Save,
            Self::Release(_) => NeedKind::Release,
            Self::Fetch => NeedKind::Fetch,
            Self::Done(_) => NeedKind::Nothing,
        }
    }
}

fn need<T: Task>(step: &mut Step<T>) -> Need {
    match step {
        Step::Send(awaiting) => {
            let request = std::mem::take(&mut awaiting.effect.request);
            let (parts, body) = request.into_parts();
            let proof = parts.headers.get("dpop").cloned();
            let host = parts.uri.host().unwrap_or_default().to_owned();
            Need::Send(host, proof, body.into_vec(), awaiting.effect.timeout)
        }
        Step::Call(awaiting) => {
            let mut headers = HeaderMap::new();
            awaiting.effect.headers.apply(&mut headers);
            Need::Call(headers, awaiting.effect.timeout)
        }
        Step::Sign(_) => Need::Sign,
        Step::Wait(awaiting) => Need::Wait(awaiting.effect),
        Step::Lease(awaiting) => Need::Lease(awaiting.effect.name.clone(), awaiting.effect.ttl),
        Step::Load(awaiting) => Need::Load(awaiting.effect.name.clone()),
        Step::Save(awaiting) => Need::Save(
            awaiting.effect.name.clone(),
            awaiting.effect.state.expose().to_vec(),
        ),
        Step::Release(awaiting) => Need::Release(awaiting.effect.name.clone()),
        Step::FetchToken(_) => Need::Fetch,
        Step::Done(_) => panic!("it has ended"),
    }
}

fn answer<T: Task>(
    step: Step<T>,
    reply: Reply,
    shared: &mut Shared,
    context: RequestContext,
) -> Step<T> {
    match (step, reply) {
        (
            Step::Send(awaiting),
            Reply::Response {
                status,
                body,
                nonce,
                date,
            },
        ) => {
            let coding = body.starts_with('\u{1f}').then(|| "gzip".to_owned());
            let mut response = Response::new(body);
            insert(response.headers_mut(), "content-encoding", coding);
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            insert(response.headers_mut(), "dpop-nonce", nonce);
            insert(response.headers_mut(), "date", date);
            awaiting.received(&response, shared, context)
        }
        (Step::Send(awaiting), Reply::NotSent) => awaiting.failed(Sent::No, None, shared, context),
        (Step::Send(awaiting), Reply::NoResponse) => {
            awaiting.failed(Sent::Maybe, None, shared, context)
        }
        (
            Step::Call(awaiting),
            Reply::Head {
                status,
                nonce,
                date,
                challenge,
                retry_after,
            },
        ) => {
            let mut headers = HeaderMap::new();
            insert(&mut headers, "dpop-nonce", nonce);
            insert(&mut headers, "date", date);
            if !challenge.is_empty() {
                headers.insert(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_static(challenge),
                );
            }
            if let Some(retry_after) = retry_after {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(retry_after));
            }
            let status = StatusCode::from_u16(status).unwrap();
            awaiting.received(status, &headers, shared, context)
        }
        (Step::Call(awaiting), Reply::StatusOnly(status)) => {
            let status = StatusCode::from_u16(status).unwrap();
            awaiting.status_only(status, shared, context)
        }
        (Step::Call(awaiting), Reply::NotSent) => awaiting.failed(Sent::No, None, shared, context),
        (Step::Call(awaiting), Reply::NoResponse) => {
            awaiting.failed(Sent::Maybe, None, shared, context)
        }
        (Step::Sign(awaiting), Reply::Signed(is_signed)) => {
            let signature = match is_signed {
                true => Ok(Signature::from_jose(Algorithm::EdDsa, &[7; 64]).unwrap()),
                false => Err(Cause::new("the signer is down")),
            };
            awaiting.signed(signature, shared, context)
        }
        (Step::Wait(awaiting), Reply::Woken) => awaiting.woken(shared, context),
        (Step::Lease(awaiting), Reply::Leased(leased)) => {
            let leased = leased.map(|fence| fence.is_some());
            awaiting.leased(leased.map_err(|()| cause()), shared, context)
        }
        (Step::Load(awaiting), Reply::Loaded(loaded)) => {
            let loaded = loaded.map(|state| state.map(SecretBytes::new));
            awaiting.loaded(loaded.map_err(|()| cause()), shared, context)
        }
        (Step::Load(awaiting), Reply::Unreadable) => {
            let state = SecretBytes::new(b"{".to_vec());
            awaiting.loaded(Ok(Some(state)), shared, context)
        }
        (Step::Save(awaiting), Reply::Saved(saved)) => {
            awaiting.saved(saved.map_err(|()| cause()), shared, context)
        }
        (Step::FetchToken(awaiting), Reply::Fetched(fetched)) => {
            let fetched = fetched.map(|json| SecretBytes::new(json.into_bytes()));
            let failed = |()| Cause::new("the application has no token");
            awaiting.fetched(fetched.map_err(failed), shared, context)
        }
        (Step::Release(awaiting), Reply::Released) => awaiting.released(shared, context),
        (step, reply) => panic!("no answer to {:?}: {reply:?}", step.id()),
    }
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: Option<String>) {
    if let Some(value) = value {
        headers.insert(name, HeaderValue::from_str(&value).unwrap());
    }
}
