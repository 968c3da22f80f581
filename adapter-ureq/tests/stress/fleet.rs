//! Eight processes share one token through a real Redis; then the one that refreshes is killed, and then Redis.

use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use keybound_ureq::storage::RedisStorage;
use keybound_ureq::{Event, Grant, RefreshPolicy, Session, Transport};
use ureq::http::Request;

use crate::support::http::Server;
use crate::support::peer::{Grants, Nonces, Peer, Settings, client};
use crate::support::{alone, child, end_with_parent, new_key, read_key, setting, wait_for};

const TEST: &str = "fleet::a_fleet_refreshes_once_for_all_and_goes_on_without_its_leader_or_redis";
const PROCESSES: usize = 8;
const LIFE: Duration = Duration::from_secs(2);

/// How long a lease lasts whose holder has died.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(2);

#[test]
fn a_fleet_refreshes_once_for_all_and_goes_on_without_its_leader_or_redis() {
    if let Ok(number) = env::var("KEYBOUND_FLEET_NUMBER") {
        return serve_customers(&number);
    }
    let _alone = alone();
    let undisturbed = Duration::from_secs(setting("KEYBOUND_FLEET_SECONDS", 8));
    let folder = tempfile::tempdir().unwrap();
    let _ = new_key(&folder.path().join("key.pem"));
    let peer = Peer::new(Settings {
        grants: Grants::ClientCredentials,
        nonces: Nonces::Lasting,
        life: LIFE,
    });
    let slow = Arc::new(Mutex::new(Duration::ZERO));
    let refreshing: Arc<Mutex<Option<String>>> = Arc::default();
    let (wait, who, strict) = (
        Arc::clone(&slow),
        Arc::clone(&refreshing),
        Arc::clone(&peer),
    );
    let server = Server::start(move |asked| {
        if asked.path == "/token" {
            *who.lock().unwrap() = asked.header("x-process").map(str::to_owned);
            thread::sleep(*wait.lock().unwrap());
        }
        strict.answer(asked)
    });
    let mut redis = Redis::start();
    let mut fleet: BTreeMap<String, Child> = BTreeMap::new();
    for number in (0..PROCESSES).map(|number| number.to_string()) {
        let environment = BTreeMap::from([
            ("KEYBOUND_FLEET_NUMBER", number.clone()),
            ("KEYBOUND_FLEET_PEER", server.address.to_string()),
            ("KEYBOUND_FLEET_REDIS", redis.url()),
            ("KEYBOUND_FLEET_FOLDER", folder.path().display().to_string()),
        ]);
        fleet.insert(number, child(TEST, &environment));
    }

    // Tokens are refreshed when they have expired (`refresh_before_expiry` is zero): with fewer, some time would have none.
    wait_for("the first token", Duration::from_secs(30), || {
        !peer.state().refreshes.is_empty()
    });
    thread::sleep(undisturbed);
    let shared = refreshes(&peer);
    let lasted = peer.state().refreshes[0].0.elapsed();
    let fewest = usize::try_from(lasted.as_millis().div_ceil(LIFE.as_millis())).unwrap();
    let calls = peer.state().calls;
    println!(
        "{PROCESSES} processes, tokens of {LIFE:?}, {lasted:.1?}: {shared} refreshes, {fewest} if they took no time; {calls} calls"
    );
    assert!(shared.abs_diff(fewest) <= 1);

    // The next to refresh is killed while it does.
    *refreshing.lock().unwrap() = None;
    *slow.lock().unwrap() = Duration::from_millis(500);
    wait_for("a refresh", 2 * LIFE, || {
        refreshing.lock().unwrap().is_some()
    });
    let leader = refreshing.lock().unwrap().clone().unwrap();
    let mut killed = fleet.remove(&leader).unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    *slow.lock().unwrap() = Duration::ZERO;
    let others_go_on = |peer: &Peer| {
        let asked = Instant::now();
        wait_for("a refresh by another", 3 * REFRESH_TIMEOUT, || {
            let state = peer.state();
            state
                .refreshes
                .last()
                .is_some_and(|(at, by)| *at > asked && by.as_ref() != Some(&leader))
        });
        asked.elapsed()
    };
    println!(
        "the leader killed, another refreshed within {:.1?}",
        others_go_on(&peer)
    );

    let before = refreshes(&peer);
    redis.kill();
    thread::sleep(2 * LIFE);
    let alone = refreshes(&peer) - before;
    println!("without Redis: {alone} refreshes in {:.1?}", 2 * LIFE);
    // Each for itself.
    assert!((PROCESSES - 1..=3 * PROCESSES).contains(&alone));

    redis.start_again();
    thread::sleep(LIFE);
    let (before, began) = (refreshes(&peer), Instant::now());
    thread::sleep(2 * LIFE);
    let together = refreshes(&peer) - before;
    println!(
        "with Redis again: {together} refreshes in {:.1?}",
        began.elapsed()
    );
    assert!(together <= 3);

    File::create(folder.path().join("stop")).unwrap();
    for (number, process) in fleet {
        let Customers {
            calls,
            failures,
            longest,
            alone,
        } = Customers::read(process);
        println!(
            "process {number}: {calls} calls, {failures} failed, the longest took {longest} ms; alone {alone} times"
        );
        assert!(calls > 0 && alone > 0);
        assert_eq!(failures, 0);
        // Those who need a token wait for the lease of the one that was killed.
        assert!(u128::from(longest) < (REFRESH_TIMEOUT + Duration::from_secs(1)).as_millis());
    }
    assert_eq!(peer.state().wrongs, Vec::<String>::new());
}

fn refreshes(peer: &Peer) -> usize {
    peer.state().refreshes.len()
}

/// What a process has done.
#[derive(Default)]
struct Customers {
    calls: u64,
    failures: u64,
    /// Milliseconds.
    longest: u64,
    alone: u64,
}

const REPORT: &str = "served";

impl Customers {
    fn read(mut process: Child) -> Self {
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let lines: Vec<String> = lines.map(Result::unwrap).collect();
        assert!(process.wait().unwrap().success(), "{lines:?}");
        let report = lines
            .iter()
            .find_map(|line| line.split_once(REPORT))
            .unwrap()
            .1;
        let mut numbers = report
            .split_whitespace()
            .map(|number| number.parse().unwrap());
        let mut next = || numbers.next().unwrap();
        Self {
            calls: next(),
            failures: next(),
            longest: next(),
            alone: next(),
        }
    }
}

/// What each process does: calls, all the time, by two threads.
fn serve_customers(number: &str) {
    end_with_parent();
    let of = |name: &str| env::var(format!("KEYBOUND_FLEET_{name}")).unwrap();
    let (peer, folder) = (of("PEER"), of("FOLDER"));
    let key = read_key(&format!("{folder}/key.pem"));
    let client = client(peer.parse().unwrap())
        .dpop(key.public().clone())
        .header("x-process", number)
        .unwrap();
    let alone = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&alone);
    let transport = Transport::new()
        .signer(key)
        .timeout(Duration::from_secs(5))
        .on_event(move |event| {
            seen.fetch_add(
                usize::from(matches!(event, Event::StorageUnavailable(_))),
                Ordering::SeqCst,
            );
        });
    let storage = RedisStorage::new(redis::Client::open(of("REDIS")).unwrap(), "keybound:");
    let session = Session::builder(transport, client)
        .grant(Grant::client_credentials())
        .policy(
            RefreshPolicy::default()
                .refresh_before_expiry(Duration::ZERO)
                .refresh_timeout(REFRESH_TIMEOUT),
        )
        .storage(Arc::new(storage), "fleet")
        .build();
    let served = Mutex::new(Customers::default());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !Path::new(&folder).join("stop").exists() {
                    let request = Request::get(format!("http://{peer}/resource"))
                        .body(Vec::new())
                        .unwrap();
                    let began = Instant::now();
                    let result = session.send(request);
                    let took = u64::try_from(began.elapsed().as_millis()).unwrap();
                    let mut served = served.lock().unwrap();
                    served.calls += 1;
                    served.longest = served.longest.max(took);
                    if !result
                        .as_ref()
                        .is_ok_and(|response| response.status() == 200)
                    {
                        served.failures += 1;
                        eprintln!("process {number}: {result:?}");
                    }
                    drop(served);
                    thread::sleep(Duration::from_millis(40));
                }
            });
        }
    });
    let Customers {
        calls,
        failures,
        longest,
        ..
    } = served.into_inner().unwrap();
    println!(
        "\n{REPORT} {calls} {failures} {longest} {}",
        alone.load(Ordering::SeqCst)
    );
}

/// A server of this test's own, which keeps nothing on disk.
struct Redis {
    port: u16,
    process: Child,
}

impl Redis {
    fn start() -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        Self {
            port,
            process: Self::process(port),
        }
    }

    fn process(port: u16) -> Child {
        let process = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("redis-server can't be started, install it: {error}"));
        wait_for("Redis", Duration::from_secs(10), || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        });
        process
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.process = Self::process(self.port);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
