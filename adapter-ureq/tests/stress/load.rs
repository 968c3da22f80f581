//! A thousand threads find one expired token.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::{Grant, Session, Transport};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use ureq::http::Request;

use crate::support::alone;
use crate::support::peer::{Grants, Nonces, Peer, Settings, client};

const THREADS: usize = 1000;

#[test]
fn a_thousand_threads_with_an_expired_token_cause_one_token_request() {
    let _alone = alone();
    // Both ends of each connection are in this process.
    let files = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: files.maximum,
            ..files
        },
    )
    .unwrap();

    let peer = Peer::new(Settings {
        grants: Grants::ClientCredentials,
        nonces: Nonces::Lasting,
        life: Duration::from_secs(1),
    });
    let server = peer.serve();
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let client = client(server.address).dpop(key.public().clone());
    let transport = Transport::new().signer(key);
    let expired = transport
        .execute(client.token(Grant::client_credentials()).unwrap())
        .unwrap();
    thread::sleep(Duration::from_millis(1100));
    let asked_before = peer.state().token_requests;
    peer.state().life = Duration::from_secs(3600);
    let session = Session::builder(transport, client)
        .grant(Grant::client_credentials())
        .token(expired)
        .build();

    let barrier = Barrier::new(THREADS + 1);
    let one = || {
        barrier.wait();
        let request = Request::get(format!("{}/resource", server.url()))
            .body(Vec::new())
            .unwrap();
        let began = Instant::now();
        let mut response = session.send(request).unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.body_mut().read_to_string().unwrap(), "here it is");
        began.elapsed()
    };
    let (all, mut times) = thread::scope(|scope| {
        let spawn = |_| {
            thread::Builder::new()
                .stack_size(512 * 1024)
                .spawn_scoped(scope, one)
                .unwrap()
        };
        let threads: Vec<_> = (0..THREADS).map(spawn).collect();
        let began = Instant::now();
        barrier.wait();
        let times: Vec<Duration> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        (began.elapsed(), times)
    });
    times.sort();
    let state = peer.state();
    let asked = state.token_requests - asked_before;
    let carried_out = state.carried_out["GET /resource"];
    println!(
        "{THREADS} threads, one expired token: {asked} token request, {carried_out} calls by {} requests; {all:.2?} in all, half within {:.2?}",
        state.calls,
        times[THREADS / 2],
    );
    assert_eq!(asked, 1);
    // One of them learns the nonce.
    assert_eq!((carried_out, state.calls), (1000, 1001));
    assert_eq!(state.wrongs, Vec::<String>::new());
}
