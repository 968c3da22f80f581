//! One token for many callers: who may use it, who renews it and by what, who waits. Single flight without a lock.

use std::time::Duration;

use http::Uri;

use crate::oauth::grant::Grant;
use crate::oauth::lineage::Lineage;
use crate::oauth::token::Token;
use crate::session::refresh_policy::{RefreshPolicy, Times};
use crate::session::session_state::{MAX_SINGLE_USE_SENDS, SessionState};
use crate::session::token_refusals::Refusals;
use crate::types::error::{Error, Retry};
use crate::types::time::UnixTime;

/// The longest that no renewal is begun because a server asked for that.
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// A token, and whose turn it is to renew it. A driver keeps it behind its own lock, which it never holds across IO.
///
/// A renewal is [`begin_refresh`](Self::begin_refresh)ed by whoever [`poll`](Self::poll) gives a ticket, and
/// [`complete`](Self::complete)d. Where several processes share what is kept, whoever has the ticket first makes sure
/// that no other process renews, and [takes over](Self::adopt) what another has got meanwhile.
#[derive(Debug)]
pub struct TokenManager {
    policy: RefreshPolicy,
    /// What gets a token: each one, if it is good more than once; else the first, and is gone then.
    grant: Option<Grant>,
    cached: Option<CachedToken>,
    /// How often what is good for once, the grant or the refresh token that is held, may still be sent by somebody who
    /// dies over it.
    attempts_left: u8,
    /// The tokens that the held one descends from.
    lineage: Lineage,
    /// The application gave the token that is held. It replaces what is kept, unless that descends from it.
    given: bool,
    /// What is held, or how often it may be sent, is not kept yet.
    unsaved: bool,
    /// What was kept when it was last looked at: if it still is, then what is held is newer.
    last_loaded: Option<SessionState>,
    in_flight: Option<InFlight>,
    backoff_until: Option<UnixTime>,
    tickets: u64,
    /// Tickets up to this one are from before a log-out.
    cleared_at: u64,
    /// How many tokens have been held: a failure tells of the one whose refresh token it had, and of no later one.
    generation: u64,
    refusals: Refusals,
}

#[derive(Debug)]
struct CachedToken {
    token: Token,
    times: Times,
    /// The ticket that brought it.
    serial: u64,
    rejected: bool,
}

impl CachedToken {
    fn new(token: Token, policy: &RefreshPolicy, serial: u64, seed: u64) -> Self {
        let times = policy.times(&token, seed);
        Self {
            token,
            times,
            serial,
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

#[derive(Clone, Copy, Debug)]
struct InFlight {
    serial: u64,
    lapses: UnixTime,
}

/// The right to renew a token: one is out at any time. It lapses after the policy's patience; whoever can't use
/// it gives it back by [`TokenManager::complete`] with [`RefreshFailure::not_sent`].
#[must_use = "nobody else renews while it is out"]
#[derive(Debug)]
pub struct Ticket {
    serial: u64,
    /// Of which holding something good for once was sent, or was about to be.
    tried: Option<u64>,
}

/// What a caller who needs a token is to do.
#[must_use]
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a driver must handle every case")]
pub enum TokenAction {
    /// Use this token; and if there is a ticket, see that it is renewed meanwhile, without waiting for it.
    Use(Token, Option<Ticket>),
    /// There is none that can be used: renew it.
    Refresh(Ticket),
    /// Somebody else is renewing it: ask again when that is settled, or at this time.
    WaitUntil(UnixTime),
    /// A renewal has failed just now: none is begun before this time.
    BackOffUntil(UnixTime),
}

/// What a renewal sends.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a driver takes it apart")]
pub struct RefreshAttempt {
    /// To be asked with.
    pub grant: Grant,
    /// To be saved before the grant is sent, by a driver that saves: so that nothing is spent whose token could not be
    /// saved, and a process that dies, and starts again, does not send for ever what may be used up. `None` where the
    /// grant uses nothing up.
    pub checkpoint: Option<SessionState>,
}

/// What a renewal that failed has used up, and how long its server wants to be left alone.
#[derive(Clone, Copy, Debug)]
pub struct RefreshFailure {
    consumed: Consumed,
    wait: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consumed {
    /// As far as anybody knows.
    No,
    Perhaps,
    Yes,
}

impl RefreshFailure {
    /// An exchange ended in this. Whether a request that was lost, or a gateway's 502, has used up what it had, only the
    /// next one can tell, by `invalid_grant`; nothing is lost by asking.
    pub fn from_error(error: &Error) -> Self {
        match error.retry() {
            Retry::Reauthenticate => Self {
                consumed: Consumed::Yes,
                wait: None,
            },
            Retry::Later(wait) => Self {
                consumed: Consumed::No,
                wait,
            },
            Retry::No => Self {
                consumed: Consumed::No,
                wait: None,
            },
        }
    }

    /// Nothing was sent.
    pub fn not_sent() -> Self {
        Self {
            consumed: Consumed::No,
            wait: None,
        }
    }

    /// Nobody heard what became of it: whoever asked has died.
    pub fn aborted() -> Self {
        Self {
            consumed: Consumed::Perhaps,
            wait: None,
        }
    }
}

impl TokenManager {
    /// A store that holds no token. `grant` gets the first: one that is
    /// [good more than once](Grant::is_repeatable), such as client credentials, gets every other as well; any other
    /// is followed by the refresh tokens that it brings. Without a grant, a session goes on from what is kept.
    pub fn new(policy: RefreshPolicy, grant: Option<Grant>) -> Self {
        Self {
            policy,
            grant,
            cached: None,
            attempts_left: MAX_SINGLE_USE_SENDS,
            lineage: Lineage::default(),
            given: false,
            unsaved: false,
            last_loaded: None,
            in_flight: None,
            backoff_until: None,
            tickets: 0,
            cleared_at: 0,
            generation: 0,
            refusals: Refusals::default(),
        }
    }

    /// Begins with what was kept from an earlier time.
    #[must_use]
    pub fn with_state(mut self, kept: SessionState) -> Self {
        self.hold_kept(kept, 0, 0);
        self
    }

    /// What to do for a token at the time `now`. A ticket beside a token is there to refresh it, or to save it.
    pub fn poll(&mut self, now: UnixTime) -> TokenAction {
        let usable = self.cached.as_ref().filter(|held| held.is_usable(now));
        let usable = usable.map(|held| (held.token.clone(), held.is_due(now) || self.unsaved));
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

    /// Takes what another process has kept, while it is certain that no other renews: a token, if that makes this
    /// renewal needless. `seed` is random.
    ///
    /// A grant that is good for once and has not been used is a fresh login, and goes before what an earlier one
    /// has left; so does a token that the application [gave](Self::mark_unsaved). Neither does if what is kept descends
    /// from it: then this is a restart with a token of before, or a grant that is spent.
    pub fn adopt(
        &mut self,
        ticket: &Ticket,
        kept: SessionState,
        now: UnixTime,
        seed: u64,
    ) -> Option<Token> {
        let Some(theirs) = &kept.token else {
            self.last_loaded = Some(kept);
            return None;
        };
        let fresh = self.grant.as_ref().filter(|grant| !grant.is_repeatable());
        let is_descendant = match (fresh, &self.cached) {
            (Some(grant), _) => grant.refresh_token.as_ref().is_some_and(|token| {
                let id = Lineage::id(token);
                kept.lineage.contains(&id) || theirs.lineage_id() == id
            }),
            (None, Some(held)) if self.given => {
                let id = held.token.lineage_id();
                let is_as_new = theirs.received_at() >= held.token.received_at();
                kept.lineage.contains(&id) || (theirs.lineage_id() == id && is_as_new)
            }
            (None, _) => false,
        };
        let before = self.last_loaded.replace(kept.clone());
        if (fresh.is_some() || self.given) && !is_descendant {
            return None;
        }
        if self
            .cached
            .as_ref()
            .is_some_and(|held| held.token.is_equal_to(theirs))
        {
            if self.given {
                self.lineage = kept.lineage;
                (self.given, self.unsaved) = (false, false);
            }
            if ticket.tried.is_none() && !self.unsaved {
                self.attempts_left = kept.attempts_left;
            }
            return None;
        }
        // What is held is newer, and could not be saved.
        let is_seen = before
            .as_ref()
            .and_then(SessionState::token)
            .is_some_and(|seen| seen.is_equal_to(theirs));
        if self.cached.is_some() && is_seen && !is_descendant {
            return None;
        }
        let candidate = CachedToken::new(theirs.clone(), &self.policy, ticket.serial, seed);
        let is_good = candidate.is_usable(now) && !candidate.is_due(now);
        // Not even its refresh token is needed: what is held may be better.
        if !is_good && self.is_repeatable() {
            return None;
        }
        self.grant = self.grant.take().filter(Grant::is_repeatable);
        self.hold_kept(kept, ticket.serial, seed);
        self.good(now).filter(|_| is_good)
    }

    /// Returns the token that is held, if it is good and needs no refresh yet.
    pub fn good(&self, now: UnixTime) -> Option<Token> {
        let held = self
            .cached
            .as_ref()
            .filter(|held| held.is_usable(now) && !held.is_due(now));
        held.map(|held| held.token.clone())
    }

    /// Returns what is to be saved because the storage has something older, or nothing.
    pub fn unsaved(&self) -> Option<SessionState> {
        self.snapshot().filter(|_| self.unsaved)
    }

    /// Says that this was saved.
    pub fn saved(&mut self, kept: &SessionState) {
        let is_held = |token: &Token| {
            self.cached
                .as_ref()
                .is_some_and(|held| held.token.is_same_as(token))
        };
        if kept.token().is_some_and(is_held) && kept.attempts_left == self.attempts_left {
            (self.given, self.unsaved) = (false, false);
        }
        self.last_loaded = Some(kept.clone());
    }

    /// What the holder of a ticket sends to get a token; `None` if there is nothing left to be sent, so that a new
    /// grant is needed.
    pub fn begin_refresh(&mut self, ticket: &mut Ticket) -> Option<RefreshAttempt> {
        if let Some(grant) = self.grant.as_ref().filter(|grant| grant.is_repeatable()) {
            return Some(RefreshAttempt {
                grant: grant.clone(),
                checkpoint: None,
            });
        }
        let tries_left = self.attempts_left.checked_sub(1)?;
        let attempt = match (&self.grant, &self.cached) {
            // What is kept stays as it was, until there is something better.
            (Some(grant), _) => {
                let keep = self.last_loaded.clone().unwrap_or_else(SessionState::empty);
                RefreshAttempt {
                    grant: grant.clone(),
                    checkpoint: Some(keep),
                }
            }
            (None, held) => {
                let token = held.as_ref()?.token.clone();
                let grant = Grant::refresh_token(token.refresh_token()?.clone()).ok()?;
                let lineage = self.lineage.clone();
                RefreshAttempt {
                    grant,
                    checkpoint: Some(SessionState::with(token, tries_left, lineage)),
                }
            }
        };
        ticket.tried = Some(self.generation);
        Some(attempt)
    }

    /// Says that what [`begin_refresh`](Self::begin_refresh) gave was not sent after all.
    pub fn withdraw(&mut self, ticket: &mut Ticket) {
        ticket.tried = None;
    }

    /// Takes what a renewal brought: a token, or why there is none. `seed` is random. `false` if the ticket had
    /// lapsed; a token that it brought is held all the same, unless a later ticket has brought another.
    pub fn complete(
        &mut self,
        ticket: Ticket,
        renewed: Result<Token, RefreshFailure>,
        now: UnixTime,
        seed: u64,
    ) -> bool {
        let current = self
            .in_flight
            .is_some_and(|flight| flight.serial == ticket.serial);
        if current {
            self.in_flight = None;
            self.backoff_until = renewed.as_ref().err().map(|failure| {
                let asked = failure.wait.unwrap_or_default().min(MAX_BACKOFF);
                now.saturating_add(self.policy.retry_interval.max(asked))
            });
        }
        let is_newest = ticket.serial > self.cleared_at
            && self
                .cached
                .as_ref()
                .is_none_or(|held| held.serial <= ticket.serial);
        let is_of_what_is_held = ticket.tried == Some(self.generation);
        match renewed {
            // It needed no refresh.
            Ok(token)
                if self
                    .cached
                    .as_ref()
                    .is_some_and(|held| held.token.is_same_as(&token)) => {}
            Ok(token) if is_newest => {
                self.lineage = self.lineage_of(&token);
                self.grant = self.grant.take().filter(Grant::is_repeatable);
                self.attempts_left = MAX_SINGLE_USE_SENDS;
                (self.given, self.unsaved) = (false, false);
                let held = CachedToken::new(token, &self.policy, ticket.serial, seed);
                self.set_token(held);
            }
            Err(failure) if is_of_what_is_held => {
                self.attempts_left = match failure.consumed {
                    Consumed::No => self.attempts_left,
                    Consumed::Perhaps => self.attempts_left.saturating_sub(1),
                    Consumed::Yes => 0,
                };
                // It was saved as if nothing were ever heard of it.
                self.unsaved = true;
            }
            Ok(_) | Err(_) => {}
        }
        current
    }

    /// Returns the state with this token in the place of the one that is held, as it is to be saved before it is used.
    pub fn kept_with(&self, token: Token) -> SessionState {
        let lineage = self.lineage_of(&token);
        SessionState::with(token, MAX_SINGLE_USE_SENDS, lineage)
    }

    /// The tokens that lead to this one, which was got by a grant, or by what is held.
    fn lineage_of(&self, token: &Token) -> Lineage {
        let fresh = self.grant.as_ref().filter(|grant| !grant.is_repeatable());
        let (mut lineage, before) = match (fresh, &self.cached) {
            (Some(grant), _) => (
                Lineage::default(),
                grant.refresh_token.as_ref().map(Lineage::id),
            ),
            (None, held) => (
                self.lineage.clone(),
                held.as_ref().map(|held| held.token.lineage_id()),
            ),
        };
        if let Some(before) = before.filter(|before| *before != token.lineage_id()) {
            lineage.push(before);
        }
        lineage
    }

    /// Says that what is held was given by the application: it replaces what is kept.
    pub fn mark_unsaved(&mut self) {
        (self.given, self.unsaved) = (true, true);
    }

    /// Says that what was got last could not be saved.
    pub fn save_failed(&mut self) {
        self.unsaved = true;
    }

    /// Returns a number that grows with every token that is held.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Says that the server at `uri` has refused a token, and returns whether the call is to be made again with another.
    /// `started` is the [`generation`](Self::generation) of before the call got this token.
    ///
    /// It isn't if the token came since then: another would be refused as well. After two such tokens in a row from one
    /// origin its refusals cause no token request for 30 s, and the token stays in use.
    pub fn refused(&mut self, token: &Token, uri: &Uri, started: u64, now: UnixTime) -> bool {
        if self
            .cached
            .as_ref()
            .is_some_and(|held| held.token.is_same_as(token))
        {
            if self.generation > started {
                self.refusals.add(uri, token, now);
                return false;
            }
            if self.refusals.is_on_hold(uri, now) {
                return false;
            }
        }
        self.invalidate(token);
        true
    }

    /// Says that the server at `uri` has accepted a token.
    pub fn accepted(&mut self, uri: &Uri) {
        self.refusals.clear(uri);
    }

    /// Says that a server refused a token. Whatever came after it is not touched.
    fn invalidate(&mut self, token: &Token) {
        if let Some(held) = self
            .cached
            .as_mut()
            .filter(|held| held.token.is_same_as(token))
        {
            held.rejected = true;
        }
    }

    /// Forgets all: a log-out. What held a ticket, and brings a token late, brings it in vain.
    pub fn clear(&mut self) -> Option<Token> {
        self.grant = None;
        self.last_loaded = None;
        self.lineage = Lineage::default();
        (self.given, self.unsaved) = (false, false);
        self.attempts_left = 0;
        self.generation += 1;
        self.cleared_at = self.tickets;
        self.cached.take().map(|held| held.token)
    }

    /// What is to be kept of it for a later process: the token, good or not, since its refresh token may be of use.
    pub fn snapshot(&self) -> Option<SessionState> {
        let held = self.cached.as_ref()?;
        Some(SessionState::with(
            held.token.clone(),
            self.attempts_left,
            self.lineage.clone(),
        ))
    }

    /// How long a renewal may take until somebody else may try.
    pub fn refresh_timeout(&self) -> Duration {
        self.policy.refresh_timeout
    }

    /// Whether a renewal uses nothing up, so that processes that can't reach each other may each make their own.
    pub fn is_repeatable(&self) -> bool {
        self.grant.as_ref().is_some_and(Grant::is_repeatable)
    }

    /// Whether there is a token that is good at the time `now`, or something left to get one with: a grant that is good more
    /// than once, a refresh token that hasn't been refused (RFC 9700 §4.14.2), or another grant while it is redeemed. If
    /// not, a new grant is needed.
    pub fn is_open(&self, now: UnixTime) -> bool {
        let is_left =
            |held: &CachedToken| self.attempts_left > 0 && held.token.refresh_token().is_some();
        self.is_repeatable()
            || self.grant.is_some() && matches!(self.is_busy(now), Some(TokenAction::WaitUntil(_)))
            || self
                .cached
                .as_ref()
                .is_some_and(|held| held.is_usable(now) || is_left(held))
    }

    /// Whether a login is lost if a renewal that is under way is not brought to its end.
    pub fn may_lose_login(&self) -> bool {
        !self.is_repeatable() || self.unsaved
    }

    /// Whether it has a grant or a token that goes before what is kept, so that a renewal needs nothing of that.
    pub fn replaces_kept(&self) -> bool {
        self.grant.is_some() || self.given
    }

    /// Holds a token that was kept, with all that was kept beside it.
    fn hold_kept(&mut self, kept: SessionState, serial: u64, seed: u64) {
        if let Some(token) = kept.token {
            self.attempts_left = kept.attempts_left;
            self.lineage = kept.lineage;
            (self.given, self.unsaved) = (false, false);
            let held = CachedToken::new(token, &self.policy, serial, seed);
            self.set_token(held);
        }
    }

    fn set_token(&mut self, held: CachedToken) {
        self.generation += 1;
        self.cached = Some(held);
    }

    fn is_busy(&self, now: UnixTime) -> Option<TokenAction> {
        // What lies further ahead than it was ever set is of a clock that has been set back since.
        let is_ahead = |until: UnixTime, most| now < until && until.saturating_since(now) <= most;
        let flying = self
            .in_flight
            .filter(|flight| is_ahead(flight.lapses, self.policy.refresh_timeout));
        let longest_pause = self.policy.retry_interval.max(MAX_BACKOFF);
        let paused = self
            .backoff_until
            .filter(|until| is_ahead(*until, longest_pause));
        flying
            .map(|flight| TokenAction::WaitUntil(flight.lapses))
            .or(paused.map(TokenAction::BackOffUntil))
    }

    fn ticket(&mut self, now: UnixTime) -> Ticket {
        self.tickets += 1;
        self.in_flight = Some(InFlight {
            serial: self.tickets,
            lapses: now.saturating_add(self.policy.refresh_timeout),
        });
        Ticket {
            serial: self.tickets,
            tried: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::jose::signing::Signing;
    use crate::request::operation::{PreparedRequest, Step};
    use crate::request::server_state::ServerState;
    use crate::types::time::RequestContext;
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
        let exchange = client.token(Grant::client_credentials()).unwrap();
        let Ok(Signing::Ready(PreparedRequest { pending, .. })) =
            exchange.prepare(&ServerState::new(), RequestContext::new(now, [0; 16]))
        else {
            panic!("no key signs");
        };
        match pending.receive(http::Response::new(body), &mut ServerState::new(), now) {
            Ok(Step::Done(token)) => token,
            other => panic!("{other:?}"),
        }
    }

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

    fn holding(token: Token) -> TokenManager {
        TokenManager::new(policy(), Some(Grant::client_credentials()))
            .with_state(SessionState::new(token))
    }

    #[test]
    fn a_token_is_renewed_early_by_one_caller_while_the_others_use_it() {
        let mut store = holding(token("a", at(0), Some(LIFE)));
        assert!(matches!(store.poll(at(89)), TokenAction::Use(_, None)));
        let TokenAction::Use(_, Some(ticket)) = store.poll(at(90)) else {
            panic!("one renews")
        };
        assert!(matches!(store.poll(at(91)), TokenAction::Use(_, None)));
        assert!(matches!(store.poll(at(100)), TokenAction::WaitUntil(until) if until == at(120)));
        assert!(store.complete(ticket, Ok(token("b", at(100), Some(LIFE))), at(100), 0));
        assert!(
            matches!(store.poll(at(100)), TokenAction::Use(token, None) if token.access_token().expose() == "b")
        );
    }

    #[test]
    fn a_renewal_that_fails_is_not_tried_again_at_once_and_a_good_token_stays_in_use() {
        let mut store = holding(token("a", at(0), Some(LIFE)));
        let TokenAction::Use(_, Some(ticket)) = store.poll(at(95)) else {
            panic!("one renews")
        };
        assert!(store.complete(ticket, Err(RefreshFailure::not_sent()), at(96), 0));
        assert!(matches!(store.poll(at(96)), TokenAction::Use(_, None)));
        assert!(matches!(store.poll(at(97)), TokenAction::Use(_, Some(_))));

        let mut empty = TokenManager::new(policy(), Some(Grant::client_credentials()));
        let TokenAction::Refresh(ticket) = empty.poll(at(0)) else {
            panic!("one renews")
        };
        assert!(empty.complete(ticket, Err(RefreshFailure::not_sent()), at(0), 0));
        assert!(matches!(empty.poll(at(0)), TokenAction::BackOffUntil(until) if until == at(1)));
        assert!(matches!(empty.poll(at(1)), TokenAction::Refresh(_)));
    }

    #[test]
    fn a_ticket_lapses_and_what_it_brings_late_replaces_nothing_newer() {
        let mut store = TokenManager::new(policy(), Some(Grant::client_credentials()));
        let TokenAction::Refresh(first) = store.poll(at(0)) else {
            panic!("one renews")
        };
        assert!(matches!(store.poll(at(29)), TokenAction::WaitUntil(_)));
        let TokenAction::Refresh(second) = store.poll(at(30)) else {
            panic!("the first has lapsed")
        };
        assert!(store.complete(second, Ok(token("new", at(31), Some(LIFE))), at(31), 0));
        assert!(!store.complete(first, Ok(token("old", at(32), Some(LIFE))), at(32), 0));
        assert_eq!(
            store
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
    fn what_a_lapsed_ticket_has_brought_is_not_used_up_by_a_later_ones_refusal() {
        for late in [
            RefreshFailure {
                consumed: Consumed::Yes,
                wait: None,
            },
            RefreshFailure::aborted(),
            RefreshFailure::not_sent(),
        ] {
            let mut store = TokenManager::new(policy(), None)
                .with_state(SessionState::new(refreshable("r1", at(0))));
            let TokenAction::Refresh(mut slow) = store.poll(at(200)) else {
                panic!("it has expired")
            };
            assert!(store.begin_refresh(&mut slow).is_some());
            let TokenAction::Refresh(mut second) = store.poll(at(230)) else {
                panic!("the first has lapsed")
            };
            assert!(store.begin_refresh(&mut second).is_some());
            let _ = store.complete(slow, Ok(refreshable("r2", at(231))), at(231), 0);
            // The second had sent `r1`, of which nothing is left; nobody has sent `r2` yet.
            let _ = store.complete(second, Err(late), at(232), 0);
            let TokenAction::Refresh(mut ticket) = store.poll(at(400)) else {
                panic!("it has expired")
            };
            let attempt = store.begin_refresh(&mut ticket).expect("r2 is still good");
            assert_eq!(attempt.grant.refresh_token.unwrap().expose(), "r2");
            assert_eq!(
                attempt.checkpoint.unwrap().attempts_left,
                MAX_SINGLE_USE_SENDS - 1
            );
        }
    }

    #[test]
    fn a_clock_that_is_set_back_prolongs_neither_a_pause_nor_a_ticket() {
        const DAY: u64 = 86_400;
        let mut store = TokenManager::new(policy(), Some(Grant::client_credentials()));
        let TokenAction::Refresh(ticket) = store.poll(at(DAY)) else {
            panic!("it has no token")
        };
        let asked = RefreshFailure {
            consumed: Consumed::No,
            wait: Some(Duration::from_secs(120)),
        };
        assert!(store.complete(ticket, Err(asked), at(DAY), 0));
        assert!(matches!(store.poll(at(DAY)), TokenAction::BackOffUntil(_)));
        let TokenAction::Refresh(lost) = store.poll(at(0)) else {
            panic!("the pause is over")
        };
        assert!(matches!(store.poll(at(29)), TokenAction::WaitUntil(_)));
        assert!(matches!(store.poll(at(30)), TokenAction::Refresh(_)));
        drop(lost);
        let TokenAction::WaitUntil(_) = store.poll(at(31)) else {
            panic!("one is out")
        };
        let mut early = TokenManager::new(policy(), Some(Grant::client_credentials()));
        let TokenAction::Refresh(dead) = early.poll(at(DAY)) else {
            panic!("it has no token")
        };
        drop(dead);
        assert!(matches!(early.poll(at(0)), TokenAction::Refresh(_)));
    }

    #[test]
    fn a_device_code_is_good_for_one_token_and_followed_by_refresh_tokens() {
        let polling = crate::oauth::grant::Polling {
            interval: Duration::from_secs(5),
            until: at(600),
        };
        let mut store = TokenManager::new(
            policy(),
            Some(Grant::device_code(crate::Secret::new("d"), polling)),
        );
        let TokenAction::Refresh(mut ticket) = store.poll(at(0)) else {
            panic!("it has no token")
        };
        assert!(store.begin_refresh(&mut ticket).is_some());
        assert!(store.complete(ticket, Ok(refreshable("r1", at(1))), at(1), 0));
        let TokenAction::Refresh(mut ticket) = store.poll(at(200)) else {
            panic!("it has expired")
        };
        let sent = store
            .begin_refresh(&mut ticket)
            .unwrap()
            .grant
            .refresh_token;
        assert_eq!(sent.as_ref().map(crate::Secret::expose), Some("r1"));
    }

    #[test]
    fn a_refused_token_is_not_handed_out_again_but_one_that_came_since_is() {
        let old = token("a", at(0), None);
        let mut store = holding(old.clone());
        store.invalidate(&old);
        let TokenAction::Refresh(ticket) = store.poll(at(1)) else {
            panic!("it must be renewed")
        };
        assert!(store.complete(ticket, Ok(token("b", at(1), None)), at(1), 0));
        store.invalidate(&old);
        assert!(matches!(
            store.poll(at(1_000_000)),
            TokenAction::Use(_, None)
        ));
    }

    /// A store, and what gives it another token.
    fn minting() -> (TokenManager, impl FnMut(&mut TokenManager, u64) -> Token) {
        let mut made = 0;
        let mint = move |store: &mut TokenManager, secs| {
            made += 1;
            let TokenAction::Refresh(ticket) = store.poll(at(secs)) else {
                panic!("it holds a good one")
            };
            let new = token(&format!("t{made}"), at(secs), None);
            assert!(store.complete(ticket, Ok(new.clone()), at(secs), 0));
            new
        };
        (
            TokenManager::new(policy(), Some(Grant::client_credentials())),
            mint,
        )
    }

    #[test]
    fn fresh_tokens_that_an_origin_refuses_in_a_row_end_its_token_requests_for_thirty_seconds() {
        let here = Uri::from_static("https://rs.example/a");
        let there = Uri::from_static("https://other.example/a");
        let (mut store, mut mint) = minting();
        let before = store.generation();
        let first = mint(&mut store, 0);
        assert!(
            !store.refused(&first, &here, before, at(0)),
            "it was minted for this call"
        );
        assert!(
            store.refused(&first, &here, store.generation(), at(1)),
            "it was there before this call"
        );
        let before = store.generation();
        let second = mint(&mut store, 2);
        assert!(!store.refused(&second, &here, before, at(2)));
        for secs in [2, 3, 31] {
            assert!(
                !store.refused(&second, &here, store.generation(), at(secs)),
                "{secs}"
            );
            assert!(
                matches!(store.poll(at(secs)), TokenAction::Use(token, None) if token.is_same_as(&second))
            );
        }
        // An older token than the one that is held costs no request.
        assert!(store.refused(&first, &here, store.generation(), at(31)));
        assert!(
            store.refused(&second, &here, store.generation(), at(32)),
            "the hold-off is over"
        );
        let before = store.generation();
        let third = mint(&mut store, 33);
        assert!(!store.refused(&third, &here, before, at(33)));
        assert!(
            !store.refused(&third, &here, store.generation(), at(62)),
            "it begins anew at once"
        );
        // A clock that is set back does not prolong it, and no other origin is concerned.
        assert!(store.refused(&third, &there, store.generation(), at(34)));
        let fourth = mint(&mut store, 34);
        assert!(store.refused(&fourth, &here, store.generation(), at(2)));
    }

    #[test]
    fn a_token_that_many_calls_have_waited_for_counts_once_and_an_accepted_one_ends_the_row() {
        let here = Uri::from_static("https://rs.example/a");
        let (mut store, mut mint) = minting();
        let before = store.generation();
        let first = mint(&mut store, 0);
        for _ in 0..50 {
            assert!(!store.refused(&first, &here, before, at(0)));
        }
        assert!(
            store.refused(&first, &here, store.generation(), at(0)),
            "one token is no row"
        );
        let before = store.generation();
        let second = mint(&mut store, 1);
        store.accepted(&Uri::from_static("https://RS.example:443/b"));
        assert!(!store.refused(&second, &here, before, at(1)));
        assert!(
            store.refused(&second, &here, store.generation(), at(1)),
            "the row was broken"
        );
    }

    #[test]
    fn is_open_says_whether_anything_is_left() {
        let refused = RefreshFailure {
            consumed: Consumed::Yes,
            wait: None,
        };
        let fail = |store: &mut TokenManager, failure| {
            let TokenAction::Refresh(mut ticket) = store.poll(at(300)) else {
                panic!("nothing is good")
            };
            let _ = store.begin_refresh(&mut ticket);
            let _ = store.complete(ticket, Err(failure), at(200), 0);
        };
        let kept = |token| TokenManager::new(policy(), None).with_state(SessionState::new(token));
        assert!(!TokenManager::new(policy(), None).is_open(at(0)));
        assert!(TokenManager::new(policy(), Some(Grant::client_credentials())).is_open(at(0)));

        let store = kept(token("a", at(0), Some(LIFE)));
        assert!(store.is_open(at(99)) && !store.is_open(at(100)));
        let unlimited = token("a", at(0), None);
        let mut store = kept(unlimited.clone());
        assert!(store.is_open(at(1_000_000)));
        store.invalidate(&unlimited);
        assert!(!store.is_open(at(1)));

        let mut store = kept(refreshable("r0", at(0)));
        fail(&mut store, RefreshFailure::not_sent());
        assert!(store.is_open(at(200)));
        fail(&mut store, refused);
        assert!(!store.is_open(at(200)) && store.is_open(at(99)));

        let mut login = TokenManager::new(policy(), Some(Grant::extension("once").unwrap()));
        assert!(!login.is_open(at(0)));
        let TokenAction::Refresh(ticket) = login.poll(at(0)) else {
            panic!("nothing is held")
        };
        assert!(login.is_open(at(29)) && !login.is_open(at(30)));
        assert!(login.complete(ticket, Ok(token("a", at(1), None)), at(1), 0));
        assert!(login.is_open(at(1)));
    }

    #[test]
    fn early_is_at_most_a_fifth_of_a_life_which_is_a_second_at_least_and_chance_makes_it_later_only()
     {
        for (life, seed, renew) in [
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
            assert_eq!(secs, renew, "{life} {seed}");
        }
    }

    /// Something that may happen; callers keep the tickets that they were given until they settle them.
    #[derive(Clone, Copy)]
    enum Event {
        Demand,
        SettleFirst(bool),
        SettleLast(bool),
        Later,
        MuchLater,
        Reject,
    }

    const EVENTS: [Event; 8] = [
        Event::Demand,
        Event::SettleFirst(true),
        Event::SettleFirst(false),
        Event::SettleLast(true),
        Event::SettleLast(false),
        Event::Later,
        Event::MuchLater,
        Event::Reject,
    ];

    /// Every schedule of up to six events: 299,592 of them.
    #[test]
    fn in_no_schedule_are_two_tickets_live_or_is_a_dead_token_handed_out() {
        let mut schedules = 0;
        for length in 1..=6 {
            for number in 0..EVENTS.len().pow(length) {
                run((0..length).map(|at| EVENTS[number / EVENTS.len().pow(at) % EVENTS.len()]));
                schedules += 1;
            }
        }
        assert_eq!(schedules, 299_592);
    }

    /// A session whose grant is a refresh token that each success replaces. Every schedule of up to six events.
    #[test]
    fn in_no_schedule_is_a_refresh_token_sent_after_it_was_refused_or_given_up_before() {
        let failures = [
            RefreshFailure::not_sent(),
            RefreshFailure::aborted(),
            RefreshFailure {
                consumed: Consumed::Yes,
                wait: None,
            },
        ];
        let mut ends = 0;
        for number in 0..6_usize.pow(6) {
            let mut store = TokenManager::new(policy(), None)
                .with_state(SessionState::new(refreshable("r0", at(0))));
            let mut now = 200;
            let mut out: Vec<(Ticket, String)> = Vec::new();
            // How often each was sent by somebody who died over it; a refusal counts for all.
            let mut spent: BTreeMap<String, u8> = BTreeMap::new();
            for event in (0..6).map(|at| number / 6_usize.pow(at) % 6) {
                match event {
                    0 => {
                        let (TokenAction::Refresh(mut ticket)
                        | TokenAction::Use(_, Some(mut ticket))) = store.poll(at(now))
                        else {
                            continue;
                        };
                        let Some(attempt) = store.begin_refresh(&mut ticket) else {
                            let kept = store.snapshot().unwrap();
                            let newest = kept.token().unwrap().refresh_token().unwrap().expose();
                            assert!(spent[newest] >= MAX_SINGLE_USE_SENDS, "it is given up");
                            ends += 1;
                            let _ =
                                store.complete(ticket, Err(RefreshFailure::not_sent()), at(now), 0);
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
                        let renewed = match event {
                            1 => Ok(refreshable(&format!("{sent}+"), at(now))),
                            _ => Err(failures[event - 2]),
                        };
                        let _ = store.complete(ticket, renewed, at(now), 0);
                    }
                    // The lease on what is kept is not to be had.
                    1 => {
                        if let TokenAction::Refresh(ticket) | TokenAction::Use(_, Some(ticket)) =
                            store.poll(at(now))
                        {
                            let _ =
                                store.complete(ticket, Err(RefreshFailure::not_sent()), at(now), 0);
                        }
                    }
                    _ => now += 31,
                }
            }
        }
        assert!(ends > 0);
    }

    fn run(events: impl Iterator<Item = Event>) {
        let mut store = TokenManager::new(policy(), Some(Grant::client_credentials()));
        let mut now = 0;
        let mut out: Vec<(Ticket, u64)> = Vec::new();
        let mut refused: Vec<Token> = Vec::new();
        let mut used: Option<Token> = None;
        let mut made = 0;
        for event in events {
            match event {
                Event::Demand => match store.poll(at(now)) {
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
                    TokenAction::BackOffUntil(until) => assert!(at(now) < until),
                },
                Event::SettleFirst(good) | Event::SettleLast(good) => {
                    let which = if matches!(event, Event::SettleFirst(_)) {
                        0
                    } else {
                        out.len().max(1) - 1
                    };
                    if which < out.len() {
                        let (ticket, _) = out.remove(which);
                        made += 1;
                        let renewed = good.then(|| token(&format!("t{made}"), at(now), Some(LIFE)));
                        let renewed = renewed.ok_or(RefreshFailure::not_sent());
                        let _ = store.complete(ticket, renewed, at(now), 0);
                    }
                }
                Event::Later => now += 31,
                Event::MuchLater => now += 95,
                Event::Reject => {
                    if let Some(token) = &used {
                        store.invalidate(token);
                        refused.push(token.clone());
                    }
                }
            }
            let live = out.iter().filter(|(_, since)| now < since + 30).count();
            assert!(live <= 1);
        }
    }
}
