//! The log-out of a session, here and in its storage.

use std::mem;

use crate::oauth::token::Token;
use crate::request::effect::{
    Answer, Effect, LeaseRequest, LoadRequest, Next, ReleaseRequest, SaveRequest,
};
use crate::request::exchange::unexpected_answer;
#[cfg(feature = "record")]
use crate::session::recorder::Recorder;
use crate::session::shared::{SessionId, Shared};
use crate::session::step::sealed::Sealed;
use crate::session::step::{Task, TaskContext};
use crate::session::{refresh::POLL_INTERVAL, session_state::SessionState};
use crate::types::{cause::Cause, error::Error, time::UnixTime};

/// The log-out of a session. In its storage a mark replaces the login: it is saved under a lease, so
/// that a later save of another process does not undo it, and it names all tokens of the login.
/// Results in the last token, so that the application can revoke it.
#[must_use = "a log-out does nothing until a driver runs it"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOut {
    session: SessionId,
    stage: Stage,
    token: Option<Token>,
    /// The name of the session in the storage, and the state that marks the log-out.
    storage: Option<(String, SessionState)>,
    /// The end of the wait for the lease of another process.
    waits_until: UnixTime,
    /// The end of the lease.
    valid_until: UnixTime,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Start,
    Leasing,
    AwaitingLease,
    Loading,
    Saving,
    /// The end of the lease, and the result of the save.
    Releasing(Result<bool, Cause>),
}

impl SessionId {
    /// Logs out of this session, also for other processes that load it from now on. If another
    /// process is refreshing the token, waits for it, at most for the policy's [refresh
    /// timeout](crate::RefreshPolicy::refresh_timeout).
    pub fn log_out(self) -> LogOut {
        LogOut {
            session: self,
            stage: Stage::Start,
            token: None,
            storage: None,
            waits_until: UnixTime::from_secs(0),
            valid_until: UnixTime::from_secs(0),
        }
    }
}

impl Sealed for LogOut {}

impl Task for LogOut {
    type Output = Option<Token>;

    fn advance(&mut self, answer: Answer<'_>, cx: &mut TaskContext<'_>) -> Next<Option<Token>> {
        let (now, shared) = (cx.now(), &mut *cx.shared);
        match (mem::take(&mut self.stage), answer) {
            (Stage::Start, Answer::Go) => self.start(shared, now),
            (Stage::AwaitingLease, Answer::Go) => self.lease(shared, now),
            (Stage::Leasing, Answer::Leased(Ok(true))) => {
                let name = self.name();
                self.effect(Stage::Loading, Effect::Load(LoadRequest { name }))
            }
            (Stage::Leasing, Answer::Leased(Ok(false))) => self.wait(now),
            (Stage::Leasing, Answer::Leased(Err(cause))) => Next::Done(Err(Error::Storage(cause))),
            (Stage::Loading, Answer::Loaded(stored)) => {
                // A state that can't be read is replaced all the same.
                let client = shared.session(self.session).map(|data| &data.client);
                let stored = stored.ok().flatten().zip(client);
                let stored = stored
                    .and_then(|(json, client)| SessionState::load(json.expose(), client, now).ok());
                if let Some(stored) = stored {
                    self.add(stored);
                }
                self.save(shared)
            }
            (Stage::Saving, Answer::Saved(saved)) => {
                // The holder of a later lease may have loaded the login before this save.
                let saved = saved.map(|saved| saved && now < self.valid_until);
                let name = self.name();
                self.effect(
                    Stage::Releasing(saved),
                    Effect::Release(ReleaseRequest { name }),
                )
            }
            (Stage::Releasing(Ok(true)), Answer::Released) => Next::Done(Ok(self.token.take())),
            // The lease had expired, and the holder of a later one has saved, or is about to.
            (Stage::Releasing(Ok(false)), Answer::Released) => self.wait(now),
            (Stage::Releasing(Err(cause)), Answer::Released) => {
                Next::Done(Err(Error::Storage(cause)))
            }
            _ => Next::Done(Err(unexpected_answer())),
        }
    }

    #[cfg(feature = "record")]
    fn record(&self, recorder: &mut Recorder) -> bool {
        let session = recorder.session_number(self.session);
        recorder.start("log_out", serde_json::json!({ "session": session }));
        true
    }

    #[cfg(feature = "record")]
    fn outcome(&self, token: &Option<Token>) -> String {
        match token {
            Some(_) => "the last token".to_owned(),
            None => "no token".to_owned(),
        }
    }
}

impl LogOut {
    fn start(&mut self, shared: &mut Shared, now: UnixTime) -> Next<Option<Token>> {
        let Some(data) = shared.session(self.session) else {
            return Next::Done(Ok(None));
        };
        let tombstone = data.tokens.tombstone();
        self.waits_until = now.saturating_add(data.tokens.refresh_timeout());
        self.storage = data.storage_name.clone().map(|name| (name, tombstone));
        self.token = data.tokens.clear();
        shared.servers.move_generation();
        match self.storage {
            Some(_) => self.lease(shared, now),
            None => Next::Done(Ok(self.token.take())),
        }
    }

    fn lease(&mut self, shared: &mut Shared, now: UnixTime) -> Next<Option<Token>> {
        let (name, data) = (self.name(), shared.session(self.session));
        let ttl = data.map(|data| data.tokens.refresh_timeout());
        let ttl = ttl.unwrap_or_default();
        self.valid_until = now.saturating_add(ttl);
        self.effect(Stage::Leasing, Effect::Lease(LeaseRequest { name, ttl }))
    }

    fn wait(&mut self, now: UnixTime) -> Next<Option<Token>> {
        if now >= self.waits_until {
            return Next::Done(Err(Error::Storage(Cause::message(
                "timed out waiting for another process that is refreshing the token",
            ))));
        }
        let time = now.saturating_add(POLL_INTERVAL).min(self.waits_until);
        self.effect(Stage::AwaitingLease, Effect::wait_until(time))
    }

    /// Adds the tokens of the stored state, which this process need not have loaded.
    fn add(&mut self, stored: SessionState) {
        let Some((_, tombstone)) = &mut self.storage else {
            return;
        };
        let own = self.token.as_ref().map(Token::lineage_id);
        if own.is_none_or(|own| stored.lineage.contains(&own)) {
            self.token = stored.token.clone().or(self.token.take());
        }
        let newest = stored.token.as_ref().map(Token::lineage_id);
        for id in stored.lineage.0.into_iter().chain(newest) {
            tombstone.lineage.push(id);
        }
    }

    fn save(&mut self, shared: &Shared) -> Next<Option<Token>> {
        let Some((name, state)) = self.storage.clone() else {
            return Next::Done(Err(unexpected_answer()));
        };
        let state = state.with_server_state(shared.server_state().clone());
        let state = state.to_json();
        self.effect(Stage::Saving, Effect::Save(SaveRequest { name, state }))
    }

    fn name(&self) -> String {
        self.storage
            .as_ref()
            .map(|(name, _)| name.clone())
            .unwrap_or_default()
    }

    fn effect(&mut self, stage: Stage, effect: Effect) -> Next<Option<Token>> {
        self.stage = stage;
        Next::Effect(effect)
    }
}
