//! Sessions behind a proxy that breaks what it can, by seeds. Whatever happens, nothing hangs, no refresh token is
//! lost, no refused token is used, and no proof is sent twice.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fastrand::Rng;
use keybound_ureq::driver::SessionState;
use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::storage::{MemoryStorage, Storage as _};
use keybound_ureq::{
    Client, Error, Event, Grant, RefreshPolicy, Retry, Secret, Session, Token, Transport,
};
use serde_json::Value;
use ureq::http::{HeaderMap, Request, StatusCode, Uri};

use crate::support::http::{Server, field};
use crate::support::peer::{Grants, Nonces, Peer, Settings, client};
use crate::support::proxy::{Fault, Proxy, Tally};
use crate::support::{alone, setting};

/// So many at once: they mostly wait.
const AT_ONCE: usize = 48;

/// What a session may take for one token, and one call without it.
const BUDGET: Duration = Duration::from_millis(1500);

/// A token, a call, another token, and room for a busy machine.
const LONGEST_CALL: Duration = Duration::from_secs(10);
const LONGEST_RUN: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Figures {
    calls: usize,
    successes: usize,
    jumps: usize,
    rotating: usize,
    refused: usize,
    /// Runs, and those of them that ended in a new login, by the server's grants.
    ends: BTreeMap<String, (usize, usize)>,
    longest: Duration,
}

#[test]
fn no_fault_makes_a_session_hang_lose_its_refresh_token_or_send_a_proof_twice() {
    let _alone = alone();
    let runs: u64 = setting("KEYBOUND_RUNS", 1000);
    let first: u64 = setting("KEYBOUND_SEED", 1);
    let next = AtomicU64::new(first);
    let tally = Tally::default();
    let figures = Mutex::new(Figures::default());
    let failures = Mutex::new(Vec::new());
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= first + runs || failures.lock().unwrap().len() >= 5 {
                        return;
                    }
                    if let Err(wrong) = run_in_time(seed, &tally, &figures) {
                        println!("KEYBOUND_RUNS=1 KEYBOUND_SEED={seed} repeats this:\n{wrong}");
                        failures.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let Figures {
        calls,
        successes,
        jumps,
        rotating,
        refused,
        ends,
        longest,
    } = figures.into_inner().unwrap();
    let mut tally = tally.lock().unwrap().clone();
    tally.insert(Fault::Refused, refused);
    println!(
        "{runs} runs from seed {first} in {:.0?}: {calls} calls, {successes} of them answered with 200, the longest within {longest:.2?}; {jumps} jumps of the clock by a day, {rotating} runs with a nonce that changes with every response",
        began.elapsed()
    );
    println!("faults: {tally:?}");
    println!("runs, and those that ended in `Reauthenticate`: {ends:?}");
    assert_eq!(
        failures.into_inner().unwrap(),
        Vec::<u64>::new(),
        "the seeds that failed"
    );
    if runs >= 100 {
        for fault in Fault::ALL {
            assert!(tally.contains_key(&fault), "{fault:?} never happened");
        }
        assert!(jumps > 0 && rotating > 0);
    }
}

/// A run that must end, and not by a panic.
fn run_in_time(seed: u64, tally: &Tally, figures: &Mutex<Figures>) -> Result<(), String> {
    let (done, is_done) = channel();
    let tally = Arc::clone(tally);
    thread::spawn(move || {
        let mut figures = Figures::default();
        let ended = catch_unwind(AssertUnwindSafe(|| run(seed, &tally, &mut figures)));
        let _ = done.send((ended.unwrap_or_else(|_| Err("a panic".to_owned())), figures));
    });
    let (ended, one) = is_done
        .recv_timeout(LONGEST_RUN)
        .map_err(|_| format!("it hangs: no end within {LONGEST_RUN:?}"))?;
    let mut all = figures.lock().unwrap();
    all.calls += one.calls;
    all.successes += one.successes;
    all.jumps += one.jumps;
    all.rotating += one.rotating;
    all.refused += one.refused;
    all.longest = all.longest.max(one.longest);
    for (grants, (runs, over)) in one.ends {
        let sum = all.ends.entry(grants).or_default();
        *sum = (sum.0 + runs, sum.1 + over);
    }
    ended
}

fn run(seed: u64, tally: &Tally, figures: &mut Figures) -> Result<(), String> {
    let mut rng = Rng::with_seed(seed);
    let run = Run::start(&mut rng, tally);
    let session = run.session();
    run.storm(true);
    figures.rotating += usize::from(run.settings.nonces == Nonces::Rotating);
    for _ in 0..rng.u32(5..12) {
        if rng.u32(0..3) == 0 {
            run.peer.revoke_all();
        }
        if rng.u32(0..8) == 0 {
            figures.jumps += 1;
            run.peer.set_ahead([-86_400, 0, 86_400][rng.usize(0..3)]);
        }
        thread::sleep(Duration::from_millis(rng.u64(0..60)));
        let _ = run.call(
            &session,
            if rng.u32(0..3) == 0 { "POST" } else { "GET" },
            figures,
        );
    }
    run.storm(false);
    let session = match run.storage {
        Some(_) => {
            // Another process can't know what this one was told.
            run.witness.observed().refused.clear();
            run.session()
        }
        None => session,
    };
    let is_over = run.end(&session, figures)?;
    let ends = figures
        .ends
        .entry(format!("{:?}", run.settings.grants))
        .or_default();
    *ends = (ends.0 + 1, ends.1 + usize::from(is_over));
    figures.refused += run.witness.observed().refused_connections;
    let mut wrongs = [
        run.witness.observed().wrongs.clone(),
        run.peer.state().wrongs.clone(),
    ]
    .concat();
    // The first tell the most.
    wrongs.truncate(3);
    if wrongs.is_empty() {
        Ok(())
    } else {
        Err(format!("{:?}: {}", run.settings, wrongs.join("; ")))
    }
}

struct Run {
    settings: Settings,
    peer: Arc<Peer>,
    tokens: Proxy,
    calls: Proxy,
    _server: Server,
    witness: Arc<Witness>,
    key: Secret,
    client: Client,
    storage: Option<Arc<MemoryStorage>>,
    /// What a person's login has brought, where there was one.
    login: Option<Token>,
}

impl Run {
    fn start(rng: &mut Rng, tally: &Tally) -> Self {
        let settings = Settings {
            grants: [Grants::ClientCredentials, Grants::Strict, Grants::Grace][rng.usize(0..3)],
            nonces: [Nonces::No, Nonces::Lasting, Nonces::Rotating][rng.usize(0..3)],
            life: Duration::from_secs(rng.u64(1..4)),
        };
        let peer = Peer::new(settings);
        let server = peer.serve();
        let tokens = Proxy::start(server.address, rng.u64(..), 350, tally);
        let calls = Proxy::start(server.address, rng.u64(..), 500, tally);
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let pem = key.to_pkcs8_pem();
        let public = key.public().clone();
        let login = (settings.grants != Grants::ClientCredentials).then(|| {
            let code = Grant::extension("authorization_code")
                .unwrap()
                .param("code", "c")
                .unwrap();
            let client = client(server.address).dpop(public.clone());
            Transport::new()
                .signer(key)
                .execute(client.token(code).unwrap())
                .unwrap()
        });
        let storage: Option<Arc<MemoryStorage>> = rng.bool().then(Arc::default);
        let client = client(tokens.address).dpop(public);
        if let (Some(storage), Some(login)) = (&storage, &login) {
            let name = format!("s-{}", client.session_fingerprint(None, []));
            let mut lease = storage.lease(&name, BUDGET).unwrap().unwrap();
            assert!(
                lease
                    .save(&SessionState::new(login.clone()).to_json())
                    .unwrap()
            );
        }
        Self {
            settings,
            peer,
            client,
            tokens,
            calls,
            _server: server,
            witness: Arc::default(),
            key: pem,
            storage,
            login,
        }
    }

    fn storm(&self, is_stormy: bool) {
        self.tokens.storm(is_stormy);
        self.calls.storm(is_stormy);
    }

    /// A session that begins with what is known already.
    fn session(&self) -> Session {
        let observed = Arc::clone(&self.witness);
        let key = SigningKey::from_pkcs8_pem(self.key.expose()).unwrap();
        let transport = Transport::new()
            .signer(key)
            .timeout(BUDGET)
            .on_event(move |event| observed.observe(&event));
        let client = self.client.clone();
        let builder = match self.settings.grants {
            Grants::ClientCredentials => {
                Session::builder(transport, client).grant(Grant::client_credentials())
            }
            Grants::Strict | Grants::Grace => Session::builder(transport, client),
        };
        let builder = builder.policy(
            RefreshPolicy::default()
                .refresh_timeout(BUDGET)
                .retry_interval(Duration::from_millis(20)),
        );
        match (&self.storage, &self.login) {
            (Some(storage), _) => builder.storage(storage.clone(), "s").build(),
            (None, Some(login)) => builder.token(login.clone()).build(),
            (None, None) => builder.build(),
        }
    }

    fn call(&self, session: &Session, method: &str, figures: &mut Figures) -> Result<u16, Error> {
        figures.calls += 1;
        let uri = format!("http://{}/{}", self.calls.address, figures.calls);
        let body = if method == "POST" {
            b"a body".to_vec()
        } else {
            Vec::new()
        };
        let began = Instant::now();
        let result = session.send(
            Request::builder()
                .method(method)
                .uri(uri)
                .body(body)
                .unwrap(),
        );
        let took = began.elapsed();
        figures.longest = figures.longest.max(took);
        if took > LONGEST_CALL {
            self.witness
                .observed()
                .wrongs
                .push(format!("a call took {took:?}"));
        }
        let mut response = result?;
        // Wherever it is cut off, that is for the application to see.
        let _ = response.body_mut().read_to_vec();
        figures.successes += usize::from(response.status() == 200);
        Ok(response.status().as_u16())
    }

    /// The storm is over: the session goes on, unless it may be over. Whether it is.
    fn end(&self, session: &Session, figures: &mut Figures) -> Result<bool, String> {
        // The second time shows that what the first left is good.
        let is_over = (0..2).any(|_| {
            self.peer.revoke_all();
            self.is_over(session, figures)
        });
        let observed = self.witness.observed();
        let last = observed.last_refresh_token.clone().unwrap_or_default();
        let may_be_over = match self.settings.grants {
            Grants::ClientCredentials | Grants::Grace => false,
            // The answer with the next one was lost.
            Grants::Strict => observed.used_up.contains(&last) && !self.peer.takes(&last),
        };
        if is_over && !may_be_over {
            let taken = if self.peer.takes(&last) {
                "taken"
            } else {
                "not taken"
            };
            let Settings { grants, .. } = self.settings;
            return Err(format!("{grants:?}: it is over, and {last} is {taken}"));
        }
        Ok(is_over)
    }

    /// Waits until calls succeed, or the session says that it is over.
    fn is_over(&self, session: &Session, figures: &mut Figures) -> bool {
        let began = Instant::now();
        loop {
            match (self.call(session, "GET", figures), session.token()) {
                (Ok(200), Ok(_)) => return false,
                (_, Err(error)) if error.retry() == Retry::Reauthenticate => return true,
                other if began.elapsed() > LONGEST_CALL => {
                    self.witness
                        .observed()
                        .wrongs
                        .push(format!("it doesn't recover: {other:?}"));
                    return false;
                }
                _ => thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

/// Observes the requests of the session and the responses to them.
#[derive(Default)]
struct Witness(Mutex<Observed>);

#[derive(Default)]
struct Observed {
    proofs: HashSet<String>,
    jtis: HashSet<String>,
    /// The access tokens that were refused, in responses that came, and must not be used again. One that was requested for
    /// the very call that refuses it may be used by the next, which then replaces it.
    refused: HashSet<String>,
    /// The token of the last token response, until a call has ended.
    requested: Option<String>,
    /// How many such tokens were refused in a row: after two, the token that is held stays in use for a while.
    requested_and_refused: usize,
    /// The refresh tokens that were refused, or replaced, in responses that came.
    used_up: HashSet<String>,
    last_refresh_token: Option<String>,
    last_access_token: Option<String>,
    refused_connections: usize,
    wrongs: Vec<String>,
}

impl Witness {
    fn observed(&self) -> MutexGuard<'_, Observed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is one caller, and one refresh at a time: so a response belongs to the last request of its kind.
    fn observe(&self, event: &Event<'_>) {
        let mut observed = self.observed();
        match event {
            Event::RequestSent {
                uri, headers, body, ..
            } => observed.request(uri, headers, body),
            Event::ResponseReceived {
                uri,
                status,
                body: Some(body),
                ..
            } if uri.path() == "/token" => {
                observed.token_answer(*status, body);
            }
            Event::ResponseReceived {
                status, headers, ..
            } => {
                let challenge = headers
                    .get("www-authenticate")
                    .and_then(|value| value.to_str().ok());
                let is_refused = *status == 401
                    && challenge.is_some_and(|text| text.contains("\"invalid_token\""));
                let token = observed.last_access_token.clone();
                if is_refused && token == observed.requested {
                    observed.requested_and_refused += 1;
                } else if is_refused && observed.requested_and_refused < 2 {
                    observed.refused.extend(token);
                } else if *status == 200 {
                    observed.requested_and_refused = 0;
                }
                if observed.last_access_token == observed.requested
                    && (is_refused || *status == 200)
                {
                    observed.requested = None;
                }
            }
            Event::NoResponse { cause, .. } => {
                let is_refused = matches!(cause, ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused);
                observed.refused_connections += usize::from(is_refused);
            }
            _ => {}
        }
    }
}

impl Observed {
    fn request(&mut self, uri: &Uri, headers: &HeaderMap, body: &[u8]) {
        let text = |name| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        let proof = text("dpop");
        let claims = URL_SAFE_NO_PAD
            .decode(proof.split('.').nth(1).unwrap_or_default())
            .unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        if !self.jtis.insert(claims["jti"].to_string()) | !self.proofs.insert(proof) {
            self.wrongs
                .push(format!("a proof was sent twice: {claims}"));
        }
        if uri.path() != "/token" {
            let token = text("authorization").trim_start_matches("DPoP ").to_owned();
            if self.refused.contains(&token) {
                self.wrongs
                    .push(format!("{token} was used after it had been refused"));
            }
            self.last_access_token = Some(token);
            return;
        }
        self.last_refresh_token = field(body, "refresh_token");
        if let Some(token) = &self.last_refresh_token {
            if self.used_up.contains(token) {
                self.wrongs
                    .push(format!("{token} was sent after it had been used up"));
            }
        }
    }

    fn token_answer(&mut self, status: StatusCode, body: &[u8]) {
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        match status.as_u16() {
            200 if answer["access_token"].is_string() => {
                self.requested = answer["access_token"].as_str().map(str::to_owned);
                self.used_up.extend(self.last_refresh_token.clone())
            }
            400 if answer["error"] == "invalid_grant" => {
                self.used_up.extend(self.last_refresh_token.clone())
            }
            // What an answer that is none has used up, the next one tells.
            _ => {}
        }
    }
}
