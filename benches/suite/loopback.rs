//! Makes an authorized call to a server on loopback by two threads, compared with the same call by
//! bare ureq with a signature over as many bytes: the same headers, made once. The server runs in
//! this process, and shares its processors.

use std::hint::black_box;
use std::time::Duration;

use http::{HeaderMap, Request, Uri};
use keybound_benches::{
    Case, Outcome, Responder, RingKey, Subject, Work, by_threads, now, percentile_by_threads,
};
use keybound_core::{Client, ClientAuth, Endpoint, Grant, Secret};
use keybound_ureq::jose::SigningKey;
use keybound_ureq::{Session, Transport};

const THREADS: usize = 2;

type Call<'a> = Box<dyn Fn() -> Outcome<Vec<u8>> + Sync + 'a>;

/// How calls are measured.
type How = for<'a> fn(Call<'a>) -> Work<'a>;

pub(crate) fn cases<'a>(subject: &Subject) -> Outcome<[Case<'a>; 4]> {
    let uri: Uri = Responder::start()?
        .url("/v1/accounts/0123456789/transfers")
        .parse()?;
    let by_session = |how: How| -> Outcome<_> {
        let (session, uri) = (session(subject)?, uri.clone());
        Ok(how(Box::new(move || {
            let request = Request::get(&uri).body(())?;
            Ok(session.send(request)?.body_mut().read_to_vec()?)
        })))
    };
    let by_hand = |how: How, limit: Option<Duration>| -> Outcome<_> {
        let config = ureq::Agent::config_builder().timeout_global(limit).build();
        let (agent, uri) = (config.new_agent(), uri.clone());
        let mut message = Vec::new();
        let input = || (now(), subject.entropy());
        let mut authorized = subject.authorized_by(&subject.shared, input, |request| {
            message.extend(request.message());
            Ok(subject.key.sign(request)?)
        })?;
        let mut headers = HeaderMap::new();
        authorized.effect.headers.apply(&mut headers);
        let ring = RingKey::new(&subject.key)?;
        Ok(how(Box::new(move || {
            ring.sign(&message, |signature| {
                black_box(signature);
            })?;
            let mut request = Request::get(&uri).body(())?;
            request.headers_mut().extend(headers.clone());
            Ok(agent.run(request)?.body_mut().read_to_vec()?)
        })))
    };
    let case = |name: &str, how: How, limit| -> Outcome<_> {
        let name = format!("{name}, {THREADS} threads");
        Ok(Case::new("loopback", name, by_session(how)?).beside(by_hand(how, limit)?))
    };
    let whole: How = |call| by_threads(THREADS, call);
    Ok([
        case("a call", whole, None)?,
        case(
            "a call's median",
            |call| percentile_by_threads(THREADS, 50, call),
            None,
        )?,
        case(
            "a call's 99th percentile",
            |call| percentile_by_threads(THREADS, 99, call),
            None,
        )?,
        // The same timeout as that of a session.
        case(
            "a call that may take 30 s",
            whole,
            Some(Duration::from_secs(30)),
        )?,
    ])
}

/// Returns a session with the subject's token and key.
fn session(subject: &Subject) -> Outcome<Session> {
    let key = SigningKey::from_pkcs8_der(subject.key.to_pkcs8_der().expose())?;
    let auth = ClientAuth::basic("bench", Secret::new("bench"))?;
    let client = Client::new(Endpoint::https("https://as.example.com/token")?, auth)
        .dpop(key.public().clone());
    let session =
        Session::builder(Transport::new().signer(key), client).grant(Grant::client_credentials());
    Ok(session.token(subject.token.clone()).build())
}
