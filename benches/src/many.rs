//! Many servers, and many users.

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, StatusCode, Uri};
use keybound_core::driver::{Delivered, RequestContext, Shared, Step};
use keybound_core::jose::{Algorithm, Signature};
use keybound_core::{Client, ClientAuth, Endpoint, Grant, Scope, Secret, Token};
use keybound_ureq::{Session, SessionPool, Transport};

use crate::subject::lock;
use crate::{Asking, Outcome, Subject, now};

/// Resource servers that each require a nonce, and their state behind a lock, as in drivers.
#[derive(Debug)]
pub struct Servers {
    uris: Vec<Uri>,
    answer: HeaderMap,
    shared: Mutex<Shared>,
}

impl Servers {
    /// Creates the given number of servers, and calls each one once.
    ///
    /// # Errors
    /// Never fails with the built-in values.
    pub fn known_to(subject: &Subject, count: usize) -> Outcome<Self> {
        let url = |at| format!("https://api-{at}.example.com/v1/accounts/0123456789/transfers");
        let uris = (0..count)
            .map(|at| url(at).parse())
            .collect::<Result<_, _>>()?;
        let answer =
            HeaderMap::from_iter([("dpop-nonce".parse()?, subject.nonce.as_str().parse()?)]);
        let servers = Self {
            uris,
            answer,
            shared: Mutex::default(),
        };
        for at in 0..count {
            let _ = servers.call(subject, at)?;
        }
        Ok(servers)
    }

    /// Calls one of them, without the signature: looks up the nonce for the proof, and records the
    /// one of the response.
    ///
    /// # Errors
    /// Never fails for a key of ES256.
    pub fn call(&self, subject: &Subject, at: usize) -> Outcome<Delivered> {
        let uri = self.uris.get(at).ok_or("there are fewer servers")?;
        let now = now();
        let context = || RequestContext::new(now, [7; 16]);
        let call = subject.token.authorize(&subject.method, uri)?;
        let mut step = lock(&self.shared).start(call, context());
        loop {
            step = match step {
                Step::Sign(awaiting) => {
                    let signature = Signature::from_jose(Algorithm::Es256, &[7; 64])?;
                    awaiting.signed(Ok(signature), &mut lock(&self.shared), context())
                }
                Step::Call(awaiting) => awaiting.received(
                    StatusCode::OK,
                    &self.answer,
                    &mut lock(&self.shared),
                    context(),
                ),
                Step::Done(delivered) => return Ok(delivered?),
                _ => return Err("no other call waits".into()),
            };
        }
    }

    /// Returns the state of the servers.
    pub fn into_shared(self) -> Shared {
        self.shared
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pool with a session for each user.
#[derive(Debug)]
pub struct People {
    pool: SessionPool<String>,
    names: Vec<String>,
}

impl People {
    /// Creates the given number of sessions, all with the subject's token, so that their memory
    /// beyond it can be measured.
    ///
    /// # Errors
    /// Never fails with the built-in values.
    pub fn with_sessions(subject: &Subject, count: usize) -> Outcome<Self> {
        let auth = ClientAuth::basic(Asking::CLIENT_ID, Secret::new(Asking::CLIENT_SECRET))?;
        let client =
            Client::new(Endpoint::https(Asking::URL)?, auth).dpop(subject.key.public().clone());
        let grant = Grant::client_credentials().scope(Scope::from_tokens(Asking::SCOPES)?);
        let (transport, token) = (Arc::new(Transport::new()), subject.token.clone());
        let pool = SessionPool::new(count, move |_: &String| {
            let session =
                Session::builder(Arc::clone(&transport), client.clone()).grant(grant.clone());
            session.token(token.clone()).build()
        });
        let names: Vec<_> = (0..count).map(|at| format!("person-{at:06}")).collect();
        for name in &names {
            let _ = pool.session(name);
        }
        Ok(Self { pool, names })
    }

    /// Returns the token of one user's session, as an application needs it for each request.
    ///
    /// # Errors
    /// Never fails with the built-in values.
    pub fn token(&self, at: usize) -> Outcome<Token> {
        let name = self.names.get(at).ok_or("there are fewer people")?;
        Ok(self.pool.session(name).token()?)
    }

    /// Returns the pool of all sessions.
    pub fn into_pool(self) -> SessionPool<String> {
        self.pool
    }
}
