//! The input of the cases: a key, a token that is bound to it, and a request to a server that
//! requires a nonce.

use std::env;
use std::fs;
use std::time::SystemTime;

use http::{HeaderMap, Method, Response, StatusCode, Uri};
use keybound_core::dpop::{Nonce, Proof, ProofVerifier};
use keybound_core::driver::{PreparedCall, PreparedRequest, RequestContext, ServerState, Step};
use keybound_core::jose::{Algorithm, SigningKey};
use keybound_core::{Client, ClientAuth, Endpoint, Error, Grant, Secret, Token, UnixTime};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::Outcome;

/// A key, and the request that it is used for.
#[derive(Debug)]
#[non_exhaustive]
pub struct Subject {
    /// The private key.
    pub key: SigningKey,
    /// A token bound to the key; 1,000 characters long.
    pub token: Token,
    /// The nonce that the resource server requires.
    pub nonce: Nonce,
    /// The server state, which has the nonce.
    pub server_state: ServerState,
    /// The method of the request.
    pub method: Method,
    /// The URL of the request: 56 characters.
    pub uri: Uri,
    random: SystemRandom,
}

impl Subject {
    /// Returns a subject for each algorithm whose key ring can generate, and with
    /// `KEYBOUND_RSA_KEY` those of RSA.
    ///
    /// # Errors
    /// Fails if the system has no random numbers, or if the RSA key is invalid.
    pub fn all() -> Outcome<Vec<Self>> {
        let mut keys = Vec::new();
        for algorithm in [Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa] {
            keys.push(SigningKey::generate(algorithm)?);
        }
        match env::var("KEYBOUND_RSA_KEY") {
            Ok(path) => {
                let pem = fs::read_to_string(path)?;
                for algorithm in [Algorithm::Rs256, Algorithm::Ps256] {
                    keys.push(SigningKey::from_pkcs8_pem(&pem)?.with_algorithm(algorithm)?);
                }
            }
            Err(_) => println!(
                "RS256 and PS256 are left out: KEYBOUND_RSA_KEY names no PEM file with a PKCS#8 key."
            ),
        }
        keys.into_iter().map(Self::new).collect()
    }

    /// Creates a subject for this key.
    ///
    /// # Errors
    /// Never fails for a valid key.
    pub fn new(key: SigningKey) -> Outcome<Self> {
        let nonce = Nonce::new("eyJ7S_zG.eyJH0-Z.HX4w-7v")?;
        let mut subject = Self {
            token: token(&key)?,
            key,
            server_state: ServerState::new(),
            method: Method::POST,
            uri: Uri::from_static("https://api.example.com/v1/accounts/0123456789/transfers"),
            random: SystemRandom::new(),
            nonce,
        };
        let mut headers = HeaderMap::new();
        headers.insert("dpop-nonce", subject.nonce.as_str().parse()?);
        let PreparedCall { pending, .. } = subject.authorized()?;
        let _ = pending.verdict(StatusCode::OK, &headers, &mut subject.server_state, now())?;
        Ok(subject)
    }

    /// Authorizes one request, as an application does.
    ///
    /// # Errors
    /// Never fails with the built-in values.
    pub fn authorized(&self) -> Result<PreparedCall, Error> {
        self.authorized_in(self.context())
    }

    /// Authorizes one request with given time and entropy, which is the core's part.
    ///
    /// # Errors
    /// Never fails with the built-in values.
    pub fn authorized_in(&self, context: RequestContext) -> Result<PreparedCall, Error> {
        let call = self.token.authorize(&self.method, &self.uri)?;
        call.prepare(&self.server_state, context)?
            .finish(|request| self.key.sign(request))
    }

    /// Returns the same proof from its parts, which hashes the access token each time.
    ///
    /// # Errors
    /// Never fails with the built-in values.
    pub fn proof(&self) -> Result<Proof, Error> {
        Proof::build(self.key.public(), &self.method, &self.uri)?
            .nonce(&self.nonce)
            .access_token(self.token.access_token())
            .prepare(self.context())
            .finish(|request| self.key.sign(request))
    }

    /// Returns a verifier of such a proof, with all checks of a resource server.
    ///
    /// # Errors
    /// Never fails with the built-in values.
    pub fn verifier(&self) -> Outcome<ProofVerifier> {
        Ok(ProofVerifier::default()
            .method(self.method.as_str())
            .url(&self.uri.to_string())?
            .nonce(self.nonce.clone())
            .access_token(self.token.access_token()))
    }

    /// Returns a context as drivers create it: the system's time, and fresh entropy for each `jti`.
    pub fn context(&self) -> RequestContext {
        let mut entropy = [0; 16];
        // ring's signatures need random numbers as well, and fail without them.
        let _ = self.random.fill(&mut entropy);
        RequestContext::new(now(), entropy)
    }
}

/// Returns a token as a server would issue it.
fn token(key: &SigningKey) -> Outcome<Token> {
    let auth = ClientAuth::basic("bench", Secret::new("bench"))?;
    let client = Client::new(Endpoint::https("https://as.example.com/token")?, auth)
        .dpop(key.public().clone());
    let mut server_state = ServerState::new();
    let signing = client
        .token(Grant::client_credentials())?
        .prepare(&server_state, RequestContext::new(now(), [0; 16]))?;
    let PreparedRequest { pending, .. } = signing.finish(|request| key.sign(request))?;
    let answer = format!(
        r#"{{"access_token":"{}","token_type":"DPoP"}}"#,
        "a".repeat(1000)
    );
    match pending.receive(Response::new(answer), &mut server_state, now())? {
        Step::Done(token) => Ok(token),
        Step::RetryAfter(_) => Err("this answer is a token".into()),
    }
}

/// Returns the time of the system's clock.
pub fn now() -> UnixTime {
    let since_epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    UnixTime::from_secs(0).saturating_add(since_epoch)
}
