//! What the tasks of one driver share: its sessions, and the known state of servers.

#[cfg(feature = "record")]
mod recording;

use std::sync::atomic::{AtomicU64, Ordering};
use std::{collections::VecDeque, mem, sync::Arc, time::Duration};

use crate::oauth::grant::{Grant, Scope};
use crate::oauth::{client::Client, token::Token};
use crate::request::{attempt::HAS_EVENTS, server_state::ServerState, servers::Servers};
use crate::session::event::{Event, LoginLost, RefreshFailed};
#[cfg(feature = "record")]
use crate::session::recorder::Recorder;
use crate::session::token_manager::{RefreshFailure, Ticket, TokenAction, TokenManager};
use crate::session::{refresh_policy::RefreshPolicy, session_state::SessionState};
use crate::types::{error::Error, time::UnixTime};
use crate::wire::error_response::sanitize;

/// What all tasks of one driver share: its sessions, the known state of servers, and who may send a
/// proof to them. A driver keeps it behind one lock, which it never holds while it performs an
/// effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    pub(crate) servers: Servers,
    /// By their ids, which increase.
    sessions: Vec<(SessionId, SessionData)>,
    /// The refreshes that no driver has started yet.
    pub(crate) due: Vec<DueRefresh>,
    /// The refreshes under way, by the ids of their tasks.
    running: Vec<(u64, DueRefresh)>,
    events: VecDeque<Event>,
    pub(crate) ids: u64,
    #[cfg(feature = "record")]
    recorder: Option<Box<Recorder>>,
}

/// The number of sessions that this process has opened.
static SESSIONS: AtomicU64 = AtomicU64::new(0);

/// The name of a session in the [`Shared`] state of its driver. No two sessions of a process have the
/// same one, so that with the state of another driver it names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

/// A refresh to start, and its ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DueRefresh {
    pub(crate) session: SessionId,
    pub(crate) ticket: Ticket,
    /// When the need for it was found.
    pub(crate) since: UnixTime,
    pub(crate) purpose: RefreshPurpose,
    /// Whether the driver knows of it.
    is_announced: bool,
}

/// What a refresh is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a driver must know every case")]
pub enum RefreshPurpose {
    /// It only stores a token that the application supplied.
    Store,
    /// It replaces a token that is still usable.
    Replace,
    /// The session has no usable token, and a caller waits for one.
    Obtain,
}

/// The parts of a new session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct SessionConfig {
    client: Client,
    grant: Option<Grant>,
    policy: RefreshPolicy,
    token: Option<Token>,
    state: Option<SessionState>,
    scope: Option<Scope>,
    resources: Vec<String>,
    name: Option<String>,
    label: Option<Arc<str>>,
    location: Option<String>,
    fetches_tokens: bool,
    timeout: Duration,
}

/// A session, as its tasks see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionData {
    pub(crate) client: Client,
    pub(crate) tokens: TokenManager,
    /// The name of the session in its events.
    label: Option<Arc<str>>,
    login: Login,
    /// The name of the session in its storage, if it has one.
    pub(crate) storage_name: Option<String>,
    /// Where the storage has it, such as the path of a file.
    pub(crate) location: Option<String>,
    /// Whether the application obtains the tokens.
    pub(crate) fetches_tokens: bool,
    /// The timeout of a token request.
    pub(crate) timeout: Duration,
    /// The error of the last refresh, for the callers that waited for it.
    failure: Option<Error>,
    /// The number of completed refreshes, successful or not, excluding those whose ticket was
    /// replaced by a later one.
    completed: u64,
}

/// Whether a session has a login: a refresh token that can be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Login {
    /// None that is known of.
    #[default]
    None,
    Held,
    /// The stored one was removed or can't be read, which is not reported yet.
    Gone,
    /// It is lost, and that was reported.
    Lost,
}

/// The wait of one caller for a usable token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenWait {
    /// The number of refreshes that had completed when the caller last looked.
    completed: Option<u64>,
}

/// What a caller that needs a token does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Polled {
    Token(Token),
    /// Waits for the refresh in progress, at most until this time.
    Wait(UnixTime),
    Failed(Error),
}

impl SessionData {
    /// Records whether the session has a login.
    pub(crate) fn record_login(&mut self) {
        if HAS_EVENTS {
            self.login = match self.tokens.has_login() {
                true => Login::Held,
                false => Login::None,
            };
        }
    }

    /// Records that the stored login is gone.
    pub(crate) fn login_is_gone(&mut self) {
        if self.login != Login::Lost {
            self.login = Login::Gone;
        }
    }

    /// Returns whether a failed refresh has shown that the login is lost. A log-out is no loss.
    fn lose(&mut self) -> bool {
        let is_lost = match self.login {
            Login::Held => !self.tokens.has_login() && !self.tokens.is_logged_out(),
            Login::Gone => true,
            Login::None | Login::Lost => false,
        };
        if is_lost {
            self.login = Login::Lost;
        }
        is_lost
    }
}

impl SessionConfig {
    /// Creates the configuration of a session that continues from its stored state. Without a
    /// storage, a grant or a token, its calls return [`Error::LoginRequired`].
    pub fn new(client: Client) -> Self {
        Self {
            client,
            grant: None,
            policy: RefreshPolicy::default(),
            token: None,
            state: None,
            scope: None,
            resources: Vec::new(),
            name: None,
            label: None,
            location: None,
            fetches_tokens: false,
            timeout: Duration::from_secs(30),
        }
    }

    /// Returns the client of the session.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Replaces the client of the session.
    pub fn with_client(mut self, client: Client) -> Self {
        self.client = client;
        self
    }

    /// Sets the grant that fetches the first token. A [repeatable](Grant::is_repeatable) grant, such
    /// as client credentials, also fetches all later ones, and no refresh token is used; after any
    /// other grant, the session uses refresh tokens.
    pub fn grant(mut self, grant: Grant) -> Self {
        self.grant = Some(grant);
        self
    }

    /// Sets the policy for token refreshes.
    pub fn policy(mut self, policy: RefreshPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets the first token, from a login that was made elsewhere. It replaces the stored state,
    /// unless that state descends from this token.
    pub fn token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }

    /// Sets the state to continue from, if it has been loaded already.
    pub fn state(mut self, state: Option<SessionState>) -> Self {
        self.state = state;
        self
    }

    /// Sets the scope in the name under which the session is stored. Default: the scope of a
    /// repeatable grant, otherwise none.
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Adds a resource (RFC 8707) to the name under which the session is stored. Default: the
    /// resources of a repeatable grant, otherwise none.
    pub fn resource(mut self, uri: &str) -> Self {
        self.resources.push(uri.to_owned());
        self
    }

    /// Stores the session. Its name in the storage is `name`, a hyphen, and the
    /// [fingerprint](Client::session_fingerprint) of client, server, scope and resources: a session
    /// of another client or server with the same `name` is neither loaded nor replaced.
    pub fn stored_as(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the name of the session in its events, for traces and the labels of metrics. Sessions
    /// may share one: metrics need few different labels. It is printed, so it must be neither a
    /// secret nor personal. Control characters are removed, and it is cut to 256 characters. Default:
    /// none.
    pub fn label(mut self, label: &str) -> Self {
        self.label = Some(sanitize(label).into());
        self
    }

    /// Returns the [label](Self::label) as the events have it.
    pub fn event_label(&self) -> Option<&Arc<str>> {
        self.label.as_ref()
    }

    /// Sets where the storage has this session, such as the path of a file, for messages about a
    /// state that can't be read. Default: its name in the storage.
    pub fn stored_at(mut self, location: impl Into<String>) -> Self {
        self.location = Some(location.into());
        self
    }

    /// Asks the application for each token, instead of the authorization server. Each refresh then
    /// has the effect [`Step::FetchToken`](crate::driver::Step::FetchToken).
    pub fn fetch_tokens(mut self) -> Self {
        self.fetches_tokens = true;
        self
    }

    /// Sets the timeout of a token request. Default: 30 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Returns the name of the session in its storage, if it is [stored](Self::stored_as).
    pub fn storage_name(&self) -> Option<String> {
        let name = self.name.as_ref()?;
        let repeatable = self.grant.as_ref().filter(|grant| grant.is_repeatable());
        let scope = self.scope.as_ref();
        let scope = scope.or(repeatable.and_then(Grant::requested_scope));
        let of_grant = repeatable.filter(|_| self.resources.is_empty()).into_iter();
        let resources = of_grant.flat_map(Grant::requested_resources);
        let resources = resources.chain(self.resources.iter().map(String::as_str));
        let fingerprint = self.client.session_fingerprint(scope, resources);
        Some(format!("{name}-{fingerprint}"))
    }
}

impl Shared {
    /// Creates the shared state of a driver, without sessions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the known state of servers: nonces, clock offsets and algorithm names.
    pub fn server_state(&self) -> &ServerState {
        &self.servers.known
    }

    /// Replaces the known state of servers, for example by that of an earlier process.
    pub fn set_server_state(&mut self, state: ServerState) {
        self.servers.known = state;
        #[cfg(feature = "record")]
        self.record_servers();
    }

    /// Adds a session. A token that the application supplies is stored at once: its refresh is
    /// [due](Self::next_refresh).
    pub fn open(&mut self, config: SessionConfig, now: UnixTime) -> SessionId {
        let storage_name = config.storage_name();
        self.open_as(config, storage_name, now)
    }

    /// Adds a session that has this name in its storage.
    fn open_as(
        &mut self,
        config: SessionConfig,
        storage_name: Option<String>,
        now: UnixTime,
    ) -> SessionId {
        let session = SessionId(SESSIONS.fetch_add(1, Ordering::Relaxed));
        #[cfg(feature = "record")]
        self.record_open(session, &config, storage_name.as_deref(), now);
        let mut tokens = TokenManager::new(config.policy, config.grant);
        if let Some(state) = config.state {
            tokens = tokens.with_state(state);
        }
        if let Some(token) = config.token {
            tokens = tokens.with_state(SessionState::new(token));
            if storage_name.is_some() {
                tokens.mark_given();
            }
        }
        let data = SessionData {
            client: config.client,
            tokens,
            label: config.label,
            login: Login::default(),
            storage_name,
            location: config.location,
            fetches_tokens: config.fetches_tokens,
            timeout: config.timeout,
            failure: None,
            completed: 0,
        };
        self.sessions.push((session, data));
        self.store_unsaved(session, now);
        session
    }

    /// Starts to store a supplied token, even if it has expired and without refreshing it.
    fn store_unsaved(&mut self, session: SessionId, now: UnixTime) {
        let Some(data) = self.session(session) else {
            return;
        };
        if !data.tokens.is_unsaved() {
            return;
        }
        if let TokenAction::Use(_, Some(ticket)) | TokenAction::Refresh(ticket) =
            data.tokens.poll(now)
        {
            self.file(DueRefresh {
                session,
                ticket,
                since: now,
                purpose: RefreshPurpose::Store,
                is_announced: false,
            });
        }
    }

    /// Removes a session. Its tasks end with [`Error::LoginRequired`].
    pub fn close(&mut self, session: SessionId) {
        #[cfg(feature = "record")]
        self.record_close(session);
        self.sessions.retain(|(id, _)| *id != session);
        self.due.retain(|due| due.session != session);
        self.servers.move_generation();
    }

    /// Returns a number that moves with every change that a task may wait for.
    pub fn generation(&self) -> u64 {
        self.servers.generation()
    }

    /// Returns the next event. There are none on wasm32.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Ends a task that its driver can't continue: it was cancelled, or panicked. What it held is
    /// given back, and a refresh reported as failed. After the result of a task, this has no effect.
    pub fn abandon(&mut self, task: u64, now: UnixTime) {
        #[cfg(feature = "record")]
        self.record_abandon(task, now);
        self.servers.abandon(task, now);
        if let Some(due) = self.take_running(task) {
            self.fail(due, Error::RefreshAborted, 0, now, 0);
        }
    }

    /// Returns whether the session has a token that is usable now, or a way to obtain one. If not, a
    /// new login is needed.
    pub fn is_open(&self, session: SessionId, now: UnixTime) -> bool {
        self.get(session)
            .is_some_and(|data| data.tokens.is_open(now))
    }

    /// Returns a number that moves with every change to the token of the session.
    pub fn version(&self, session: SessionId) -> u64 {
        self.get(session).map_or(0, |data| data.tokens.version())
    }

    /// Returns the token of the session if it needs neither a refresh nor a save, with its
    /// [version](Self::version) and the time at which it needs a refresh. A driver may give copies
    /// of it to callers without the lock, until then and while the version is the same.
    pub fn view(
        &self,
        session: SessionId,
        now: UnixTime,
    ) -> Option<(u64, Token, Option<UnixTime>)> {
        let tokens = &self.get(session)?.tokens;
        let token = tokens.valid_token(now).filter(|_| !tokens.is_unsaved())?;
        Some((tokens.version(), token, tokens.refresh_at()))
    }

    /// Returns the last token of the session, usable or not, for example to revoke it.
    pub fn token(&self, session: SessionId) -> Option<Token> {
        self.get(session)?.tokens.snapshot()?.token
    }

    /// Continues a session from its stored state, such as that of another process in which the user
    /// has just logged in. A state that can't be read or has no token has no effect.
    pub fn resume(&mut self, session: SessionId, stored: &[u8], now: UnixTime) {
        #[cfg(feature = "record")]
        self.record_resume(session, stored, now);
        let Some(data) = self.session(session) else {
            return;
        };
        if let Ok(state) = SessionState::load(stored, &data.client, now) {
            let servers = state.server_state().clone();
            data.tokens.resume(state);
            self.servers.known.merge(&servers);
            self.servers.move_generation();
        }
    }

    /// Returns whether the session has ended, by a log-out or because it was closed.
    pub(crate) fn has_ended(&self, session: SessionId) -> bool {
        self.get(session)
            .is_none_or(|data| data.tokens.is_logged_out())
    }

    /// Returns the purpose of a refresh of this session that has become due since the last call. A
    /// driver that runs only so many refreshes at a time asks for it after each step, and
    /// [starts](Self::next_refresh) the refresh later.
    pub fn newly_due(&mut self, session: SessionId) -> Option<RefreshPurpose> {
        let mut due = self.due.iter_mut();
        let due = due.find(|due| due.session == session && !due.is_announced)?;
        due.is_announced = true;
        Some(due.purpose)
    }

    /// Returns whether a refresh is under way.
    pub fn is_refreshing(&self, session: SessionId) -> bool {
        let mut all = self
            .due
            .iter()
            .chain(self.running.iter().map(|(_, due)| due));
        all.any(|due| due.session == session)
    }

    /// Returns whether the session would lose its login if the process ended now: a single-use token
    /// is under way, or the newest one is not stored yet.
    pub fn is_unsafe_to_exit(&self, session: SessionId) -> bool {
        self.is_refreshing(session)
            && self
                .get(session)
                .is_some_and(|data| data.tokens.has_sent() || data.tokens.is_unsaved())
    }

    /// Returns whether the newest token of the session is not stored yet.
    pub fn is_unsaved(&self, session: SessionId) -> bool {
        self.get(session)
            .is_some_and(|data| data.tokens.is_unsaved())
    }

    pub(crate) fn session(&mut self, session: SessionId) -> Option<&mut SessionData> {
        let at = self.position(session)?;
        self.sessions.get_mut(at).map(|(_, data)| data)
    }

    fn get(&self, session: SessionId) -> Option<&SessionData> {
        self.sessions
            .get(self.position(session)?)
            .map(|(_, data)| data)
    }

    fn position(&self, session: SessionId) -> Option<usize> {
        self.sessions
            .binary_search_by_key(&session, |(id, _)| *id)
            .ok()
    }

    fn take_running(&mut self, task: u64) -> Option<DueRefresh> {
        let at = self.running.iter().position(|(id, _)| *id == task)?;
        Some(self.running.swap_remove(at).1)
    }

    pub(crate) fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// Queues an event of this session, which `event` makes with its label.
    pub(crate) fn emit(
        &mut self,
        session: Option<SessionId>,
        event: impl FnOnce(Option<Arc<str>>) -> Event,
    ) {
        if HAS_EVENTS {
            let data = session.and_then(|session| self.get(session));
            let label = data.and_then(|data| data.label.clone());
            self.events.push_back(event(label));
        }
    }

    /// Files a refresh that a driver is to start. It takes the place of one that no driver has
    /// started in time.
    fn file(&mut self, refresh: DueRefresh) {
        let is_same = |due: &DueRefresh| due.session == refresh.session;
        if let Some(at) = self.due.iter().position(is_same) {
            let late = self.due.remove(at);
            if let Some(data) = self.session(late.session) {
                data.tokens.drop_ticket(late.ticket);
            }
        }
        self.due.push(refresh);
    }

    /// Reports the retries of a task.
    #[cold]
    pub(crate) fn report_retries(&mut self, session: Option<SessionId>) {
        for mut retrying in mem::take(&mut self.servers.retries) {
            self.emit(session, |label| {
                retrying.attempt.session = label;
                Event::Retrying(retrying)
            });
        }
    }

    /// Ends a refresh with an error, which is reported.
    pub(crate) fn fail(
        &mut self,
        due: DueRefresh,
        error: Error,
        attempts: u32,
        now: UnixTime,
        seed: u64,
    ) {
        let result = Err(error.clone());
        self.complete(due, &result, now, seed);
        let lost = error.clone();
        self.emit(Some(due.session), |session| {
            let duration = now.saturating_since(due.since);
            Event::RefreshFailed(RefreshFailed {
                session,
                error,
                attempts,
                duration,
            })
        });
        if HAS_EVENTS && self.session(due.session).is_some_and(SessionData::lose) {
            self.emit(Some(due.session), |session| {
                Event::LoginLost(LoginLost {
                    session,
                    error: lost,
                })
            });
        }
    }

    /// Files a refresh that a driver has started.
    pub(crate) fn begin(&mut self, task: u64, due: DueRefresh, now: UnixTime) {
        if let Some(data) = self.session(due.session) {
            data.tokens.start(due.ticket, now);
        }
        self.running.push((task, due));
    }

    /// Ends a refresh. Wakes the tasks that wait for it.
    pub(crate) fn finish(&mut self, task: u64) {
        self.take_running(task);
        self.servers.move_generation();
    }

    /// Records the result of a refresh. Returns whether the session has another token than before.
    pub(crate) fn complete(
        &mut self,
        due: DueRefresh,
        result: &Result<Token, Error>,
        now: UnixTime,
        seed: u64,
    ) -> bool {
        self.servers.move_generation();
        let Some(data) = self.session(due.session) else {
            return false;
        };
        let before = data.tokens.generation();
        let outcome = result
            .clone()
            .map_err(|error| RefreshFailure::from_error(&error));
        if data.tokens.complete(due.ticket, outcome, now, seed) {
            data.failure = result.as_ref().err().cloned();
            data.completed += 1;
        }
        data.tokens.generation() != before
    }

    /// Returns what a caller that needs a token does next. Starts a refresh if one is needed.
    pub(crate) fn poll_token(
        &mut self,
        session: SessionId,
        wait: &mut TokenWait,
        deadline: UnixTime,
        now: UnixTime,
    ) -> Polled {
        loop {
            let Some(data) = self.session(session) else {
                return Polled::Failed(Error::LoginRequired);
            };
            let seen = wait.completed.replace(data.completed);
            if let Some(failure) = &data.failure {
                // All callers that waited for a refresh share its result.
                if seen.is_some_and(|seen| seen != data.completed) {
                    return Polled::Failed(failure.clone());
                }
            }
            let (ticket, token) = match data.tokens.poll(now) {
                TokenAction::Use(token, None) => return Polled::Token(token),
                TokenAction::Use(token, Some(ticket)) => (ticket, Some(token)),
                TokenAction::Refresh(ticket) => (ticket, None),
                TokenAction::WaitUntil(_) if now >= deadline => {
                    return Polled::Failed(Error::Timeout);
                }
                TokenAction::WaitUntil(until) => return Polled::Wait(until.min(deadline)),
                TokenAction::BackOff => {
                    // No refresh starts so soon after a failed one. Its error still applies.
                    let failure = data.failure.clone();
                    return Polled::Failed(failure.unwrap_or(Error::RefreshAborted));
                }
            };
            self.file(DueRefresh {
                session,
                ticket,
                since: now,
                purpose: match token {
                    Some(_) => RefreshPurpose::Replace,
                    None => RefreshPurpose::Obtain,
                },
                is_announced: false,
            });
            if let Some(token) = token {
                return Polled::Token(token);
            }
        }
    }
}
