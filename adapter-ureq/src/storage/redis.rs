use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::redis::{Client, Cmd, Connection, ErrorKind, FromRedisValue, RedisError, cmd};
use keybound_core::SecretBytes;

use super::{Lease, Storage, StorageError};

/// Gives a lease, with a fencing value that is larger than any that was given or has saved before.
const LEASE: &str = "
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
local fence = 1
for _, field in ipairs({'given', 'saved'}) do
    fence = math.max(fence, tonumber(redis.call('HGET', KEYS[1], field) or '0') + 1)
end
redis.call('HSET', KEYS[1], 'given', fence)
redis.call('SET', KEYS[2], fence, 'PX', ARGV[1])
if ARGV[2] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return fence";

/// Saves, unless a later lease has saved.
const SAVE: &str = "
if tonumber(redis.call('HGET', KEYS[1], 'saved') or '0') > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'saved', ARGV[1], 'state', ARGV[2])
if ARGV[3] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1";

/// Ends a lease, unless it has lapsed.
const RELEASE: &str = "
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return 1";

/// Keeps sessions in Redis (or Valkey), for a fleet: one process renews under a lease, the others use what it saves.
///
/// Two keys for each session, with one hash tag: `PREFIX{NAME}`, a hash with the state and the fencing values, and
/// `PREFIX{NAME}:lease`. What is saved is as durable as Redis is: where refresh tokens are kept, set it to
/// `appendfsync always` and `noeviction`. A Redis that has come back with less than it had may let an old refresh
/// token be sent, which some servers take for theft.
pub struct RedisStorage {
    client: Client,
    prefix: String,
    timeout: Duration,
    keep_for: Option<Duration>,
    /// Those that nobody is using.
    idle: Mutex<Vec<Connection>>,
}

impl RedisStorage {
    /// How many idle connections are kept open.
    const IDLE: usize = 8;

    /// By this client; all its keys begin with `prefix`. Nothing is connected yet.
    pub fn new(client: Client, prefix: &str) -> Self {
        let timeout = Duration::from_secs(1);
        Self {
            client,
            prefix: prefix.to_owned(),
            timeout,
            keep_for: None,
            idle: Mutex::default(),
        }
    }

    /// How long Redis may take to connect and to answer until it counts as gone. A second unless set.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long a session is kept that nobody renews. For ever unless set.
    #[must_use]
    pub fn keep_for(mut self, time: Duration) -> Self {
        self.keep_for = Some(time);
        self
    }

    /// Asks Redis by an idle connection, or by a new one.
    fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let idle = self.idle().pop();
        if let Some(mut connection) = idle {
            match command.query(&mut connection) {
                // It was closed while it was idle. (Where Redis is slow, what was asked may have been done.)
                Err(error) if error.kind() == ErrorKind::Io && !error.is_timeout() => {
                    self.idle().clear()
                }
                answer => return self.keep(connection, answer),
            }
        }
        let mut connection = self.client.get_connection_with_timeout(self.timeout)?;
        connection.set_read_timeout(Some(self.timeout))?;
        connection.set_write_timeout(Some(self.timeout))?;
        let answer = command.query(&mut connection);
        self.keep(connection, answer)
    }

    /// Puts a connection back that is still good.
    fn keep<T>(
        &self,
        connection: Connection,
        answer: Result<T, RedisError>,
    ) -> Result<T, RedisError> {
        if answer
            .as_ref()
            .err()
            .is_none_or(|error| error.kind() != ErrorKind::Io)
        {
            let mut idle = self.idle();
            if idle.len() < Self::IDLE {
                idle.push(connection);
            }
        }
        answer
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Zero for ever.
    fn kept_millis(&self) -> u64 {
        self.keep_for.map_or(0, millis)
    }

    fn key(&self, name: &str) -> String {
        format!("{}{{{name}}}", self.prefix)
    }

    fn script(&self, script: &str, name: &str) -> Cmd {
        let key = self.key(name);
        let mut command = cmd("EVAL");
        command
            .arg(script)
            .arg(2)
            .arg(&key)
            .arg(format!("{key}:lease"));
        command
    }
}

impl Storage for RedisStorage {
    fn load(&self, name: &str) -> Result<Option<SecretBytes>, StorageError> {
        let state: Option<Vec<u8>> = self.ask(cmd("HGET").arg(self.key(name)).arg("state"))?;
        Ok(state.map(SecretBytes::new))
    }

    fn lease(
        &self,
        name: &str,
        patience: Duration,
    ) -> Result<Option<Box<dyn Lease + '_>>, StorageError> {
        let fence: u64 = self.ask(
            self.script(LEASE, name)
                .arg(millis(patience))
                .arg(self.kept_millis()),
        )?;
        if fence == 0 {
            return Ok(None);
        }
        Ok(Some(Box::new(Leased {
            storage: self,
            name: name.to_owned(),
            fence,
        })))
    }
}

struct Leased<'a> {
    storage: &'a RedisStorage,
    name: String,
    fence: u64,
}

impl Lease for Leased<'_> {
    fn remove(&mut self) -> Result<(), StorageError> {
        Ok(self
            .storage
            .ask(cmd("HDEL").arg(self.storage.key(&self.name)).arg("state"))?)
    }

    fn save(&mut self, state: &SecretBytes) -> Result<bool, StorageError> {
        let mut script = self.storage.script(SAVE, &self.name);
        Ok(self.storage.ask(
            script
                .arg(self.fence)
                .arg(state.expose())
                .arg(self.storage.kept_millis()),
        )?)
    }
}

impl Drop for Leased<'_> {
    fn drop(&mut self) {
        // If Redis can't be told, the lease lapses.
        let mut script = self.storage.script(RELEASE, &self.name);
        let _ = self.storage.ask::<u64>(script.arg(self.fence));
    }
}

/// A millisecond at least: zero means no limit to Redis.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}

impl fmt::Debug for RedisStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStorage")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}
