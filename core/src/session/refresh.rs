//! One refresh of a session's token: the lease, the stored state, the request, the save.

use std::{mem, sync::Arc, time::Duration};

use crate::oauth::{grant::Grant, token::Token};
use crate::request::effect::{
    Answer, Effect, FetchToken, LeaseRequest, LoadRequest, Next, ReleaseRequest, SaveRequest,
};
use crate::request::{exchange::unexpected_answer, operation::Operation, retry::jitter_seed};
use crate::session::event::{Event, LeaseAwaited, StorageUnavailable, TokenRefreshed};
#[cfg(feature = "record")]
use crate::session::recorder::Recorder;
use crate::session::shared::{DueRefresh, RefreshPurpose, SessionData, SessionId, Shared};
use crate::session::step::sealed::Sealed;
use crate::session::step::{Task, TaskContext};
use crate::session::{session_state::SessionState, token_manager::Adopted};
use crate::types::{
    cause::Cause, error::Error, input::InvalidInput, secret::SecretBytes, time::UnixTime,
};

/// The interval at which a task checks whether another process has released the lease or saved a
/// token, and at which it tries to save again.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The part of the lease that is reserved for saving: a response in the last moment must be saved,
/// on a busy machine too, before another process can acquire the lease.
const SAVE_MARGIN: Duration = Duration::from_secs(2);

/// A refresh of a session's token. It has no result of its own: the callers that wait for the token
/// get it, or the error.
#[must_use = "no other refresh starts while this one is due"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refresh {
    due: DueRefresh,
    stage: Stage,
    holds_lease: bool,
    /// The end of the ticket or of the lease. No request is sent after it, because the next holder
    /// may send its own.
    valid_until: UnixTime,
    /// The end of the wait for the lease of another process.
    waits_until: UnixTime,
    /// The start of this wait, if there is one.
    waits_since: Option<UnixTime>,
    /// The number of token requests that were sent.
    attempts: u32,
    /// Whether the grant or refresh token is single-use.
    is_single_use: bool,
    /// Whether the stored state has been loaded under the lease. Until then, it may be newer than all
    /// that this process has.
    has_loaded: bool,
    /// Whether the session had loaded a state before the last load began. If that finds none, the
    /// state has vanished.
    expects_state: bool,
    /// The session's token generation when the last load began.
    generation: u64,
    /// Whether the storage failed to save the new token.
    save_failed: bool,
    /// Whether a failure of the storage has been reported.
    is_reported: bool,
}

/// The effect whose answer is awaited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Due,
    Leasing,
    Loading,
    /// The storage has returned this error instead of a lease.
    LoadingWithoutLease(Cause),
    /// The wait before the next look at a lease that another process holds.
    AwaitingLease,
    SavingCheckpoint(Box<(SessionState, Grant)>),
    Requesting(Box<Operation<Token>>),
    Fetching,
    SavingToken(Token),
    /// The last look at the storage, after this error.
    Reloading(Error),
    SavingRest(Box<SessionState>),
    /// The wait before another try to save.
    AwaitingStorage,
    Releasing,
}

impl Shared {
    /// Returns a refresh of this session to run in the background, beside the tasks of its callers.
    /// A driver asks after each step.
    pub fn next_refresh(&mut self, session: SessionId) -> Option<Refresh> {
        let at = self.due.iter().position(|due| due.session == session)?;
        Some(Refresh::new(self.due.remove(at)))
    }

    /// Returns the refresh with this ticket, which a driver had taken when it was recorded.
    #[cfg(feature = "record")]
    pub(crate) fn recorded_refresh(&mut self, session: SessionId, ticket: u64) -> Option<Refresh> {
        let is_it = |due: &DueRefresh| due.session == session && due.ticket.number() == ticket;
        let at = self.due.iter().position(is_it)?;
        Some(Refresh::new(self.due.remove(at)))
    }
}

impl Refresh {
    fn new(due: DueRefresh) -> Self {
        Self {
            due,
            stage: Stage::Due,
            holds_lease: false,
            valid_until: UnixTime::from_secs(0),
            waits_until: UnixTime::from_secs(0),
            waits_since: None,
            attempts: 0,
            is_single_use: false,
            has_loaded: false,
            expects_state: false,
            generation: 0,
            save_failed: false,
            is_reported: false,
        }
    }
}

impl Sealed for Refresh {}

impl Task for Refresh {
    type Output = ();

    fn session(&self) -> Option<SessionId> {
        Some(self.due.session)
    }

    fn advance(&mut self, answer: Answer<'_>, cx: &mut TaskContext<'_>) -> Next<()> {
        Run { refresh: self, cx }.advance(answer)
    }

    #[cfg(feature = "record")]
    fn record(&self, recorder: &mut Recorder) -> bool {
        let DueRefresh {
            session,
            ticket,
            purpose,
            ..
        } = self.due;
        let session = recorder.session_number(session);
        let (ticket, purpose) = (ticket.number(), format!("{purpose:?}"));
        let record =
            serde_json::json!({ "session": session, "ticket": ticket, "purpose": purpose });
        recorder.start("refresh", record);
        true
    }
}

/// One step of a refresh.
struct Run<'a, 'b> {
    refresh: &'a mut Refresh,
    cx: &'a mut TaskContext<'b>,
}

impl Run<'_, '_> {
    fn advance(&mut self, answer: Answer<'_>) -> Next<()> {
        match (mem::take(&mut self.refresh.stage), answer) {
            (Stage::Due, Answer::Go) => self.start(),
            (Stage::AwaitingLease, Answer::Go) => self.lease(),
            (Stage::AwaitingStorage, Answer::Go) => self.save_rest(),
            (Stage::Leasing, Answer::Leased(Ok(acquired))) => {
                self.refresh.holds_lease = acquired;
                if acquired {
                    self.report_wait();
                }
                self.load(Stage::Loading)
            }
            // A good token needs no lease.
            (Stage::Leasing, Answer::Leased(Err(cause))) => {
                self.load(Stage::LoadingWithoutLease(cause))
            }
            (Stage::LoadingWithoutLease(cause), Answer::Loaded(loaded)) => {
                match self.adopt_if_readable(loaded) {
                    Some(Adopted::Token(token)) => self.adopted(token),
                    Some(Adopted::LoggedOut) => self.end(Err(Error::LoginRequired)),
                    Some(Adopted::Nothing) | None => self.storage_failed(cause),
                }
            }
            (Stage::Loading, Answer::Loaded(loaded)) => self.loaded(loaded),
            (Stage::SavingCheckpoint(checkpoint), Answer::Saved(saved)) => {
                self.checkpoint_saved(*checkpoint, saved)
            }
            (Stage::Requesting(operation), answer) => self.exchange(operation, answer),
            (Stage::Fetching, Answer::Fetched(response)) => self.fetched(response),
            (Stage::SavingToken(token), Answer::Saved(saved)) => self.token_saved(token, saved),
            (Stage::Reloading(error), Answer::Loaded(loaded)) => {
                match self.adopt_if_readable(loaded) {
                    Some(Adopted::Token(token)) => self.adopted(token),
                    _ => self.end(Err(error)),
                }
            }
            (Stage::SavingRest(state), Answer::Saved(saved)) => self.rest_saved(&state, saved),
            (Stage::Releasing, Answer::Released) => self.conclude(),
            _ => self.end(Err(unexpected_answer())),
        }
    }

    fn start(&mut self) -> Next<()> {
        let now = self.now();
        self.cx.shared.begin(self.cx.id, self.refresh.due, now);
        let Some(timeout) = self.refresh_timeout() else {
            return self.end(Err(Error::LoginRequired));
        };
        self.refresh.waits_until = self.now().saturating_add(timeout);
        self.refresh.valid_until = self.refresh.waits_until;
        match self.storage_name() {
            Some(_) => self.lease(),
            None => self.proceed(),
        }
    }

    fn lease(&mut self) -> Next<()> {
        let (Some(name), Some(ttl)) = (self.storage_name(), self.refresh_timeout()) else {
            return self.end(Err(Error::LoginRequired));
        };
        self.refresh.valid_until = self.now().saturating_add(ttl);
        self.effect(Stage::Leasing, Effect::Lease(LeaseRequest { name, ttl }))
    }

    fn load(&mut self, stage: Stage) -> Next<()> {
        if let Some(data) = self.cx.shared.session(self.refresh.due.session) {
            self.refresh.expects_state = data.tokens.has_loaded();
            self.refresh.generation = data.tokens.generation();
        }
        match self.storage_name() {
            Some(name) => self.effect(stage, Effect::Load(LoadRequest { name })),
            None => self.end(Err(Error::LoginRequired)),
        }
    }

    /// Uses the stored state if it makes the refresh unnecessary. Otherwise goes on under the lease,
    /// or waits for the lease of another process, or for the token that its holder saves.
    fn loaded(&mut self, loaded: Result<Option<SecretBytes>, Cause>) -> Next<()> {
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(cause) => return self.storage_failed(cause),
        };
        match self.adopt(loaded) {
            Ok(Some(Adopted::Token(token))) => return self.adopted(token),
            Ok(Some(Adopted::LoggedOut)) => return self.end(Err(Error::LoginRequired)),
            Ok(None) if self.refresh.holds_lease => return self.load(Stage::Loading),
            Ok(Some(Adopted::Nothing) | None) => {}
            // Another process may be about to replace it.
            Err(_) if !self.refresh.holds_lease => {}
            Err(damage) => {
                self.report_damage(&damage);
                let overrides = |data: &mut SessionData| data.tokens.overrides_stored();
                if !self.data().is_some_and(overrides) {
                    if let Some(data) = self.data() {
                        data.login_is_gone();
                    }
                    return self.end(Err(Error::LoginRequired));
                }
            }
        }
        if self.refresh.holds_lease {
            if self.now() >= self.refresh.valid_until {
                // The next holder may have saved since.
                return self.storage_failed(Cause::new("the lease expired during the load"));
            }
            self.refresh.has_loaded = true;
            return self.proceed();
        }
        if self.now() >= self.refresh.waits_until {
            return self.storage_failed(Cause::message(
                "timed out waiting for another process that is refreshing the token",
            ));
        }
        self.refresh.waits_since.get_or_insert(self.cx.now());
        self.pause(Stage::AwaitingLease, self.refresh.waits_until)
    }

    /// Takes over a stored state. Returns `None` for one that may be older than the cached token:
    /// the load may have begun before another refresh of this process stored its token.
    fn adopt(&mut self, loaded: Option<SecretBytes>) -> Result<Option<Adopted>, InvalidInput> {
        let (now, seed) = (self.now(), self.seed());
        let DueRefresh {
            session, ticket, ..
        } = self.refresh.due;
        let is_under_lease = self.refresh.holds_lease && now < self.refresh.valid_until;
        let Some(data) = self.cx.shared.session(session) else {
            return Ok(Some(Adopted::LoggedOut));
        };
        let state = match loaded {
            Some(json) => Some(SessionState::load(json.expose(), &data.client, now)?),
            None => None,
        };
        let is_same = data.tokens.generation() == self.refresh.generation;
        let has_token = state.as_ref().is_some_and(|state| state.token.is_some());
        if has_token && !is_same {
            return Ok(None);
        }
        // Without the lease, its count of sends may be an earlier one.
        let is_outdated = match state.as_ref().map(|state| &state.token) {
            Some(Some(token)) => !is_under_lease && data.tokens.is_cached(token),
            Some(None) => false,
            None => !self.refresh.expects_state,
        };
        if is_outdated {
            return Ok(Some(Adopted::Nothing));
        }
        let servers = state.as_ref().map(|state| state.server_state().clone());
        let may_vanish = state.is_none() && !data.tokens.is_logged_out();
        let adopted = data.tokens.adopt(ticket, state, now, seed);
        if may_vanish && adopted == Adopted::LoggedOut {
            data.login_is_gone();
        }
        if let Some(servers) = servers {
            self.cx.shared.servers.known.merge(&servers);
        }
        Ok(Some(adopted))
    }

    /// Takes over a stored state, unless it could not be loaded or is damaged.
    fn adopt_if_readable(&mut self, loaded: Result<Option<SecretBytes>, Cause>) -> Option<Adopted> {
        self.adopt(loaded.ok()?).ok()?
    }

    /// Ends with the token of another process.
    fn adopted(&mut self, token: Token) -> Next<()> {
        self.report_wait();
        self.report_token(token.clone(), true);
        self.end(Ok(token))
    }

    /// Goes on without the storage if the grant is repeatable. Otherwise another process may have
    /// the same refresh token in flight; sent twice, it would be invalid for both.
    fn storage_failed(&mut self, cause: Cause) -> Next<()> {
        self.report_wait();
        self.report(cause.clone());
        if !self.data().is_some_and(|data| data.tokens.is_repeatable()) {
            return self.end(Err(Error::Storage(cause)));
        }
        // Without a lease, only the ticket limits the time.
        let timeout = self.refresh_timeout().unwrap_or_default();
        self.refresh.valid_until = self.now().saturating_add(timeout);
        self.proceed()
    }

    /// Sends the grant, once its use is stored, unless the session has a good token by now.
    fn proceed(&mut self) -> Next<()> {
        let (now, due) = (self.now(), self.refresh.due);
        let Some(data) = self.cx.shared.session(due.session) else {
            return self.end(Err(Error::LoginRequired));
        };
        let cached = match due.purpose {
            RefreshPurpose::Store => data.tokens.snapshot().and_then(|state| state.token),
            _ => data.tokens.valid_token(now),
        };
        if let Some(token) = cached {
            return self.end(Ok(token)); // It only needs to be saved.
        }
        data.record_login();
        let Some(attempt) = data.tokens.begin_refresh(due.ticket) else {
            return self.end(Err(Error::LoginRequired));
        };
        self.refresh.is_single_use = attempt.checkpoint.is_some();
        match attempt.checkpoint.filter(|_| self.refresh.holds_lease) {
            Some(checkpoint) => {
                let state = checkpoint.clone();
                let stage = Stage::SavingCheckpoint(Box::new((checkpoint, attempt.grant)));
                self.save(stage, state)
            }
            None => self.request(attempt.grant),
        }
    }

    fn checkpoint_saved(
        &mut self,
        (checkpoint, grant): (SessionState, Grant),
        saved: Result<bool, Cause>,
    ) -> Next<()> {
        let due = self.refresh.due;
        let cause = match saved {
            Ok(true) => {
                if let Some(data) = self.data() {
                    data.tokens.saved(&checkpoint);
                }
                return self.request(grant);
            }
            Ok(false) => Cause::message("a later lease has saved a newer state"),
            Err(cause) => cause,
        };
        if let Some(data) = self.data() {
            data.tokens.withdraw(due.ticket);
        }
        self.report(cause.clone());
        self.end(Err(Error::Storage(cause)))
    }

    fn request(&mut self, grant: Grant) -> Next<()> {
        let left = self.refresh.valid_until.saturating_since(self.now());
        if left.is_zero() {
            // The next holder of the lease may send it.
            let due = self.refresh.due;
            if let Some(data) = self.data() {
                data.tokens.withdraw(due.ticket);
            }
            return self.end(Err(Error::Timeout));
        }
        let left = left.saturating_sub(SAVE_MARGIN.min(left / 2));
        let Some(data) = self.data() else {
            return self.end(Err(Error::LoginRequired));
        };
        let timeout = left.min(data.timeout);
        if data.fetches_tokens {
            return self.effect(Stage::Fetching, Effect::Fetch(FetchToken { timeout }));
        }
        match data.client.token(grant) {
            Ok(operation) => self.exchange(Box::new(operation.timeout(timeout)), Answer::Go),
            Err(invalid) => self.end(Err(invalid.into())),
        }
    }

    fn exchange(&mut self, mut operation: Box<Operation<Token>>, answer: Answer<'_>) -> Next<()> {
        let next = operation.advance(answer, &mut self.cx.turn());
        self.refresh.attempts = operation.attempts();
        match next {
            // A log-out ends a refresh that is about to be sent: nobody would revoke its token.
            Next::Effect(effect) if effect.sends() && self.has_ended() => {
                self.end(Err(Error::LoginRequired))
            }
            Next::Effect(effect) => self.effect(Stage::Requesting(operation), effect),
            Next::Done(result) => self.obtained(result),
        }
    }

    fn fetched(&mut self, response: Result<SecretBytes, Cause>) -> Next<()> {
        let now = self.now();
        let Some(data) = self.data() else {
            return self.end(Err(Error::LoginRequired));
        };
        let token = response
            .map_err(Error::TokenSource)
            .and_then(|json| data.client.parse_token_response(json.expose(), now));
        self.obtained(token)
    }

    /// Saves a new token before it is used: the server sends a new refresh token only once.
    fn obtained(&mut self, result: Result<Token, Error>) -> Next<()> {
        let has_lease = self.refresh.holds_lease;
        let may_be_elsewhere = self.refresh.is_single_use && self.storage_name().is_some();
        let data = self.data().filter(|data| !data.tokens.is_logged_out());
        match (result, data) {
            // A log-out during the request is not undone.
            (Ok(_), None) => self.end(Err(Error::LoginRequired)),
            (Ok(token), Some(data)) if has_lease => {
                let state = data.tokens.snapshot_with(token.clone());
                self.save(Stage::SavingToken(token), state)
            }
            (Ok(token), Some(_)) => self.end(Ok(token)),
            // Another process whose lease had expired may have consumed the refresh token and saved
            // its successor.
            (Err(error), Some(_)) if may_be_elsewhere => self.load(Stage::Reloading(error)),
            (Err(error), _) => self.end(Err(error)),
        }
    }

    fn token_saved(&mut self, token: Token, saved: Result<bool, Cause>) -> Next<()> {
        match saved {
            Ok(true) if self.now() < self.refresh.valid_until => {}
            // A later lease has saved, or is about to. The next ticket finds out which of the two
            // states is newer.
            Ok(_) => self.refresh.save_failed = true,
            Err(cause) => {
                self.report(cause);
                self.refresh.save_failed = true;
            }
        }
        self.end(Ok(token))
    }

    /// Gives the result to the callers that wait for it. What is left to save is saved afterwards.
    fn end(&mut self, result: Result<Token, Error>) -> Next<()> {
        let (now, seed, due) = (self.now(), self.seed(), self.refresh.due);
        self.report_wait();
        match result {
            Ok(token) => {
                let result = Ok(token.clone());
                if self.cx.shared.complete(due, &result, now, seed) {
                    self.report_token(token, false);
                }
                if let Some(data) = self.data() {
                    data.record_login();
                }
            }
            Err(error) => {
                let attempts = self.refresh.attempts;
                self.cx.shared.fail(due, error, attempts, now, seed);
            }
        }
        if self.refresh.save_failed {
            if let Some(data) = self.data() {
                data.tokens.save_failed(now);
            }
        }
        self.save_rest()
    }

    /// Saves a token that the application supplied, the remaining sends of a refresh token after a
    /// failure, or a token that the storage failed to save. Tries again until the lease expires.
    fn save_rest(&mut self) -> Next<()> {
        let unsaved = self.data().and_then(|data| data.tokens.unsaved());
        match unsaved.filter(|_| self.refresh.holds_lease && self.refresh.has_loaded) {
            Some(state) => self.save(Stage::SavingRest(Box::new(state.clone())), state),
            None => self.release(),
        }
    }

    fn rest_saved(&mut self, state: &SessionState, saved: Result<bool, Cause>) -> Next<()> {
        match saved {
            Ok(true) => {
                if let Some(data) = self.data() {
                    data.tokens.saved(state);
                }
                self.save_rest()
            }
            // The holder of a later lease has saved.
            Ok(false) => self.release(),
            Err(cause) => {
                self.report(cause);
                match self.now() < self.refresh.valid_until {
                    true => self.pause(Stage::AwaitingStorage, self.refresh.valid_until),
                    false => self.release(),
                }
            }
        }
    }

    fn release(&mut self) -> Next<()> {
        match self.storage_name() {
            Some(name) if mem::take(&mut self.refresh.holds_lease) => {
                self.effect(Stage::Releasing, Effect::Release(ReleaseRequest { name }))
            }
            _ => self.conclude(),
        }
    }

    fn conclude(&mut self) -> Next<()> {
        let now = self.now();
        if let Some(data) = self.data() {
            match data.tokens.unsaved() {
                // Without a storage there is nothing to save to.
                Some(unsaved) if data.storage_name.is_none() => data.tokens.saved(&unsaved),
                Some(_) => data.tokens.save_failed(now),
                None => {}
            }
        }
        self.cx.shared.finish(self.cx.id);
        Next::Done(Ok(()))
    }

    fn save(&mut self, stage: Stage, state: SessionState) -> Next<()> {
        let Some(name) = self.storage_name() else {
            return self.end(Err(Error::LoginRequired));
        };
        let state = state.with_server_state(self.cx.shared.server_state().clone());
        let state = state.to_json();
        self.effect(stage, Effect::Save(SaveRequest { name, state }))
    }

    fn pause(&mut self, stage: Stage, latest: UnixTime) -> Next<()> {
        let time = self.now().saturating_add(POLL_INTERVAL).min(latest);
        self.effect(stage, Effect::wait_until(time))
    }

    fn effect(&mut self, stage: Stage, effect: Effect) -> Next<()> {
        self.refresh.stage = stage;
        Next::Effect(effect)
    }

    /// Reports a stored state that can't be read, with its place.
    fn report_damage(&mut self, damage: &InvalidInput) {
        let data = self.data();
        let place = data.and_then(|data| data.location.as_ref().or(data.storage_name.as_ref()));
        let place = place.cloned().unwrap_or_default();
        self.emit(|session| {
            let cause = Cause::message(format!("{place}: {damage}"));
            Event::StorageUnavailable(StorageUnavailable { session, cause })
        });
    }

    fn report(&mut self, cause: Cause) {
        if !mem::replace(&mut self.refresh.is_reported, true) {
            self.emit(|session| Event::StorageUnavailable(StorageUnavailable { session, cause }));
        }
    }

    fn report_token(&mut self, token: Token, is_adopted: bool) {
        let (attempts, since, now) = (self.refresh.attempts, self.refresh.due.since, self.now());
        self.emit(|session| {
            Event::TokenRefreshed(TokenRefreshed {
                session,
                token,
                is_adopted,
                attempts,
                duration: now.saturating_since(since),
            })
        });
    }

    /// Reports the end of a wait for the lease of another process.
    fn report_wait(&mut self) {
        if let Some(since) = self.refresh.waits_since.take() {
            let duration = self.now().saturating_since(since);
            self.emit(|session| Event::LeaseAwaited(LeaseAwaited { session, duration }));
        }
    }

    fn emit(&mut self, event: impl FnOnce(Option<Arc<str>>) -> Event) {
        let session = self.refresh.due.session;
        self.cx.shared.emit(Some(session), event);
    }

    fn data(&mut self) -> Option<&mut SessionData> {
        self.cx.shared.session(self.refresh.due.session)
    }

    fn storage_name(&mut self) -> Option<String> {
        self.data()?.storage_name.clone()
    }

    fn refresh_timeout(&mut self) -> Option<Duration> {
        Some(self.data()?.tokens.refresh_timeout())
    }

    fn has_ended(&self) -> bool {
        self.cx.shared.has_ended(self.refresh.due.session)
    }

    fn now(&self) -> UnixTime {
        self.cx.now()
    }

    fn seed(&self) -> u64 {
        jitter_seed(self.cx.request)
    }
}
