//! A threaded backend with a session for each user, bound to one key and stored in encrypted files.
//!
//! ```sh
//! cargo run -p keybound-ureq --features file --example backend
//! ```

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use keybound_sandbox::{CLIENT_ID, CLIENT_SECRET, Options, Sandbox};
use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::storage::{EncryptedStorage, FileStorage, Storage};
use keybound_ureq::{
    Client, ClientAuth, Endpoint, Grant, Secret, Session, SessionPool, Token, Transport,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use ureq::http::Request;

type BoxError = Box<dyn Error + Send + Sync>;

const USERS: usize = 20;
const CALLS: usize = 200;

fn main() -> Result<(), BoxError> {
    let sandbox = Sandbox::start(Options::default().require_nonce(true))?;
    let directory = tempfile::tempdir()?;
    let backend = Backend::new(&sandbox.oauth(), directory.path())?;
    for user in 0..USERS {
        // The sandbox has no users: client credentials stand for a login.
        backend.login(&format!("user/{user}"), Grant::client_credentials())?;
    }
    let calls = AtomicUsize::new(0);
    thread::scope(|scope| {
        let work = || {
            while let call @ 0..CALLS = calls.fetch_add(1, Ordering::Relaxed) {
                backend.resource(&format!("user/{}", call % USERS))?;
            }
            Ok::<_, BoxError>(())
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| "a call panicked")?)
    })?;
    println!(
        "{CALLS} calls for {USERS} users, {} sessions open",
        backend.sessions.len()
    );
    Ok(())
}

struct Backend {
    server: String,
    transport: Arc<Transport>,
    client: Client,
    storage: Arc<dyn Storage>,
    sessions: SessionPool<String>,
}

impl Backend {
    fn new(server: &str, directory: &Path) -> Result<Self, BoxError> {
        let key = SigningKey::generate(Algorithm::Es256)?;
        let auth = ClientAuth::basic(CLIENT_ID, Secret::new(CLIENT_SECRET))?;
        let client = Client::new(
            Endpoint::https_or_loopback(&format!("{server}/token"))?,
            auth,
        )
        .dpop(key.public().clone());
        let transport = Arc::new(Transport::new().signer(key));
        // An application gets this key from a key service or from its environment.
        let mut storage_key = [0; 32];
        SystemRandom::new()
            .fill(&mut storage_key)
            .map_err(|_| "no random numbers")?;
        let storage: Arc<dyn Storage> = Arc::new(EncryptedStorage::new(
            FileStorage::new(directory)?,
            &storage_key,
        )?);
        let sessions = SessionPool::new(USERS / 2, {
            let (transport, client, storage) = (transport.clone(), client.clone(), storage.clone());
            move |user: &String| {
                let session = Session::builder(transport.clone(), client.clone());
                session.storage(storage.clone(), user.as_str()).build()
            }
        });
        Ok(Self {
            server: server.to_owned(),
            transport,
            client,
            storage,
            sessions,
        })
    }

    fn login(&self, user: &str, grant: Grant) -> Result<Token, BoxError> {
        let session = Session::builder(self.transport.clone(), self.client.clone()).grant(grant);
        let token = session
            .storage(self.storage.clone(), user)
            .build()
            .token()?;
        self.sessions.close(&user.to_owned());
        Ok(token)
    }

    fn resource(&self, user: &str) -> Result<String, BoxError> {
        let request = Request::get(format!("{}/resource", self.server)).body(Vec::new())?;
        let mut response = self.sessions.session(&user.to_owned()).send(request)?;
        if !response.status().is_success() {
            return Err(format!("the server responded with {}", response.status()).into());
        }
        Ok(response.body_mut().read_to_string()?)
    }
}
