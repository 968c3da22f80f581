//! A fleet that shares one token through Redis; here four threads stand for four processes.
//!
//! ```sh
//! cargo run -p keybound-ureq --features redis --example fleet -- redis://127.0.0.1/
//! ```

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use keybound_sandbox::{CLIENT_ID, CLIENT_SECRET, Options, Sandbox};
use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::storage::RedisStorage;
use keybound_ureq::{
    Client, ClientAuth, Endpoint, Event, Grant, RefreshPolicy, Secret, Session, Transport,
};
use ureq::http::Request;

type BoxError = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), BoxError> {
    let redis = std::env::args()
        .nth(1)
        .ok_or("pass the URL of Redis as argument, such as redis://127.0.0.1/")?;
    let sandbox = Sandbox::start(Options::default().require_nonce(true))?;
    let server = sandbox.oauth();
    // Each process loads the same key from the application's own storage.
    let key = SigningKey::generate(Algorithm::Es256)?.to_pkcs8_der();
    let prefix = format!("keybound-example-{}:", std::process::id());
    let token_requests = Arc::new(AtomicUsize::new(0));

    thread::scope(|scope| {
        let processes: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let key = SigningKey::from_pkcs8_der(key.expose())?;
                    let session = session(&server, key, &redis, &prefix, token_requests.clone())?;
                    let request = Request::get(format!("{server}/resource")).body(Vec::new())?;
                    let status = session.send(request)?.status();
                    if !status.is_success() {
                        return Err(BoxError::from(format!(
                            "the server responded with {status}"
                        )));
                    }
                    Ok(status)
                })
            })
            .collect();
        processes.into_iter().try_for_each(|process| {
            println!("{}", process.join().map_err(|_| "a process panicked")??);
            Ok::<_, BoxError>(())
        })
    })?;
    let token_requests = token_requests.load(Ordering::Relaxed);
    println!("{token_requests} token requests, one of them for the nonce");
    if token_requests != 2 {
        Err("the processes don't share one token".into())
    } else {
        Ok(())
    }
}

fn session(
    server: &str,
    key: SigningKey,
    redis: &str,
    prefix: &str,
    token_requests: Arc<AtomicUsize>,
) -> Result<Session, BoxError> {
    let auth = ClientAuth::basic(CLIENT_ID, Secret::new(CLIENT_SECRET))?;
    let client = Client::new(
        Endpoint::https_or_loopback(&format!("{server}/token"))?,
        auth,
    )
    .dpop(key.public().clone());
    let transport = Transport::new()
        .signer(key)
        .on_event(move |event| match event {
            Event::RequestSent { uri, .. } if uri.path().ends_with("/token") => {
                token_requests.fetch_add(1, Ordering::Relaxed);
            }
            Event::StorageUnavailable(_) | Event::RefreshFailed(_) => eprintln!("{event:?}"),
            _ => {}
        });
    let storage =
        RedisStorage::new(redis::Client::open(redis)?, prefix).keep_for(Duration::from_secs(60));
    Ok(Session::builder(transport, client)
        .grant(Grant::client_credentials())
        .storage(Arc::new(storage), "moov")
        .policy(RefreshPolicy::default().refresh_timeout(Duration::from_secs(5)))
        .build())
}
