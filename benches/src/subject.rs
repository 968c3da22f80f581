//! The input of the cases: a key, a token that is bound to it, and a request to a server that
//! requires a nonce.

use std::env;
use std::fs;
use std::hint::black_box;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use http::{HeaderMap, Method, StatusCode, Uri};
use keybound_core::dpop::{Nonce, Proof, ProofVerifier};
use keybound_core::driver::{Awaiting, PreparedCall, RequestContext, Shared, Step};
use keybound_core::jose::{Algorithm, Signature, SigningKey};
use keybound_core::{
    Call, Cause, Client, ClientAuth, Endpoint, Error, Secret, SignRequest, Token, UnixTime,
};
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
    /// The driver's shared state, which has the nonce.
    pub shared: Mutex<Shared>,
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
        let subject = Self {
            token: token(&key)?,
            key,
            shared: Mutex::default(),
            method: Method::POST,
            uri: Uri::from_static("https://api.example.com/v1/accounts/0123456789/transfers"),
            random: SystemRandom::new(),
            nonce,
        };
        let mut headers = HeaderMap::new();
        headers.insert("dpop-nonce", subject.nonce.as_str().parse()?);
        let call = subject.token.authorize(&subject.method, &subject.uri)?;
        let mut shared = lock(&subject.shared);
        let Step::Sign(awaiting) = shared.start(call, subject.context()) else {
            return Err("a bound token needs a signature".into());
        };
        let signature = subject.key.sign(&awaiting.effect).map_err(Cause::new);
        if let Step::Call(sent) = awaiting.signed(signature, &mut shared, subject.context()) {
            let _ = sent.received(StatusCode::OK, &headers, &mut shared, subject.context());
        }
        drop(shared);
        Ok(subject)
    }

    /// Makes one call, as an application does, without a network.
    ///
    /// # Errors
    /// Never fails with the built-in values.
    pub fn call(&self) -> Outcome<()> {
        self.call_in(&self.shared, || (now(), self.entropy()))
    }

    /// Makes one call with given time and entropy, which is the core's part: from the token to the
    /// verdict on a response. The lock is not held while the key signs.
    ///
    /// # Errors
    /// Never fails with the built-in values.
    pub fn call_in(
        &self,
        shared: &Mutex<Shared>,
        input: impl Fn() -> (UnixTime, [u8; 16]),
    ) -> Outcome<()> {
        let sign = |request: &SignRequest| Ok(self.key.sign(request)?);
        let sent = black_box(self.authorized_by(shared, &input, sign)?);
        let (now, entropy) = input();
        let (headers, context) = (HeaderMap::new(), RequestContext::new(now, entropy));
        match sent.received(StatusCode::OK, &headers, &mut lock(shared), context) {
            Step::Done(delivered) => {
                black_box(delivered?);
                Ok(())
            }
            _ => Err("a success is delivered".into()),
        }
    }

    /// Authorizes one request with another signature than the key's.
    ///
    /// # Errors
    /// Fails if `sign` does.
    pub fn authorized_by(
        &self,
        shared: &Mutex<Shared>,
        input: impl Fn() -> (UnixTime, [u8; 16]),
        sign: impl FnOnce(&SignRequest) -> Outcome<Signature>,
    ) -> Outcome<Awaiting<PreparedCall, Call>> {
        let call = self.token.authorize(&self.method, &self.uri)?;
        let (now, entropy) = input();
        let step = lock(shared).start(call, RequestContext::new(now, entropy));
        let Step::Sign(awaiting) = step else {
            return Err("a bound token needs a signature".into());
        };
        let signature = sign(&awaiting.effect)?;
        let (now, entropy) = input();
        let context = RequestContext::new(now, entropy);
        let mut shared = lock(shared);
        match awaiting.signed(Ok(signature), &mut shared, context) {
            Step::Call(sent) => Ok(sent),
            _ => Err("a call follows the signature".into()),
        }
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
        RequestContext::new(now(), self.entropy())
    }

    /// Returns 16 random bytes of the system.
    pub fn entropy(&self) -> [u8; 16] {
        let mut entropy = [0; 16];
        // ring's signatures need random numbers as well, and fail without them.
        let _ = self.random.fill(&mut entropy);
        entropy
    }
}

/// Returns a token as a server would issue it.
fn token(key: &SigningKey) -> Outcome<Token> {
    let auth = ClientAuth::basic("bench", Secret::new("bench"))?;
    let client = Client::new(Endpoint::https("https://as.example.com/token")?, auth)
        .dpop(key.public().clone());
    let answer = format!(
        r#"{{"access_token":"{}","token_type":"DPoP"}}"#,
        "a".repeat(1000)
    );
    Ok(client.parse_token_response(answer.as_bytes(), now())?)
}

/// Locks the shared state, as drivers do.
pub(crate) fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the time of the system's clock.
pub fn now() -> UnixTime {
    SystemTime::now().into()
}
