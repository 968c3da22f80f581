//! A process is killed at any instant of a refresh, and the next goes on with what it left in its folder.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::{env, fs};

use fastrand::Rng;
use keybound_ureq::driver::SessionState;
use keybound_ureq::jose::SigningKey;
use keybound_ureq::storage::{FileStorage, Storage as _};
use keybound_ureq::{Client, Grant, RefreshPolicy, Retry, Session, Transport, UnixTime};
use serde_json::Value;
use ureq::http::Request;

use crate::support::peer::{Grants, Nonces, Peer, Settings, client};
use crate::support::{alone, child, end_with_parent, new_key, read_key, setting, wait_for};

const TEST: &str = "crash::a_process_killed_during_a_refresh_leaves_a_session_that_goes_on";

/// The name of the session.
const NAME: &str = "s";

/// The maximum number of sends of a refresh token: one, and one more after a crash.
const MAX_SINGLE_USE_SENDS: u32 = 2;

#[derive(Default, Debug)]
struct Figures {
    kills: u32,
    /// The server had given a refresh token that was never stored.
    with_a_token_lost: u32,
    /// Nothing was lost, but the refresh token that is stored had been sent, or was about to be.
    with_an_attempt_used: u32,
    /// A file was being written.
    with_a_file_unfinished: u32,
    /// What the strict server makes of lost tokens.
    new_logins: u32,
}

#[test]
fn a_process_killed_during_a_refresh_leaves_a_session_that_goes_on() {
    if let Ok(folder) = env::var("KEYBOUND_CRASH_FOLDER") {
        refresh_for_ever(
            Path::new(&folder),
            env::var("KEYBOUND_CRASH_PEER").unwrap().parse().unwrap(),
        );
    }
    let _alone = alone();
    let kills = setting("KEYBOUND_KILLS", 200);
    let seed = setting("KEYBOUND_SEED", 1);
    for grants in [Grants::Grace, Grants::Strict] {
        let figures = kill(grants, kills / 2, &mut Rng::with_seed(seed));
        println!("{grants:?}: {figures:?}");
        assert!(figures.with_a_token_lost > 0, "no kill was in time");
        assert_eq!(figures.new_logins > 0, grants == Grants::Strict);
    }
}

/// What the process does that is killed: each token is good for one call, so it refreshes all the time.
fn refresh_for_ever(folder: &Path, peer: SocketAddr) -> ! {
    end_with_parent();
    let key = read_key(&folder.join("key.pem").display().to_string());
    let session = session(folder, peer, key, None);
    loop {
        call(&session, peer).unwrap();
    }
}

fn kill(grants: Grants, kills: u32, rng: &mut Rng) -> Figures {
    let folder = tempfile::tempdir().unwrap();
    let key = new_key(&folder.path().join("key.pem"));
    let peer = Peer::new(Settings {
        grants,
        nonces: Nonces::No,
        life: Duration::from_secs(3600),
    });
    peer.state().good_for_one_call = true;
    let server = peer.serve();
    let key = || SigningKey::from_pkcs8_pem(key.to_pkcs8_pem().expose()).unwrap();
    let client = client(server.address).dpop(key().public().clone());
    log_in(folder.path(), server.address, key());

    let mut figures = Figures::default();
    while figures.kills < kills {
        let asked_before = peer.state().token_requests;
        let environment = BTreeMap::from([
            ("KEYBOUND_CRASH_FOLDER", folder.path().display().to_string()),
            ("KEYBOUND_CRASH_PEER", server.address.to_string()),
        ]);
        let mut process = child(TEST, &environment);
        wait_for("a refresh", Duration::from_secs(30), || {
            peer.state().token_requests > asked_before
        });
        thread::sleep(Duration::from_micros(rng.u64(0..20_000)));
        process.kill().unwrap();
        assert!(!process.wait().unwrap().success());
        figures.kills += 1;

        let storage = FileStorage::new(folder.path()).unwrap();
        assert!(
            storage
                .lease(&stored_as(&client), Duration::ZERO)
                .unwrap()
                .is_some(),
            "the lock was left behind"
        );
        let (refresh_token, attempts_left) = stored_token(&storage, &client);
        let is_newest = || peer.state().current.as_ref() == Some(&refresh_token);
        figures.with_a_token_lost += u32::from(!is_newest());
        figures.with_an_attempt_used +=
            u32::from(is_newest() && attempts_left < MAX_SINGLE_USE_SENDS);
        let is_unfinished = |path: &Path| path.extension().is_some_and(|end| end == "new");
        let paths = fs::read_dir(folder.path()).unwrap();
        let mut paths = paths.map(|entry| entry.unwrap().path());
        figures.with_a_file_unfinished += u32::from(paths.any(|path| is_unfinished(&path)));

        // The next process.
        if !goes_on(
            &session(folder.path(), server.address, key(), None),
            server.address,
        ) {
            assert_eq!(grants, Grants::Strict);
            assert!(
                !is_newest(),
                "{refresh_token} was stored, and good, and the session ended"
            );
            figures.new_logins += 1;
            log_in(folder.path(), server.address, key());
        }
        let state = peer.state();
        assert!(
            state
                .presented
                .values()
                .all(|times| *times <= MAX_SINGLE_USE_SENDS),
            "{:?}",
            state.presented
        );
        assert_eq!(state.wrongs, Vec::<String>::new());
    }
    figures
}

/// Whether the session has another token in the end, without a new login.
fn goes_on(session: &Session, peer: SocketAddr) -> bool {
    for _ in 0..3 {
        match call(session, peer) {
            Ok(200) => return true,
            Err(retry) => {
                assert_eq!(retry, Retry::Reauthenticate);
                return false;
            }
            // The stored token is dead, and there is no other. Why, is said next time.
            Ok(status) => assert_eq!(status, 401),
        }
    }
    panic!("it neither goes on nor ends");
}

fn log_in(folder: &Path, peer: SocketAddr, key: SigningKey) {
    let code = Grant::extension("authorization_code")
        .unwrap()
        .param("code", "c")
        .unwrap();
    assert_eq!(call(&session(folder, peer, key, Some(code)), peer), Ok(200));
}

fn session(folder: &Path, peer: SocketAddr, key: SigningKey, login: Option<Grant>) -> Session {
    let client = client(peer).dpop(key.public().clone());
    let transport = Transport::new().signer(key);
    let builder = match login {
        Some(code) => Session::builder(transport, client).grant(code),
        None => Session::builder(transport, client),
    };
    let storage = Arc::new(FileStorage::new(folder).unwrap());
    builder
        .policy(RefreshPolicy::default().retry_interval(Duration::ZERO))
        .storage(storage, NAME)
        .build()
}

fn call(session: &Session, peer: SocketAddr) -> Result<u16, Retry> {
    let request = Request::get(format!("http://{peer}/resource"))
        .body(Vec::new())
        .unwrap();
    session
        .send(request)
        .map(|response| response.status().as_u16())
        .map_err(|error| error.retry())
}

fn stored_as(client: &Client) -> String {
    format!("{NAME}-{}", client.session_fingerprint(None, []))
}

/// The refresh token, and the attempts that it has left. The stored state is complete, whenever its writer was killed.
fn stored_token(storage: &FileStorage, client: &Client) -> (String, u32) {
    let state = storage.load(&stored_as(client)).unwrap().unwrap();
    let session = SessionState::from_json(state.expose(), client, UnixTime::from_secs(0)).unwrap();
    let json: Value = serde_json::from_slice(state.expose()).unwrap();
    let attempts_left = json["attempts_left"].as_u64().unwrap().try_into().unwrap();
    (
        session
            .token()
            .unwrap()
            .refresh_token()
            .unwrap()
            .expose()
            .to_owned(),
        attempts_left,
    )
}
