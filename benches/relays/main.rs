//! Measures a thousand relays of a browser's proof, and as many token requests, one after the other
//! over TLS on loopback: the connections that they make, their duration, and the processor time of
//! the client's process. `../README.md` has results.

mod server;

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{Method, Uri};
use keybound_benches::{Outcome, now};
use keybound_core::dpop::{Proof, ProofVerifier, VerifiedProof};
use keybound_core::driver::RequestContext;
use keybound_core::jose::{Algorithm, SigningKey};
use keybound_core::provider::treasury_prime::TreasuryPrime;
use keybound_core::{Client, ClientAuth, Endpoint, Grant, Operation, Secret, Token};
use keybound_ureq::{Event, Transport};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::time::{ClockId, clock_gettime};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use server::{CONNECTIONS, SERVE, Server};

const REQUESTS: usize = 1_000;

fn main() -> Outcome {
    if env::args().any(|argument| argument == SERVE) {
        return server::serve();
    }
    let server = Server::start()?;
    let key = SigningKey::generate(Algorithm::Es256)?;
    let auth = || ClientAuth::basic("bench", Secret::new("bench"));
    println!(
        "{:<20}{:>12}{:>12}{:>12}{:>16}",
        "1,000 of", "connections", "median, µs", "99 %, µs", "CPU each, µs"
    );

    let provider = TreasuryPrime::at(Endpoint::https(&server.url)?, auth()?);
    let mut relays = Vec::new();
    for _ in 0..REQUESTS {
        relays.push(provider.uxt_access_token("psn_1", proof(&key, &server.url)?)?);
    }
    measure("relay", &server, &key, relays)?;

    let client = Client::new(Endpoint::https(&server.url)?, auth()?).dpop(key.public().clone());
    let mut requests = Vec::new();
    for _ in 0..REQUESTS {
        requests.push(client.token(Grant::client_credentials())?);
    }
    measure("token request", &server, &key, requests)
}

/// Returns a proof as a browser makes it.
fn proof(key: &SigningKey, url: &str) -> Outcome<VerifiedProof> {
    let uri: Uri = url.parse()?;
    let mut entropy = [0; 16];
    SystemRandom::new()
        .fill(&mut entropy)
        .map_err(|_| "no random numbers")?;
    let proof = Proof::build(key.public(), &Method::POST, &uri)?
        .prepare(RequestContext::new(now(), entropy))
        .finish(|request| key.sign(request))?;
    let inspection = ProofVerifier::default().verify(proof.as_str(), now());
    Ok(inspection.verified().ok_or("the proof is invalid")?)
}

fn measure(
    name: &str,
    server: &Server,
    key: &SigningKey,
    operations: Vec<Operation<Token>>,
) -> Outcome {
    let connections = Arc::new(AtomicU64::new(0));
    let transport = transport(server, key, Arc::clone(&connections))?;
    // What the first request finds and loads is the same for any number of them.
    let mut operations = operations.into_iter();
    let first = operations.next().ok_or("no operation")?;
    transport.execute(first)?;
    let before = connections.load(Ordering::Relaxed);

    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let mut durations = Vec::new();
    for operation in operations {
        let start = Instant::now();
        transport.execute(operation)?;
        durations.push(start.elapsed());
    }
    let cpu = Duration::try_from(clock_gettime(ClockId::ProcessCPUTime) - cpu)?;

    let connections = connections.load(Ordering::Relaxed) - before + 1;
    durations.sort_unstable();
    let percentile = |percent: usize| {
        let index = durations.len() * percent / 100;
        durations
            .get(index)
            .copied()
            .unwrap_or_default()
            .as_micros()
    };
    println!(
        "{name:<20}{connections:>12}{:>12}{:>12}{:>16}",
        percentile(50),
        percentile(99),
        cpu.as_micros() / u128::try_from(durations.len())?
    );
    Ok(())
}

/// Returns a transport that trusts the server's certificate, and counts the connections to it.
fn transport(server: &Server, key: &SigningKey, connections: Arc<AtomicU64>) -> Outcome<Transport> {
    let certificate = Certificate::from_pem(server.pem.as_bytes())?;
    let roots = RootCerts::Specific(Arc::new(vec![certificate]));
    let tls = TlsConfig::builder().root_certs(roots).build();
    let agent = ureq::Agent::config_builder().tls_config(tls).build();
    let key = SigningKey::from_pkcs8_der(key.to_pkcs8_der().expose())?;
    Ok(Transport::with_agent(agent.new_agent())
        .signer(key)
        .on_event(move |event| {
            let Event::ResponseReceived { headers, .. } = event else {
                return;
            };
            let number = headers
                .get(CONNECTIONS)
                .and_then(|value| value.to_str().ok());
            if let Some(number) = number.and_then(|number| number.parse().ok()) {
                connections.fetch_max(number, Ordering::Relaxed);
            }
        }))
}
