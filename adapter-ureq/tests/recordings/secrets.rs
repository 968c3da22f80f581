//! Secrets in every place that a recording could take them from.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::storage::{MemoryStorage, Storage};
use keybound_ureq::{
    Client, ClientAuth, Endpoint, Error, Grant, RefreshPolicy, Scope, Secret, Session, Token,
    Transport, UnixTime,
};
use ureq::http::Request;

use crate::planted::Planted;
use crate::server::{Server, response};
use crate::{Lines, replay};

const CLIENT_SECRET: &str = "cl1ent/s3cret+of=32&characters";
const HEADER: &str = "h3ader-k3y-Zx8Yq1Wp";
const PARAM: &str = "p4rameter-Mn5Bv7Cx2";
const ASSERTION: &str = "ass3rtion-Lk9Jh4Gf6";
const NAME: &str = "alice-0f-W0nderland@invalid.test";
const QUERY: &str = "qu3ry-v4lue-Ty6Ui8Op";
const FRAGMENT_USER: &str = "us3r-In-A-URL-77";
const OPAQUE: &str = "0paque-acc3ss-t0ken-Qw3Er5Ty7";
const REFRESH: &str = "r3fresh-t0ken-As2Df4Gh6";
const SECOND_REFRESH: &str = "s3cond-r3fresh-Zc1Vb3Nm5";
const STORED: &str = "st0red-0ther-m3mber-Pl0Ok9";
const MEMBER: &str = "unkn0wn-m3mber-Ij8Uh7Yg6";
const NESTED: &str = "n3sted-m3mber-Rf5Tg6Yh7";
const DESCRIBED: &str = "descr1bed-Ed4Rf5Tg6";
const PLAIN: &str = "correcthorsebatterystaple";
const SUBJECT: &str = "bob@t3nant-9.invalid";
const EMAIL: &str = "bob.m4il@t3nant-9.invalid";
const REALM: &str = "r3alm-Wd2Ef3Rg4";
const TOKEN68: &str = "tok3n68AbCdEfGh123456==";
const CYRILLIC: &str = "пароль-ключ-секрет";

const ALL: [&str; 20] = [
    CLIENT_SECRET,
    HEADER,
    PARAM,
    ASSERTION,
    NAME,
    QUERY,
    FRAGMENT_USER,
    OPAQUE,
    REFRESH,
    SECOND_REFRESH,
    STORED,
    MEMBER,
    NESTED,
    DESCRIBED,
    PLAIN,
    SUBJECT,
    EMAIL,
    REALM,
    TOKEN68,
    CYRILLIC,
];

/// An unsigned JWT with claims of a person.
fn jwt(scope: &str) -> String {
    let claims = format!(
        r#"{{"iss":"https://as.example","sub":"{SUBJECT}","email":"{EMAIL}","scope":"{scope}","exp":1900000000,"roles":["{NESTED}"],"{PLAIN}1":1}}"#
    );
    let parts = [
        r#"{"alg":"ES256","typ":"at+jwt","kid":"k1"}"#,
        &claims,
        "s1gnature",
    ];
    parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".")
}

/// Looks for all secrets: whole, percent-encoded and in base64; and for each piece of eight characters.
fn assert_no_secret(shown: &str) {
    let encoded = |secret: &str| form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let mut texts: Vec<String> = ALL.map(encoded).into();
    texts.extend(ALL.map(str::to_owned));
    texts.push(URL_SAFE_NO_PAD.encode("s1gnature"));
    Planted::new(&texts.iter().map(String::as_str).collect::<Vec<_>>()).are_not_in(shown);
    for text in &texts {
        let characters: Vec<char> = text.chars().collect();
        for piece in characters.windows(8) {
            let piece: String = piece.iter().collect();
            assert!(!shown.contains(&piece), "{piece} of {text} in {shown}");
        }
    }
}

fn server() -> Server {
    Server::start(|asked| match asked.path.as_str() {
        "/token?tenant=qu3ry-v4lue-Ty6Ui8Op" if asked.body.contains("refresh_token=r3fresh") => {
            let body = format!(
                r#"{{"access_token":"{}","token_type":"DPoP","expires_in":3600,"refresh_token":"{SECOND_REFRESH}","id_token":"{}","account":{{"{NESTED}":["{NESTED}",{{"x":"{MEMBER}"}}]}},"{CYRILLIC}":"{CYRILLIC}","note":"{MEMBER} is {PLAIN}","link":"https://{FRAGMENT_USER}:x@rs.example/?{QUERY}={QUERY}#{QUERY}"}}"#,
                jwt("read"),
                jwt("openid"),
            );
            response(
                &format!("200 OK\r\nSet-Cookie: {HEADER}\r\nX-Other: {HEADER}"),
                &body,
            )
        }
        "/refused" => response(
            &format!(
                "401 Unauthorized\r\nWWW-Authenticate: DPoP realm=\"{REALM}\", error=\"{MEMBER}\", error_description=\"{DESCRIBED} for {PLAIN}\", Negotiate {TOKEN68}, Bearer {QUERY}=\"{REALM}\""
            ),
            MEMBER,
        ),
        "/resource" => response("200 OK", MEMBER),
        _ => response(
            "400 Bad Request",
            &format!(
                r#"{{"error":"invalid_grant","error_description":"{DESCRIBED}, the token {SECOND_REFRESH} of {PLAIN}","error_uri":"https://as.example/?{QUERY}={QUERY}","fields":{{"{EMAIL}":"{EMAIL}"}}}}"#
            ),
        ),
    })
}

fn client(server: &Server, key: &SigningKey) -> Client {
    let url = format!("{}/token?tenant={QUERY}", server.url);
    let auth = ClientAuth::both("app", Secret::new(CLIENT_SECRET)).unwrap();
    Client::new(Endpoint::loopback_http(&url).unwrap(), auth)
        .dpop(key.public().clone())
        .header("X-Api-Key", HEADER)
        .unwrap()
        .param("tenant_key", PARAM)
        .unwrap()
}

/// A token that has expired, with other members.
fn expired(client: &Client) -> Token {
    let json = format!(
        r#"{{"access_token":"{OPAQUE}","token_type":"DPoP","expires_in":60,"refresh_token":"{REFRESH}","other":"{STORED}"}}"#
    );
    let long_ago = UnixTime::from_secs(1_700_000_000);
    client
        .parse_token_response(json.as_bytes(), long_ago)
        .unwrap()
}

#[test]
fn a_recording_has_no_secret_in_any_form_and_replays() {
    let server = server();
    let key = std::sync::Arc::new(SigningKey::generate(Algorithm::Es256).unwrap());
    let (client, lines) = (client(&server, &key), Lines::default());
    let policy = RefreshPolicy::default().retry_interval(std::time::Duration::ZERO);
    let transport = || Transport::new().record(lines.clone()).unwrap();

    // A given token is stored, refreshed, used, refused, and refreshed again without success.
    let storage = std::sync::Arc::new(MemoryStorage::default());
    let session = Session::builder(transport().signer(key.clone()), client.clone())
        .token(expired(&client))
        .policy(policy)
        .scope(Scope::new("read").unwrap())
        .storage(storage.clone(), NAME)
        .build();
    let call = |session: &Session, path: &str| {
        let url = format!("{}{path}", server.url);
        session.send(Request::get(url).body(Vec::new()).unwrap())
    };
    let first = call(&session, &format!("/resource?account={QUERY}"));
    assert_eq!(
        first.unwrap().status(),
        400,
        "the server knows no such path"
    );
    assert_eq!(call(&session, "/resource").unwrap().status(), 200);
    assert_eq!(call(&session, "/refused").unwrap().status(), 401);
    let token = session.token().unwrap();
    let url = format!("{}/resource", server.url);
    let direct = session
        .transport()
        .send(&token, Request::get(url).body(Vec::new()).unwrap());
    assert_eq!(direct.unwrap().status(), 200);
    session.log_out().unwrap();
    drop(session);
    let first = lines.text();

    // A grant with an assertion, and a storage whose errors have secrets.
    let grant = Grant::extension("urn:example:grant")
        .unwrap()
        .secret_param("assertion", Secret::new(ASSERTION))
        .unwrap()
        .secret_param("subject", Secret::new(jwt("openid")))
        .unwrap()
        .param("plain", PARAM)
        .unwrap();
    let lines = Lines::default();
    let transport = Transport::new().record(lines.clone()).unwrap();
    let transport = transport.signer(SigningKey::generate(Algorithm::Es256).unwrap());
    let session = Session::builder(transport, client.clone())
        .grant(grant)
        .storage(Broken, NAME)
        .build();
    let failed = call(&session, "/resource");
    assert!(matches!(failed, Err(Error::Storage(_))), "{failed:?}");
    drop(session);

    // A refusal whose description has the request's refresh token, and more.
    let refused = Lines::default();
    let transport = Transport::new().record(refused.clone()).unwrap();
    let transport = transport.signer(key);
    let session = Session::builder(transport, client)
        .grant(Grant::refresh_token(Secret::new(SECOND_REFRESH)).unwrap())
        .build();
    let failed = call(&session, "/resource");
    assert!(matches!(failed, Err(Error::Server(_))), "{failed:?}");
    assert!(
        refused.text().contains("400 invalid_grant"),
        "{}",
        refused.text()
    );
    drop(session);

    for recording in [first, lines.text(), refused.text()] {
        assert_no_secret(&recording);
        let words = replay(&recording);
        assert_no_secret(&words);
        assert!(recording.lines().count() > 3, "{recording}");
    }
}

#[test]
fn the_search_would_find_a_secret_and_its_pieces() {
    for shown in [
        REFRESH,
        &REFRESH[3..12],
        "cl1ent%2Fs3cret%2Bof%3D32%26characters",
    ] {
        let found = std::panic::catch_unwind(|| assert_no_secret(&format!("x{shown}y")));
        assert!(found.is_err(), "{shown}");
    }
}

struct Broken;

impl Storage for Broken {
    fn load(
        &self,
        _: &str,
    ) -> Result<Option<keybound_ureq::SecretBytes>, keybound_ureq::storage::StorageError> {
        Ok(Some(keybound_ureq::SecretBytes::new(
            format!("{MEMBER} {PLAIN} {{\"a\":\"{STORED}\"}}").into_bytes(),
        )))
    }

    fn lease(
        &self,
        _: &str,
        _: std::time::Duration,
    ) -> Result<
        Option<Box<dyn keybound_ureq::storage::Lease + '_>>,
        keybound_ureq::storage::StorageError,
    > {
        Err(format!("redis://user:{DESCRIBED}@host/{PLAIN} is down").into())
    }
}
