//! What reaches the `log` crate: what happened, and no secret.

use std::sync::Mutex;

use ::log::{LevelFilter, Log, Metadata, Record};
use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::{Grant, Secret, Session, Transport};
use ureq::http::Request;

use crate::server::{Server, response};

struct Records(Mutex<Vec<String>>);

impl Log for Records {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if record.target() == "keybound" {
            self.0
                .lock()
                .unwrap()
                .push(format!("{} {}", record.level(), record.args()));
        }
    }

    fn flush(&self) {}
}

static RECORDS: Records = Records(Mutex::new(Vec::new()));

#[test]
fn the_log_contains_each_event_and_no_secret() {
    ::log::set_logger(&RECORDS).unwrap();
    ::log::set_max_level(LevelFilter::Trace);
    let asked = Mutex::new(0);
    let server = Server::start(move |request| {
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        match (request.path.as_str(), *asked) {
            ("/token", 1) => response(
                "503 Service Unavailable\r\nRetry-After: 0\r\nX-Request-Id: req-7",
                "plantedbody",
            ),
            ("/token", 4) => response("400 Bad Request", r#"{"error":"invalid_grant"}"#),
            ("/token", _) => response(
                "200 OK",
                r#"{"access_token":"plantedaccess","token_type":"DPoP","expires_in":60,"refresh_token":"plantedrefresh"}"#,
            ),
            _ => response("401 Unauthorized", "plantedbody"),
        }
    });
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let client = server.client().dpop(key.public().clone());
    let code = Grant::extension("authorization_code").unwrap();
    let code = code
        .secret_param("code", Secret::new("plantedcode"))
        .unwrap();
    let session = Session::builder(Transport::new().signer(key), client)
        .grant(code)
        .label("people")
        .build();
    let request = Request::get(format!("{}/resource?account=plantedquery", server.url))
        .body("plantedbody")
        .unwrap();
    session.token().unwrap();
    assert_eq!(session.send(request).unwrap().status(), 401);

    let url = &server.url;
    let records = without_durations(&RECORDS.0.lock().unwrap().join("\n"));
    for expected in [
        format!("DEBUG POST {url}/token [attempt 1, session people]"),
        format!(
            "DEBUG 503 Service Unavailable from {url}/token [attempt 1, session people, _ ms] [request id req-7]"
        ),
        format!("INFO retrying in _ ms, after 503 from {url} [attempt 1, session people]"),
        "INFO new token, expires at ".into(),
        format!("DEBUG GET {url}/resource [attempt 1, session people]\n"),
        format!("DEBUG 401 Unauthorized from {url}/resource"),
        format!(
            "WARN token refresh failed [requests: 1, _ ms, session people]: {} refused: 400 invalid_grant",
            url.trim_start_matches("http://")
        ),
    ] {
        assert!(
            records.contains(&expected),
            "{expected} is not in\n{records}"
        );
    }
    let lost = format!(
        "ERROR login lost [session people]: {} refused: 400 invalid_grant",
        url.trim_start_matches("http://")
    );
    assert!(records.contains(&lost), "{lost} is not in\n{records}");
    assert!(!records.contains("planted"), "{records}");
    assert!(!records.contains("eyJ"), "{records}");
}

/// Replaces each number of milliseconds by `_`.
fn without_durations(records: &str) -> String {
    let parts: Vec<_> = records.split(" ms").collect();
    let (last, timed) = parts.split_last().unwrap();
    let cut = |part: &&str| {
        part.trim_end_matches(|c: char| c.is_ascii_digit())
            .to_owned()
            + "_ ms"
    };
    timed.iter().map(cut).collect::<String>() + last
}
