//! Which requests may be sent over a connection that has been idle, and what follows if it is lost.

use std::time::Duration;

use keybound_core::driver::{Event, FromResponse, PreparedRequest, RequestContext, Shared, Step};
use keybound_core::{
    Client, ClientAuth, Error, Grant, Issuer, Operation, ProtectedResource, Secret, Sent,
};
use serde_json::json;

use crate::maker::Maker;
use crate::peer::{ISSUER, json_response, with_header};
use crate::world::{Answered, RESOURCE_URL, START, TOKEN_URL, answered, endpoint, outgoing, sent};

const ANY: Duration = Duration::MAX;
const NEW: Duration = Duration::ZERO;

/// Each backoff from this entropy is longer than zero.
const ENTROPY: [u8; 16] = *b"sixteen ordinary";

fn context() -> RequestContext {
    RequestContext::new(START, ENTROPY)
}

fn client() -> Client {
    Client::new(endpoint(TOKEN_URL), ClientAuth::none("app").unwrap())
        .device_authorization_endpoint(endpoint("https://as.example/device"))
        .introspection_endpoint(endpoint("https://as.example/introspect"))
        .revocation_endpoint(endpoint("https://as.example/revoke"))
}

fn secret() -> Secret {
    Secret::new("s")
}

fn refresh() -> Grant {
    Grant::refresh_token(secret()).unwrap()
}

fn max_idle<T: FromResponse>(operation: Operation<T>) -> Duration {
    outgoing(operation).max_idle
}

fn of_grant(grant: Grant) -> Duration {
    max_idle(client().token(grant).unwrap())
}

fn of_relay(grant: Grant) -> Duration {
    max_idle(client().relay(grant, Maker::new().verified()).unwrap())
}

#[test]
fn a_request_that_may_be_repeated_is_sent_over_any_idle_connection() {
    assert_eq!(of_grant(Grant::client_credentials()), ANY);
    assert_eq!(of_grant(refresh().repeatable()), ANY);
    let bearer = Grant::jwt_bearer(secret()).unwrap();
    assert_eq!(of_grant(bearer.repeatable()), ANY);
    assert_eq!(max_idle(client().revoke(secret(), None).unwrap()), ANY);
    assert_eq!(max_idle(client().introspect(secret(), None).unwrap()), ANY);
    let device = client().device_authorization(None).unwrap();
    assert_eq!(max_idle(device), ANY);
    let issuer = Issuer::https(ISSUER).unwrap();
    assert_eq!(max_idle(issuer.discover().unwrap()), ANY);
    let resource = ProtectedResource::discover(RESOURCE_URL).unwrap();
    assert_eq!(max_idle(resource), ANY);
}

#[test]
fn a_single_use_grant_is_sent_over_a_new_connection() {
    assert_eq!(of_grant(refresh()), NEW);
    assert_eq!(of_grant(Grant::jwt_bearer(secret()).unwrap()), NEW);
    assert_eq!(of_grant(Grant::extension("other").unwrap()), NEW);
    let urn = "urn:ietf:params:oauth:token-type:access_token";
    let exchange = Grant::token_exchange(secret(), urn).unwrap();
    assert_eq!(of_grant(exchange), NEW);
    assert_eq!(of_relay(refresh()), NEW);
    assert_eq!(of_relay(device_grant()), NEW);

    let mut shared = Shared::new();
    let poll = client().token(device_grant()).unwrap();
    let Step::Wait(wait) = shared.start(poll, context()) else {
        panic!("a poll waits first")
    };
    let poll = sent(wait.woken(&mut shared, context()));
    assert_eq!(poll.effect.max_idle, NEW);
}

fn device_grant() -> Grant {
    let response = json!({
        "device_code": "code",
        "user_code": "WDJB",
        "verification_uri": "https://as.example/go",
        "expires_in": 600,
    });
    let operation = client().device_authorization(None).unwrap();
    match answered(operation, json_response(200, &response)).unwrap() {
        Answered::Done(device) => device.grant(),
        Answered::Again(_) => panic!("it is retried"),
    }
}

#[test]
fn a_relay_is_sent_over_a_connection_that_no_server_closes_yet() {
    let second = Duration::from_secs(1);
    assert_eq!(of_relay(Grant::client_credentials()), second);
    assert_eq!(max_idle(Maker::new().relay().unwrap()), second);
}

#[test]
fn a_retry_after_a_connection_that_may_have_been_idle_has_no_delay_and_a_new_one() {
    let mut shared = Shared::new();
    let operation = client().token(Grant::client_credentials()).unwrap();
    let first = sent(shared.start(operation, context()));
    let second = sent(first.failed(Sent::Maybe, None, &mut shared, context()));
    assert_eq!(second.effect.max_idle, NEW);
    let Some(Event::Retrying(retrying)) = shared.next_event() else {
        panic!("it is reported")
    };
    assert_eq!(retrying.wait, Duration::ZERO);

    let Step::Wait(wait) = second.failed(Sent::Maybe, None, &mut shared, context()) else {
        panic!("without a delay after a new connection")
    };
    let third = sent(wait.woken(&mut shared, context()));
    assert_eq!(third.effect.max_idle, NEW);
}

#[test]
fn a_retry_after_a_refused_connection_has_a_delay() {
    let mut shared = Shared::new();
    let operation = client().token(Grant::client_credentials()).unwrap();
    let first = sent(shared.start(operation, context()));
    let second = first.failed(Sent::No, None, &mut shared, context());
    assert!(matches!(second, Step::Wait(_)));
}

#[test]
fn a_request_that_is_lost_at_the_end_of_its_time_is_not_retried() {
    let mut shared = Shared::new();
    let timeout = Duration::from_secs(30);
    let operation = client().token(Grant::client_credentials()).unwrap();
    let first = sent(shared.start(operation.timeout(timeout), context()));
    let late = RequestContext::new(START.saturating_add(timeout), ENTROPY);
    let Step::Done(Err(Error::NoResponse(lost))) =
        first.failed(Sent::Maybe, None, &mut shared, late)
    else {
        panic!("it is retried")
    };
    assert_eq!(lost.sent(), Sent::Maybe);
}

#[test]
fn a_retry_after_a_response_is_sent_over_any_idle_connection_unless_it_is_the_last() {
    let busy = with_header(json_response(503, &json!({})), "retry-after", "1");
    let mut shared = Shared::new();
    let operation = client().token(Grant::client_credentials()).unwrap();
    let mut step = shared.start(operation.max_attempts(3), context());
    let mut seen = Vec::new();
    loop {
        step = match step {
            Step::Send(it) => {
                let PreparedRequest { max_idle, .. } = *it.effect;
                seen.push(max_idle);
                it.received(&busy, &mut shared, context())
            }
            Step::Wait(wait) => wait.woken(&mut shared, context()),
            _ => break,
        }
    }
    assert_eq!(seen, [ANY, ANY, NEW]);
}
