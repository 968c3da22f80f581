//! A log-out is stored, and ends the session for every process.

use keybound_core::driver::{Event, SessionConfig, SessionId, SessionState};
use keybound_core::{Error, Grant, Secret, Token};
use serde_json::json;

use crate::peer::{ScriptedResponse, json_response};
use crate::session_state::{in_storage, members, name, restart, sent, store, stored, token, world};
use crate::world::World;

/// A session of another process, which has loaded the state of this login, and one that logs out.
fn two(world: &mut World, first: Token) -> (SessionId, SessionId) {
    store(world, &SessionState::new(first));
    let (one, other) = (world.open(stored(world)), world.open(stored(world)));
    token(world, one).unwrap();
    token(world, other).unwrap();
    world.peer.requests.clear();
    (one, other)
}

fn log_out(world: &mut World, session: SessionId) {
    assert!(world.run(session.log_out()).unwrap().is_some());
    let tombstone = in_storage(world);
    assert_eq!(tombstone["logged_out"], true);
    assert!(tombstone.get("token").is_none(), "{tombstone}");
    assert!(world.storage.leased.is_empty());
}

fn refresh_token(text: &str) -> Grant {
    Grant::refresh_token(Secret::new(text)).unwrap()
}

/// The next token response, with these members.
fn answer(world: &mut World, refresh_token: &str) {
    world
        .peer
        .token_members
        .insert("refresh_token".into(), json!(refresh_token));
    let answer = json_response(200, &members(world));
    world
        .peer
        .script
        .push_back(ScriptedResponse::Response(answer));
}

#[test]
fn a_log_out_by_another_process_ends_the_session_and_is_not_undone() {
    let (mut world, first) = world();
    let (one, other) = two(&mut world, first);
    log_out(&mut world, one);
    // The other one uses its token as long as it is good, and then doesn't refresh it.
    assert!(token(&mut world, other).is_ok());
    world.sleep(1000);
    for _ in 0..2 {
        assert_eq!(token(&mut world, other), Err(Error::LoginRequired));
        world.sleep(1000);
    }
    assert!(world.peer.requests.is_empty());
    assert_eq!(in_storage(&world)["logged_out"], true);
    assert!(!world.shared.is_open(other, world.now));
    assert!(world.events.iter().any(
        |event| matches!(event, Event::RefreshFailed(event) if event.error == Error::LoginRequired)
    ));
    // Nor does one that starts now.
    restart(&mut world);
    let later = world.open(stored(&world));
    assert_eq!(token(&mut world, later), Err(Error::LoginRequired));
    assert_eq!(in_storage(&world)["logged_out"], true);
}

#[test]
fn a_login_that_the_log_out_ended_does_not_begin_again_by_its_old_tokens() {
    let (mut world, first) = world();
    world.peer.rotates_refresh_tokens = true;
    let session = world.open(stored(&world).token(first.clone()));
    let mut tokens = vec![first];
    for number in 2..5 {
        world.sleep(1000);
        let refresh_token = json!(format!("refresh-{number}"));
        world
            .peer
            .token_members
            .insert("refresh_token".into(), refresh_token);
        tokens.push(token(&mut world, session).unwrap());
    }
    log_out(&mut world, session);
    for old in tokens {
        let text = old.refresh_token().unwrap().expose().to_owned();
        type Given<'a> = &'a dyn Fn(SessionConfig) -> SessionConfig;
        let cases: [Given<'_>; 2] = [&|config| config.token(old.clone()), &|config| {
            config.grant(refresh_token(&text))
        }];
        for given in cases {
            restart(&mut world);
            let session = world.open(given(stored(&world)));
            world.sleep(1000);
            assert_eq!(
                token(&mut world, session),
                Err(Error::LoginRequired),
                "{text}"
            );
            assert!(sent(&world).is_empty(), "{text}");
            assert_eq!(in_storage(&world)["logged_out"], true, "{text}");
        }
    }
}

#[test]
fn a_new_login_is_saved_over_the_log_out_of_an_earlier_one() {
    let (mut world, first) = world();
    let session = world.open(stored(&world).token(first));
    log_out(&mut world, session);
    let tombstone = world.storage.states[&name(&world)].clone();
    let stranger = {
        answer(&mut world, "another");
        world.token(Grant::client_credentials()).unwrap()
    };
    let code = || Grant::extension("code").unwrap();
    type Given<'a> = &'a dyn Fn(SessionConfig) -> SessionConfig;
    let cases: [(Given<'_>, &str); 4] = [
        (&|config| config.token(stranger.clone()), "another"),
        (&|config| config.grant(refresh_token("another")), "new"),
        (&|config| config.grant(code()), "new"),
        (&|config| config.grant(Grant::client_credentials()), "new"),
    ];
    for (at, (given, stored_token)) in cases.into_iter().enumerate() {
        restart(&mut world);
        let name = name(&world);
        world.storage.states.insert(name, tombstone.clone());
        world.peer.grant_type = Some("code".into());
        world.peer.script.clear();
        answer(&mut world, "new");
        let session = world.open(given(stored(&world)));
        assert!(token(&mut world, session).is_ok(), "{at}");
        let state = in_storage(&world);
        assert_eq!(state["token"]["refresh_token"], stored_token, "{at}");
        assert!(state.get("logged_out").is_none(), "{at}");
    }
}

#[test]
fn a_state_that_has_vanished_since_it_was_loaded_is_a_log_out() {
    let (mut world, first) = world();
    let (one, other) = two(&mut world, first);
    let name = name(&world);
    world.storage.states.remove(&name);
    world.sleep(1000);
    for session in [one, other] {
        assert_eq!(token(&mut world, session), Err(Error::LoginRequired));
        world.sleep(1000);
        assert_eq!(token(&mut world, session), Err(Error::LoginRequired));
    }
    assert!(world.peer.requests.is_empty());
    assert!(!world.storage.states.contains_key(&name));
}

#[test]
fn a_state_that_was_never_there_is_no_log_out() {
    let (mut world, first) = world();
    for grant in [Grant::client_credentials(), Grant::extension("x").unwrap()] {
        restart(&mut world);
        world.storage.states.clear();
        world.peer.grant_type = Some("x".into());
        let session = world.open(stored(&world).grant(grant));
        assert!(token(&mut world, session).is_ok());
        assert!(in_storage(&world).get("token").is_some());
    }
    restart(&mut world);
    world.storage.states.clear();
    let session = world.open(stored(&world).token(first));
    assert!(in_storage(&world).get("token").is_some());
    assert!(token(&mut world, session).is_ok());
}

#[test]
fn a_session_with_a_repeatable_grant_outlives_a_vanished_state_and_another_ones_log_out() {
    for is_removed in [true, false] {
        let (mut world, _) = world();
        let config = |world: &World| stored(world).grant(Grant::client_credentials());
        let (one, other) = (world.open(config(&world)), world.open(config(&world)));
        token(&mut world, one).unwrap();
        token(&mut world, other).unwrap();
        let name = name(&world);
        match is_removed {
            true => drop(world.storage.states.remove(&name)),
            false => log_out(&mut world, one),
        }
        world.sleep(1000);
        assert!(token(&mut world, other).is_ok(), "{is_removed}");
        assert!(in_storage(&world).get("token").is_some());
        assert_eq!(token(&mut world, one).is_err(), !is_removed);
    }
}

#[test]
fn a_log_out_waits_for_the_refresh_of_another_process_and_then_is_saved_over_its_token() {
    let (mut world, first) = world();
    let session = world.open(stored(&world).token(first));
    let name = name(&world);
    world.storage.leased.insert(name.clone());
    // Nobody gives the lease back.
    assert!(matches!(
        world.run(session.log_out()),
        Err(Error::Storage(_))
    ));
    assert!(in_storage(&world).get("token").is_some());
    // Here it is over in any case.
    assert_eq!(token(&mut world, session), Err(Error::LoginRequired));
    world.storage.leased.clear();
    world.run(session.log_out()).unwrap();
    assert_eq!(in_storage(&world)["logged_out"], true);
}
