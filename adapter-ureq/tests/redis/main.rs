//! Sessions in Redis servers of several kinds: over TLS, in a cluster, behind Sentinel, frozen.

#![cfg(test)]

mod runbook;
mod server;

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use keybound_sandbox::{CLIENT_ID, CLIENT_SECRET, Options, Sandbox};
use keybound_ureq::storage::{RedisStorage, Storage};
use keybound_ureq::{
    Client, ClientAuth, Endpoint, Error, Grant, RefreshPolicy, Secret, SecretBytes, Session,
    SessionBuilder, Transport,
};
use redis::cluster::ClusterClientBuilder;
use redis::sentinel::{SentinelClient, SentinelServerType};
use redis::{Client as RedisClient, TlsCertificates};

use crate::server::{Redis, free_port, wait_for};

const LEASE_TTL: Duration = Duration::from_secs(30);
const PREFIX: &str = "keybound:";

fn storage(redis: &Redis) -> RedisStorage {
    RedisStorage::new(RedisClient::open(redis.url()).unwrap(), PREFIX)
}

fn load(storage: &RedisStorage, name: &str) -> Option<Vec<u8>> {
    let state = storage.load(name).unwrap();
    state.map(|state| state.expose().to_vec())
}

fn save(storage: &RedisStorage, name: &str, state: &[u8]) {
    let mut lease = storage.lease(name, LEASE_TTL).unwrap().unwrap();
    assert!(storage.lease(name, LEASE_TTL).unwrap().is_none());
    assert!(lease.save(&SecretBytes::new(state.to_vec())).unwrap());
}

/// What every kind of Redis must do, with names in all parts of a cluster.
fn keeps_and_leases(storage: &RedisStorage) {
    for name in (0..40).map(|number| format!("person/{number} {{ü}}")) {
        assert_eq!(load(storage, &name), None);
        for state in ["first", "second"] {
            save(storage, &name, state.as_bytes());
            assert_eq!(load(storage, &name).unwrap(), state.as_bytes());
        }
    }
}

#[test]
fn sessions_are_kept_over_tls_if_the_server_is_the_right_one() {
    let folder = tempfile::tempdir().unwrap();
    let subject = "-subj /CN=redis -addext subjectAltName=IP:127.0.0.1";
    let made = Command::new("openssl")
        .args("req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256".split(' '))
        .args("-keyout key.pem -out certificate.pem -days 2".split(' '))
        .args(subject.split(' '))
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .current_dir(folder.path())
        .output()
        .unwrap_or_else(|error| panic!("openssl can't be started, install it: {error}"));
    assert!(made.status.success(), "{made:?}");
    let port = free_port();
    let number = port.to_string();
    let files = "--tls-cert-file certificate.pem --tls-key-file key.pem --tls-auth-clients no";
    let usual = ["--port", "0", "--tls-port", &number, "--save", ""];
    let files: Vec<&str> = files.split(' ').collect();
    let _redis = Redis::run(folder.path(), port, &[&usual[..], &files].concat());

    let url = format!("rediss://127.0.0.1:{port}/");
    let root = fs::read(folder.path().join("certificate.pem")).unwrap();
    let certificates = TlsCertificates {
        client_tls: None,
        root_cert: Some(root),
    };
    let client = RedisClient::build_with_tls(url.as_str(), certificates).unwrap();
    keeps_and_leases(&RedisStorage::new(client, PREFIX));
    // The platform doesn't know that root.
    let stranger = RedisStorage::new(RedisClient::open(url).unwrap(), PREFIX);
    assert!(stranger.load("one").is_err());
}

#[test]
fn sessions_are_spread_over_a_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let nodes: Vec<Redis> = (0..3)
        .map(|number| {
            let file = format!("{number}.conf");
            let arguments = ["--cluster-enabled", "yes", "--cluster-config-file", &file];
            Redis::with(folder.path(), &arguments)
        })
        .collect();
    let addresses = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port));
    let made = Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(addresses)
        .arg("--cluster-yes")
        .output()
        .unwrap_or_else(|error| panic!("redis-cli can't be started, install it: {error}"));
    assert!(made.status.success(), "{made:?}");
    let cluster = ClusterClientBuilder::new(nodes.iter().map(Redis::url))
        .connection_timeout(Duration::from_secs(1))
        .response_timeout(Duration::from_secs(1))
        .build()
        .unwrap();
    wait_for("cluster", || {
        let states = nodes.iter().map(|node| node.tell(&["CLUSTER", "INFO"]));
        states
            .map(|info| format!("{info:?}"))
            .all(|info| info.contains("cluster_state:ok"))
    });
    let storage = RedisStorage::with_connections(move || cluster.get_connection(), PREFIX);
    keeps_and_leases(&storage);
    // Each node has some of them.
    for node in &nodes {
        let size = node.tell(&["DBSIZE"]).unwrap();
        assert!(
            matches!(size, redis::Value::Int(keys) if keys > 0),
            "{size:?}"
        );
    }
}

#[test]
fn after_a_failover_the_new_master_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = [(); 2].map(|()| Redis::start(folder.path()));
    let primary = first.port.to_string();
    second.tell(&["REPLICAOF", "127.0.0.1", &primary]).unwrap();
    let port = free_port();
    let configuration = folder.path().join("sentinel.conf");
    let text = format!(
        "port {port}\n\
         sentinel monitor sessions 127.0.0.1 {primary} 1\n\
         sentinel down-after-milliseconds sessions 500\n\
         sentinel failover-timeout sessions 5000\n"
    );
    fs::write(&configuration, text).unwrap();
    let file = configuration.display().to_string();
    let sentinel = Redis::run(folder.path(), port, &[&file, "--sentinel"]);
    let client = SentinelClient::build(
        vec![sentinel.url()],
        "sessions",
        None,
        SentinelServerType::Master,
    );
    let client = Mutex::new(client.unwrap());
    let storage =
        RedisStorage::with_connections(move || client.lock().unwrap().get_connection(), PREFIX);
    wait_for("replica", || {
        let known = sentinel.tell(&["SENTINEL", "REPLICAS", "sessions"]);
        let is_linked = second.tell(&["INFO", "REPLICATION"]);
        format!("{known:?}").contains(&second.port.to_string())
            && format!("{is_linked:?}").contains("master_link_status:up")
    });
    save(&storage, "one", b"before");
    assert_eq!(load(&storage, "one").unwrap(), b"before");
    wait_for("replication", || {
        format!("{:?}", second.tell(&["DBSIZE"])).contains("int(1)")
    });
    drop(first);
    wait_for("new master", || storage.load("one").is_ok());
    assert_eq!(load(&storage, "one").unwrap(), b"before");
    wait_for("promotion", || storage.lease("one", LEASE_TTL).is_ok());
    save(&storage, "one", b"after");
    assert_eq!(load(&storage, "one").unwrap(), b"after");
}

/// A planned failover leaves the connections to the old master open.
#[test]
fn an_idle_connection_to_a_server_that_is_a_replica_now_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = [(); 2].map(|()| Redis::start(folder.path()));
    let port = Arc::new(AtomicU16::new(first.port));
    let current = Arc::clone(&port);
    let connect = move || {
        let port = current.load(Ordering::SeqCst);
        RedisClient::open(format!("redis://127.0.0.1:{port}/"))?.get_connection()
    };
    let storage = RedisStorage::with_connections(connect, PREFIX);
    save(&storage, "one", b"before");
    let other = second.port.to_string();
    first.tell(&["REPLICAOF", "127.0.0.1", &other]).unwrap();
    port.store(second.port, Ordering::SeqCst);
    save(&storage, "two", b"after");
    assert_eq!(load(&storage, "two").unwrap(), b"after");
}

#[test]
fn a_state_that_is_too_long_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::start(folder.path());
    let storage = storage(&redis);
    let key = format!("{PREFIX}{{one}}");
    for (length, is_read) in [(1024 * 1024, true), (1024 * 1024 + 1, false)] {
        let state = "x".repeat(length);
        redis.tell(&["HSET", &key, "state", &state]).unwrap();
        match storage.load("one") {
            Ok(state) => assert!(is_read && state.unwrap().expose().len() == length),
            Err(error) => assert!(!is_read && error.to_string().contains("1 MiB"), "{error}"),
        }
    }
    assert!(storage.location("one").contains(&key));
}

fn builder(sandbox: &Sandbox, redis: &Redis) -> SessionBuilder {
    let url = format!("{}/token", sandbox.oauth());
    let auth = ClientAuth::basic(CLIENT_ID, Secret::new(CLIENT_SECRET)).unwrap();
    let client = Client::new(Endpoint::loopback_http(&url).unwrap(), auth).accept_bearer();
    let policy = RefreshPolicy::default().retry_interval(Duration::from_millis(100));
    Session::builder(Transport::new(), client)
        .storage(storage(redis), "one")
        .policy(policy)
}

#[test]
fn a_frozen_server_stops_no_caller_with_a_good_token() {
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::start(folder.path());
    let sandbox = Sandbox::start(Options::default()).unwrap();
    let start = || {
        builder(&sandbox, &redis)
            .grant(Grant::client_credentials())
            .build()
    };
    let session = start();
    let token = session.token().unwrap();
    redis.freeze();
    let begin = Instant::now();
    for _ in 0..1000 {
        assert_eq!(session.token().unwrap(), token);
    }
    assert!(begin.elapsed() < Duration::from_millis(500));
    // Another process gets one of its own, as soon as lease and load have timed out.
    let begin = Instant::now();
    let alone = start().token().unwrap();
    let took = begin.elapsed();
    assert_ne!(alone.access_token(), token.access_token());
    assert!(took < Duration::from_secs(3), "{took:?}");
    // One that has only what is stored says why it has none.
    let error = builder(&sandbox, &redis).build().token().unwrap_err();
    assert!(matches!(error, Error::Storage(_)), "{error}");
    redis.thaw();
    wait_for("stored token", || {
        let next = builder(&sandbox, &redis)
            .grant(Grant::client_credentials())
            .build();
        let next = next.token().unwrap();
        thread::sleep(Duration::from_millis(100));
        start().token().unwrap() == next
    });
}
