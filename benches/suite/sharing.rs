//! What all threads of a process share: a token, and what is known of servers. Behind the locks that drivers use.

use std::hint::black_box;
use std::sync::{Mutex, PoisonError};

use http::{HeaderMap, StatusCode, Uri};
use keybound_benches::{Case, Outcome, RingKey, Subject, again, by_threads, now};
use keybound_core::{Authorized, Client, ClientAuth, Endpoint, Grant, Origins, Secret};
use keybound_ureq::{Session, Transport};

const THREADS: [usize; 3] = [2, 4, 8];

pub(crate) fn cases(subject: &Subject) -> Outcome<Vec<Case<'_>>> {
    let mut cases = Vec::new();
    for threads in THREADS {
        let origins = Mutex::new(subject.origins.clone());
        let proofs = by_threads(threads, move || {
            let call = subject.token.authorize(&subject.method, &subject.uri)?;
            let ambient = subject.ambient();
            let signing = call.prepare(&origins.lock().unwrap_or_else(PoisonError::into_inner), ambient)?;
            Ok(signing.finish(|request| subject.key.sign(request))?)
        });
        let (ring, message) = (RingKey::new(&subject.key)?, [b'a'; 480]);
        let signatures = by_threads(threads, move || {
            ring.sign(&message, |signature| {
                black_box(signature);
            })
        });
        cases.push(Case::new("sharing", format!("proofs, {threads} threads"), proofs).beside(signatures));
    }
    let session = session(subject)?;
    for threads in THREADS {
        let work = |threads| {
            let session = session.clone();
            by_threads(threads, move || Ok(session.token()?))
        };
        cases.push(
            Case::new("sharing", format!("a session's token, {threads} threads"), work(threads))
                .beside(work(1)),
        );
    }
    let crowded = crowded(subject)?;
    let ambient = || subject.ambient();
    cases.push(
        Case::new(
            "sharing",
            format!("a nonce among {}", Origins::CAPACITY),
            again(move || {
                Ok(subject.token.authorize(&subject.method, &subject.uri)?.prepare(&crowded, ambient())?)
            }),
        )
        .beside(again(move || {
            Ok(subject
                .token
                .authorize(&subject.method, &subject.uri)?
                .prepare(&subject.origins, ambient())?)
        })),
    );
    Ok(cases)
}

/// Holds the subject's token.
fn session(subject: &Subject) -> Outcome<Session> {
    let auth = ClientAuth::basic("bench", Secret::new("bench"))?;
    let client = Client::new(Endpoint::https("https://as.example.com/token")?, auth);
    let session = Session::builder(Transport::new(), client, Grant::client_credentials());
    Ok(session.token(subject.token.clone()).open())
}

/// Knows the subject's server, and as many others as it can hold, all heard of later.
fn crowded(subject: &Subject) -> Outcome<Origins> {
    let mut origins = subject.origins.clone();
    let mut headers = HeaderMap::new();
    headers.insert("dpop-nonce", subject.nonce.as_str().parse()?);
    for other in 1..Origins::CAPACITY {
        let uri: Uri = format!("https://api-{other}.example.com/v1/accounts").parse()?;
        let call = subject.token.authorize(&subject.method, &uri)?;
        let signing = call.prepare(&origins, subject.ambient())?;
        let Authorized { pending, .. } = signing.finish(|request| subject.key.sign(request))?;
        let _ = pending.judge(StatusCode::OK, &headers, &mut origins, now())?;
    }
    Ok(origins)
}
