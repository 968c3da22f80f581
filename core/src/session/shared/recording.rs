//! Records what happens to the shared state of a driver.

use std::mem;

use serde_json::{Value, json};

use super::{Event, SessionConfig, SessionId, Shared};
use crate::request::effect::{Answer, Next};
use crate::request::recorded::Recorded;
use crate::request::stand_ins::StandIns;
use crate::session::recorder::Recorder;
use crate::session::session_state::SessionState;
use crate::session::step::Task;
use crate::types::time::{RequestContext, UnixTime};

impl Shared {
    /// Creates the shared state of a driver, without sessions, and records all of its inputs: times,
    /// entropy, answers, and the start and the end of tasks. A recording has stand-ins in place of
    /// secrets; they are derived by HMAC under `key`, 32 fresh random bytes that are never written.
    ///
    /// The driver takes its [lines](Self::next_line) after every step.
    pub fn recording(key: &[u8; 32]) -> Self {
        Self::recording_with(StandIns::new(key))
    }

    /// Records inputs that have stand-ins already.
    pub(crate) fn recording_with(stand_ins: StandIns) -> Self {
        let mut shared = Self::new();
        shared.servers.judged = Some(Vec::new());
        shared.recorder = Some(Box::new(Recorder::new(stand_ins)));
        shared
    }

    /// Returns the next line of the recording, a JSON object without a line break. Write each line,
    /// and flush it, before the process can end.
    pub fn next_line(&mut self) -> Option<String> {
        self.recorder.as_mut()?.lines.pop_front()
    }

    /// Records the start of a task.
    pub(crate) fn record_start<T: Task>(&mut self, id: u64, task: &T) {
        if let Some(recorder) = &mut self.recorder {
            let is_recorded = task.record(recorder);
            recorder.tasks.push((id, is_recorded));
        }
    }

    /// Records the answer to an effect.
    pub(crate) fn record_answer(&mut self, id: u64, answer: &Answer<'_>, context: &RequestContext) {
        if let Some(recorder) = &mut self.recorder {
            recorder.before = self.events.len();
            recorder.step(id, answer, context);
        }
    }

    /// Records the effect or the result that followed.
    pub(crate) fn record_next<T: Task>(&mut self, id: u64, task: &T, next: &Next<T::Output>) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        let judged = self.servers.judged.as_mut().map(mem::take);
        let is_recorded = recorder.tasks.contains(&(id, true));
        if matches!(next, Next::Done(_)) {
            recorder.tasks.retain(|(task, _)| *task != id);
        }
        if !is_recorded {
            recorder.line.clear();
            return self.record_servers();
        }
        let judged = judged.iter().flatten();
        let verdicts: Value = judged.map(|judged| recorder.verdict(judged)).collect();
        recorder.insert_list("verdict", verdicts);
        let next = match next {
            Next::Effect(effect) => recorder.effect(effect),
            Next::Done(Ok(output)) => json!({ "done": task.outcome(output) }),
            Next::Done(Err(error)) => json!({ "failed": recorder.error(error) }),
        };
        recorder.insert("next", next);
        let events = self.events.iter().skip(recorder.before);
        let events: Value = events.map(|event| event_record(event, recorder)).collect();
        recorder.insert_list("events", events);
        recorder.insert("generation", self.servers.generation());
        recorder.end_line();
    }

    pub(crate) fn record_open(
        &mut self,
        session: SessionId,
        config: &SessionConfig,
        storage_name: Option<&str>,
        now: UnixTime,
    ) {
        if let Some(recorder) = &mut self.recorder {
            recorder.sessions.push(session.0);
            let config = config.to_record(storage_name, &mut recorder.stand_ins);
            recorder.insert("at", now.as_millis());
            recorder.insert("open", config);
            recorder.end_line();
        }
    }

    pub(crate) fn record_close(&mut self, session: SessionId) {
        if let Some(recorder) = &mut self.recorder {
            let session = recorder.session(session.0);
            recorder.insert("close", session);
            recorder.end_line();
        }
    }

    pub(crate) fn record_resume(&mut self, session: SessionId, stored: &[u8], now: UnixTime) {
        if let Some(recorder) = &mut self.recorder {
            let session = recorder.session(session.0);
            recorder.insert("at", now.as_millis());
            recorder.insert("resume", session);
            let state = recorder.stand_ins.body(stored);
            recorder.insert("state", state);
            recorder.end_line();
        }
    }

    pub(crate) fn record_abandon(&mut self, task: u64, now: UnixTime) {
        let is_under_way =
            |recorder: &&mut Box<Recorder>| recorder.tasks.iter().any(|(known, _)| *known == task);
        // A guard may call it after the end of the task.
        if let Some(recorder) = self.recorder.as_mut().filter(is_under_way) {
            recorder.tasks.retain(|(known, _)| *known != task);
            recorder.insert("at", now.as_millis());
            recorder.insert("abandon", task);
            recorder.end_line();
        }
    }

    pub(crate) fn record_servers(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            let servers = self.servers.known.to_record(&mut recorder.stand_ins);
            recorder.insert("servers", servers);
            recorder.end_line();
        }
    }

    /// Returns the session with this number in the recording.
    pub(crate) fn recorded_session(&self, number: u64) -> Option<SessionId> {
        let at = usize::try_from(number.checked_sub(1)?).ok()?;
        let sessions = &self.recorder.as_ref()?.sessions;
        sessions.get(at).copied().map(SessionId)
    }

    /// Opens a session as it was recorded.
    pub(crate) fn open_recorded(&mut self, record: &Value, now: UnixTime) -> Option<()> {
        let config = SessionConfig::from_record(record)?;
        let name = record.get("name")?.as_str().map(str::to_owned);
        self.open_as(config, name, now);
        Some(())
    }
}

impl Recorder {
    /// Returns the number of a session in the recording; 0 for one of another driver.
    pub(crate) fn session_number(&self, session: SessionId) -> usize {
        self.session(session.0)
    }
}

fn event_record(event: &Event, recorder: &mut Recorder) -> Value {
    match event {
        Event::Retrying(retrying) => json!({ "retrying": retrying.to_string() }),
        Event::TokenRefreshed(refreshed) => {
            let expires_at = refreshed.token.expires_at().map(UnixTime::as_millis);
            json!({ "token_refreshed": { "expires_at": expires_at } })
        }
        Event::RefreshFailed(failed) => json!({ "refresh_failed": recorder.error(&failed.error) }),
        Event::LoginLost(lost) => json!({ "login_lost": recorder.error(&lost.error) }),
        Event::LeaseAwaited(_) => json!("lease_awaited"),
        Event::StorageUnavailable(_) => json!("storage_unavailable"),
    }
}

impl SessionConfig {
    /// Returns the record of a session with this name in its storage.
    fn to_record(&self, name: Option<&str>, stand_ins: &mut StandIns) -> Value {
        let state = self.state.as_ref().map(SessionState::to_json);
        json!({
            "client": self.client.to_record(stand_ins),
            "grant": self.grant.to_record(stand_ins),
            "policy": self.policy.to_record(stand_ins),
            "token": self.token.to_record(stand_ins),
            "state": state.map(|state| stand_ins.body(state.expose())),
            "label": self.label.as_deref(),
            "name": name.map(|name| stand_ins.stand_in(name)),
            "location": self.location.as_ref().map(|location| stand_ins.stand_in(location)),
            "fetches_tokens": self.fetches_tokens,
            "timeout": self.timeout.to_record(stand_ins),
        })
    }

    fn from_record(record: &Value) -> Option<Self> {
        let get = |name| record.get(name);
        let client = Recorded::from_record(get("client")?)?;
        let since = UnixTime::from_secs(0);
        let state = match get("state")?.as_str() {
            Some(json) => Some(SessionState::from_json(json.as_bytes(), &client, since).ok()?),
            None => None,
        };
        Some(Self {
            grant: Recorded::from_record(get("grant")?)?,
            policy: Recorded::from_record(get("policy")?)?,
            token: Recorded::from_record(get("token")?)?,
            state,
            label: get("label")?.as_str().map(Into::into),
            location: get("location")?.as_str().map(str::to_owned),
            fetches_tokens: get("fetches_tokens")?.as_bool()?,
            timeout: Recorded::from_record(get("timeout")?)?,
            ..Self::new(client)
        })
    }
}
