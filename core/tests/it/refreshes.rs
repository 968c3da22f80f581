//! A refresh of a session's token: shared by its callers, stored before it counts, limited in time.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use keybound_core::driver::{
    Awaiting, Event, GetToken, Reason, Refresh, RefreshPurpose, Role, SaveRequest, SessionConfig,
    SessionId, SessionState, Step, Until,
};
use keybound_core::{Cause, Error, Grant, RefreshPolicy, SecretBytes, Sent, Token};
use serde_json::json;

use crate::peer::{Peer, ScriptedResponse, json_response, response, with_header};
use crate::session_state::{
    in_storage, json_of, members, name, restart, sending, sent, store, stored, token, world,
};
use crate::world::{Called, RESOURCE_URL, START, World};

const MINUTE: Duration = Duration::from_secs(60);

fn client_credentials(world: &World) -> SessionConfig {
    SessionConfig::new(world.client()).grant(Grant::client_credentials())
}

/// A caller that waits for a token.
fn waiting(world: &mut World, session: SessionId, timeout: Duration) -> Awaiting<Until, GetToken> {
    let context = world.context();
    match world.shared.start(session.token(timeout), context) {
        Step::Wait(waiting) => waiting,
        step => panic!("it doesn't wait: {step:?}"),
    }
}

fn woken(world: &mut World, waiting: Awaiting<Until, GetToken>) -> Step<GetToken> {
    let context = world.context();
    waiting.woken(&mut world.shared, context)
}

/// The result of a caller that has waited.
fn got(world: &mut World, waiting: Awaiting<Until, GetToken>) -> Result<Token, Error> {
    match woken(world, waiting) {
        Step::Done(result) => result,
        step => panic!("it still waits: {step:?}"),
    }
}

/// Runs the refresh that is due to its end.
fn refresh(world: &mut World, session: SessionId) {
    let refresh = world.shared.next_refresh(session).expect("it is due");
    world.run(refresh).unwrap();
    assert!(world.shared.next_refresh(session).is_none());
}

/// Starts the refresh that is due, up to a save.
fn saving(world: &mut World, session: SessionId) -> Awaiting<SaveRequest, Refresh> {
    let refresh = world.shared.next_refresh(session).expect("it is due");
    let context = world.context();
    let mut step = world.shared.start(refresh, context);
    loop {
        step = match step {
            Step::Save(save) => return save,
            Step::Done(_) => panic!("it saves nothing"),
            step => world.step(step),
        };
    }
}

fn finish(world: &mut World, mut step: Step<Refresh>) {
    loop {
        step = match step {
            Step::Done(result) => return result.unwrap(),
            step => world.step(step),
        };
    }
}

#[test]
fn all_callers_share_one_refresh_and_its_result() {
    let refusal = || response(400, r#"{"error":"invalid_scope"}"#);
    for fails in [false, true] {
        let mut world = World::with(Peer::bound());
        let session = world.shared.open(client_credentials(&world), START);
        let callers: Vec<_> = (0..5)
            .map(|_| waiting(&mut world, session, MINUTE))
            .collect();
        for caller in &callers {
            let generation = Some(world.shared.generation());
            assert_eq!(caller.effect.unless_generation, generation);
        }
        if fails {
            let refusal = ScriptedResponse::Response(refusal());
            world.peer.script.push_back(refusal);
        }
        assert!(world.shared.is_refreshing(session));
        refresh(&mut world, session);
        assert!(!world.shared.is_refreshing(session));
        let mut results = Vec::new();
        for caller in callers {
            assert_ne!(
                caller.effect.unless_generation,
                Some(world.shared.generation())
            );
            let Step::Done(result) = woken(&mut world, caller) else {
                panic!("it waits on")
            };
            results.push(result);
        }
        assert!(results.iter().all(|result| *result == results[0]));
        assert_eq!(results[0].is_err(), fails);
        assert_eq!(world.peer.requests.len(), 1);
        // Whoever comes right after a failure gets it as well; later, another refresh starts.
        let context = world.context();
        let step = world.shared.start(session.token(MINUTE), context);
        let Step::Done(result) = step else {
            panic!("it is not to be waited for")
        };
        assert_eq!(result, results[0]);
        assert_eq!(world.peer.requests.len(), 1);
        world.sleep(1);
        if fails {
            let caller = waiting(&mut world, session, MINUTE);
            refresh(&mut world, session);
            assert!(matches!(woken(&mut world, caller), Step::Done(Ok(_))));
        }
    }
}

#[test]
fn a_caller_waits_for_a_refresh_no_longer_than_its_timeout() {
    for (timeout, until) in [(5, 5), (29, 29), (30, 30), (60, 30)] {
        let mut world = World::with(Peer::bound());
        let session = world.shared.open(client_credentials(&world), START);
        let caller = waiting(&mut world, session, Duration::from_secs(timeout));
        let _hanging = world.shared.next_refresh(session).unwrap();
        let time = START.saturating_add(Duration::from_secs(until));
        assert_eq!(caller.effect.time, time, "{timeout}");
        world.now = time;
        match woken(&mut world, caller) {
            Step::Done(Err(Error::Timeout)) => assert!(timeout <= 30, "{timeout}"),
            // The refresh is overdue: another one starts.
            Step::Wait(_) => {
                assert!(timeout > 30, "{timeout}");
                assert!(world.shared.next_refresh(session).is_some());
            }
            step => panic!("{timeout}: {step:?}"),
        }
    }
}

#[test]
fn a_refresh_that_its_driver_abandons_ends_the_wait_of_its_callers() {
    for is_sent in [true, false] {
        let (mut world, first) = world();
        store(&mut world, &SessionState::new(first));
        world.sleep(1000);
        let config = stored(&world).label("users");
        let session = world.shared.open(config, world.now);
        let id = if is_sent {
            sending(&mut world, session).unwrap().id()
        } else {
            let _ = waiting(&mut world, session, MINUTE);
            let refresh = world.shared.next_refresh(session).unwrap();
            let context = world.context();
            world.shared.start(refresh, context).id().unwrap()
        };
        world.storage.leased.clear();
        let caller = waiting(&mut world, session, MINUTE);
        assert_eq!(world.shared.is_unsafe_to_exit(session), is_sent);
        while world.shared.next_event().is_some() {}
        for _ in 0..2 {
            world.shared.abandon(id, world.now);
        }
        // It is reported, once.
        let Some(Event::RefreshFailed(failed)) = world.shared.next_event() else {
            panic!("it has not failed");
        };
        assert_eq!(failed.error, Error::RefreshAborted);
        assert_eq!(failed.session.as_deref(), Some("users"));
        assert_eq!(world.shared.next_event(), None);
        assert!(!world.shared.is_refreshing(session));
        assert!(matches!(
            woken(&mut world, caller),
            Step::Done(Err(Error::RefreshAborted))
        ));
        // What was sent may have been consumed, so it is counted.
        world.sleep(10);
        world.storage.saved.clear();
        let _ = waiting(&mut world, session, MINUTE);
        let save = saving(&mut world, session);
        let state: serde_json::Value = serde_json::from_slice(save.effect.state.expose()).unwrap();
        assert_eq!(state["attempts_left"], if is_sent { 8 } else { 9 });
    }
}

#[test]
fn a_refresh_token_is_not_sent_without_its_storage_and_a_repeatable_grant_is() {
    for (is_down, is_read_only) in [(true, false), (false, true)] {
        let (mut world, first) = world();
        store(&mut world, &SessionState::new(first.clone()));
        world.sleep(1000);
        restart(&mut world);
        let session = world.open(stored(&world));
        world.storage.is_down = is_down;
        world.storage.is_read_only = is_read_only;
        for _ in 0..15 {
            let error = token(&mut world, session).unwrap_err();
            assert!(matches!(error, Error::Storage(_)), "{error}");
            world.sleep(1);
        }
        assert!(world.peer.requests.is_empty());
        world.storage.is_down = false;
        world.storage.is_read_only = false;
        assert!(token(&mut world, session).is_ok());
        assert_eq!(sent(&world), ["refresh-1"]);
        assert_eq!(world.storage.saved[0]["attempts_left"], 9, "none was sent");

        let session = world.open(stored(&world).grant(Grant::client_credentials()));
        world.storage.is_down = is_down;
        world.storage.is_read_only = is_read_only;
        world.sleep(1000);
        world.events.clear();
        assert!(token(&mut world, session).is_ok());
        let failures = world.events.iter();
        let failures = failures.filter(|event| matches!(event, Event::StorageUnavailable(_)));
        assert_eq!(failures.count(), 1, "it is reported once");
        assert!(world.storage.leased.is_empty());
    }
}

#[test]
fn an_unreadable_state_is_replaced_only_by_a_login_that_does_not_need_it() {
    let garbage = || b"not JSON".to_vec();
    let (mut world, first) = world();
    let name = name(&world);
    let configs: [(&dyn Fn(SessionConfig) -> SessionConfig, bool); 4] = [
        (&|config| config, false),
        (
            &|config| config.state(Some(SessionState::new(first.clone()))),
            false,
        ),
        (&|config| config.token(first.clone()), true),
        (&|config| config.grant(Grant::extension("x").unwrap()), true),
    ];
    world.peer.grant_type = Some("x".into());
    world.sleep(1000);
    for (at, (config, replaces)) in configs.into_iter().enumerate() {
        restart(&mut world);
        world.storage.states.insert(name.clone(), garbage());
        let session = world.open(config(stored(&world)));
        assert_eq!(token(&mut world, session).is_ok(), replaces, "{at}");
        assert_eq!(world.storage.states[&name] != garbage(), replaces, "{at}");
        // Nothing is replaced without the lease.
        restart(&mut world);
        world.storage.states.insert(name.clone(), garbage());
        world.storage.leased.insert(name.clone());
        let session = world.open(config(stored(&world)));
        assert!(token(&mut world, session).is_err(), "{at}");
        assert_eq!(world.storage.states[&name], garbage(), "{at}");
        assert!(world.peer.requests.is_empty(), "{at}");
    }
}

#[test]
fn after_a_failed_refresh_the_token_of_another_process_is_used_if_there_is_one() {
    let refused = || ScriptedResponse::Response(response(400, r#"{"error":"invalid_grant"}"#));
    let failures: [&dyn Fn() -> ScriptedResponse; 2] =
        [&refused, &|| ScriptedResponse::NoResponse(Sent::Maybe)];
    for failure in failures {
        for is_saved in [true, false] {
            let (mut world, first) = world();
            world.sleep(1000);
            let theirs = {
                let members = [("access_token", "theirs"), ("refresh_token", "refresh-2")];
                let members = members.map(|(name, value)| (name.to_owned(), json!(value)));
                world.peer.token_members.extend(members);
                world.token(Grant::client_credentials()).unwrap()
            };
            store(&mut world, &SessionState::new(first));
            let session = world.shared.open(stored(&world), world.now);
            let request = sending(&mut world, session).unwrap();
            let caller = waiting(&mut world, session, MINUTE);
            if is_saved {
                // By a process whose lease had expired.
                store(&mut world, &SessionState::new(theirs.clone()));
            }
            world.peer.script.push_back(failure());
            let step = world.step(Step::Send(request));
            finish(&mut world, step);
            let result = woken(&mut world, caller);
            assert!(world.storage.leased.is_empty());
            match result {
                Step::Done(Ok(token)) => assert!(is_saved && token == theirs),
                Step::Done(Err(_)) => assert!(!is_saved),
                step => panic!("{step:?}"),
            }
        }
    }
}

#[test]
fn a_refresh_waits_for_the_lease_of_another_process_and_for_the_token_that_it_saves() {
    let policy = RefreshPolicy::default().refresh_timeout(Duration::from_secs(3));
    for (saved_after, freed_after) in [(Some(4), None), (None, Some(7)), (None, None)] {
        let (mut world, first) = world();
        let theirs = {
            let refresh_token = json!("refresh-2");
            world
                .peer
                .token_members
                .insert("refresh_token".into(), refresh_token);
            world.sleep(1000);
            world.token(Grant::client_credentials()).unwrap()
        };
        let name = name(&world);
        store(&mut world, &SessionState::new(first));
        world.storage.leased.insert(name.clone());
        world.peer.requests.clear();
        let session = world.shared.open(stored(&world).policy(policy), world.now);
        let caller = waiting(&mut world, session, MINUTE);
        let (began, refresh) = (world.now, world.shared.next_refresh(session).unwrap());
        let context = world.context();
        let mut step = world.shared.start(refresh, context);
        let mut waits = 0;
        loop {
            step = match step {
                Step::Done(result) => break result.unwrap(),
                Step::Wait(pause) => {
                    waits += 1;
                    if saved_after == Some(waits) {
                        store(&mut world, &SessionState::new(theirs.clone()));
                    }
                    if freed_after == Some(waits) {
                        world.storage.leased.clear();
                    }
                    let wait = pause.effect.time.saturating_since(world.now);
                    assert_eq!(wait, Duration::from_millis(50));
                    world.step(Step::Wait(pause))
                }
                step => world.step(step),
            };
        }
        let result = woken(&mut world, caller);
        let took = world.now.saturating_since(began);
        match (saved_after, freed_after, result) {
            (Some(times), _, Step::Done(Ok(token))) => {
                assert_eq!((token, waits), (theirs, times));
                assert!(world.peer.requests.is_empty());
                assert!(world.storage.leased.contains(&name), "it is not ours");
            }
            (_, Some(times), Step::Done(Ok(_))) => {
                assert_eq!((waits, sent(&world)), (times, vec!["refresh-1"]));
            }
            (None, None, Step::Done(Err(Error::Storage(_)))) => {
                assert_eq!(took, Duration::from_secs(3));
                assert!(world.peer.requests.is_empty());
            }
            (_, _, step) => panic!("{step:?}"),
        }
    }
    // A repeatable grant needs nobody's lease in the end, and then has its time anew.
    let (mut world, _) = world();
    let name = name(&world);
    world.storage.leased.insert(name);
    let config = stored(&world).grant(Grant::client_credentials());
    let session = world.shared.open(config.policy(policy), world.now);
    let request = sending(&mut world, session).unwrap();
    assert_eq!(request.effect.timeout, Duration::from_millis(1500));
}

#[test]
fn a_token_request_ends_before_the_lease_does() {
    for (refresh_timeout, timeout, expected) in [
        (30, 60, 28_000),
        (30, 30, 28_000),
        (30, 5, 5_000),
        (3, 30, 1_500),
        (4, 30, 2_000),
        (10, 30, 8_000),
    ] {
        let (mut world, first) = world();
        world.sleep(1000);
        store(&mut world, &SessionState::new(first));
        let policy = RefreshPolicy::default();
        let policy = policy.refresh_timeout(Duration::from_secs(refresh_timeout));
        let config = stored(&world).policy(policy);
        let config = config.timeout(Duration::from_secs(timeout));
        let session = world.shared.open(config, world.now);
        let request = sending(&mut world, session).unwrap();
        assert_eq!(
            request.effect.timeout,
            Duration::from_millis(expected),
            "{refresh_timeout} {timeout}"
        );
    }
}

#[test]
fn a_token_that_could_not_be_saved_is_used_and_saved_as_soon_as_that_works() {
    let refused: [&dyn Fn() -> Result<bool, Cause>; 2] =
        [&|| Err(Cause::new("the disk is full")), &|| Ok(false)];
    for refused in refused {
        let (mut world, first) = world();
        world.peer.token_members["refresh_token"] = json!("refresh-2");
        world
            .peer
            .token_members
            .insert("expires_in".into(), json!(10_000));
        world.sleep(1000);
        store(&mut world, &SessionState::new(first.clone()));
        let session = world.shared.open(stored(&world), world.now);
        let caller = waiting(&mut world, session, MINUTE);
        let checkpoint = saving(&mut world, session);
        let mut step = world.step(Step::Save(checkpoint));
        let mut saves = 0;
        let began = world.now;
        loop {
            step = match step {
                Step::Done(result) => break result.unwrap(),
                Step::Save(save) => {
                    saves += 1;
                    if saves == 2 {
                        // Its callers have it already.
                        let context = world.context();
                        let good = world.shared.start(session.token(MINUTE), context);
                        assert!(matches!(good, Step::Done(Ok(_))));
                        assert!(world.shared.is_unsaved(session));
                    }
                    let context = world.context();
                    save.saved(refused(), &mut world.shared, context)
                }
                step => world.step(step),
            };
        }
        let Step::Done(Ok(new)) = woken(&mut world, caller) else {
            panic!("it came")
        };
        assert_eq!(new.refresh_token().unwrap().expose(), "refresh-2");
        // While the lease lasts, which is 30 s; but not over the state of a later holder.
        let took = world.now.saturating_since(began);
        match refused() {
            Ok(_) => assert_eq!((saves, took), (2, Duration::ZERO)),
            Err(_) => assert_eq!((saves, took), (602, Duration::from_secs(30))),
        }
        assert!(world.storage.leased.is_empty());
        assert_eq!(in_storage(&world)["token"]["refresh_token"], "refresh-1");

        // A second later, by a ticket that goes along with a good token.
        world.peer.requests.clear();
        let get = |world: &mut World| {
            let context = world.context();
            match world.shared.start(session.token(MINUTE), context) {
                Step::Done(Ok(token)) => assert_eq!(token, new),
                step => panic!("{step:?}"),
            }
        };
        get(&mut world);
        assert!(world.shared.next_refresh(session).is_none());
        world.sleep(1);
        get(&mut world);
        refresh(&mut world, session);
        assert!(world.peer.requests.is_empty());
        assert_eq!(in_storage(&world)["token"]["refresh_token"], "refresh-2");
        assert!(!world.shared.is_unsaved(session));
    }
}

#[test]
fn a_state_that_was_read_before_a_newer_token_was_saved_does_not_replace_that_token() {
    // The server may send the same refresh token again.
    for refresh_token in ["refresh-1", "refresh-2"] {
        let (mut world, first) = world();
        world.peer.token_members["refresh_token"] = json!(refresh_token);
        world
            .peer
            .token_members
            .insert("expires_in".into(), json!(10_000));
        world.sleep(1000);
        store(&mut world, &SessionState::new(first));
        world.peer.requests.clear();
        let session = world.shared.open(stored(&world), world.now);
        let caller = waiting(&mut world, session, MINUTE);
        let checkpoint = saving(&mut world, session);
        let mut slow = world.step(Step::Save(checkpoint));
        while !matches!(slow, Step::Save(_)) {
            slow = world.step(slow);
        }

        // The first refresh takes longer than its lease, and a second one reads the state.
        world.sleep(31);
        world.storage.leased.clear();
        let Step::Wait(caller) = woken(&mut world, caller) else {
            panic!("there is no token yet")
        };
        let second = world.shared.next_refresh(session).expect("it is due");
        let context = world.context();
        let second = world.shared.start(second, context);
        let Step::Load(load) = world.step(second) else {
            panic!("it has the lease")
        };
        let read = world.storage.states[&load.effect.name].clone();
        finish(&mut world, slow);

        let context = world.context();
        let read = Ok(Some(SecretBytes::new(read)));
        let step = load.loaded(read, &mut world.shared, context);
        finish(&mut world, step);
        let Step::Done(Ok(token)) = woken(&mut world, caller) else {
            panic!("it came")
        };
        assert!(token.expires_at().is_some_and(|end| end > world.now));
        assert_eq!(world.peer.requests.len(), 1);
        let stored = in_storage(&world);
        assert_eq!(stored["token"]["refresh_token"], refresh_token);
        assert_eq!(
            stored["token"]["access_token"],
            token.access_token().expose()
        );
    }
}

#[test]
fn the_nonces_that_another_process_has_stored_are_used() {
    let (mut world, first) = world();
    let state = SessionState::new(first).with_server_state(world.server_state().clone());
    restart(&mut world);
    store(&mut world, &state);
    let session = world.open(stored(&world));
    assert_eq!(world.server_state().to_json(), "[]");
    token(&mut world, session).unwrap();
    let json = json_of(&state);
    assert!(
        json["server_state"]
            .as_array()
            .is_some_and(|servers| !servers.is_empty())
    );
    assert!(world.server_state().to_json().contains("rs-2"));
}

#[test]
fn a_closed_session_ends_its_tasks_and_starts_no_refresh() {
    let mut world = World::with(Peer::bound());
    let session = world.shared.open(client_credentials(&world), START);
    let caller = waiting(&mut world, session, MINUTE);
    world.shared.close(session);
    assert_ne!(
        caller.effect.unless_generation,
        Some(world.shared.generation())
    );
    assert!(matches!(
        woken(&mut world, caller),
        Step::Done(Err(Error::LoginRequired))
    ));
    assert!(world.shared.next_refresh(session).is_none());
    assert_eq!(token(&mut world, session), Err(Error::LoginRequired));

    // One that is under way ends as soon as it can.
    let session = world.shared.open(client_credentials(&world), START);
    let request = sending(&mut world, session).unwrap();
    world.shared.close(session);
    let step = world.step(Step::Send(request));
    assert!(matches!(step, Step::Done(Ok(()))));
}

#[test]
fn an_application_may_get_its_tokens_by_itself() {
    let mut world = World::with(Peer::bearer());
    let config = SessionConfig::new(world.client())
        .grant(Grant::client_credentials())
        .fetch_tokens();
    let session = world.open(config);
    assert!(matches!(
        token(&mut world, session),
        Err(Error::TokenSource(_))
    ));
    world.sleep(1);
    world.own_token = Some(json!({ "access_token": "own", "expires_in": 100 }));
    let own = token(&mut world, session).unwrap();
    assert_eq!(own.access_token().expose(), "own");
    world.own_token = Some(json!({ "access_token": 7 }));
    world.sleep(100);
    assert!(matches!(
        token(&mut world, session),
        Err(Error::Response(_))
    ));
    assert!(world.peer.requests.is_empty());
}

fn call(world: &mut World, session: SessionId, single_use: bool) -> Result<Called, Error> {
    let request = Request::get(RESOURCE_URL).body(()).unwrap();
    let call = session.call(&Method::GET, request.uri()).unwrap();
    let call = if single_use {
        call.single_use_body()
    } else {
        call
    };
    world.perform(call, request)
}

fn get_token(world: &mut World, session: SessionId) -> Token {
    token(world, session).unwrap()
}

fn rejections(world: &mut World, times: usize) {
    let rejection = || with_header(response(401, ""), "www-authenticate", "Bearer");
    let script = (0..times).map(|_| ScriptedResponse::Response(rejection()));
    world.peer.script.extend(script);
}

#[test]
fn a_call_whose_token_is_rejected_is_sent_once_more_with_a_new_one() {
    for peer in [Peer::bound(), Peer::bearer()] {
        let mut world = World::with(peer);
        let session = world.open(client_credentials(&world).label("reports"));
        let first = get_token(&mut world, session);
        rejections(&mut world, 1);
        let ok = Called::Delivered(StatusCode::OK);
        assert_eq!(call(&mut world, session, false).unwrap(), ok);
        // The token, the rejection, another token, the call.
        assert_eq!(world.peer.requests.len(), 4);
        assert_ne!(get_token(&mut world, session), first);
        let reasons: Vec<_> = world.retries.iter().map(|retry| retry.reason).collect();
        assert_eq!(reasons, [Reason::TokenRejected]);
        let rejected = &world.retries[0].attempt;
        assert_eq!((rejected.number, rejected.role), (1, Role::ResourceServer));
        assert_eq!(rejected.server, "https://rs.example");
        assert_eq!(rejected.session.as_deref(), Some("reports"));
    }
}

#[test]
fn a_call_whose_token_is_new_is_not_sent_again_when_it_is_rejected() {
    // The token of before the call, then a new one, or a new one at once.
    for (has_token, sends) in [(true, 2), (false, 1)] {
        let mut world = World::with(Peer::bound());
        let session = world.open(client_credentials(&world));
        if has_token {
            get_token(&mut world, session);
        }
        assert_eq!(rejected_sends(&mut world, session), sends, "{has_token}");
    }
}

/// How often a call is sent whose token is always rejected.
fn rejected_sends(world: &mut World, session: SessionId) -> usize {
    let uri = RESOURCE_URL.parse().unwrap();
    let call = session.call(&Method::GET, &uri).unwrap();
    let context = world.context();
    let mut step = world.shared.start(call, context);
    let mut sent = 0;
    loop {
        while let Some(refresh) = world.shared.next_refresh(session) {
            world.run(refresh).unwrap();
        }
        step = match step {
            Step::Call(call) => {
                sent += 1;
                let (context, headers) = (world.context(), http::HeaderMap::new());
                let unauthorized = StatusCode::UNAUTHORIZED;
                call.received(unauthorized, &headers, &mut world.shared, context)
            }
            Step::Done(delivered) => {
                assert!(delivered.unwrap().token_rejected);
                return sent;
            }
            step => world.step(step),
        };
    }
}

#[test]
fn a_rejection_is_the_result_where_no_other_token_comes_or_nothing_can_be_sent_again() {
    let mut world = World::with(Peer::bound());
    let session = world.open(client_credentials(&world));
    let first = get_token(&mut world, session);
    // A body that is gone; but the token is replaced for the next call.
    rejections(&mut world, 1);
    assert_eq!(call(&mut world, session, true).unwrap(), Called::Rejected);
    assert_eq!(world.peer.requests.len(), 2);
    let second = get_token(&mut world, session);
    assert_ne!(second, first);
    // A refresh that fails is no error of the call: the application has a response.
    rejections(&mut world, 1);
    let refused = response(400, r#"{"error":"invalid_client"}"#);
    world
        .peer
        .script
        .push_back(ScriptedResponse::Response(refused));
    assert_eq!(call(&mut world, session, false).unwrap(), Called::Rejected);
    // Without a usable token there is none.
    let error = call(&mut world, session, false).unwrap_err();
    assert!(matches!(error, Error::Server(_)), "{error}");
}

#[test]
fn a_log_out_that_a_later_lease_has_overtaken_is_saved_again() {
    let (mut world, first) = world();
    let session = world.open(stored(&world).token(first));
    let context = world.context();
    let mut step = world.shared.start(session.log_out(), context);
    let mut saves = 0;
    let out = loop {
        step = match step {
            Step::Done(out) => break out.unwrap(),
            Step::Save(save) => {
                saves += 1;
                let context = world.context();
                if saves < 4 {
                    save.saved(Ok(false), &mut world.shared, context)
                } else {
                    world.step(Step::Save(save))
                }
            }
            step => world.step(step),
        };
    };
    assert!(out.is_some());
    assert_eq!((saves, world.waits.len()), (4, 3));
    assert_eq!(in_storage(&world)["logged_out"], true);
}

#[test]
fn a_log_out_during_a_refresh_is_not_undone_by_its_token() {
    for is_stored in [true, false] {
        let (mut world, first) = world();
        world.sleep(1000);
        let config = match is_stored {
            true => stored(&world),
            false => SessionConfig::new(world.client()),
        };
        let config = config.state(Some(SessionState::new(first.clone())));
        store(&mut world, &SessionState::new(first));
        let session = world.shared.open(config, world.now);
        let request = sending(&mut world, session).unwrap();
        let context = world.context();
        let out = world.shared.start(session.log_out(), context);
        let answer = json_response(200, &members(&world));
        let context = world.context();
        let step = request.received(&answer, &mut world.shared, context);
        finish(&mut world, step);
        let mut step = out;
        let out = loop {
            step = match step {
                Step::Done(out) => break out,
                step => world.step(step),
            };
        };
        assert!(out.unwrap().is_some());
        assert_eq!(token(&mut world, session), Err(Error::LoginRequired));
        if is_stored {
            assert_eq!(in_storage(&world)["logged_out"], true);
            assert!(world.storage.saved.iter().all(|state| {
                state["token"]["access_token"] != members(&world)["access_token"]
            }));
        }
    }
}

/// It is due for a refresh, and good all the same.
#[test]
fn a_process_that_starts_uses_the_stored_token_while_it_refreshes_it() {
    for is_repeatable in [false, true] {
        let (mut world, first) = world();
        let config = match is_repeatable {
            true => stored(&world).grant(Grant::client_credentials()),
            false => stored(&world),
        };
        store(&mut world, &SessionState::new(first.clone()));
        world.peer.requests.clear();
        let session = world.shared.open(config, world.now);
        world.sleep(95); // of 100
        let caller = waiting(&mut world, session, MINUTE);
        assert_eq!(
            world.shared.newly_due(session),
            Some(RefreshPurpose::Obtain)
        );
        let load = world.shared.next_refresh(session).expect("it is due");
        world.run(load).unwrap();
        assert_eq!(got(&mut world, caller), Ok(first.clone()));
        assert!(world.peer.requests.is_empty());
        // The server may hang now: the token is replaced in the background.
        assert_eq!(
            world.shared.newly_due(session),
            Some(RefreshPurpose::Replace)
        );
        let refresh = world.shared.next_refresh(session).expect("it is due");
        world.run(refresh).unwrap();
        assert_eq!(world.shared.newly_due(session), None);
        let token = self::token(&mut world, session).unwrap();
        assert!(token.expires_at() > first.expires_at());
    }
}

/// A driver may run only so many at a time.
#[test]
fn a_refresh_that_starts_late_takes_the_place_of_earlier_ones_and_has_its_whole_time() {
    let (mut world, _) = world();
    let config = client_credentials(&world);
    let session = world.shared.open(config, world.now);
    let mut callers = Vec::new();
    for _ in 0..3 {
        callers.push(waiting(&mut world, session, 10 * MINUTE));
        world.sleep(40); // longer than a refresh may take
    }
    let refresh = world.shared.next_refresh(session).expect("it is due");
    assert!(
        world.shared.next_refresh(session).is_none(),
        "one is enough"
    );
    let context = world.context();
    let step = world.shared.start(refresh, context);
    // No other one starts beside it.
    callers.push(waiting(&mut world, session, 10 * MINUTE));
    assert_eq!(world.shared.newly_due(session), None);
    finish(&mut world, step);
    for caller in callers {
        assert!(got(&mut world, caller).is_ok());
    }
    assert!(!world.shared.is_refreshing(session));
}

/// A retry without a delay is one step with the response that causes it.
#[test]
fn a_log_out_ends_a_token_request_whose_retry_would_not_wait() {
    let (mut world, _) = world();
    let config = SessionConfig::new(world.client()).grant(Grant::client_credentials());
    let session = world.shared.open(config, world.now);
    let request = sending(&mut world, session).unwrap();
    world.run(session.log_out()).unwrap();
    let mut busy = json_response(503, &json!({}));
    busy.headers_mut()
        .insert("retry-after", HeaderValue::from_static("0"));
    let context = world.context();
    let step = request.received(&busy, &mut world.shared, context);
    assert!(matches!(step, Step::Done(_)), "{step:?}");
}

#[test]
fn a_log_out_ends_a_call_whose_retry_would_not_wait() {
    let mut busy = HeaderMap::new();
    busy.insert("retry-after", HeaderValue::from_static("0"));
    for peer in [Peer::bearer(), Peer::bound()] {
        let mut world = World::with(peer);
        let token = world.token(Grant::client_credentials()).unwrap();
        let config = SessionConfig::new(world.client()).token(token);
        let session = world.shared.open(config, world.now);
        let call = session
            .call(&Method::GET, &RESOURCE_URL.parse().unwrap())
            .unwrap();
        let context = world.context();
        let mut step = world.shared.start(call, context);
        let call = loop {
            step = match step {
                Step::Call(call) => break call,
                step => world.step(step),
            };
        };
        world.run(session.log_out()).unwrap();
        let context = world.context();
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let step = call.received(status, &busy, &mut world.shared, context);
        assert!(
            matches!(step, Step::Done(Err(Error::LoginRequired))),
            "{step:?}"
        );
    }
}

/// One driver may have a state for each user: a mixed-up id gives no user the token of another.
#[test]
fn a_session_of_another_driver_is_none() {
    let ((mut one, token), (mut other, _)) = (world(), world());
    let session = |world: &mut World| {
        let config = SessionConfig::new(world.client()).token(token.clone());
        world.shared.open(config, START)
    };
    let (of_one, of_other) = (session(&mut one), session(&mut other));
    let is_there = |world: &mut World, session: SessionId| {
        let context = world.context();
        match world.shared.start(session.token(MINUTE), context) {
            Step::Done(result) => result.is_ok(),
            step => panic!("it waits for nothing: {step:?}"),
        }
    };
    assert!(is_there(&mut one, of_one) && is_there(&mut other, of_other));
    assert!(!is_there(&mut one, of_other) && !is_there(&mut other, of_one));
}
