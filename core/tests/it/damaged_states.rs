//! Stored states that a crash, an editor or an attacker has changed, and storages of which only a part works.

use keybound_core::driver::{Event, SessionConfig, SessionState};
use keybound_core::{Error, Grant, Token};

use crate::peer::Peer;
use crate::session_state::{in_storage, json_of, name, sent, store, stored, token, world};
use crate::world::{START, World};

/// What becomes of a state.
type Damage = fn(&[u8]) -> Vec<u8>;

const PLACE: &str = "/var/lib/app/s.session";

/// Worlds in whose storages a good state has become what disks, editors and interrupted copies leave behind.
/// Each with that state.
fn damaged() -> impl Iterator<Item = (World, Token, Vec<u8>)> {
    let damage: [Damage; 9] = [
        |_| Vec::new(),
        |good| good[..good.len() / 2].to_vec(),
        |good| good[..good.len() - 1].to_vec(),
        |good| vec![0; good.len()],
        |good| [good, &[0; 12]].concat(),
        |_| b"null".to_vec(),
        |_| b"{}".to_vec(),
        |_| b"\xEF\xBB\xBF".to_vec(),
        |good| good.iter().flat_map(|byte| [*byte, 0]).collect(), // as UTF-16
    ];
    damage.into_iter().map(|damage| {
        let (mut world, token) = world();
        world.peer.requests.clear();
        let state = damage(SessionState::new(token.clone()).to_json().expose());
        let name = name(&world);
        world.storage.states.insert(name, state.clone());
        (world, token, state)
    })
}

fn at_place(world: &World) -> SessionConfig {
    stored(world).stored_at(PLACE)
}

fn has_named_the_place(world: &World) -> bool {
    world.events.iter().any(
        |event| matches!(event, Event::StorageUnavailable(event) if event.cause.to_string().starts_with(PLACE)),
    )
}

#[test]
fn a_damaged_state_is_named_and_a_new_login_replaces_it() {
    for (mut world, first, state) in damaged() {
        let config = at_place(&world);
        let session = world.open(config);
        assert_eq!(token(&mut world, session), Err(Error::LoginRequired));
        assert!(has_named_the_place(&world), "{:?}", world.events);
        // Nothing was sent, and the evidence stays until there is a new login.
        assert!(sent(&world).is_empty());
        assert_eq!(world.storage.states[&name(&world)], state);
        assert!(world.storage.leased.is_empty());

        let config = at_place(&world).token(first.clone());
        let session = world.open(config);
        assert_eq!(token(&mut world, session), Ok(first.clone()));
        let stored = json_of(&SessionState::new(first));
        assert_eq!(in_storage(&world)["token"], stored["token"]);
    }
}

#[test]
fn a_session_with_a_repeatable_grant_replaces_a_damaged_state() {
    for (mut world, _, _) in damaged() {
        let config = at_place(&world).grant(Grant::client_credentials());
        let session = world.open(config);
        let new = token(&mut world, session).unwrap();
        assert!(has_named_the_place(&world), "{:?}", world.events);
        let access = new.access_token().expose();
        assert_eq!(in_storage(&world)["token"]["access_token"], access);
    }
}

/// Another process may be about to replace it.
#[test]
fn a_damaged_state_counts_only_under_the_lease() {
    let (mut world, first) = world();
    let name = name(&world);
    world.storage.states.insert(name.clone(), Vec::new());
    world.storage.leased.insert(name);
    let config = at_place(&world);
    let session = world.open(config);
    let result = token(&mut world, session);
    assert!(matches!(result, Err(Error::Storage(_))), "{result:?}");
    store(&mut world, &SessionState::new(first.clone()));
    world.sleep(5);
    assert_eq!(token(&mut world, session), Ok(first));
}

#[test]
fn a_byte_order_mark_costs_no_login() {
    let (mut world, first) = world();
    let json = SessionState::new(first.clone()).to_json();
    let name = name(&world);
    let marked = [b"\xEF\xBB\xBF", json.expose()].concat();
    world.storage.states.insert(name, marked);
    let session = world.open(stored(&world));
    assert_eq!(token(&mut world, session), Ok(first));
}

/// As in a folder that is read-only, or while the leader of a database is being replaced.
#[test]
fn a_good_token_needs_no_lease() {
    let (mut world, first) = world();
    store(&mut world, &SessionState::new(first.clone()));
    world.storage.leases_fail = true;
    world.peer.requests.clear();
    let session = world.open(stored(&world));
    assert_eq!(token(&mut world, session), Ok(first));
    // One that has expired does.
    world.sleep(1000);
    let result = token(&mut world, session);
    let Err(Error::Storage(cause)) = result else {
        panic!("it needs the lease: {result:?}")
    };
    assert_eq!(cause.to_string(), "no leases");
    assert!(world.peer.requests.is_empty());
    // A log-out is seen without a lease as well.
    let (mut world, first) = self::world();
    store(&mut world, &SessionState::new(first));
    let session = world.open(stored(&world));
    world.run(session.log_out()).unwrap();
    world.storage.leases_fail = true;
    let other = world.open(stored(&world));
    assert_eq!(token(&mut world, other), Err(Error::LoginRequired));
}

/// Whoever can write to the storage but has no key could otherwise have requests sent with a token of their own.
#[test]
fn an_unbound_token_is_not_taken_for_that_of_a_client_with_a_key() {
    let planted = {
        let mut other = World::with(Peer::bearer());
        other.token(Grant::client_credentials()).unwrap()
    };
    let (mut world, _) = world();
    store(&mut world, &SessionState::new(planted.clone()));
    let config = at_place(&world);
    let session = world.open(config);
    assert_eq!(token(&mut world, session), Err(Error::LoginRequired));
    assert!(has_named_the_place(&world), "{:?}", world.events);

    // Google's access tokens stay unbound, and its refresh tokens are bound.
    let client = world.client().accept_bearer();
    let json = SessionState::new(planted.clone()).to_json();
    let restored = SessionState::from_json(json.expose(), &client, START).unwrap();
    assert_eq!(
        restored.token().map(Token::access_token),
        Some(planted.access_token())
    );
}
