//! What is stored is for the server, client, scope, resources and key that it was stored for, and for nothing else.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::storage::{FileStorage, MemoryStorage, Storage};
use keybound_ureq::{
    Client, ClientAuth, Endpoint, Error, Grant, Issuer, Scope, Secret, Session, SessionBuilder,
    Transport,
};

use crate::server::{Server, response};

/// A server that gives tokens with its own name in them, and remembers what it was sent.
fn server(name: &'static str, token_type: &'static str) -> (Server, Arc<Mutex<Vec<String>>>) {
    let made = AtomicUsize::new(0);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let recorded = Arc::clone(&seen);
    let server = Server::start(move |asked| {
        recorded.lock().unwrap().push(format!(
            "{} {}",
            asked.bearer.as_deref().unwrap_or_default(),
            asked.body
        ));
        let number = made.fetch_add(1, Ordering::SeqCst);
        let token = format!("{name}{number}");
        response(
            "200 OK",
            &format!(
                r#"{{"access_token":"{token}","token_type":"{token_type}","expires_in":3600,"refresh_token":"refresh-{token}"}}"#
            ),
        )
    });
    (server, seen)
}

fn client(server: &Server, id: &str) -> Client {
    let endpoint = Endpoint::loopback_http(&format!("{}/token", server.url)).unwrap();
    Client::new(endpoint, ClientAuth::post(id, Secret::new("s")).unwrap())
}

fn storages() -> [Arc<dyn Storage>; 2] {
    let folder = tempfile::tempdir().unwrap().keep();
    [
        Arc::new(MemoryStorage::new()),
        Arc::new(FileStorage::new(folder).unwrap()),
    ]
}

fn code(code: &str) -> Grant {
    Grant::extension("authorization_code")
        .unwrap()
        .param("code", code)
        .unwrap()
}

fn with_storage(builder: SessionBuilder, storage: &Arc<dyn Storage>) -> Session {
    builder.storage(Arc::clone(storage), "default").build()
}

/// The access token, or that a login is needed.
fn token(session: &Session) -> String {
    match session.token() {
        Ok(token) => token.access_token().expose().to_owned(),
        Err(Error::LoginRequired) => "login required".into(),
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn a_stored_login_is_not_found_by_another_client_or_at_another_server() {
    for storage in storages() {
        let (one, _) = server("one", "Bearer");
        let (other, seen) = server("other", "Bearer");
        let resume = |server: &Server, id: &str| {
            with_storage(
                Session::builder(Transport::new(), client(server, id)),
                &storage,
            )
        };
        let first = with_storage(
            Session::builder(Transport::new(), client(&one, "a")).grant(code("1")),
            &storage,
        );
        assert_eq!(token(&first), "one0");
        for (server, id) in [(&one, "b"), (&one, "A"), (&other, "a"), (&other, "b")] {
            assert_eq!(token(&resume(server, id)), "login required", "{id}");
        }
        assert!(
            seen.lock().unwrap().is_empty(),
            "nothing of it was sent to another server"
        );
        // Each has a login of its own under this name, and none is destroyed by another's.
        let second = with_storage(
            Session::builder(Transport::new(), client(&other, "a")).grant(code("2")),
            &storage,
        );
        assert_eq!(token(&second), "other0");
        let third = with_storage(
            Session::builder(Transport::new(), client(&one, "b")).grant(code("3")),
            &storage,
        );
        assert_eq!(token(&third), "one1");
        assert_eq!(token(&resume(&one, "a")), "one0");
        assert_eq!(token(&resume(&other, "a")), "other0");
        assert_eq!(token(&resume(&one, "b")), "one1");
        // A log-out of one is the others' no more than that.
        third.log_out().unwrap();
        assert_eq!(token(&resume(&one, "a")), "one0");
        assert_eq!(token(&resume(&one, "b")), "login required");
    }
}

#[test]
fn a_stored_token_is_not_used_for_another_scope_or_resource() {
    for storage in storages() {
        let (server, _) = server("t", "Bearer");
        let open = |scope: Option<&str>, resources: &[&str]| {
            let mut grant = Grant::client_credentials();
            if let Some(scope) = scope {
                grant = grant.scope(Scope::new(scope).unwrap());
            }
            for resource in resources {
                grant = grant.resource(resource).unwrap();
            }
            token(&with_storage(
                Session::builder(Transport::new(), client(&server, "a")).grant(grant),
                &storage,
            ))
        };
        let (x, y) = ("https://x.example/", "https://y.example/");
        let cases: [(Option<&str>, &[&str]); 7] = [
            (None, &[]),
            (Some("read"), &[]),
            (Some("read write"), &[]),
            (None, &[x]),
            (None, &[y]),
            (None, &[x, y]),
            (Some("read"), &[x]),
        ];
        let tokens: Vec<String> = cases
            .iter()
            .map(|(scope, resources)| open(*scope, resources))
            .collect();
        assert_eq!(tokens, ["t0", "t1", "t2", "t3", "t4", "t5", "t6"]);
        for ((scope, resources), token) in cases.iter().zip(&tokens) {
            assert_eq!(&open(*scope, resources), token);
        }
        // Sets: their order is nothing.
        assert_eq!(open(Some("write read"), &[]), "t2");
        assert_eq!(open(None, &[y, x]), "t5");
    }
}

#[test]
fn a_public_clients_login_is_found_with_its_key_and_a_login_at_an_issuer_with_that_issuer() {
    for storage in storages() {
        let (server, _) = server("t", "DPoP");
        let endpoint = || Endpoint::loopback_http(&format!("{}/token", server.url)).unwrap();
        let keys = [(); 2].map(|()| SigningKey::generate(Algorithm::Es256).unwrap());
        let public = |key: &SigningKey| {
            Client::new(endpoint(), ClientAuth::none("a").unwrap()).dpop(key.public().clone())
        };
        let transport = |key: &SigningKey| {
            Transport::new()
                .signer(SigningKey::from_pkcs8_pem(key.to_pkcs8_pem().expose()).unwrap())
        };
        let login = |key: &SigningKey, code_of: &str| {
            token(&with_storage(
                Session::builder(transport(key), public(key)).grant(code(code_of)),
                &storage,
            ))
        };
        let resume = |key: &SigningKey| {
            token(&with_storage(
                Session::builder(transport(key), public(key)),
                &storage,
            ))
        };
        assert_eq!(login(&keys[0], "1"), "t0");
        assert_eq!(resume(&keys[1]), "login required");
        assert_eq!(login(&keys[1], "2"), "t1");
        assert_eq!(
            (resume(&keys[0]), resume(&keys[1])),
            ("t0".into(), "t1".into())
        );

        let at = |issuer: &str| {
            let issuer = Issuer::https(issuer).unwrap();
            let auth = ClientAuth::basic("a", Secret::new("s")).unwrap();
            Client::new(endpoint(), auth).issuer(issuer).accept_bearer()
        };
        let open = |issuer: &str, grant: Option<Grant>| {
            let builder = match grant {
                Some(grant) => Session::builder(Transport::new(), at(issuer)).grant(grant),
                None => Session::builder(Transport::new(), at(issuer)),
            };
            token(&with_storage(builder, &storage))
        };
        assert_eq!(open("https://one.example", Some(code("3"))), "t2");
        assert_eq!(open("https://two.example", None), "login required");
        assert_eq!(open("https://one.example", None), "t2");
    }
}
