use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::redis::{
    Client, Cmd, ConnectionLike, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, cmd,
};
use keybound_core::SecretBytes;
use keybound_core::driver::MAX_STATE;

use super::{Lease, Storage, StorageError};

/// Returns the state, unless it is longer than a state can be.
const LOAD: &str = "
if redis.call('HSTRLEN', KEYS[1], 'state') > tonumber(ARGV[1]) then
    return redis.error_reply('ERR longer than 1 MiB, so it is not a session of keybound')
end
return redis.call('HGET', KEYS[1], 'state')";

/// Acquires a lease, with a fencing token greater than that of any earlier lease and of the last
/// save.
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

/// Saves the state, unless a later lease has saved one.
const SAVE: &str = "
if tonumber(redis.call('HGET', KEYS[1], 'saved') or '0') > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'saved', ARGV[1], 'state', ARGV[2])
if ARGV[3] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1";

/// Releases a lease, unless it has expired or a later one has replaced it.
const RELEASE: &str = "
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return 1";

/// Stores sessions in Redis (or Valkey), for a fleet: one process refreshes a token under a lease,
/// and the others use the state that it saves.
///
/// Each session has two keys with one hash tag: `PREFIX{NAME}`, a hash with the state and the
/// fencing tokens, and `PREFIX{NAME}:lease`. The states are as durable as Redis. If they contain
/// refresh tokens, configure Redis with `appendfsync always` and `noeviction`: after a restart with
/// data loss, such as a failover to a replica that lags behind, an old refresh token may be sent,
/// which some servers treat as theft.
///
/// `rediss://` URLs require the feature `redis-tls`. For Sentinel and for a cluster, see
/// [`with_connections`](Self::with_connections).
pub struct RedisStorage {
    connect: Connect,
    prefix: String,
    timeout: Duration,
    keep_for: Option<Duration>,
    /// Idle connections.
    idle: Mutex<Vec<Connection>>,
}

type Connection = Box<dyn ConnectionLike + Send>;

/// Opens a connection, within a timeout.
type Connect = Box<dyn Fn(Duration) -> Result<Connection, RedisError> + Send + Sync>;

impl RedisStorage {
    /// The maximum number of idle connections.
    const IDLE: usize = 8;

    /// Creates a storage with this client. All its keys begin with `prefix`. Connections are opened
    /// on first use.
    pub fn new(client: Client, prefix: &str) -> Self {
        // A server that does not answer would cost a timeout for each command that names the library.
        let info = client.get_connection_info().clone();
        let settings = info.redis_settings().clone().set_skip_set_lib_name();
        let client = Client::open(info.set_redis_settings(settings)).unwrap_or(client);
        Self::connecting(prefix, move |timeout| {
            let connection = client.get_connection_with_timeout(timeout)?;
            connection.set_read_timeout(Some(timeout))?;
            connection.set_write_timeout(Some(timeout))?;
            Ok(Box::new(connection))
        })
    }

    /// Creates a storage with connections that `connect` opens, such as those of the `redis` crate
    /// to a cluster, or to the master that Sentinel names. A connection to a server that has become
    /// a replica is replaced. Set the timeouts of these connections in the crate's own builders.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use keybound_ureq::storage::RedisStorage;
    /// use redis::cluster::ClusterClientBuilder;
    ///
    /// # fn main() -> redis::RedisResult<()> {
    /// let cluster = ClusterClientBuilder::new(["redis://10.0.0.1", "redis://10.0.0.2"])
    ///     .connection_timeout(Duration::from_secs(1))
    ///     .response_timeout(Duration::from_secs(1))
    ///     .build()?;
    /// let storage = RedisStorage::with_connections(move || cluster.get_connection(), "keybound:");
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_connections<C: ConnectionLike + Send + 'static>(
        connect: impl Fn() -> Result<C, RedisError> + Send + Sync + 'static,
        prefix: &str,
    ) -> Self {
        Self::connecting(prefix, move |_| Ok(Box::new(connect()?)))
    }

    fn connecting(
        prefix: &str,
        connect: impl Fn(Duration) -> Result<Connection, RedisError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            connect: Box::new(connect),
            prefix: prefix.to_owned(),
            timeout: Duration::from_secs(1),
            keep_for: None,
            idle: Mutex::default(),
        }
    }

    /// Sets the timeout for connecting to Redis, and for each read and write, of a storage with a
    /// [client](Self::new). Default: 1 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how long Redis keeps a session after its last refresh. Default: forever.
    #[must_use]
    pub fn keep_for(mut self, time: Duration) -> Self {
        self.keep_for = Some(time);
        self
    }

    /// Executes a command over an idle connection, or over a new one.
    fn execute<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let idle = self.idle().pop();
        if let Some(mut connection) = idle {
            match command.query(&mut *connection) {
                Err(error) if is_outdated(&error) => self.idle().clear(),
                result => return self.recycle(connection, result),
            }
        }
        let mut connection = (self.connect)(self.timeout)?;
        let result = command.query(&mut *connection);
        self.recycle(connection, result)
    }

    /// Returns a connection to the idle ones, unless it may be the cause of an error.
    fn recycle<T>(
        &self,
        connection: Connection,
        result: Result<T, RedisError>,
    ) -> Result<T, RedisError> {
        if result.is_ok() {
            let mut idle = self.idle();
            if idle.len() < Self::IDLE {
                idle.push(connection);
            }
        }
        result
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the expiry of a session in milliseconds, or zero for none.
    fn expiry_millis(&self) -> u64 {
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
        let mut script = cmd("EVAL");
        script.arg(LOAD).arg(1).arg(self.key(name)).arg(MAX_STATE);
        let state: Option<Vec<u8>> = self.execute(&script)?;
        Ok(state.map(SecretBytes::new))
    }

    fn lease(
        &self,
        name: &str,
        ttl: Duration,
    ) -> Result<Option<Box<dyn Lease + '_>>, StorageError> {
        let fence: u64 = self.execute(
            self.script(LEASE, name)
                .arg(millis(ttl))
                .arg(self.expiry_millis()),
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

    fn location(&self, name: &str) -> String {
        format!("Redis key {}", self.key(name))
    }
}

struct Leased<'a> {
    storage: &'a RedisStorage,
    name: String,
    fence: u64,
}

impl Lease for Leased<'_> {
    fn save(&mut self, state: &SecretBytes) -> Result<bool, StorageError> {
        let mut script = self.storage.script(SAVE, &self.name);
        Ok(self.storage.execute(
            script
                .arg(self.fence)
                .arg(state.expose())
                .arg(self.storage.expiry_millis()),
        )?)
    }
}

impl Drop for Leased<'_> {
    fn drop(&mut self) {
        // If this fails, the lease expires.
        let mut script = self.storage.script(RELEASE, &self.name);
        let _ = self.storage.execute::<u64>(script.arg(self.fence));
    }
}

/// Whether a connection failed because it is old: it was closed while it was idle, or its server is
/// a replica by now. (Not after a timeout: a slow Redis may have executed the command.)
fn is_outdated(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io => !error.is_timeout(),
        ErrorKind::Server(kind) => kind == ServerErrorKind::ReadOnly,
        _ => false,
    }
}

/// Returns milliseconds, at least one: for Redis zero is not a valid expiry.
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
