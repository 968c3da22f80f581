//! A threaded backend with a session for each person, bound to one key, kept in files and sealed.
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

const PEOPLE: usize = 20;
const CALLS: usize = 200;

fn main() -> Result<(), BoxError> {
    let sandbox = Sandbox::start(Options::default().require_nonce(true))?;
    let folder = tempfile::tempdir()?;
    let backend = Backend::new(&sandbox.oauth(), folder.path())?;
    for person in 0..PEOPLE {
        // The sandbox has no people: the application's own authority stands for a login.
        backend.login(&format!("person/{person}"), Grant::client_credentials())?;
    }
    let calls = AtomicUsize::new(0);
    thread::scope(|scope| {
        let work = || {
            while let call @ 0..CALLS = calls.fetch_add(1, Ordering::Relaxed) {
                backend.resource(&format!("person/{}", call % PEOPLE))?;
            }
            Ok::<_, BoxError>(())
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| "a call panicked")?)
    })?;
    println!(
        "{CALLS} calls for {PEOPLE} people, {} sessions open",
        backend.people.len()
    );
    Ok(())
}

struct Backend {
    server: String,
    transport: Arc<Transport>,
    client: Client,
    storage: Arc<dyn Storage>,
    people: SessionPool<String>,
}

impl Backend {
    fn new(server: &str, folder: &Path) -> Result<Self, BoxError> {
        let key = SigningKey::generate(Algorithm::Es256)?;
        let auth = ClientAuth::basic(CLIENT_ID, Secret::new(CLIENT_SECRET))?;
        let client = Client::new(
            Endpoint::https_or_loopback(&format!("{server}/token"))?,
            auth,
        )
        .dpop(key.public().clone());
        let transport = Arc::new(Transport::new().signer(key));
        // An application has this key from elsewhere: a key service, or its environment.
        let mut seal = [0; 32];
        SystemRandom::new()
            .fill(&mut seal)
            .map_err(|_| "no random numbers")?;
        let storage: Arc<dyn Storage> =
            Arc::new(EncryptedStorage::new(FileStorage::new(folder)?, &seal)?);
        let people = SessionPool::new(PEOPLE / 2, {
            let (transport, client, storage) = (transport.clone(), client.clone(), storage.clone());
            move |person: &String| {
                let session = Session::resume(transport.clone(), client.clone());
                session.storage(storage.clone(), person.as_str()).build()
            }
        });
        Ok(Self {
            server: server.to_owned(),
            transport,
            client,
            storage,
            people,
        })
    }

    fn login(&self, person: &str, grant: Grant) -> Result<Token, BoxError> {
        let session = Session::builder(self.transport.clone(), self.client.clone(), grant);
        let token = session
            .storage(self.storage.clone(), person)
            .build()
            .token()?;
        self.people.close(&person.to_owned());
        Ok(token)
    }

    fn resource(&self, person: &str) -> Result<String, BoxError> {
        let request = Request::get(format!("{}/resource", self.server)).body(Vec::new())?;
        let mut response = self.people.session(&person.to_owned()).send(request)?;
        if !response.status().is_success() {
            return Err(format!("the server answered {}", response.status()).into());
        }
        Ok(response.body_mut().read_to_string()?)
    }
}
