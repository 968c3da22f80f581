//! How often a refresh token is sent whose answer is lost.

use keybound_core::driver::SessionConfig;
use keybound_core::{Error, Grant, Sent};
use serde_json::json;

use crate::peer::{ScriptedResponse, response};
use crate::session_state::{in_storage, restart, scripted, sent, store, stored, token, world};
use crate::world::World;

fn lost() -> ScriptedResponse {
    ScriptedResponse::NoResponse(Sent::Maybe)
}

fn config(world: &World, is_stored: bool) -> SessionConfig {
    match is_stored {
        true => stored(world),
        false => SessionConfig::new(world.client()),
    }
}

#[test]
fn a_refresh_token_is_sent_ten_times_at_most_without_an_answer() {
    for is_stored in [true, false] {
        let (mut world, first) = world();
        let session = world.open(config(&world, is_stored).token(first));
        world.sleep(1000);
        world.peer.requests.clear();
        for attempt in 1..=10_usize {
            world.peer.script.push_back(lost());
            let error = token(&mut world, session).unwrap_err();
            assert!(matches!(error, Error::NoResponse(_)), "{attempt}: {error}");
            assert_eq!(sent(&world).len(), attempt);
            if is_stored {
                assert_eq!(in_storage(&world)["attempts_left"], 10 - attempt);
            }
            world.sleep(10);
        }
        assert!(!world.shared.is_open(session, world.now));
        for _ in 0..3 {
            assert_eq!(token(&mut world, session), Err(Error::LoginRequired));
            world.sleep(10);
        }
        assert_eq!(sent(&world), ["refresh-1"; 10]);
    }
}

#[test]
fn a_lost_answer_counts_for_all_processes_and_a_new_refresh_token_begins_anew() {
    for (before, after) in [(9, 1), (4, 6), (1, 9)] {
        let (mut world, first) = world();
        store(&mut world, &keybound_core::driver::SessionState::new(first));
        world.sleep(1000);
        for (losses, is_last) in [(before, false), (after, true)] {
            restart(&mut world);
            let session = world.open(stored(&world));
            for _ in 0..losses {
                world.peer.script.push_back(lost());
                assert!(token(&mut world, session).is_err());
                world.sleep(10);
            }
            assert_eq!(sent(&world).len(), losses);
            if is_last {
                assert_eq!(token(&mut world, session), Err(Error::LoginRequired));
                assert_eq!(sent(&world).len(), losses);
            }
        }
    }
    let (mut world, first) = world();
    let session = world.open(stored(&world).token(first));
    world.peer.rotates_refresh_tokens = true;
    world.peer.token_members.remove("refresh_token");
    for _ in 0..3 {
        world.sleep(1000);
        for _ in 0..9 {
            world.peer.script.push_back(lost());
            assert!(token(&mut world, session).is_err());
            world.sleep(10);
        }
        assert!(token(&mut world, session).is_ok());
        assert_eq!(in_storage(&world)["attempts_left"], 10);
    }
}

#[test]
fn a_refresh_token_that_was_certainly_not_sent_is_not_counted() {
    for is_stored in [true, false] {
        let (mut world, first) = world();
        let session = world.open(config(&world, is_stored).token(first));
        world.sleep(1000);
        world.peer.requests.clear();
        for _ in 0..25 {
            scripted(&mut world, || ScriptedResponse::NoResponse(Sent::No));
            assert!(token(&mut world, session).is_err());
            world.peer.script.clear();
            assert_eq!(sent(&world), ["refresh-1"; 4]);
            world.peer.requests.clear();
            world.sleep(10);
        }
        if is_stored {
            assert_eq!(in_storage(&world)["attempts_left"], 10);
        }
        assert!(token(&mut world, session).is_ok());
        assert_eq!(sent(&world), ["refresh-1"]);
    }
}

#[test]
fn a_refusal_of_the_refresh_token_is_final() {
    for (body, is_final) in [
        (r#"{"error":"invalid_grant"}"#, true),
        (r#"{"error":"expired_token"}"#, true),
        (r#"{"error":"interaction_required"}"#, true),
        (r#"{"error":"invalid_client"}"#, false),
        (r#"{"error":"invalid_scope"}"#, false),
        ("", false),
    ] {
        for is_stored in [true, false] {
            let (mut world, first) = world();
            let session = world.open(config(&world, is_stored).token(first));
            world.sleep(1000);
            world.peer.requests.clear();
            world
                .peer
                .script
                .push_back(ScriptedResponse::Response(response(400, body)));
            assert!(matches!(token(&mut world, session), Err(Error::Server(_))));
            world.sleep(10);
            assert_eq!(token(&mut world, session).is_err(), is_final, "{body}");
            assert_eq!(sent(&world).len(), if is_final { 1 } else { 2 }, "{body}");
            if is_stored && is_final {
                // No later process sends it either.
                restart(&mut world);
                let session = world.open(stored(&world));
                assert_eq!(token(&mut world, session), Err(Error::LoginRequired));
                assert!(sent(&world).is_empty());
            }
        }
    }
}

#[test]
fn a_repeatable_grant_is_sent_as_often_as_it_takes() {
    let (mut world, _) = world();
    let session = world.open(stored(&world).grant(Grant::client_credentials()));
    for _ in 0..15 {
        scripted(&mut world, lost);
        assert!(token(&mut world, session).is_err());
        world.peer.script.clear();
        world.sleep(10);
    }
    assert!(token(&mut world, session).is_ok());
    assert_eq!(in_storage(&world)["attempts_left"], json!(10));
}
