//! Redis servers of these tests' own, which keep nothing on disk.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A running server, which ends with its value.
pub(crate) struct Redis {
    pub(crate) port: u16,
    process: Child,
}

impl Redis {
    pub(crate) fn start(folder: &Path) -> Self {
        Self::with(folder, &[])
    }

    /// Starts a server with more arguments, in this folder.
    pub(crate) fn with(folder: &Path, arguments: &[&str]) -> Self {
        let port = free_port();
        let number = port.to_string();
        let usual = ["--port", &number, "--save", "", "--appendonly", "no"];
        Self::run(folder, port, &[&usual[..], arguments].concat())
    }

    /// Starts a server whose port is among its arguments.
    pub(crate) fn run(folder: &Path, port: u16, arguments: &[&str]) -> Self {
        let process = Command::new("redis-server")
            .args(arguments)
            .args(["--bind", "127.0.0.1"])
            .current_dir(folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("redis-server can't be started, install it: {error}"));
        let mut redis = Self { port, process };
        wait_for("Redis", || {
            let ended = redis.process.try_wait().unwrap();
            assert_eq!(ended, None, "redis-server ended at once");
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        });
        redis
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Sends a command of words, and returns the answer.
    pub(crate) fn tell(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let mut connection = redis::Client::open(self.url())?.get_connection()?;
        let mut command = redis::Cmd::new();
        command.arg(words);
        command.query(&mut connection)
    }

    /// Stops it as a debugger does: its connections stay open, and nothing answers.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.process.id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns a port that no other test of this process gets, nor the one 10,000 above it, where a node of a
/// cluster listens as well.
pub(crate) fn free_port() -> u16 {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let Some(bus) = port.checked_add(10_000) else {
            continue;
        };
        let mut taken = TAKEN.lock().unwrap();
        let is_new = !taken.contains(&port) && !taken.contains(&bus);
        if is_new && TcpListener::bind((Ipv4Addr::LOCALHOST, bus)).is_ok() {
            taken.extend([port, bus]);
            return port;
        }
    }
}

pub(crate) fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_there() {
        assert!(start.elapsed() < Duration::from_secs(30), "no {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
