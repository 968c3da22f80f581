//! One token for many callers: who may use it, who renews it, who waits. Single flight without a lock.

use std::time::Duration;

use crate::time::UnixTime;
use crate::token::Token;

/// When a token is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct RefreshPolicy {
    early: Duration,
    assumed_lifetime: Option<Duration>,
    patience: Duration,
    pause: Duration,
}

impl Default for RefreshPolicy {
    /// A minute early, or at four fifths of a shorter life; a token without an expiry is good until it is refused;
    /// a renewal may take 30 s; after one that failed the next begins a second later.
    fn default() -> Self {
        Self {
            early: Duration::from_secs(60),
            assumed_lifetime: None,
            patience: Duration::from_secs(30),
            pause: Duration::from_secs(1),
        }
    }
}

impl RefreshPolicy {
    /// How long before a token expires it is renewed, while it is still used. Never more than a fifth of its
    /// life; up to half of it later, by chance, so that many processes don't come at once.
    pub fn early(mut self, early: Duration) -> Self {
        self.early = early;
        self
    }

    /// How long a token lives whose server doesn't tell.
    pub fn assumed_lifetime(mut self, lifetime: Duration) -> Self {
        self.assumed_lifetime = Some(lifetime);
        self
    }

    /// How long a renewal may take until somebody else may try: its caller may have died.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// How long after a renewal that failed none is begun.
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    fn times(&self, token: &Token, seed: u64) -> Times {
        let assumed = self.assumed_lifetime.map(|lifetime| token.received_at().saturating_add(lifetime));
        let Some(expires) = token.expires_at().or(assumed) else {
            return Times { renew: None, expires: None };
        };
        let early = self.early.min(expires.saturating_since(token.received_at()) / 5);
        let chance = u32::try_from(seed % 512).unwrap_or_default();
        let early = early - early / 1024 * chance;
        Times { renew: Some(expires.saturating_sub(early)), expires: Some(expires) }
    }
}

#[derive(Clone, Copy, Debug)]
struct Times {
    renew: Option<UnixTime>,
    expires: Option<UnixTime>,
}

/// A token, and whose turn it is to renew it. A driver keeps it behind its own lock, which it never holds across IO.
#[derive(Debug)]
pub struct Store {
    policy: RefreshPolicy,
    held: Option<Held>,
    flight: Option<Flight>,
    paused_until: Option<UnixTime>,
    tickets: u64,
}

#[derive(Debug)]
struct Held {
    token: Token,
    times: Times,
    /// The ticket that brought it.
    serial: u64,
    rejected: bool,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    serial: u64,
    lapses: UnixTime,
}

/// The right to renew a token: one is out at any time. It lapses after the policy's patience; whoever can't use
/// it gives it back by [`Store::settle`] with `None`.
#[must_use = "nobody else renews while it is out"]
#[derive(Debug)]
pub struct Ticket {
    serial: u64,
}

/// What a caller who needs a token is to do.
#[must_use]
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a driver must handle every case")]
pub enum Demand {
    /// Use this token; and if there is a ticket, see that it is renewed meanwhile, without waiting for it.
    Use(Token, Option<Ticket>),
    /// There is none that can be used: renew it.
    Renew(Ticket),
    /// Somebody else is renewing it: ask again when that is settled, or at this time.
    Wait(UnixTime),
    /// A renewal has failed just now: none is begun before this time.
    Pause(UnixTime),
}

impl Store {
    /// A store that holds no token, or one from an earlier time.
    pub fn new(policy: RefreshPolicy, held: Option<Token>) -> Self {
        let mut store = Self { policy, held: None, flight: None, paused_until: None, tickets: 0 };
        if let Some(token) = held {
            store.hold(token, 0, 0);
        }
        store
    }

    /// What to do for a token at the time `now`.
    pub fn demand(&mut self, now: UnixTime) -> Demand {
        let usable =
            self.held.as_ref().filter(|held| !held.rejected && held.times.expires.is_none_or(|at| now < at));
        let usable = usable.map(|held| (held.token.clone(), held.times.renew.is_some_and(|at| at <= now)));
        match usable {
            Some((token, false)) => Demand::Use(token, None),
            Some((token, true)) if self.is_busy(now).is_some() => Demand::Use(token, None),
            Some((token, true)) => {
                let ticket = self.ticket(now);
                Demand::Use(token, Some(ticket))
            }
            None => match self.is_busy(now) {
                Some(busy) => busy,
                None => Demand::Renew(self.ticket(now)),
            },
        }
    }

    /// Takes what a renewal brought: a token, or `None` if it failed. `seed` is random. `false` if the ticket had
    /// lapsed; a token that it brought is kept all the same, unless a later ticket has brought another.
    pub fn settle(&mut self, ticket: Ticket, renewed: Option<Token>, now: UnixTime, seed: u64) -> bool {
        let current = self.flight.is_some_and(|flight| flight.serial == ticket.serial);
        if current {
            self.flight = None;
            self.paused_until = renewed.is_none().then(|| now.saturating_add(self.policy.pause));
        }
        if let Some(token) = renewed {
            if self.held.as_ref().is_none_or(|held| held.serial < ticket.serial) {
                self.hold(token, ticket.serial, seed);
            }
        }
        current
    }

    /// Says that a server refused a token. Whatever came after it is not touched.
    pub fn reject(&mut self, token: &Token) {
        if let Some(held) = self.held.as_mut().filter(|held| held.token.is_same_as(token)) {
            held.rejected = true;
        }
    }

    /// The token that is held, good or not: its refresh token may be of use.
    pub fn held(&self) -> Option<&Token> {
        self.held.as_ref().map(|held| &held.token)
    }

    fn hold(&mut self, token: Token, serial: u64, seed: u64) {
        let times = self.policy.times(&token, seed);
        self.held = Some(Held { token, times, serial, rejected: false });
    }

    fn is_busy(&self, now: UnixTime) -> Option<Demand> {
        let flying =
            self.flight.filter(|flight| now < flight.lapses).map(|flight| Demand::Wait(flight.lapses));
        flying.or_else(|| self.paused_until.filter(|until| now < *until).map(Demand::Pause))
    }

    fn ticket(&mut self, now: UnixTime) -> Ticket {
        self.tickets += 1;
        self.flight = Some(Flight { serial: self.tickets, lapses: now.saturating_add(self.policy.patience) });
        Ticket { serial: self.tickets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::{Outgoing, Received};
    use crate::origins::Origins;
    use crate::signing::Signing;
    use crate::time::Ambient;
    use crate::{Client, ClientAuth, Endpoint, Grant};

    const LIFE: u64 = 100;

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(1_000_000 + secs)
    }

    fn token(name: &str, now: UnixTime, life: Option<u64>) -> Token {
        let endpoint = Endpoint::https("https://as.example/token").unwrap();
        let client = Client::new(endpoint, ClientAuth::none("app").unwrap());
        let exchange = client.token(Grant::client_credentials()).unwrap();
        let Ok(Signing::Ready(Outgoing { pending, .. })) =
            exchange.prepare(&Origins::new(), Ambient::new(now, [0; 16]))
        else {
            panic!("no key signs");
        };
        let life = life.map(|life| format!(r#","expires_in":{life}"#)).unwrap_or_default();
        let body = format!(r#"{{"access_token":"{name}"{life}}}"#);
        match pending.receive(http::Response::new(body), &mut Origins::new(), now) {
            Ok(Received::Done(token)) => token,
            other => panic!("{other:?}"),
        }
    }

    fn policy() -> RefreshPolicy {
        RefreshPolicy::default().early(Duration::from_secs(10)).patience(Duration::from_secs(30))
    }

    #[test]
    fn a_token_is_renewed_early_by_one_caller_while_the_others_use_it() {
        let mut store = Store::new(policy(), Some(token("a", at(0), Some(LIFE))));
        assert!(matches!(store.demand(at(89)), Demand::Use(_, None)));
        let Demand::Use(_, Some(ticket)) = store.demand(at(90)) else { panic!("one renews") };
        assert!(matches!(store.demand(at(91)), Demand::Use(_, None)));
        assert!(matches!(store.demand(at(100)), Demand::Wait(until) if until == at(120)));
        assert!(store.settle(ticket, Some(token("b", at(100), Some(LIFE))), at(100), 0));
        assert!(
            matches!(store.demand(at(100)), Demand::Use(token, None) if token.access_token().expose() == "b")
        );
    }

    #[test]
    fn a_renewal_that_fails_is_not_tried_again_at_once_and_a_good_token_stays_in_use() {
        let mut store = Store::new(policy(), Some(token("a", at(0), Some(LIFE))));
        let Demand::Use(_, Some(ticket)) = store.demand(at(95)) else { panic!("one renews") };
        assert!(store.settle(ticket, None, at(96), 0));
        assert!(matches!(store.demand(at(96)), Demand::Use(_, None)));
        assert!(matches!(store.demand(at(97)), Demand::Use(_, Some(_))));

        let mut empty = Store::new(policy(), None);
        let Demand::Renew(ticket) = empty.demand(at(0)) else { panic!("one renews") };
        assert!(empty.settle(ticket, None, at(0), 0));
        assert!(matches!(empty.demand(at(0)), Demand::Pause(until) if until == at(1)));
        assert!(matches!(empty.demand(at(1)), Demand::Renew(_)));
    }

    #[test]
    fn a_ticket_lapses_and_what_it_brings_late_replaces_nothing_newer() {
        let mut store = Store::new(policy(), None);
        let Demand::Renew(first) = store.demand(at(0)) else { panic!("one renews") };
        assert!(matches!(store.demand(at(29)), Demand::Wait(_)));
        let Demand::Renew(second) = store.demand(at(30)) else { panic!("the first has lapsed") };
        assert!(store.settle(second, Some(token("new", at(31), Some(LIFE))), at(31), 0));
        assert!(!store.settle(first, Some(token("old", at(32), Some(LIFE))), at(32), 0));
        assert_eq!(store.held().unwrap().access_token().expose(), "new");
    }

    #[test]
    fn a_refused_token_is_not_handed_out_again_but_one_that_came_since_is() {
        let old = token("a", at(0), None);
        let mut store = Store::new(policy(), Some(old.clone()));
        store.reject(&old);
        let Demand::Renew(ticket) = store.demand(at(1)) else { panic!("it must be renewed") };
        assert!(store.settle(ticket, Some(token("b", at(1), None)), at(1), 0));
        store.reject(&old);
        assert!(matches!(store.demand(at(1_000_000)), Demand::Use(_, None)));
    }

    #[test]
    fn early_is_at_most_a_fifth_of_a_life_and_chance_makes_it_later_only() {
        for (life, seed, renew) in
            [(1000, 0, 990), (20, 0, 16), (1000, 511, 995), (1000, u64::MAX, 995), (0, 7, 0)]
        {
            let token = match life {
                0 => token("a", at(0), None),
                _ => token("a", at(0), Some(life)),
            };
            let times = policy().assumed_lifetime(Duration::ZERO).times(&token, seed);
            let secs = times.renew.unwrap().as_millis().div_ceil(1000) - at(0).as_secs();
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

    fn run(events: impl Iterator<Item = Event>) {
        let mut store = Store::new(policy(), None);
        let mut now = 0;
        let mut out: Vec<(Ticket, u64)> = Vec::new();
        let mut refused: Vec<Token> = Vec::new();
        let mut used: Option<Token> = None;
        let mut made = 0;
        for event in events {
            match event {
                Event::Demand => match store.demand(at(now)) {
                    Demand::Use(token, ticket) => {
                        assert!(at(now) < token.expires_at().unwrap());
                        assert!(!refused.iter().any(|refused| refused.is_same_as(&token)));
                        out.extend(ticket.map(|ticket| (ticket, now)));
                        used = Some(token);
                    }
                    Demand::Renew(ticket) => out.push((ticket, now)),
                    Demand::Wait(until) => {
                        assert!(out.iter().any(|(_, since)| until == at(since + 30)));
                        assert!(at(now) < until);
                    }
                    Demand::Pause(until) => assert!(at(now) < until),
                },
                Event::SettleFirst(good) | Event::SettleLast(good) => {
                    let which = if matches!(event, Event::SettleFirst(_)) { 0 } else { out.len().max(1) - 1 };
                    if which < out.len() {
                        let (ticket, _) = out.remove(which);
                        made += 1;
                        let renewed = good.then(|| token(&format!("t{made}"), at(now), Some(LIFE)));
                        let _ = store.settle(ticket, renewed, at(now), 0);
                    }
                }
                Event::Later => now += 31,
                Event::MuchLater => now += 95,
                Event::Reject => {
                    if let Some(token) = &used {
                        store.reject(token);
                        refused.push(token.clone());
                    }
                }
            }
            let live = out.iter().filter(|(_, since)| now < since + 30).count();
            assert!(live <= 1);
        }
    }
}
