//! Repeats a recording: the same machine with the recorded inputs.

use std::{error, fmt, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde_json::{Map, Value};

use crate::jose::{self, PublicJwk, Signature};
use crate::request::recorded::Recorded;
use crate::request::server_state::ServerState;
use crate::request::stand_ins::StandIns;
use crate::session::call::{Call, GetToken};
use crate::session::log_out::LogOut;
use crate::session::recorder::VERSION;
use crate::session::refresh::Refresh;
use crate::session::shared::Shared;
use crate::session::step::{Step, Task};
use crate::types::cause::Cause;
use crate::types::error::Sent;
use crate::types::secret::SecretBytes;
use crate::types::time::{RequestContext, UnixTime};

/// Replays a [recording](Shared::recording) line by line, without a network, a storage or a key. Each
/// step gets the recorded time, entropy and answer, and must have the recorded effect or result.
#[derive(Debug)]
pub struct Replay {
    shared: Shared,
    /// The tasks under way, by their ids.
    tasks: Vec<(u64, AnyStep)>,
    /// The time of the first line that has one.
    began: Option<u64>,
}

/// The reason why a recording can't be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplayError {
    /// The first line is not that of a recording.
    NotARecording,
    /// The recording has this other version of the format.
    UnknownVersion(u64),
    /// The line is not one of a recording, such as the incomplete last one of a process that was
    /// killed.
    Malformed,
    /// The replay took another step than the recorded session.
    #[non_exhaustive]
    Differs {
        /// The recorded line.
        recorded: String,
        /// The line of the replay.
        replayed: String,
    },
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there are few at a time")]
enum AnyStep {
    Call(Step<Call>),
    Token(Step<GetToken>),
    Refresh(Step<Refresh>),
    LogOut(Step<LogOut>),
}

impl Replay {
    /// Starts a replay with the first line of a recording.
    ///
    /// # Errors
    /// Returns [`ReplayError::NotARecording`] or [`ReplayError::UnknownVersion`].
    pub fn new(first_line: &str) -> Result<Self, ReplayError> {
        let header: Value =
            serde_json::from_str(first_line).map_err(|_| ReplayError::NotARecording)?;
        let version = header.get("recording").and_then(Value::as_u64);
        match version.ok_or(ReplayError::NotARecording)? {
            VERSION => {}
            other => return Err(ReplayError::UnknownVersion(other)),
        }
        let mut shared = Shared::recording_with(StandIns::unchanged());
        let _ = shared.next_line();
        Ok(Self {
            shared,
            tasks: Vec::new(),
            began: None,
        })
    }

    /// Takes the step of the next line, and returns it in words: when it was after the first one, its
    /// task, the answer, the verdict on a response, and the next effect or the result.
    ///
    /// # Errors
    /// Returns [`ReplayError::Differs`] if the replay takes another step, or
    /// [`ReplayError::Malformed`].
    pub fn step(&mut self, line: &str) -> Result<String, ReplayError> {
        let recorded: Map<String, Value> =
            serde_json::from_str(line).map_err(|_| ReplayError::Malformed)?;
        self.take(&recorded).ok_or(ReplayError::Malformed)?;
        while self.shared.next_event().is_some() {}
        let replayed = self.shared.next_line().unwrap_or_default();
        let is_equal =
            || serde_json::from_str(&replayed).is_ok_and(|line: Map<_, _>| line == recorded);
        let is_same = replayed == line || is_equal();
        match is_same {
            true => Ok(self.in_words(&recorded)),
            false => Err(ReplayError::Differs {
                recorded: line.to_owned(),
                replayed,
            }),
        }
    }

    /// Gives the input of a line to the machine. Returns `None` if it can't be read.
    fn take(&mut self, line: &Map<String, Value>) -> Option<()> {
        let number = |name| line.get(name).and_then(Value::as_u64);
        if let Some(servers) = line.get("servers") {
            (self.shared).set_server_state(ServerState::from_record(servers)?);
            return Some(());
        }
        if let Some(session) = number("close") {
            let session = self.shared.recorded_session(session)?;
            self.shared.close(session);
            return Some(());
        }
        let now = UnixTime::from_millis(number("at")?);
        if let Some(config) = line.get("open") {
            return self.shared.open_recorded(config, now);
        }
        if let Some(session) = number("resume") {
            let session = self.shared.recorded_session(session)?;
            let state = line.get("state")?.as_str()?;
            self.shared.resume(session, state.as_bytes(), now);
            return Some(());
        }
        if let Some(task) = number("abandon") {
            self.tasks.retain(|(id, _)| *id != task);
            self.shared.abandon(task, now);
            return Some(());
        }
        let entropy = jose::decode(line.get("entropy")?.as_str()?)?;
        let context = RequestContext::new(now, entropy.try_into().ok()?);
        let id = number("task")?;
        let step = match line.get("start") {
            Some(task) => {
                // Tasks that are not recorded have ids, too.
                self.shared.ids = id.checked_sub(1)?;
                self.start(task, context)?
            }
            None => {
                let at = self.tasks.iter().position(|(task, _)| *task == id)?;
                let (_, step) = self.tasks.swap_remove(at);
                step.answer(line, &mut self.shared, context)?
            }
        };
        if !step.is_done() {
            self.tasks.push((id, step));
        }
        Some(())
    }

    fn start(&mut self, task: &Value, context: RequestContext) -> Option<AnyStep> {
        let (kind, record) = task.as_object()?.iter().next()?;
        let shared = &mut self.shared;
        let session = record.get("session").and_then(Value::as_u64);
        let session = session.and_then(|number| shared.recorded_session(number));
        Some(match kind.as_str() {
            "call" => {
                let call = Call::from_record(record, session)?;
                AnyStep::Call(shared.start(call, context))
            }
            "token" => {
                let timeout = Duration::from_record(record.get("timeout")?)?;
                AnyStep::Token(shared.start(session?.token(timeout), context))
            }
            "refresh" => {
                let ticket = record.get("ticket")?.as_u64()?;
                let refresh = shared.recorded_refresh(session?, ticket)?;
                AnyStep::Refresh(shared.start(refresh, context))
            }
            "log_out" => AnyStep::LogOut(shared.start(session?.log_out(), context)),
            _ => return None,
        })
    }

    /// Returns a line in words.
    fn in_words(&mut self, line: &Map<String, Value>) -> String {
        let at = line.get("at").and_then(Value::as_u64);
        let mut words = match at {
            Some(at) => {
                let began = *self.began.get_or_insert(at);
                format!("{:>8} ms", at.saturating_sub(began))
            }
            None => " ".repeat(11),
        };
        if let Some(task) = line.get("task") {
            words.push_str(&format!("  task {task}"));
        }
        const OTHER: [&str; 7] = [
            "at",
            "entropy",
            "task",
            "verdict",
            "next",
            "events",
            "generation",
        ];
        for (name, input) in line
            .iter()
            .filter(|(name, _)| !OTHER.contains(&name.as_str()))
        {
            words.push_str(&format!("  {name} {input}"));
        }
        let list = |name| {
            line.get(name)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
        };
        for verdict in list("verdict") {
            words.push_str(&format!(
                "\n{:13}because of {}",
                "",
                verdict.as_str().unwrap_or_default()
            ));
        }
        for event in list("events") {
            words.push_str(&format!("\n{:13}event {event}", ""));
        }
        if let Some(next) = line.get("next") {
            words.push_str(&format!("\n{:13}then {next}", ""));
        }
        words
    }
}

impl AnyStep {
    fn is_done(&self) -> bool {
        let id = match self {
            Self::Call(step) => step.id(),
            Self::Token(step) => step.id(),
            Self::Refresh(step) => step.id(),
            Self::LogOut(step) => step.id(),
        };
        id.is_none()
    }

    fn answer(
        self,
        line: &Map<String, Value>,
        shared: &mut Shared,
        context: RequestContext,
    ) -> Option<Self> {
        Some(match self {
            Self::Call(step) => Self::Call(answer(step, line, shared, context)?),
            Self::Token(step) => Self::Token(answer(step, line, shared, context)?),
            Self::Refresh(step) => Self::Refresh(answer(step, line, shared, context)?),
            Self::LogOut(step) => Self::LogOut(answer(step, line, shared, context)?),
        })
    }
}

/// Answers an effect as it was answered when it was recorded.
fn answer<T: Task>(
    step: Step<T>,
    line: &Map<String, Value>,
    shared: &mut Shared,
    context: RequestContext,
) -> Option<Step<T>> {
    let get = |name| line.get(name);
    let no_response = || {
        let record = get("no_response")?;
        let sent = match record.get("maybe_sent")?.as_bool()? {
            true => Sent::Maybe,
            false => Sent::No,
        };
        let cause = record.get("cause")?.as_str().map(Cause::message);
        Some((sent, cause))
    };
    Some(match step {
        Step::Send(it) => match get("response") {
            Some(record) => {
                let (status, headers) = head(record)?;
                let body = record.get("body")?.as_str()?;
                let mut response = Response::new(body.as_bytes());
                (*response.status_mut(), *response.headers_mut()) = (status, headers);
                it.received(&response, shared, context)
            }
            None => {
                let (sent, cause) = no_response()?;
                it.failed(sent, cause, shared, context)
            }
        },
        Step::Call(it) => match (get("head"), get("status")) {
            (Some(record), _) => {
                let (status, headers) = head(record)?;
                it.received(status, &headers, shared, context)
            }
            (None, Some(record)) => it.status_only(status(record)?, shared, context),
            (None, None) => {
                let (sent, cause) = no_response()?;
                it.failed(sent, cause, shared, context)
            }
        },
        Step::Sign(it) => {
            let signature = match get("signed")?.as_bool() {
                Some(_) => Ok(signature_of_zeros(it.effect.key())?),
                None => Err(Cause::message("the signer failed")),
            };
            it.signed(signature, shared, context)
        }
        Step::Wait(it) => {
            get("woken")?;
            it.woken(shared, context)
        }
        Step::Lease(it) => it.leased(result(get("leased")?, Value::as_bool)?, shared, context),
        Step::Load(it) => {
            let state = |record: &Value| match record {
                Value::Null => Some(None),
                record => secret_bytes(record).map(Some),
            };
            it.loaded(result(get("loaded")?, state)?, shared, context)
        }
        Step::Save(it) => it.saved(result(get("saved")?, Value::as_bool)?, shared, context),
        Step::Release(it) => {
            get("released")?;
            it.released(shared, context)
        }
        Step::FetchToken(it) => it.fetched(result(get("fetched")?, secret_bytes)?, shared, context),
        Step::Done(_) => return None,
    })
}

fn result<T>(record: &Value, read: impl FnOnce(&Value) -> Option<T>) -> Option<Result<T, Cause>> {
    Some(match record.get("error") {
        Some(cause) => Err(Cause::message(cause.as_str()?)),
        None => Ok(read(record.get("ok")?)?),
    })
}

fn secret_bytes(record: &Value) -> Option<SecretBytes> {
    Some(SecretBytes::new(record.as_str()?.as_bytes().to_vec()))
}

fn head(record: &Value) -> Option<(StatusCode, HeaderMap)> {
    let mut headers = HeaderMap::new();
    for pair in record.get("headers")?.as_array()? {
        let name: HeaderName = pair.get(0)?.as_str()?.parse().ok()?;
        headers.append(
            name,
            HeaderValue::from_bytes(pair.get(1)?.as_str()?.as_bytes()).ok()?,
        );
    }
    Some((status(record.get("status")?)?, headers))
}

fn status(record: &Value) -> Option<StatusCode> {
    StatusCode::from_u16(u16::try_from(record.as_u64()?).ok()?).ok()
}

/// Returns a signature of the right length. Nobody verifies it.
fn signature_of_zeros(key: &PublicJwk) -> Option<Signature> {
    let zeros = vec![0; key.signature_len()];
    Signature::from_jose(key.algorithm(), &zeros).ok()
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotARecording => f.write_str("the file is not a recording of keybound"),
            Self::UnknownVersion(version) => write!(
                f,
                "the recording has version {version} of the format, but this keybound replays version {VERSION}"
            ),
            Self::Malformed => f.write_str("the line is not one of a recording, or is incomplete"),
            Self::Differs { recorded, replayed } => write!(
                f,
                "the replay differs from the recording\nrecorded: {recorded}\nreplayed: {replayed}"
            ),
        }
    }
}

impl error::Error for ReplayError {}
