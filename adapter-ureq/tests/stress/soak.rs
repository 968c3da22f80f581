//! A million authorised calls against a peer in memory: what they leave behind.

use std::env;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fastrand::Rng;
use keybound_ureq::driver::ServerState;
use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::{Client, ClientAuth, Endpoint, Event, Grant, Secret, Session, Transport};
use serde_json::Value;
use ureq::Error;
use ureq::config::Config;
use ureq::http::{Request, Uri};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    self, Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout,
};

use crate::support::{alone, child, setting};

const TEST: &str = "soak::memory_stays_as_it_is_however_many_calls_are_made";

/// Most calls go to a few servers, and some to one of many: more than are remembered.
const BUSY: u64 = 8;
const RARE: u64 = 1000;

/// What may be allocated, mapped or cached in the background, in KiB.
const FLAT: u64 = 2048;

#[test]
fn memory_stays_as_it_is_however_many_calls_are_made() {
    if env::var("KEYBOUND_SOAK_CHILD").is_ok() {
        return soak(setting("KEYBOUND_CALLS", 20_000));
    }
    let _alone = alone();
    // By a process of its own, whose memory nobody else uses.
    let output = child(TEST, &[("KEYBOUND_SOAK_CHILD", "1".to_owned())].into())
        .wait_with_output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success());
}

fn soak(calls: u64) {
    let peer = Peer::default();
    let agent = ureq::Agent::with_parts(Config::default(), peer.clone(), Nowhere);
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let auth = ClientAuth::basic("id", Secret::new("secret")).unwrap();
    let client = Client::new(Endpoint::https("https://as.example/token").unwrap(), auth);
    let client = client.dpop(key.public().clone());
    let refreshes = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&refreshes);
    let transport = Transport::with_agent(agent)
        .signer(key)
        .on_event(move |event| {
            counted.fetch_add(
                u64::from(matches!(event, Event::TokenRefreshed(_))),
                Ordering::Relaxed,
            );
        });
    let session = Session::builder(transport, client)
        .grant(Grant::client_credentials())
        .build();

    let mut rng = Rng::with_seed(setting("KEYBOUND_SEED", 1));
    let warm_up = calls / 10;
    let (mut warm, mut most) = (0, 0);
    let began = Instant::now();
    for number in 0..calls {
        let host = if rng.u64(0..10) == 0 {
            BUSY + rng.u64(0..RARE)
        } else {
            rng.u64(0..BUSY)
        };
        let request = Request::get(format!("https://rs{host}.example/accounts"))
            .body(Vec::new())
            .unwrap();
        let mut response = session.send(request).unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.body_mut().read_to_string().unwrap(), "here it is");
        if number == warm_up {
            warm = resident();
        }
        if number > warm_up && number % 1000 == 0 {
            most = most.max(resident());
        }
    }
    let known = known_servers(&session);
    println!(
        "{calls} calls in {:.0?}, {} requests, {} refreshes: {warm} KiB resident after a tenth of them, {most} KiB at most from there, {} at the end; nonces of {known} servers stored",
        began.elapsed(),
        peer.0.lock().unwrap().requests,
        refreshes.load(Ordering::Relaxed),
        resident(),
    );
    assert!(most.max(resident()) < warm + FLAT);
    assert_eq!(known, ServerState::CAPACITY);
}

fn known_servers(session: &Session) -> usize {
    let server_state: Value =
        serde_json::from_str(&session.transport().server_state().to_json()).unwrap();
    server_state.as_array().unwrap().len()
}

/// KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Every server there is. Each wants another nonce with every request, and refuses each token in the end.
#[derive(Clone, Debug, Default)]
struct Peer(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    requests: u64,
    tokens: u64,
    /// How often the last token was used.
    used: u64,
}

impl Peer {
    fn answer(&self, host: &str, request: &str) -> String {
        let mut state = self.0.lock().unwrap();
        state.requests += 1;
        let header = |name: &str| {
            let line = request
                .lines()
                .find(|line| line.to_ascii_lowercase().starts_with(name));
            line.and_then(|line| line.split_once(": "))
                .map(|(_, value)| value)
        };
        let nonce = format!("{host}-{}", state.requests);
        let is_expected =
            nonce_of(header("dpop:").unwrap()).is_some_and(|given| given.starts_with(host));
        let (status, body) = if host == "as.example" {
            state.tokens += 1;
            state.used = 0;
            let body = format!(
                r#"{{"access_token":"a{}","token_type":"DPoP","expires_in":3600}}"#,
                state.tokens
            );
            ("200 OK", body)
        } else if !is_expected {
            let status = "401 Unauthorized\r\nWWW-Authenticate: DPoP error=\"use_dpop_nonce\"";
            (status, String::new())
        } else {
            state.used += 1;
            if state.used > 500 {
                let status = "401 Unauthorized\r\nWWW-Authenticate: DPoP error=\"invalid_token\"";
                (status, String::new())
            } else {
                ("200 OK", "here it is".to_owned())
            }
        };
        format!(
            "HTTP/1.1 {status}\r\nDPoP-Nonce: {nonce}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }
}

/// The nonce in a proof.
fn nonce_of(proof: &str) -> Option<String> {
    let claims = URL_SAFE_NO_PAD.decode(proof.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    claims["nonce"].as_str().map(str::to_owned)
}

/// A connection to a server in memory: the response is there when the request is.
impl Connector for Peer {
    type Out = Connection;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Connection>, Error> {
        let (input, output) = (
            details.config.input_buffer_size(),
            details.config.output_buffer_size(),
        );
        let host = details.uri.host().unwrap_or_default().to_owned();
        let buffers = LazyBuffers::new(input, output);
        Ok(Some(Connection {
            peer: self.clone(),
            host,
            buffers,
            asked: String::new(),
        }))
    }
}

#[derive(Debug)]
struct Connection {
    peer: Peer,
    host: String,
    buffers: LazyBuffers,
    asked: String,
}

impl transport::Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), Error> {
        self.asked
            .push_str(&String::from_utf8_lossy(&self.buffers.output()[..amount]));
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        // Nothing is read before all has been sent.
        let asked = std::mem::take(&mut self.asked);
        if !asked.is_empty() {
            let answer = self.peer.answer(&self.host, &asked);
            self.buffers.input_append_buf()[..answer.len()].copy_from_slice(answer.as_bytes());
            self.buffers.input_appended(answer.len());
        }
        Ok(!asked.is_empty())
    }

    fn is_open(&mut self) -> bool {
        true
    }

    fn is_tls(&self) -> bool {
        true
    }
}

/// Hosts have no addresses here.
#[derive(Debug)]
struct Nowhere;

impl Resolver for Nowhere {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut addresses = self.empty();
        addresses.push(SocketAddr::from((Ipv4Addr::LOCALHOST, 443)));
        Ok(addresses)
    }
}
