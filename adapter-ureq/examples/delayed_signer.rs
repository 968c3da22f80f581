//! A key service that responds late, from another thread, and rotates its keys meanwhile.
//!
//! This example drives the core directly instead of using [`keybound_ureq::Transport`], in order to
//! show the wait for a signature: an unsigned request is a value that names its key and can be
//! stored until the signature is available. (Not without limit: a proof contains the time of its
//! creation, and servers accept it for some seconds or minutes.)
//!
//! ```sh
//! cargo run -p keybound-ureq --example delayed_signer
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, SystemTime};

use keybound_sandbox::{CLIENT_ID, CLIENT_SECRET, Options, Sandbox};
use keybound_ureq::driver::{
    PreparedCall, PreparedRequest, RequestContext, Resumable, ServerState, Signing, Step, Verdict,
};
use keybound_ureq::jose::{Algorithm, PublicJwk, Signature, SigningKey};
use keybound_ureq::{Client, ClientAuth, Endpoint, Grant, Secret, Token, UnixTime};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use ureq::http::{Request, Response};

type BoxError = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), BoxError> {
    let sandbox = Sandbox::start(Options::default().require_nonce(true))?;
    let mut app = App {
        agent: ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .build()
            .new_agent(),
        server_state: ServerState::new(),
        service: KeyService::start(),
    };

    let key = app.service.rotate()?;
    let auth = ClientAuth::basic(CLIENT_ID, Secret::new(CLIENT_SECRET))?;
    let client = Client::new(
        Endpoint::https_or_loopback(&(sandbox.oauth() + "/token"))?,
        auth,
    )
    .dpop(key.clone());
    let token = app.token(&client)?;
    assert_eq!(
        token.key(),
        Some(&key),
        "the token is bound to the key of its request, although the service has rotated its keys"
    );

    let response = app.call(&token, &(sandbox.oauth() + "/resource"))?;
    println!("resource: {response}");
    assert!(
        response.contains(&format!(r#""jkt":"{}""#, key.thumbprint())),
        "the server must report the same key"
    );
    Ok(())
}

struct App {
    agent: ureq::Agent,
    server_state: ServerState,
    service: KeyService,
}

impl App {
    fn token(&mut self, client: &Client) -> Result<Token, BoxError> {
        let mut operation = client.token(Grant::client_credentials())?;
        loop {
            thread::sleep(operation.delay());
            let signing = operation.prepare(&self.server_state, context()?)?;
            // The proof is prepared and names its key. From here on the service uses another one by
            // default.
            self.service.rotate()?;
            let PreparedRequest { request, pending } = self.sign(signing)?;
            let (head, body) = request.into_parts();
            let response = self.send(Request::from_parts(head, body.as_ref()))?;
            match pending.receive(response, &mut self.server_state, now())? {
                Step::Done(token) => return Ok(token),
                Step::RetryAfter(next) => operation = next, // with the nonce that the server requires
            }
        }
    }

    fn call(&mut self, token: &Token, url: &str) -> Result<String, BoxError> {
        let mut request = Request::get(url).body(&[][..])?;
        let mut call = token.authorize(request.method(), request.uri())?;
        loop {
            let signing = call.prepare(&self.server_state, context()?)?;
            let PreparedCall { headers, pending } = self.sign(signing)?;
            headers.apply(request.headers_mut());
            let response = self.send(request.clone())?;
            match pending.verdict(
                response.status(),
                response.headers(),
                &mut self.server_state,
                now(),
            )? {
                Verdict::RetryAfter(next) => call = next,
                Verdict::Deliver => return Ok(String::from_utf8(response.into_body())?),
                Verdict::TokenRejected => return Err("the server rejected the token".into()),
            }
        }
    }

    /// Completes any signature: proofs of token requests and of calls.
    fn sign<T: Resumable>(&self, mut signing: Signing<T>) -> Result<T, BoxError> {
        loop {
            let unsigned = match signing {
                Signing::Ready(ready) => return Ok(ready),
                Signing::Needs(unsigned) => unsigned,
            };
            let key = unsigned.request().key();
            let response = self
                .service
                .request_signature(key, unsigned.request().message())?;
            let raw = loop {
                match response.recv_timeout(Duration::from_millis(20)) {
                    Err(RecvTimeoutError::Timeout) => println!("… time for other work"),
                    response => break response?,
                }
            };
            println!("signed by {}", key.thumbprint());
            let signature = Signature::from_jose(key.algorithm(), &raw)?;
            signing = unsigned.resume(signature)?;
        }
    }

    fn send(&self, request: Request<&[u8]>) -> Result<Response<Vec<u8>>, BoxError> {
        let (head, mut body) = self.agent.run(request)?.into_parts();
        Ok(Response::from_parts(head, body.read_to_vec()?))
    }
}

/// A stand-in for a remote service, which stores its keys, including the old ones, by thumbprint.
struct KeyService(Sender<ServiceRequest>);

enum ServiceRequest {
    Rotate {
        response: Sender<PublicJwk>,
    },
    Sign {
        thumbprint: String,
        message: Vec<u8>,
        response: Sender<Vec<u8>>,
    },
}

impl KeyService {
    fn start() -> Self {
        let (requests, inbox) = mpsc::channel();
        thread::spawn(move || {
            // The thread exits when the application drops the channel. A missing response shows as
            // a closed channel.
            if let Err(error) = serve(&inbox) {
                eprintln!("the key service failed: {error}");
            }
        });
        Self(requests)
    }

    /// Creates a new key and returns its public half.
    fn rotate(&self) -> Result<PublicJwk, BoxError> {
        let (response, key) = mpsc::channel();
        self.0.send(ServiceRequest::Rotate { response })?;
        let key: PublicJwk = key.recv()?;
        println!("new key   {}", key.thumbprint());
        Ok(key)
    }

    /// Requests a signature. It arrives later on the returned channel.
    fn request_signature(
        &self,
        key: &PublicJwk,
        message: &[u8],
    ) -> Result<Receiver<Vec<u8>>, BoxError> {
        let (response, signature) = mpsc::channel();
        let (thumbprint, message) = (key.thumbprint().to_owned(), message.to_vec());
        self.0.send(ServiceRequest::Sign {
            thumbprint,
            message,
            response,
        })?;
        Ok(signature)
    }
}

fn serve(inbox: &Receiver<ServiceRequest>) -> Result<(), BoxError> {
    let random = SystemRandom::new();
    let mut keys = HashMap::new();
    for request in inbox {
        match request {
            ServiceRequest::Rotate { response } => {
                let key = SigningKey::generate(Algorithm::Es256)?;
                let pair = EcdsaKeyPair::from_pkcs8(
                    &ECDSA_P256_SHA256_FIXED_SIGNING,
                    key.to_pkcs8_der().expose(),
                    &random,
                )
                .map_err(|_| "the new key is invalid")?;
                keys.insert(key.public().thumbprint().to_owned(), pair);
                response.send(key.public().clone())?;
            }
            ServiceRequest::Sign {
                thumbprint,
                message,
                response,
            } => {
                thread::sleep(Duration::from_millis(50));
                let pair = keys
                    .get(&thumbprint)
                    .ok_or("the service has no key with this thumbprint")?;
                let raw = pair
                    .sign(&random, &message)
                    .map_err(|_| "no random numbers")?;
                response.send(raw.as_ref().to_vec())?;
            }
        }
    }
    Ok(())
}

fn now() -> UnixTime {
    let since_epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    UnixTime::from_secs(0).saturating_add(since_epoch)
}

fn context() -> Result<RequestContext, BoxError> {
    let mut entropy = [0; 16];
    SystemRandom::new()
        .fill(&mut entropy)
        .map_err(|_| "no random numbers")?;
    Ok(RequestContext::new(now(), entropy))
}
