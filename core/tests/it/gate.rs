//! Calls that wait for another one to fetch the server's nonce.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, Uri};
use keybound_core::driver::{Awaiting, PreparedCall, RequestContext, Shared, Step, Until};
use keybound_core::{Call, Cause, Client, Grant, Sent, Token, UnixTime};

use crate::peer::Peer;
use crate::rustcrypto::parse;
use crate::world::{RESOURCE_URL, START, World};

/// Calls of many callers, in a world that doesn't wait by itself.
struct Calls {
    world: World,
    token: Token,
}

impl Calls {
    fn new(peer: Peer) -> Self {
        let mut world = World::with(peer);
        let token = world.token(Grant::client_credentials()).unwrap();
        Self { world, token }
    }

    fn at(&mut self, millis: u64) {
        self.world.now = START.saturating_add(Duration::from_millis(millis));
    }

    fn start(&mut self, method: &Method) -> Step<Call> {
        let uri: Uri = RESOURCE_URL.parse().unwrap();
        let call = self.token.authorize(method, &uri).unwrap();
        self.started(call)
    }

    fn started(&mut self, call: Call) -> Step<Call> {
        let context = self.world.context();
        let step = self.world.shared.start(call, context);
        self.signed(step)
    }

    fn signed(&mut self, step: Step<Call>) -> Step<Call> {
        match step {
            step @ Step::Sign(_) => self.world.step(step),
            step => step,
        }
    }

    fn woken(&mut self, waiting: Awaiting<Until, Call>) -> Step<Call> {
        let context = self.world.context();
        let step = waiting.woken(&mut self.world.shared, context);
        self.signed(step)
    }

    fn received(
        &mut self,
        call: Awaiting<PreparedCall, Call>,
        status: u16,
        nonce: Option<&str>,
    ) -> Step<Call> {
        let mut headers = HeaderMap::new();
        if let Some(nonce) = nonce {
            headers.insert("dpop-nonce", nonce.parse().unwrap());
        }
        let (context, status) = (self.world.context(), StatusCode::from_u16(status).unwrap());
        let step = call.received(status, &headers, &mut self.world.shared, context);
        self.signed(step)
    }

    fn lost(&mut self, call: Awaiting<PreparedCall, Call>) -> Step<Call> {
        let context = self.world.context();
        call.failed(Sent::Maybe, None, &mut self.world.shared, context)
    }

    fn generation(&self) -> Option<u64> {
        Some(self.world.shared.generation())
    }
}

fn sent(step: Step<Call>) -> Awaiting<PreparedCall, Call> {
    match step {
        Step::Call(call) => call,
        step => panic!("it is not sent: {step:?}"),
    }
}

/// How long a call waits, in milliseconds since the start.
fn waits(step: Step<Call>) -> (u64, Awaiting<Until, Call>) {
    match step {
        Step::Wait(waiting) => {
            let millis = waiting.effect.time.saturating_since(START).as_millis();
            (u64::try_from(millis).unwrap(), waiting)
        }
        step => panic!("it doesn't wait: {step:?}"),
    }
}

#[test]
fn calls_wait_for_the_first_one_to_fetch_the_nonce_and_none_is_sent_in_vain() {
    for (status, nonce) in [(401, Some("n-1")), (200, Some("n-1")), (200, None)] {
        let mut calls = Calls::new(Peer::bound());
        let first = sent(calls.start(&Method::GET));
        let waiting: Vec<_> = (0..20).map(|_| waits(calls.start(&Method::GET))).collect();
        for (millis, waiting) in &waiting {
            assert_eq!(*millis, 2000);
            assert_eq!(waiting.effect.unless_generation, calls.generation());
        }
        let mut step = calls.received(first, status, nonce);
        if status == 401 {
            // It has the permit still, and is not overtaken.
            assert_eq!(waiting[0].1.effect.unless_generation, calls.generation());
            step = calls.received(sent(step), 200, nonce);
        }
        assert!(matches!(step, Step::Done(Ok(_))));
        assert_ne!(waiting[0].1.effect.unless_generation, calls.generation());
        for (_, waiting) in waiting {
            let call = sent(calls.woken(waiting));
            assert_eq!(nonce_of(call).as_deref(), nonce);
        }
    }
}

/// The nonce in the proof of a call.
fn nonce_of(mut call: Awaiting<PreparedCall, Call>) -> Option<String> {
    let mut headers = HeaderMap::new();
    call.effect.headers.apply(&mut headers);
    let proof = headers["dpop"].to_str().unwrap();
    let claims = parse(proof.split('.').nth(1).unwrap());
    claims["nonce"].as_str().map(str::to_owned)
}

#[test]
fn a_call_waits_no_longer_than_two_seconds_for_a_permit_that_nobody_moves() {
    for began in [0, 1, 700, 1999] {
        let mut calls = Calls::new(Peer::bound());
        let hanging = sent(calls.start(&Method::GET));
        calls.at(began);
        let (until, waiting) = waits(calls.start(&Method::GET));
        assert_eq!(until, 2000, "{began}");
        // A wake-up of another kind changes nothing.
        let (until, waiting) = waits(calls.woken(waiting));
        assert_eq!(until, 2000, "{began}");
        calls.at(2000);
        let call = sent(calls.woken(waiting));
        // Nor does the next one wait.
        let _third = sent(calls.start(&Method::GET));
        let step = calls.received(call, 200, None);
        assert!(matches!(step, Step::Done(Ok(_))));
        drop(hanging);
    }
}

#[test]
fn a_call_waits_on_as_long_as_permits_move() {
    let mut calls = Calls::new(Peer::bound());
    let mut holder = sent(calls.start(&Method::POST));
    let (mut until, mut waiting) = waits(calls.start(&Method::GET));
    for round in 1..8 {
        assert_eq!(until, (round - 1) * 1500 + 2000);
        calls.at(round * 1500);
        // The holder is lost, and another call is faster than the one that waits.
        assert!(matches!(calls.lost(holder), Step::Done(Err(_))));
        assert_ne!(waiting.effect.unless_generation, calls.generation());
        holder = sent(calls.start(&Method::POST));
        (until, waiting) = waits(calls.woken(waiting));
    }
    // From here on nothing moves.
    calls.at(7 * 1500 + 2000);
    let _ = sent(calls.woken(waiting));
}

#[test]
fn a_call_keeps_half_of_its_time_for_itself_however_much_permits_move() {
    let uri: Uri = RESOURCE_URL.parse().unwrap();
    let mut calls = Calls::new(Peer::bound());
    let mut holder = sent(calls.start(&Method::POST));
    let call = calls.token.authorize(&Method::GET, &uri).unwrap();
    let (until, mut waiting) = waits(calls.started(call.timeout(Duration::from_secs(6))));
    assert_eq!(until, 2000);
    for millis in [1000, 2000, 2999] {
        calls.at(millis);
        assert!(matches!(calls.lost(holder), Step::Done(Err(_))));
        holder = sent(calls.start(&Method::POST));
        let (until, next) = waits(calls.woken(waiting));
        assert_eq!(until, 3000);
        waiting = next;
    }
    calls.at(3000);
    let call = sent(calls.woken(waiting));
    assert_eq!(call.effect.timeout, Duration::from_secs(3));
}

#[test]
fn a_permit_of_a_call_that_was_given_up_goes_to_the_next_one() {
    let mut calls = Calls::new(Peer::bound());
    let hanging = sent(calls.start(&Method::GET));
    let (_, waiting) = waits(calls.start(&Method::GET));
    calls.world.shared.abandon(hanging.id(), calls.world.now);
    assert_ne!(waiting.effect.unless_generation, calls.generation());
    let _ = sent(calls.woken(waiting));
}

#[test]
fn a_call_whose_signer_fails_gives_its_permit_back() {
    let mut calls = Calls::new(Peer::bound());
    let uri: Uri = RESOURCE_URL.parse().unwrap();
    let call = calls.token.authorize(&Method::GET, &uri).unwrap();
    let context = calls.world.context();
    let Step::Sign(signing) = calls.world.shared.start(call, context) else {
        panic!("it has a proof")
    };
    let (_, waiting) = waits(calls.start(&Method::GET));
    let context = calls.world.context();
    let failed = signing.signed(Err(Cause::new("away")), &mut calls.world.shared, context);
    assert!(matches!(failed, Step::Done(Err(_))));
    let _ = sent(calls.woken(waiting));
}

#[test]
fn bearer_calls_and_token_requests_wait_for_nobody() {
    let mut calls = Calls::new(Peer::bearer());
    let _first = sent(calls.start(&Method::GET));
    let _second = sent(calls.start(&Method::GET));

    let mut shared = Shared::new();
    let world = World::with(Peer::bound());
    let client: Client = world.client();
    for _ in 0..3 {
        let operation = client.token(Grant::client_credentials()).unwrap();
        let context = RequestContext::new(UnixTime::from_secs(1), [1; 16]);
        assert!(matches!(shared.start(operation, context), Step::Sign(_)));
    }
}
