//! Secrets are planted in everything of this crate that can be printed. The core's own types: `core/tests/it/leaks.rs`.

#![cfg(test)]

#[path = "../../core/tests/it/planted.rs"]
mod planted;
#[allow(dead_code, reason = "made for the tests of sessions")]
#[path = "session/server.rs"]
mod server;
#[path = "../../core/tests/it/sources.rs"]
mod sources;

use std::collections::BTreeSet;
use std::error::Error as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use keybound_sandbox::{Options, Sandbox};
use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::storage::{EncryptedStorage, FileStorage, MemoryStorage};
use keybound_ureq::{
    Client, ClientAuth, Error, Grant, Secret, Session, SessionPool, SharedReplayCache, SignRequest,
    Transport,
};
use ureq::http::Request;

use crate::planted::{Planted, looked_at_by};
use crate::server::{Server, response};
use crate::sources::public_types;

const CLIENT_SECRET: &str = "planted-cl1ent-s3cret";
const ACCESS_TOKEN: &str = "planted-acc3ss-t0ken";
const REFRESH_TOKEN: &str = "planted-r3fresh-t0ken";
const BODY: &str = "planted-b0dy";
const SEAL: [u8; 32] = *b"planted-key-of-thirty-two-bytes!";

fn planted() -> Planted {
    Planted::new(&[
        CLIENT_SECRET,
        ACCESS_TOKEN,
        REFRESH_TOKEN,
        BODY,
        "planted-key-of-thirty-two-bytes!",
    ])
}

fn client(server: &Server) -> Client {
    let endpoint =
        keybound_ureq::Endpoint::https_or_loopback(&format!("{}/token", server.url)).unwrap();
    Client::new(
        endpoint,
        ClientAuth::basic("app", Secret::new(CLIENT_SECRET)).unwrap(),
    )
}

fn grant() -> Grant {
    Grant::refresh_token(Secret::new(REFRESH_TOKEN)).unwrap()
}

/// Echoes whatever it is sent, in each of its answers.
fn echoing() -> Server {
    let asked = Mutex::new(0);
    Server::start(move |request| {
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        let echo = format!(
            r#"{{"error":"invalid_grant","error_description":{:?}}}"#,
            request.body
        );
        match *asked {
            1 => response(
                "200 OK",
                &format!(
                    r#"{{"access_token":"{ACCESS_TOKEN}","refresh_token":"{REFRESH_TOKEN}"}}"#
                ),
            ),
            2 => response("200 OK", BODY),
            3 => response("400 Bad Request", &echo),
            4 => response("200 OK", &format!(r#"{{"access_token":{BODY}"#)),
            _ => "HTTP/1.1 999 planted-b0dy\r\n\r".to_owned(),
        }
    })
}

#[test]
fn sessions_and_what_they_are_made_of_show_no_secret() {
    let (planted, server) = (planted(), echoing());
    let folder = tempfile::tempdir().unwrap();
    let transport = Arc::new(Transport::new());
    let session = Session::builder(Arc::clone(&transport), client(&server))
        .grant(grant())
        .build();
    planted.are_not_shown(&[
        &*transport,
        &session,
        &session.authorizer([server.url.as_str()]).unwrap(),
    ]);
    planted.are_not_shown(&[&session.token().unwrap(), &session]);
    let sealed = EncryptedStorage::new(FileStorage::new(folder.path()).unwrap(), &SEAL).unwrap();
    planted.are_not_shown(&[
        &sealed,
        &FileStorage::new(folder.path()).unwrap(),
        &MemoryStorage::default(),
    ]);
    let builder = Session::builder(transport, client(&server))
        .grant(grant())
        .storage(Arc::new(sealed), "s");
    planted.are_not_shown(&[&builder]);
    let pool: SessionPool<String> = SessionPool::new(8, move |_| session.clone());
    planted.are_not_shown(&[
        &pool,
        &pool.session(&BODY.to_owned()),
        &SharedReplayCache::new(8),
    ]);
    let sandbox = Sandbox::start(Options::default()).unwrap();
    Planted::new(&[keybound_sandbox::CLIENT_SECRET])
        .are_not_shown(&[&sandbox, &Options::default()]);
}

#[test]
fn no_event_and_no_error_shows_a_secret_however_it_ends() {
    let server = echoing();
    let observed = Arc::new(Mutex::new(Vec::new()));
    let events = Arc::clone(&observed);
    let transport = Transport::new().on_event(move |event| {
        planted().are_not_shown(&[&event]);
        events.lock().unwrap().push(format!("{event:?} {event:#?}"));
    });
    let token = transport
        .execute(client(&server).token(grant()).unwrap())
        .unwrap();
    let request = Request::post(format!("{}/r?q={BODY}", server.url))
        .body(BODY)
        .unwrap();
    transport.send(&token, request).unwrap();
    for _ in 0..3 {
        let error = transport
            .execute(client(&server).token(grant()).unwrap())
            .unwrap_err();
        planted().are_not_told(&error);
        assert!(
            matches!(error, Error::Server(_) | Error::Response(_)) || error.source().is_some(),
            "{error:?}"
        );
    }
    assert!(observed.lock().unwrap().len() > 8);
    planted().are_not_in(&observed.lock().unwrap().concat());

    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let bound = client(&server).dpop(key.public().clone());
    let no_signer = Transport::new()
        .execute(bound.token(grant()).unwrap())
        .unwrap_err();
    assert!(matches!(no_signer, Error::Signer(_)));
    let failing = |request: &SignRequest| {
        Err(format!("cannot sign for {}", request.key().thumbprint()).into())
    };
    let failed = Transport::new()
        .signer(failing)
        .execute(bound.token(grant()).unwrap())
        .unwrap_err();
    for error in [
        no_signer,
        failed,
        Error::NoEntropy,
        Error::Timeout,
        Error::LoginRequired,
    ] {
        planted().are_not_told(&error);
    }
}

#[test]
fn every_public_type_of_this_crate_has_been_looked_at() {
    let mut known = looked_at_by(&[
        sessions_and_what_they_are_made_of_show_no_secret,
        no_event_and_no_error_shows_a_secret_however_it_ends,
    ]);
    known.insert("Reason".into()); // a name, and a status
    known.insert("RedisStorage".into()); // shows its prefix alone; made without a server it can't be
    let missing: BTreeSet<_> = public_types(Path::new(env!("CARGO_MANIFEST_DIR")))
        .difference(&known)
        .cloned()
        .collect();
    assert!(missing.is_empty(), "plant a secret in these: {missing:?}");
}
