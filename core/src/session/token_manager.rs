//! Shares one access token between many callers without a lock held across IO: which caller uses
//! it, which refreshes it and with which grant, and which waits.

use std::time::Duration;

use http::StatusCode;

use crate::oauth::{grant::Grant, lineage::Lineage, token::Token};
use crate::session::refresh_policy::{RefreshPolicy, Times};
use crate::session::session_state::{MAX_SINGLE_USE_SENDS, SessionState};
use crate::session::token_refusals::Refusals;
use crate::types::error::{Error, Retry, Sent};
use crate::types::{endpoint::HttpTarget, time::UnixTime};

/// The maximum backoff after a failed refresh, including one that a server requests by
/// `Retry-After`.
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// Manages the token of a session and coordinates its refreshes.
///
/// A caller that gets a [`Ticket`] from [`poll`](Self::poll) starts the refresh:
/// [`begin_refresh`](Self::begin_refresh) returns the grant to send, and
/// [`complete`](Self::complete) takes the result. Where several processes share stored state, the
/// holder of the ticket first acquires the lease on the storage, so that no other process refreshes
/// at the same time, and [adopts](Self::adopt) a token that another process has stored in the
/// meantime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenManager {
    policy: RefreshPolicy,
    /// The configured grant. A repeatable grant obtains every token; a single-use grant obtains the
    /// first one and is then removed.
    grant: Option<Grant>,
    cached: Option<CachedToken>,
    /// Remaining sends of the single-use grant or refresh token. The limit stops a crash loop from
    /// resending a stored refresh token forever.
    attempts_left: u8,
    /// The refresh tokens that the cached token descends from.
    lineage: Lineage,
    /// Whether the application supplied the cached token. It replaces the stored one, unless the
    /// stored one descends from it.
    given: bool,
    /// Whether the cached token, or its number of remaining sends, is not stored yet.
    unsaved: bool,
    /// The session state that was in storage when it was last read. If storage still has it, the
    /// cached token is newer.
    last_loaded: Option<SessionState>,
    /// Whether a state with a token has been loaded from the storage.
    has_loaded: bool,
    in_flight: Option<InFlight>,
    /// The tickets that are not completed yet, also those that a later one has replaced.
    open: Vec<OpenTicket>,
    backoff_until: Option<UnixTime>,
    tickets: u64,
    /// The number of the last ticket issued before the log-out; `0` if there was none.
    cleared_at: u64,
    /// Whether a log-out has ended the session.
    logged_out: bool,
    /// When storing a session state that could not be stored may be tried again.
    save_after: Option<UnixTime>,
    /// A counter that increases with each cached token and with a log-out. A failure applies only
    /// to the token whose refresh token was sent, not to a later one.
    generation: u64,
    /// A counter that increases with every change to the token or to its use.
    version: u64,
    refusals: Refusals,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct CachedToken {
    token: Token,
    times: Times,
    /// The serial number of the ticket that obtained the token.
    serial: u64,
    /// Whether this session requested it, rather than loading the state of another process.
    requested: bool,
    rejected: bool,
}

impl CachedToken {
    fn new(token: Token, policy: &RefreshPolicy, serial: u64, seed: u64) -> Self {
        let times = policy.times(&token, seed);
        Self {
            token,
            times,
            serial,
            requested: false,
            rejected: false,
        }
    }

    fn is_usable(&self, now: UnixTime) -> bool {
        !self.rejected && self.times.expires_at.is_none_or(|at| now < at)
    }

    fn is_due(&self, now: UnixTime) -> bool {
        self.times.refresh_at.is_some_and(|at| at <= now)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InFlight {
    serial: u64,
    expires_at: UnixTime,
}

/// The right to refresh a token. Only one ticket is valid at a time. After the policy's refresh
/// timeout, another caller can get a ticket that replaces it. Its holder gives it back by
/// [`TokenManager::complete`].
#[must_use = "no other caller refreshes while this ticket is valid"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

#[cfg(feature = "record")]
impl Ticket {
    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OpenTicket {
    serial: u64,
    /// The generation of the token whose single-use grant or refresh token was sent, or was about
    /// to be sent, under this ticket.
    sent_generation: Option<u64>,
    /// The remaining sends after that one, as they were stored before it.
    attempts_left: u8,
}

/// The action for a caller that needs a token.
#[must_use]
#[derive(Debug)]
pub(crate) enum TokenAction {
    /// Use this token. If there is a ticket, refresh the token concurrently, without waiting for
    /// the result.
    Use(Token, Option<Ticket>),
    /// There is no usable token: refresh it.
    Refresh(Ticket),
    /// Another caller is refreshing the token: poll again when that refresh completes, or at this
    /// time.
    WaitUntil(UnixTime),
    /// A refresh has failed recently: no other one starts yet.
    BackOff,
}

/// The grant that a refresh sends, and the session state to store before it is sent.
#[derive(Debug)]
pub(crate) struct RefreshAttempt {
    /// The grant for the token request.
    pub(crate) grant: Grant,
    /// The session state to store before the grant is sent, by a session that has storage. A
    /// single-use token is then never spent without its successor having a place to be stored, and
    /// a process that crashes and restarts does not resend a stored refresh token forever. `None`
    /// if the grant is repeatable.
    pub(crate) checkpoint: Option<SessionState>,
}

/// The failure of a refresh: whether it consumed the single-use token, and the backoff that the
/// server requested.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefreshFailure {
    consumed: Consumed,
    retry_after: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consumed {
    /// Not consumed, as far as the client can determine.
    No,
    Perhaps,
    Yes,
}

/// What a stored state means for a refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Adopted {
    /// Another process has stored this token, which makes the refresh unnecessary.
    Token(Token),
    /// The session has been logged out.
    LoggedOut,
    /// The refresh is still necessary.
    Nothing,
}

impl RefreshFailure {
    /// Converts the error of a token request. After a lost connection or a 502 it is unknown
    /// whether the refresh token was consumed, so it is kept: the next attempt either succeeds or
    /// gets `invalid_grant`.
    pub(crate) fn from_error(error: &Error) -> Self {
        let (consumed, retry_after) = match error.retry() {
            Retry::Reauthenticate => (Consumed::Yes, None),
            Retry::Later(retry_after) => (Consumed::No, retry_after),
            Retry::No => (Consumed::No, None),
        };
        let consumed = match error {
            Error::NoResponse(lost) if lost.sent() != Sent::No => Consumed::Perhaps,
            Error::RefreshAborted => Consumed::Perhaps,
            // The session has ended for another reason.
            Error::LoginRequired => Consumed::No,
            _ => consumed,
        };
        Self {
            consumed,
            retry_after,
        }
    }
}

impl TokenManager {
    /// Creates a manager without a token. `grant` obtains the first one. A
    /// [repeatable](Grant::is_repeatable) grant, such as client credentials, also obtains every
    /// later one, and no refresh token is used; after any other grant, the refresh tokens of its
    /// responses are used. Without a grant, a session continues from its stored state.
    pub(crate) fn new(policy: RefreshPolicy, grant: Option<Grant>) -> Self {
        Self {
            policy,
            grant,
            cached: None,
            attempts_left: MAX_SINGLE_USE_SENDS,
            lineage: Lineage::default(),
            given: false,
            unsaved: false,
            last_loaded: None,
            has_loaded: false,
            in_flight: None,
            open: Vec::new(),
            backoff_until: None,
            tickets: 0,
            cleared_at: 0,
            logged_out: false,
            save_after: None,
            generation: 0,
            version: 0,
            refusals: Refusals::default(),
        }
    }

    /// Starts with the token of a stored state, such as that of an earlier process. A state without
    /// a token has no effect. The driver itself restores the state's
    /// [`server_state`](SessionState::server_state).
    #[must_use]
    pub(crate) fn with_state(mut self, stored: SessionState) -> Self {
        self.restore_state(stored, 0, 0);
        self
    }

    /// Continues with the token of a stored state, as a refresh that [adopts](Self::adopt) it. A
    /// state without a token has no effect.
    pub(crate) fn resume(&mut self, stored: SessionState) {
        if stored.token.is_some() {
            self.has_loaded = true;
            self.last_loaded = Some(stored.clone());
            self.restore_state(stored, self.tickets, 0);
        }
    }

    /// Returns the action for a caller that needs a token at the time `now`. A ticket beside a
    /// token is for refreshing it, or for storing it.
    pub(crate) fn poll(&mut self, now: UnixTime) -> TokenAction {
        let usable = self.cached.as_ref().filter(|cached| cached.is_usable(now));
        let is_unsaved = self.unsaved && !self.is_save_delayed(now);
        let usable = usable.map(|cached| (cached.token.clone(), cached.is_due(now) || is_unsaved));
        match usable {
            Some((token, false)) => TokenAction::Use(token, None),
            Some((token, true)) if self.is_busy(now).is_some() => TokenAction::Use(token, None),
            Some((token, true)) => {
                let ticket = self.ticket(now);
                TokenAction::Use(token, Some(ticket))
            }
            None => match self.is_busy(now) {
                Some(busy) => busy,
                None => TokenAction::Refresh(self.ticket(now)),
            },
        }
    }

    /// Adopts the state that another process has stored. Call it while the lease guarantees that no
    /// other process refreshes. Returns the token if it makes this refresh unnecessary. `seed` is
    /// random and sets the jitter of the refresh time.
    ///
    /// A single-use grant that has not been used is a fresh login and takes precedence over the
    /// stored state of an earlier login. So does a token that the application
    /// [supplied](Self::mark_given). Neither takes precedence if the stored token descends from
    /// it: then the process was restarted with an old token or with a consumed grant.
    ///
    /// A log-out by another process ends this session as well, unless its own login is a later one.
    /// So does a state that has vanished since it was loaded.
    pub(crate) fn adopt(
        &mut self,
        ticket: Ticket,
        stored: Option<SessionState>,
        now: UnixTime,
        seed: u64,
    ) -> Adopted {
        // A log-out is final: the stored state is about to be replaced.
        if self.logged_out {
            return Adopted::LoggedOut;
        }
        let Some(stored) = stored else {
            return self.log_out_unless(!self.has_loaded || self.overrides_stored());
        };
        let fresh = self.grant.as_ref().filter(|grant| !grant.is_repeatable());
        let own = match (fresh, &self.cached) {
            (Some(grant), _) => grant.refresh_token.as_ref().map(Lineage::id),
            (None, Some(cached)) if self.given => Some(cached.token.lineage_id()),
            (None, _) => None,
        };
        let is_ancestor = own.as_ref().is_some_and(|id| stored.lineage.contains(id));
        let Some(theirs) = &stored.token else {
            let is_logged_out = stored.is_logged_out;
            self.last_loaded = Some(stored);
            let is_later = self.overrides_stored() && !is_ancestor;
            return self.log_out_unless(!is_logged_out || is_later || self.is_repeatable());
        };
        self.has_loaded = true;
        let is_own = own.is_some_and(|id| theirs.lineage_id() == id);
        let is_descendant = match (fresh, &self.cached) {
            (Some(_), _) => is_ancestor || is_own,
            (None, Some(cached)) if self.given => {
                let is_as_new = theirs.received_at() >= cached.token.received_at();
                is_ancestor || (is_own && is_as_new)
            }
            (None, _) => false,
        };
        let before = self.last_loaded.replace(stored.clone());
        if (fresh.is_some() || self.given) && !is_descendant {
            return Adopted::Nothing;
        }
        let cached = self.cached.as_ref().map(|cached| &cached.token);
        if cached.is_some_and(|cached| cached == theirs) {
            if self.given {
                self.lineage = stored.lineage;
                (self.given, self.unsaved) = (false, false);
            }
            let has_sent = self
                .open(ticket)
                .is_some_and(|open| open.sent_generation.is_some());
            if !has_sent {
                // An unsaved count may have been stored all the same, and counted on by another
                // process.
                self.attempts_left = match self.unsaved {
                    true => self.attempts_left.min(stored.attempts_left),
                    false => stored.attempts_left,
                };
            }
            return Adopted::Nothing;
        }
        // The cached token descends from the stored one, which a late save or a backup has brought
        // back.
        if cached.is_some() && self.lineage.contains(&theirs.lineage_id()) {
            self.set_unsaved();
            return Adopted::Nothing;
        }
        // The cached token is newer: saving it has failed before.
        let is_seen = before.is_some_and(|seen| seen.token.as_ref() == Some(theirs));
        if cached.is_some() && is_seen && !is_descendant {
            return Adopted::Nothing;
        }
        // The first usable token ends the refresh even if it is due: nobody waits for a better one.
        let has_usable = self.cached.as_ref().is_some_and(|own| own.is_usable(now));
        let candidate = CachedToken::new(theirs.clone(), &self.policy, ticket.0, seed);
        let is_good = candidate.is_usable(now) && (!has_usable || !candidate.is_due(now));
        // The repeatable grant makes its refresh token unnecessary, and the cached token may be
        // better.
        if !is_good && self.is_repeatable() {
            return Adopted::Nothing;
        }
        self.grant = self.grant.take().filter(Grant::is_repeatable);
        self.restore_state(stored, ticket.0, seed);
        match self.cached.as_ref().filter(|_| is_good) {
            Some(cached) => Adopted::Token(cached.token.clone()),
            None => Adopted::Nothing,
        }
    }

    /// Returns whether a state with a token has been loaded from the storage.
    pub(crate) fn has_loaded(&self) -> bool {
        self.has_loaded
    }

    /// Returns whether this is the cached token.
    pub(crate) fn is_cached(&self, token: &Token) -> bool {
        self.cached
            .as_ref()
            .is_some_and(|cached| cached.token == *token)
    }

    fn log_out_unless(&mut self, is_open: bool) -> Adopted {
        if is_open {
            return Adopted::Nothing;
        }
        self.clear();
        Adopted::LoggedOut
    }

    fn open(&self, ticket: Ticket) -> Option<&OpenTicket> {
        self.open.iter().find(|open| open.serial == ticket.0)
    }

    /// Returns the cached token if it is usable and needs no refresh yet.
    pub(crate) fn valid_token(&self, now: UnixTime) -> Option<Token> {
        let cached = self
            .cached
            .as_ref()
            .filter(|cached| cached.is_usable(now) && !cached.is_due(now));
        cached.map(|cached| cached.token.clone())
    }

    /// Returns whether the cached token, or its number of remaining sends, is not stored yet.
    pub(crate) fn is_unsaved(&self) -> bool {
        self.unsaved && self.cached.is_some()
    }

    /// Returns the session state to store, or `None` if storage already has it.
    pub(crate) fn unsaved(&self) -> Option<SessionState> {
        self.snapshot().filter(|_| self.unsaved)
    }

    /// Records that this session state was stored.
    pub(crate) fn saved(&mut self, stored: &SessionState) {
        let is_cached = |token: &Token| {
            self.cached
                .as_ref()
                .is_some_and(|cached| cached.token.is_same_as(token))
        };
        if stored.token().is_some_and(is_cached) && stored.attempts_left == self.attempts_left {
            (self.given, self.unsaved) = (false, false);
        }
        self.last_loaded = Some(stored.clone());
    }

    /// Returns the grant that the holder of a ticket sends to obtain a token. Returns `None` if no
    /// grant or refresh token is left, so that a new login is needed.
    pub(crate) fn begin_refresh(&mut self, ticket: Ticket) -> Option<RefreshAttempt> {
        if let Some(grant) = self.grant.as_ref().filter(|grant| grant.is_repeatable()) {
            return Some(RefreshAttempt {
                grant: grant.clone(),
                checkpoint: None,
            });
        }
        // An earlier send, whose ticket took too long, may still be under way.
        let sent = self
            .open
            .iter()
            .filter(|open| open.sent_generation == Some(self.generation));
        let sent = sent.map(|open| open.attempts_left).min();
        let attempts_left = sent.map_or(self.attempts_left, |left| left.min(self.attempts_left));
        let attempts_left = attempts_left.checked_sub(1)?;
        let attempt = match (&self.grant, &self.cached) {
            // The stored state stays unchanged until there is a newer one.
            (Some(grant), _) => {
                let checkpoint = self.last_loaded.clone().unwrap_or_else(SessionState::empty);
                RefreshAttempt {
                    grant: grant.clone(),
                    checkpoint: Some(checkpoint),
                }
            }
            (None, cached) => {
                let token = cached.as_ref()?.token.clone();
                let grant = Grant::refresh_token(token.refresh_token()?.clone()).ok()?;
                let lineage = self.lineage.clone();
                RefreshAttempt {
                    grant,
                    checkpoint: Some(SessionState::with(token, attempts_left, lineage)),
                }
            }
        };
        self.set_sent(ticket, Some((self.generation, attempts_left)));
        Some(attempt)
    }

    /// Records that the attempt returned by [`begin_refresh`](Self::begin_refresh) was not sent
    /// after all.
    pub(crate) fn withdraw(&mut self, ticket: Ticket) {
        self.set_sent(ticket, None);
    }

    fn set_sent(&mut self, ticket: Ticket, sent: Option<(u64, u8)>) {
        let open = self.open.iter_mut().find(|open| open.serial == ticket.0);
        if let Some(open) = open {
            open.sent_generation = sent.map(|(generation, _)| generation);
            open.attempts_left = sent.map(|(_, left)| left).unwrap_or_default();
        }
    }

    /// Returns whether a single-use grant or refresh token is under way.
    pub(crate) fn has_sent(&self) -> bool {
        self.open.iter().any(|open| open.sent_generation.is_some())
    }

    /// Completes a refresh with its token or its failure. `seed` is random and sets the jitter of
    /// the refresh time. Returns `false` if a later ticket has replaced this one; its token is
    /// cached all the same, unless the later ticket has obtained another or the session was
    /// [cleared](Self::clear).
    pub(crate) fn complete(
        &mut self,
        ticket: Ticket,
        result: Result<Token, RefreshFailure>,
        now: UnixTime,
        seed: u64,
    ) -> bool {
        let Some(at) = self.open.iter().position(|open| open.serial == ticket.0) else {
            return false;
        };
        let ticket = self.open.swap_remove(at);
        let current = self
            .in_flight
            .is_some_and(|flight| flight.serial == ticket.serial);
        if current {
            self.in_flight = None;
            self.backoff_until = result.as_ref().err().map(|failure| {
                let retry_after = failure.retry_after.unwrap_or_default().min(MAX_BACKOFF);
                now.saturating_add(self.policy.retry_interval.max(retry_after))
            });
        }
        let is_current_token = ticket.sent_generation == Some(self.generation);
        // A token descends from the one whose refresh token was sent.
        let is_newer = |cached: &CachedToken| is_current_token || cached.serial <= ticket.serial;
        let is_newest =
            ticket.serial > self.cleared_at && self.cached.as_ref().is_none_or(is_newer);
        match result {
            // The token needed no refresh.
            Ok(token)
                if self
                    .cached
                    .as_ref()
                    .is_some_and(|cached| cached.token.is_same_as(&token)) => {}
            Ok(token) if is_newest => {
                self.lineage = self.lineage_of(&token);
                self.grant = self.grant.take().filter(Grant::is_repeatable);
                self.attempts_left = MAX_SINGLE_USE_SENDS;
                (self.given, self.unsaved) = (false, false);
                let mut cached = CachedToken::new(token, &self.policy, ticket.serial, seed);
                cached.requested = true;
                self.set_token(cached);
            }
            Err(failure) if is_current_token => {
                // A later refresh, of this process or of another, may have counted further.
                let counted = self.attempts_left.min(ticket.attempts_left);
                self.attempts_left = match failure.consumed {
                    Consumed::Yes => 0,
                    Consumed::Perhaps => counted,
                    Consumed::No => {
                        self.uncount(ticket);
                        counted.saturating_add(1)
                    }
                };
                // The checkpoint counted this send as one without a response.
                self.set_unsaved();
            }
            Ok(_) | Err(_) => {}
        }
        current
    }

    /// Takes a send that did not happen out of the counts of those that began after it.
    fn uncount(&mut self, unsent: OpenTicket) {
        let is_later = |open: &&mut OpenTicket| {
            open.sent_generation == unsent.sent_generation
                && open.attempts_left < unsent.attempts_left
        };
        for later in self.open.iter_mut().filter(is_later) {
            later.attempts_left += 1;
        }
    }

    /// Returns the session state with this token in place of the cached one, to be stored before
    /// the token is used.
    pub(crate) fn snapshot_with(&self, token: Token) -> SessionState {
        let lineage = self.lineage_of(&token);
        SessionState::with(token, MAX_SINGLE_USE_SENDS, lineage)
    }

    /// Returns the lineage of this token, which was obtained by the single-use grant or by the
    /// cached refresh token.
    fn lineage_of(&self, token: &Token) -> Lineage {
        let fresh = self.grant.as_ref().filter(|grant| !grant.is_repeatable());
        let (mut lineage, before) = match (fresh, &self.cached) {
            (Some(grant), _) => (
                Lineage::default(),
                grant.refresh_token.as_ref().map(Lineage::id),
            ),
            (None, cached) => (
                self.lineage.clone(),
                cached.as_ref().map(|cached| cached.token.lineage_id()),
            ),
        };
        if let Some(before) = before.filter(|before| *before != token.lineage_id()) {
            lineage.push(before);
        }
        lineage
    }

    /// Records that the application supplied the cached token: it replaces the stored one, unless
    /// that one descends from it. [`unsaved`](Self::unsaved) then returns it until it is stored.
    pub(crate) fn mark_given(&mut self) {
        self.given = true;
        self.set_unsaved();
    }

    /// Records that the newest token could not be stored. [`unsaved`](Self::unsaved) then returns
    /// it, so that the driver can try again.
    ///
    /// Another ticket for storing it is issued after the policy's retry interval.
    pub(crate) fn save_failed(&mut self, now: UnixTime) {
        self.set_unsaved();
        self.save_after = Some(now.saturating_add(self.policy.retry_interval));
    }

    /// Returns a number that moves with every change to the token or to its use.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Returns when the cached token needs a refresh.
    pub(crate) fn refresh_at(&self) -> Option<UnixTime> {
        self.cached.as_ref()?.times.refresh_at
    }

    /// Returns a number that increases with every token that is cached, and with a log-out.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Records that the resource server at `target` has rejected a token. Returns whether to retry the
    /// call with another one. `started` is the [`generation`](Self::generation) from before the
    /// call got this token.
    ///
    /// Returns `false` if the session requested the token after that: the server would reject
    /// another one as well. A token that another process stored may be older than the call, and is
    /// replaced. After two such tokens in a row from one origin, its rejections cause no token request
    /// for 30 s, and the token stays in use.
    pub(crate) fn token_rejected(
        &mut self,
        token: &Token,
        target: &HttpTarget<'_>,
        started: u64,
        now: UnixTime,
    ) -> bool {
        if !self.is_replaceable(token, target, started, now) {
            if self.is_fresh(token, started) {
                self.refusals.add(target, token, now);
            }
            return false;
        }
        self.invalidate(token);
        true
    }

    /// Returns whether a rejection of the token by the resource server at `target` would lead to
    /// another one, as [`token_rejected`](Self::token_rejected) does.
    pub(crate) fn is_replaceable(
        &self,
        token: &Token,
        target: &HttpTarget<'_>,
        started: u64,
        now: UnixTime,
    ) -> bool {
        let is_cached = |cached: &CachedToken| cached.token.is_same_as(token);
        let is_current = self.cached.as_ref().is_some_and(is_cached);
        let is_held = is_current && self.refusals.is_on_hold(target, now);
        !self.is_fresh(token, started) && !is_held
    }

    /// Returns whether the session has requested the token since the generation `started`.
    fn is_fresh(&self, token: &Token, started: u64) -> bool {
        self.cached.as_ref().is_some_and(|cached| {
            cached.token.is_same_as(token) && cached.requested && self.generation > started
        })
    }

    /// Records a response of the resource server at `target` that does not reject the token. It ends a
    /// row of rejections, unless its status leaves open whether the token was accepted: 401, 429 and
    /// 5xx.
    pub(crate) fn token_accepted(&mut self, target: &HttpTarget<'_>, status: StatusCode) {
        let is_open = matches!(status.as_u16(), 401 | 429) || status.is_server_error();
        if !is_open {
            self.refusals.clear(target);
        }
    }

    /// Invalidates a token that a server rejected. A token obtained since then stays usable.
    fn invalidate(&mut self, token: &Token) {
        if let Some(cached) = self
            .cached
            .as_mut()
            .filter(|cached| cached.token.is_same_as(token))
        {
            cached.rejected = true;
            self.version += 1;
        }
    }

    /// Returns the state to store for a log-out: the hashes of all tokens of this login, which never
    /// start a session again.
    pub(crate) fn tombstone(&self) -> SessionState {
        let mut lineage = self.lineage.clone();
        let grant = self.grant.as_ref();
        let grant = grant.and_then(|grant| grant.refresh_token.as_ref());
        let cached = self.cached.as_ref().map(|cached| cached.token.lineage_id());
        grant
            .map(Lineage::id)
            .into_iter()
            .chain(cached)
            .for_each(|id| lineage.push(id));
        SessionState::logged_out(lineage)
    }

    /// Returns whether a log-out has ended the session.
    pub(crate) fn is_logged_out(&self) -> bool {
        self.logged_out
    }

    /// Discards the grant, the token and any backoff for a log-out, and returns the token that was
    /// cached. A ticket from before the log-out can no longer install a token.
    pub(crate) fn clear(&mut self) -> Option<Token> {
        self.grant = None;
        self.last_loaded = None;
        self.lineage = Lineage::default();
        (self.given, self.unsaved) = (false, false);
        self.attempts_left = 0;
        self.generation += 1;
        self.version += 1;
        self.cleared_at = self.tickets;
        self.logged_out = true;
        self.backoff_until = None;
        self.cached.take().map(|cached| cached.token)
    }

    /// Returns the session state to store for a later process, if there is a token. It includes an
    /// expired or rejected token, since its refresh token may still be usable.
    pub(crate) fn snapshot(&self) -> Option<SessionState> {
        let cached = self.cached.as_ref()?;
        Some(SessionState::with(
            cached.token.clone(),
            self.attempts_left,
            self.lineage.clone(),
        ))
    }

    /// Returns the time after which another caller may start a refresh, though the current one
    /// hasn't completed.
    pub(crate) fn refresh_timeout(&self) -> Duration {
        self.policy.refresh_timeout
    }

    /// Whether the grant is repeatable, so that processes without shared storage may each obtain a
    /// token of their own.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.grant.as_ref().is_some_and(Grant::is_repeatable)
    }

    /// Whether there is a token that is usable at the time `now`, or a way to obtain one: a
    /// repeatable grant, a refresh token that hasn't been refused (RFC 9700 §4.14.2), or a
    /// single-use grant that is being redeemed. If not, a new login is needed.
    pub(crate) fn is_open(&self, now: UnixTime) -> bool {
        let is_left =
            |cached: &CachedToken| self.attempts_left > 0 && cached.token.refresh_token().is_some();
        self.is_repeatable()
            || self.grant.is_some() && matches!(self.is_busy(now), Some(TokenAction::WaitUntil(_)))
            || self
                .cached
                .as_ref()
                .is_some_and(|cached| cached.is_usable(now) || is_left(cached))
    }

    /// Whether there is a refresh token that may be sent.
    pub(crate) fn has_login(&self) -> bool {
        let cached = self.cached.as_ref();
        let cached = cached.and_then(|cached| cached.token.refresh_token());
        let granted = self.grant.as_ref();
        let granted = granted.and_then(|grant| grant.refresh_token.as_ref());
        self.attempts_left > 0 && cached.or(granted).is_some()
    }

    /// Whether a grant or a supplied token takes precedence over the stored state, so that a
    /// refresh does not need it.
    pub(crate) fn overrides_stored(&self) -> bool {
        self.grant.is_some() || self.given
    }

    /// Caches a stored token, with its lineage and its remaining sends.
    fn restore_state(&mut self, stored: SessionState, serial: u64, seed: u64) {
        if let Some(token) = stored.token {
            self.attempts_left = stored.attempts_left;
            self.lineage = stored.lineage;
            (self.given, self.unsaved) = (false, false);
            let cached = CachedToken::new(token, &self.policy, serial, seed);
            self.set_token(cached);
        }
    }

    fn set_unsaved(&mut self) {
        self.unsaved = true;
        self.version += 1;
    }

    fn set_token(&mut self, cached: CachedToken) {
        self.generation += 1;
        self.version += 1;
        self.cached = Some(cached);
    }

    fn is_save_delayed(&self, now: UnixTime) -> bool {
        self.save_after
            .is_some_and(|at| at.is_pending(now, self.policy.retry_interval))
    }

    fn is_busy(&self, now: UnixTime) -> Option<TokenAction> {
        let in_flight = self.in_flight.filter(|flight| {
            flight
                .expires_at
                .is_pending(now, self.policy.refresh_timeout)
        });
        let max_backoff = self.policy.retry_interval.max(MAX_BACKOFF);
        let backoff = self
            .backoff_until
            .filter(|until| until.is_pending(now, max_backoff));
        in_flight
            .map(|flight| TokenAction::WaitUntil(flight.expires_at))
            .or(backoff.map(|_| TokenAction::BackOff))
    }

    /// Starts the time of a ticket anew, as its refresh starts: it may have waited for a thread.
    pub(crate) fn start(&mut self, ticket: Ticket, now: UnixTime) {
        let expires_at = now.saturating_add(self.policy.refresh_timeout);
        let current = self.in_flight.as_mut();
        if let Some(current) = current.filter(|current| current.serial == ticket.0) {
            current.expires_at = expires_at;
        }
    }

    /// Drops a ticket whose refresh never starts.
    pub(crate) fn drop_ticket(&mut self, ticket: Ticket) {
        self.open.retain(|open| open.serial != ticket.0);
    }

    fn ticket(&mut self, now: UnixTime) -> Ticket {
        self.tickets += 1;
        self.in_flight = Some(InFlight {
            serial: self.tickets,
            expires_at: now.saturating_add(self.policy.refresh_timeout),
        });
        self.open.push(OpenTicket {
            serial: self.tickets,
            sent_generation: None,
            attempts_left: 0,
        });
        Ticket(self.tickets)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{Client, ClientAuth, Endpoint};

    const LIFE: u64 = 100;

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(1_000_000 + secs)
    }

    fn token(name: &str, now: UnixTime, life: Option<u64>) -> Token {
        let life = life
            .map(|life| format!(r#","expires_in":{life}"#))
            .unwrap_or_default();
        answer(&format!(r#"{{"access_token":"{name}"{life}}}"#), now)
    }

    fn answer(body: &str, now: UnixTime) -> Token {
        let endpoint = Endpoint::https("https://as.example/token").unwrap();
        let client = Client::new(endpoint, ClientAuth::none("app").unwrap());
        client.parse_token_response(body.as_bytes(), now).unwrap()
    }

    const UNSENT: RefreshFailure = RefreshFailure {
        consumed: Consumed::No,
        retry_after: None,
    };
    const LOST: RefreshFailure = RefreshFailure {
        consumed: Consumed::Perhaps,
        retry_after: None,
    };
    const REFUSED: RefreshFailure = RefreshFailure {
        consumed: Consumed::Yes,
        retry_after: None,
    };

    fn refreshable(refresh_token: &str, now: UnixTime) -> Token {
        answer(
            &format!(
                r#"{{"access_token":"{refresh_token}","refresh_token":"{refresh_token}","expires_in":{LIFE}}}"#
            ),
            now,
        )
    }

    fn policy() -> RefreshPolicy {
        RefreshPolicy::default()
            .refresh_before_expiry(Duration::from_secs(10))
            .refresh_timeout(Duration::from_secs(30))
    }

    fn with_cached(token: Token) -> TokenManager {
        TokenManager::new(policy(), Some(Grant::client_credentials()))
            .with_state(SessionState::new(token))
    }

    #[test]
    fn a_token_is_refreshed_early_by_one_caller_while_the_others_use_it() {
        let mut manager = with_cached(token("a", at(0), Some(LIFE)));
        assert!(matches!(manager.poll(at(89)), TokenAction::Use(_, None)));
        let TokenAction::Use(_, Some(ticket)) = manager.poll(at(90)) else {
            panic!("one refreshes")
        };
        assert!(matches!(manager.poll(at(91)), TokenAction::Use(_, None)));
        assert!(matches!(manager.poll(at(100)), TokenAction::WaitUntil(until) if until == at(120)));
        assert!(manager.complete(ticket, Ok(token("b", at(100), Some(LIFE))), at(100), 0));
        assert!(
            matches!(manager.poll(at(100)), TokenAction::Use(token, None) if token.access_token().expose() == "b")
        );
    }

    #[test]
    fn a_failed_refresh_is_not_retried_at_once_and_a_usable_token_stays_in_use() {
        let mut manager = with_cached(token("a", at(0), Some(LIFE)));
        let TokenAction::Use(_, Some(ticket)) = manager.poll(at(95)) else {
            panic!("one refreshes")
        };
        assert!(manager.complete(ticket, Err(UNSENT), at(96), 0));
        assert!(matches!(manager.poll(at(96)), TokenAction::Use(_, None)));
        assert!(matches!(manager.poll(at(97)), TokenAction::Use(_, Some(_))));

        let mut empty = TokenManager::new(policy(), Some(Grant::client_credentials()));
        let TokenAction::Refresh(ticket) = empty.poll(at(0)) else {
            panic!("one refreshes")
        };
        assert!(empty.complete(ticket, Err(UNSENT), at(0), 0));
        assert!(matches!(empty.poll(at(0)), TokenAction::BackOff));
        assert!(matches!(empty.poll(at(1)), TokenAction::Refresh(_)));
    }

    #[test]
    fn a_token_replaces_the_one_whose_refresh_token_was_sent_even_if_its_ticket_is_older() {
        let old = refreshable("refresh-0", at(0));
        let mut manager = TokenManager::new(policy(), None).with_state(SessionState::new(old));
        let TokenAction::Refresh(first) = manager.poll(at(200)) else {
            panic!("one refreshes")
        };
        let TokenAction::Refresh(second) = manager.poll(at(231)) else {
            panic!("the first takes too long")
        };
        // Both find the token of another process, which has expired as well.
        let stored = || Some(SessionState::new(refreshable("refresh-1", at(50))));
        for ticket in [second, first] {
            let adopted = manager.adopt(ticket, stored(), at(231), 0);
            assert_eq!(adopted, Adopted::Nothing);
        }
        assert!(manager.begin_refresh(first).is_some());
        assert!(!manager.complete(first, Ok(refreshable("refresh-2", at(232))), at(232), 0));
        let token = manager.valid_token(at(233)).expect("it is good");
        assert_eq!(token.access_token().expose(), "refresh-2");
    }

    #[test]
    fn a_refresh_token_that_is_sent_under_two_tickets_is_counted_twice() {
        let old = refreshable("refresh-0", at(0));
        let mut manager = TokenManager::new(policy(), None).with_state(SessionState::new(old));
        let mut sends = 0;
        let mut now = 1000;
        loop {
            // The second ticket replaces the first one, which takes too long.
            let tickets = [now, now + 31].map(|now| manager.poll(at(now)));
            let [TokenAction::Refresh(first), TokenAction::Refresh(second)] = tickets else {
                panic!("each is due")
            };
            let sent = [first, second].map(|ticket| manager.begin_refresh(ticket).is_some());
            sends += sent.into_iter().filter(|sent| *sent).count();
            for (ticket, _) in [first, second]
                .into_iter()
                .zip(sent)
                .filter(|(_, sent)| *sent)
            {
                manager.complete(ticket, Err(LOST), at(now + 32), 0);
            }
            if sent != [true, true] {
                break;
            }
            now += 1000;
        }
        assert_eq!(sends, usize::from(MAX_SINGLE_USE_SENDS));
    }

    #[test]
    fn a_refresh_token_that_was_not_sent_under_the_first_of_several_tickets_is_not_counted() {
        // The order in which the tickets end: the first one has certainly sent nothing.
        for order in [[0, 1, 2], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let old = refreshable("refresh-0", at(0));
            let mut manager = TokenManager::new(policy(), None).with_state(SessionState::new(old));
            let tickets = [1000, 1031, 1062].map(|now| match manager.poll(at(now)) {
                TokenAction::Refresh(ticket) => ticket,
                action => panic!("the one before takes too long: {action:?}"),
            });
            for ticket in tickets {
                assert!(manager.begin_refresh(ticket).is_some());
            }
            for number in order {
                let failure = if number == 0 { UNSENT } else { LOST };
                manager.complete(tickets[number], Err(failure), at(1063), 0);
            }
            let left = manager.snapshot().unwrap().attempts_left;
            assert_eq!(left, MAX_SINGLE_USE_SENDS - 2, "{order:?}");
        }
    }

    #[test]
    fn a_count_of_sends_whose_save_is_in_doubt_is_not_higher_than_the_stored_one() {
        let old = refreshable("refresh-0", at(0));
        let mut manager = TokenManager::new(policy(), None).with_state(SessionState::new(old));
        let TokenAction::Refresh(ticket) = manager.poll(at(1000)) else {
            panic!("one refreshes")
        };
        let before = manager
            .begin_refresh(ticket)
            .and_then(|attempt| attempt.checkpoint)
            .unwrap();
        manager.saved(&before);
        manager.complete(ticket, Err(UNSENT), at(1000), 0);
        // Saved or not: another process may have counted its own send on top of it.
        assert_eq!(
            manager.unsaved().unwrap().attempts_left,
            MAX_SINGLE_USE_SENDS
        );
        let TokenAction::Refresh(ticket) = manager.poll(at(2000)) else {
            panic!("one refreshes")
        };
        assert_eq!(
            manager.adopt(ticket, Some(before.clone()), at(2000), 0),
            Adopted::Nothing
        );
        let after = manager
            .begin_refresh(ticket)
            .and_then(|attempt| attempt.checkpoint)
            .unwrap();
        assert_eq!(after.attempts_left, before.attempts_left - 1);
    }

    #[test]
    fn an_expired_ticket_does_not_replace_a_newer_token() {
        let mut manager = TokenManager::new(policy(), Some(Grant::client_credentials()));
        let TokenAction::Refresh(first) = manager.poll(at(0)) else {
            panic!("one refreshes")
        };
        assert!(matches!(manager.poll(at(29)), TokenAction::WaitUntil(_)));
        let TokenAction::Refresh(second) = manager.poll(at(30)) else {
            panic!("the first has expired")
        };
        assert!(manager.complete(second, Ok(token("new", at(31), Some(LIFE))), at(31), 0));
        assert!(!manager.complete(first, Ok(token("old", at(32), Some(LIFE))), at(32), 0));
        assert_eq!(
            manager
                .snapshot()
                .unwrap()
                .token()
                .unwrap()
                .access_token()
                .expose(),
            "new"
        );
    }

    #[test]
    fn a_refresh_token_from_an_expired_ticket_is_not_consumed_by_a_later_refusal() {
        for late in [REFUSED, LOST, UNSENT] {
            let mut manager = TokenManager::new(policy(), None)
                .with_state(SessionState::new(refreshable("r1", at(0))));
            let TokenAction::Refresh(slow) = manager.poll(at(200)) else {
                panic!("it has expired")
            };
            assert!(manager.begin_refresh(slow).is_some());
            let TokenAction::Refresh(second) = manager.poll(at(230)) else {
                panic!("the first has expired")
            };
            assert!(manager.begin_refresh(second).is_some());
            let _ = manager.complete(slow, Ok(refreshable("r2", at(231))), at(231), 0);
            // The second ticket sent `r1`, which is consumed; `r2` has not been sent yet.
            let _ = manager.complete(second, Err(late), at(232), 0);
            let TokenAction::Refresh(ticket) = manager.poll(at(400)) else {
                panic!("it has expired")
            };
            let attempt = manager.begin_refresh(ticket).expect("r2 is still good");
            assert_eq!(attempt.grant.refresh_token.unwrap().expose(), "r2");
            assert_eq!(
                attempt.checkpoint.unwrap().attempts_left,
                MAX_SINGLE_USE_SENDS - 1
            );
        }
    }

    #[test]
    fn a_clock_that_is_set_back_prolongs_neither_a_backoff_nor_a_ticket() {
        const DAY: u64 = 86_400;
        let mut manager = TokenManager::new(policy(), Some(Grant::client_credentials()));
        let TokenAction::Refresh(ticket) = manager.poll(at(DAY)) else {
            panic!("it has no token")
        };
        let retry_after = RefreshFailure {
            consumed: Consumed::No,
            retry_after: Some(Duration::from_secs(120)),
        };
        assert!(manager.complete(ticket, Err(retry_after), at(DAY), 0));
        assert!(matches!(manager.poll(at(DAY)), TokenAction::BackOff));
        let TokenAction::Refresh(lost) = manager.poll(at(0)) else {
            panic!("the backoff is over")
        };
        assert!(matches!(manager.poll(at(29)), TokenAction::WaitUntil(_)));
        assert!(matches!(manager.poll(at(30)), TokenAction::Refresh(_)));
        let _ = lost;
        let TokenAction::WaitUntil(_) = manager.poll(at(31)) else {
            panic!("one is out")
        };
        let mut early = TokenManager::new(policy(), Some(Grant::client_credentials()));
        let TokenAction::Refresh(dead) = early.poll(at(DAY)) else {
            panic!("it has no token")
        };
        let _ = dead;
        assert!(matches!(early.poll(at(0)), TokenAction::Refresh(_)));
    }

    #[test]
    fn a_device_code_is_good_for_one_token_and_followed_by_refresh_tokens() {
        let polling = crate::oauth::grant::Polling {
            interval: Duration::from_secs(5),
            until: at(600),
        };
        let mut manager = TokenManager::new(
            policy(),
            Some(Grant::device_code(crate::Secret::new("d"), polling)),
        );
        let TokenAction::Refresh(ticket) = manager.poll(at(0)) else {
            panic!("it has no token")
        };
        assert!(manager.begin_refresh(ticket).is_some());
        assert!(manager.complete(ticket, Ok(refreshable("r1", at(1))), at(1), 0));
        let TokenAction::Refresh(ticket) = manager.poll(at(200)) else {
            panic!("it has expired")
        };
        let sent = manager.begin_refresh(ticket).unwrap().grant.refresh_token;
        assert_eq!(sent.as_ref().map(crate::Secret::expose), Some("r1"));
    }

    #[test]
    fn a_refused_token_is_not_handed_out_again_but_one_that_came_since_is() {
        let old = token("a", at(0), None);
        let mut manager = with_cached(old.clone());
        manager.invalidate(&old);
        let TokenAction::Refresh(ticket) = manager.poll(at(1)) else {
            panic!("it must be refreshed")
        };
        assert!(manager.complete(ticket, Ok(token("b", at(1), None)), at(1), 0));
        manager.invalidate(&old);
        assert!(matches!(
            manager.poll(at(1_000_000)),
            TokenAction::Use(_, None)
        ));
    }

    /// Returns a manager, and a closure that obtains another token for it.
    fn minting() -> (TokenManager, impl FnMut(&mut TokenManager, u64) -> Token) {
        let mut made = 0;
        let mint = move |manager: &mut TokenManager, secs| {
            made += 1;
            let TokenAction::Refresh(ticket) = manager.poll(at(secs)) else {
                panic!("it has a usable token")
            };
            let new = token(&format!("t{made}"), at(secs), None);
            assert!(manager.complete(ticket, Ok(new.clone()), at(secs), 0));
            new
        };
        (
            TokenManager::new(policy(), Some(Grant::client_credentials())),
            mint,
        )
    }

    #[test]
    fn fresh_tokens_that_an_origin_refuses_in_a_row_end_its_token_requests_for_thirty_seconds() {
        let here = Endpoint::https("https://rs.example/a").unwrap();
        let here = here.target();
        let there = Endpoint::https("https://other.example/a").unwrap();
        let there = there.target();
        let (mut manager, mut mint) = minting();
        let before = manager.generation();
        let first = mint(&mut manager, 0);
        assert!(
            !manager.token_rejected(&first, &here, before, at(0)),
            "it was minted for this call"
        );
        assert!(
            manager.token_rejected(&first, &here, manager.generation(), at(1)),
            "it was there before this call"
        );
        let before = manager.generation();
        let second = mint(&mut manager, 2);
        assert!(!manager.token_rejected(&second, &here, before, at(2)));
        for secs in [2, 3, 31] {
            assert!(
                !manager.token_rejected(&second, &here, manager.generation(), at(secs)),
                "{secs}"
            );
            assert!(
                matches!(manager.poll(at(secs)), TokenAction::Use(token, None) if token.is_same_as(&second))
            );
        }
        // Rejecting an older token than the cached one costs no request.
        assert!(manager.token_rejected(&first, &here, manager.generation(), at(31)));
        assert!(
            manager.token_rejected(&second, &here, manager.generation(), at(32)),
            "the hold-off is over"
        );
        let before = manager.generation();
        let third = mint(&mut manager, 33);
        assert!(!manager.token_rejected(&third, &here, before, at(33)));
        assert!(
            !manager.token_rejected(&third, &here, manager.generation(), at(62)),
            "it begins anew at once"
        );
        // A clock that is set back does not prolong it, and other origins are not affected.
        assert!(manager.token_rejected(&third, &there, manager.generation(), at(34)));
        let fourth = mint(&mut manager, 34);
        assert!(manager.token_rejected(&fourth, &here, manager.generation(), at(2)));
    }

    #[test]
    fn a_token_that_another_process_stored_is_replaced_when_it_is_refused_however_new_it_is_here() {
        let here = Endpoint::https("https://rs.example/a").unwrap();
        let here = here.target();
        let mut manager = TokenManager::new(policy(), Some(Grant::client_credentials()));
        let before = manager.generation();
        let TokenAction::Refresh(ticket) = manager.poll(at(0)) else {
            panic!("it holds none")
        };
        let stored = SessionState::new(token("theirs", at(0), Some(LIFE)));
        let Adopted::Token(theirs) = manager.adopt(ticket, Some(stored), at(1), 0) else {
            panic!("it is good")
        };
        assert!(manager.complete(ticket, Ok(theirs.clone()), at(1), 0));
        assert!(manager.token_rejected(&theirs, &here, before, at(1)));
        assert!(matches!(manager.poll(at(1)), TokenAction::Refresh(_)));
    }

    #[test]
    fn a_task_whose_clock_is_a_little_behind_starts_no_second_refresh() {
        let earlier = |by: u64| UnixTime::from_millis(at(200).as_millis() - by);
        let poll = |by| {
            let mut manager = TokenManager::new(policy(), Some(Grant::client_credentials()));
            let TokenAction::Refresh(ticket) = manager.poll(at(200)) else {
                panic!("it holds none")
            };
            manager.start(ticket, at(200));
            manager.poll(earlier(by))
        };
        assert!(
            [0, 1, 999, 1000]
                .map(poll)
                .iter()
                .all(|it| matches!(it, TokenAction::WaitUntil(_)))
        );
        // Otherwise the clock has been set back.
        assert!(matches!(poll(1001), TokenAction::Refresh(_)));
    }

    #[test]
    fn a_log_out_is_not_undone_by_a_stored_state_whenever_it_is_loaded() {
        let stored = || SessionState::new(refreshable("stored", at(0)));
        for is_in_flight in [false, true] {
            let mut manager = TokenManager::new(policy(), None).with_state(stored());
            let before = is_in_flight.then(|| match manager.poll(at(200)) {
                TokenAction::Refresh(ticket) => ticket,
                other => panic!("{other:?}"),
            });
            assert!(manager.clear().is_some());
            let ticket = before.unwrap_or_else(|| match manager.poll(at(200)) {
                TokenAction::Refresh(ticket) => ticket,
                other => panic!("{other:?}"),
            });
            assert_eq!(
                manager.adopt(ticket, Some(stored()), at(0), 0),
                Adopted::LoggedOut
            );
            let _ = manager.complete(ticket, Err(UNSENT), at(200), 0);
            assert!(manager.snapshot().is_none() && manager.unsaved().is_none());
        }
        // A failure of before does not delay the answer that a login is required.
        let mut manager = TokenManager::new(policy(), None).with_state(stored());
        let TokenAction::Refresh(ticket) = manager.poll(at(200)) else {
            panic!("it has expired")
        };
        assert!(manager.complete(ticket, Err(UNSENT), at(200), 0));
        let _ = manager.clear();
        assert!(matches!(manager.poll(at(200)), TokenAction::Refresh(_)));
    }

    #[test]
    fn a_refresh_token_that_was_rotated_beside_the_same_access_token_is_adopted() {
        let with = |refresh: &str| {
            answer(
                &format!(
                    r#"{{"access_token":"same","refresh_token":"{refresh}","expires_in":{LIFE}}}"#
                ),
                at(0),
            )
        };
        let mut manager =
            TokenManager::new(policy(), None).with_state(SessionState::new(with("r1")));
        let TokenAction::Refresh(ticket) = manager.poll(at(200)) else {
            panic!("it has expired")
        };
        let stored = SessionState::new(with("r2"));
        assert_eq!(
            manager.adopt(ticket, Some(stored), at(200), 0),
            Adopted::Nothing
        );
        let grant = manager.begin_refresh(ticket).unwrap().grant;
        assert_eq!(grant.refresh_token.unwrap().expose(), "r2");
    }

    #[test]
    fn a_state_that_could_not_be_stored_is_tried_again_after_the_retry_interval() {
        let mut manager = TokenManager::new(policy(), Some(Grant::client_credentials()))
            .with_state(SessionState::new(token("a", at(0), Some(LIFE))));
        manager.save_failed(at(10));
        assert!(matches!(manager.poll(at(10)), TokenAction::Use(_, None)));
        let TokenAction::Use(token, Some(ticket)) = manager.poll(at(11)) else {
            panic!("it is to be stored")
        };
        manager.saved(&manager.unsaved().unwrap());
        assert!(manager.complete(ticket, Ok(token), at(11), 0));
        assert!(matches!(manager.poll(at(12)), TokenAction::Use(_, None)));
        // A clock that is set back does not prolong it.
        manager.save_failed(at(80));
        assert!(matches!(manager.poll(at(12)), TokenAction::Use(_, Some(_))));
    }

    #[test]
    fn a_state_is_unsaved_until_this_very_state_was_saved() {
        let refresh = |manager: &mut TokenManager, secs| {
            let TokenAction::Refresh(ticket) = manager.poll(at(secs)) else {
                panic!("it has expired")
            };
            (
                ticket,
                manager.begin_refresh(ticket).unwrap().checkpoint.unwrap(),
            )
        };
        let mut manager = TokenManager::new(policy(), None)
            .with_state(SessionState::new(refreshable("r1", at(0))));
        assert!(manager.unsaved().is_none());
        let (ticket, checkpoint) = refresh(&mut manager, 1000);
        manager.saved(&checkpoint);
        assert!(manager.complete(ticket, Err(UNSENT), at(1000), 0));
        // The storage has it with a send less than there are.
        let unsaved = manager.unsaved().unwrap();
        assert_eq!(
            (checkpoint.attempts_left, unsaved.attempts_left),
            (MAX_SINGLE_USE_SENDS - 1, MAX_SINGLE_USE_SENDS)
        );
        manager.saved(&checkpoint);
        assert!(manager.unsaved().is_some());
        manager.saved(&unsaved);
        assert!(manager.unsaved().is_none());

        // What was not sent after all leaves nothing to be saved.
        let (ticket, _) = refresh(&mut manager, 2000);
        manager.withdraw(ticket);
        assert!(!manager.has_sent());
        assert!(manager.complete(ticket, Err(UNSENT), at(2000), 0));
        assert!(manager.unsaved().is_none());

        // A token that could not be saved is handed out with a ticket, by which it is saved, and is
        // not refreshed for that.
        let (ticket, _) = refresh(&mut manager, 3000);
        let new = refreshable("r2", at(3000));
        assert!(manager.complete(ticket, Ok(new.clone()), at(3000), 0));
        assert!(matches!(manager.poll(at(3001)), TokenAction::Use(_, None)));
        manager.save_failed(at(3000));
        let TokenAction::Use(_, Some(ticket)) = manager.poll(at(3001)) else {
            panic!("it is to be saved")
        };
        assert!(
            matches!(manager.poll(at(3001)), TokenAction::Use(_, None)),
            "by one caller"
        );
        assert!(manager.valid_token(at(3001)) == Some(new.clone()));
        manager.saved(&manager.unsaved().unwrap());
        assert!(manager.complete(ticket, Ok(new), at(3001), 0));
        assert!(matches!(manager.poll(at(3002)), TokenAction::Use(_, None)));
    }

    #[test]
    fn a_token_that_many_calls_have_waited_for_counts_once_and_an_accepted_one_ends_the_row() {
        let here = Endpoint::https("https://rs.example/a").unwrap();
        let here = here.target();
        let (mut manager, mut mint) = minting();
        let before = manager.generation();
        let first = mint(&mut manager, 0);
        for _ in 0..50 {
            assert!(!manager.token_rejected(&first, &here, before, at(0)));
        }
        assert!(
            manager.token_rejected(&first, &here, manager.generation(), at(0)),
            "one token is no row"
        );
        let before = manager.generation();
        let second = mint(&mut manager, 1);
        let status = |code| StatusCode::from_u16(code).unwrap();
        let elsewhere = Endpoint::https("https://RS.example:443/b").unwrap();
        let elsewhere = elsewhere.target();
        manager.token_accepted(&elsewhere, status(404));
        assert!(!manager.token_rejected(&second, &here, before, at(1)));
        assert!(
            manager.token_rejected(&second, &here, manager.generation(), at(1)),
            "the row was broken"
        );
        // These statuses leave it open whether the token was accepted.
        let before = manager.generation();
        let third = mint(&mut manager, 2);
        for code in [401, 429, 500, 503] {
            manager.token_accepted(&elsewhere, status(code));
        }
        assert!(!manager.token_rejected(&third, &here, before, at(2)));
        assert!(
            !manager.token_rejected(&third, &here, manager.generation(), at(2)),
            "two in a row"
        );
    }

    #[test]
    fn is_open_while_a_token_can_be_obtained() {
        let fail = |manager: &mut TokenManager, failure| {
            let TokenAction::Refresh(ticket) = manager.poll(at(300)) else {
                panic!("nothing is usable")
            };
            let _ = manager.begin_refresh(ticket);
            let _ = manager.complete(ticket, Err(failure), at(200), 0);
        };
        let stored = |token| TokenManager::new(policy(), None).with_state(SessionState::new(token));
        assert!(!TokenManager::new(policy(), None).is_open(at(0)));
        assert!(TokenManager::new(policy(), Some(Grant::client_credentials())).is_open(at(0)));

        let manager = stored(token("a", at(0), Some(LIFE)));
        assert!(manager.is_open(at(99)) && !manager.is_open(at(100)));
        let unlimited = token("a", at(0), None);
        let mut manager = stored(unlimited.clone());
        assert!(manager.is_open(at(1_000_000)));
        manager.invalidate(&unlimited);
        assert!(!manager.is_open(at(1)));

        let mut manager = stored(refreshable("r0", at(0)));
        fail(&mut manager, UNSENT);
        assert!(manager.is_open(at(200)));
        fail(&mut manager, REFUSED);
        assert!(!manager.is_open(at(200)) && manager.is_open(at(99)));

        let mut login = TokenManager::new(policy(), Some(Grant::extension("once").unwrap()));
        assert!(!login.is_open(at(0)));
        let TokenAction::Refresh(ticket) = login.poll(at(0)) else {
            panic!("nothing is cached")
        };
        assert!(login.is_open(at(29)) && !login.is_open(at(30)));
        assert!(login.complete(ticket, Ok(token("a", at(1), None)), at(1), 0));
        assert!(login.is_open(at(1)));
    }

    #[test]
    fn refresh_before_expiry_is_at_most_a_fifth_of_the_lifetime_and_jitter_only_shortens_it() {
        for (life, seed, refresh) in [
            (1000, 0, 990),
            (20, 0, 16),
            (1000, 511, 995),
            (1000, u64::MAX, 995),
            (0, 7, 1),
        ] {
            let token = match life {
                0 => token("a", at(0), None),
                _ => token("a", at(0), Some(life)),
            };
            let times = policy()
                .default_lifetime(Duration::ZERO)
                .times(&token, seed);
            let secs = times.refresh_at.unwrap().as_millis().div_ceil(1000) - at(0).as_secs();
            assert_eq!(secs, refresh, "{life} {seed}");
        }
    }

    /// An event of a schedule; callers keep their tickets until they complete them.
    #[derive(Clone, Copy)]
    enum Event {
        Poll,
        CompleteFirst(bool),
        CompleteLast(bool),
        Later,
        MuchLater,
        Invalidate,
    }

    const EVENTS: [Event; 8] = [
        Event::Poll,
        Event::CompleteFirst(true),
        Event::CompleteFirst(false),
        Event::CompleteLast(true),
        Event::CompleteLast(false),
        Event::Later,
        Event::MuchLater,
        Event::Invalidate,
    ];

    /// Runs every schedule of up to six events: 299,592 of them.
    #[test]
    fn in_no_schedule_are_two_tickets_valid_or_is_a_rejected_token_used() {
        let mut schedules = 0;
        for length in 1..=6 {
            for number in 0..EVENTS.len().pow(length) {
                run((0..length).map(|at| EVENTS[number / EVENTS.len().pow(at) % EVENTS.len()]));
                schedules += 1;
            }
        }
        assert_eq!(schedules, 299_592);
    }

    /// Runs every schedule of up to six events in a session whose refresh token is replaced by each
    /// success (rotation).
    #[test]
    fn in_no_schedule_is_a_refresh_token_sent_after_it_was_refused_or_given_up_before() {
        let failures = [UNSENT, LOST, REFUSED];
        let mut ends = 0;
        for number in 0..6_usize.pow(6) {
            let mut manager = TokenManager::new(policy(), None)
                .with_state(SessionState::new(refreshable("r0", at(0))));
            let mut now = 200;
            let mut out: Vec<(Ticket, String)> = Vec::new();
            // The number of sends of each token that ended without a response; a refusal counts as
            // all of them.
            let mut spent: BTreeMap<String, u8> = BTreeMap::new();
            for event in (0..6).map(|at| number / 6_usize.pow(at) % 6) {
                match event {
                    0 => {
                        let (TokenAction::Refresh(ticket) | TokenAction::Use(_, Some(ticket))) =
                            manager.poll(at(now))
                        else {
                            continue;
                        };
                        let Some(attempt) = manager.begin_refresh(ticket) else {
                            let stored = manager.snapshot().unwrap();
                            let newest = stored.token().unwrap().refresh_token().unwrap().expose();
                            assert!(spent[newest] >= MAX_SINGLE_USE_SENDS, "it is given up");
                            ends += 1;
                            let _ = manager.complete(ticket, Err(UNSENT), at(now), 0);
                            continue;
                        };
                        let sent = attempt.grant.refresh_token.unwrap().expose().to_owned();
                        assert!(
                            spent
                                .get(&sent)
                                .is_none_or(|times| *times < MAX_SINGLE_USE_SENDS),
                            "it was refused"
                        );
                        out.push((ticket, sent));
                    }
                    1..=4 if !out.is_empty() => {
                        let (ticket, sent) = out.remove(0);
                        let times = spent.entry(sent.clone()).or_default();
                        match event {
                            3 => *times += 1,
                            4 => *times = MAX_SINGLE_USE_SENDS,
                            _ => {}
                        }
                        let result = match event {
                            1 => Ok(refreshable(&format!("{sent}+"), at(now))),
                            _ => Err(failures[event - 2]),
                        };
                        let _ = manager.complete(ticket, result, at(now), 0);
                    }
                    // The lease on the storage can't be acquired.
                    1 => {
                        if let TokenAction::Refresh(ticket) | TokenAction::Use(_, Some(ticket)) =
                            manager.poll(at(now))
                        {
                            let _ = manager.complete(ticket, Err(UNSENT), at(now), 0);
                        }
                    }
                    _ => now += 31,
                }
            }
        }
        assert!(ends > 0);
    }

    fn run(events: impl Iterator<Item = Event>) {
        let mut manager = TokenManager::new(policy(), Some(Grant::client_credentials()));
        let mut now = 0;
        let mut out: Vec<(Ticket, u64)> = Vec::new();
        let mut refused: Vec<Token> = Vec::new();
        let mut used: Option<Token> = None;
        let mut made = 0;
        let mut failed = None;
        for event in events {
            match event {
                Event::Poll => match manager.poll(at(now)) {
                    TokenAction::Use(token, ticket) => {
                        assert!(at(now) < token.expires_at().unwrap());
                        assert!(!refused.iter().any(|refused| refused.is_same_as(&token)));
                        out.extend(ticket.map(|ticket| (ticket, now)));
                        used = Some(token);
                    }
                    TokenAction::Refresh(ticket) => out.push((ticket, now)),
                    TokenAction::WaitUntil(until) => {
                        assert!(out.iter().any(|(_, since)| until == at(since + 30)));
                        assert!(at(now) < until);
                    }
                    TokenAction::BackOff => assert_eq!(failed, Some(now), "time has passed"),
                },
                Event::CompleteFirst(good) | Event::CompleteLast(good) => {
                    let which = if matches!(event, Event::CompleteFirst(_)) {
                        0
                    } else {
                        out.len().max(1) - 1
                    };
                    if which < out.len() {
                        let (ticket, _) = out.remove(which);
                        made += 1;
                        let result = good.then(|| token(&format!("t{made}"), at(now), Some(LIFE)));
                        failed = if good { failed } else { Some(now) };
                        let result = result.ok_or(UNSENT);
                        let _ = manager.complete(ticket, result, at(now), 0);
                    }
                }
                Event::Later => now += 31,
                Event::MuchLater => now += 95,
                Event::Invalidate => {
                    if let Some(token) = &used {
                        manager.invalidate(token);
                        refused.push(token.clone());
                    }
                }
            }
            let live = out.iter().filter(|(_, since)| now < since + 30).count();
            assert!(live <= 1);
        }
    }

    /// A late save of another process brings an older token back: the newer one is to be saved again.
    #[test]
    fn a_stored_token_that_the_cached_one_descends_from_is_replaced_by_it() {
        let old = SessionState::new(refreshable("r1", at(0)));
        let mut manager = TokenManager::new(policy(), None).with_state(old.clone());
        let TokenAction::Refresh(ticket) = manager.poll(at(200)) else {
            panic!("it has expired")
        };
        assert!(manager.begin_refresh(ticket).is_some());
        let new = refreshable("r2", at(200));
        let state = manager.snapshot_with(new.clone());
        assert!(manager.complete(ticket, Ok(new), at(200), 0));
        manager.saved(&state);
        assert!(!manager.is_unsaved());
        let TokenAction::Refresh(ticket) = manager.poll(at(400)) else {
            panic!("it has expired")
        };
        let version = manager.version();
        let adopted = manager.adopt(ticket, Some(old), at(400), 0);
        assert_eq!(adopted, Adopted::Nothing);
        assert!(manager.is_unsaved() && manager.version() > version);
        let token = manager.snapshot().unwrap().token.unwrap();
        assert_eq!(token.access_token().expose(), "r2");
    }
}
