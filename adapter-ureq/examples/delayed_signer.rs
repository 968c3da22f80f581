//! A key service that responds late, from another thread, and rotates its keys meanwhile.
//!
//! This example drives the core directly instead of using [`keybound_ureq::Transport`], in order to
//! show the wait for a signature: a step that needs one is a value that names the key and can be
//! stored until the signature is available. (Not without limit: a proof contains the time of its
//! creation, and servers accept it for some seconds or minutes.)
//!
//! ```sh
//! cargo run -p keybound-ureq --example delayed_signer
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::mem::take;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, SystemTime};

use keybound_sandbox::{CLIENT_ID, CLIENT_SECRET, Options, Sandbox};
use keybound_ureq::driver::{RequestContext, Shared, Step, Task};
use keybound_ureq::jose::{Algorithm, PublicJwk, Signature, SigningKey};
use keybound_ureq::{Client, ClientAuth, Endpoint, Grant, Secret, SignRequest, Token, UnixTime};
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
        shared: Shared::new(),
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
    shared: Shared,
    service: KeyService,
}

/// The application's request, and the last response to it.
#[derive(Default)]
struct Application {
    request: Request<Vec<u8>>,
    response: Response<Vec<u8>>,
}

impl App {
    fn token(&mut self, client: &Client) -> Result<Token, BoxError> {
        let operation = client.token(Grant::client_credentials())?;
        self.run(operation, &mut Application::default())
    }

    fn call(&mut self, token: &Token, url: &str) -> Result<String, BoxError> {
        let request = Request::get(url).body(Vec::new())?;
        let call = token.authorize(request.method(), request.uri())?;
        let response = Response::default();
        let mut application = Application { request, response };
        if self.run(call, &mut application)?.token_rejected {
            return Err("the server rejected the token".into());
        }
        Ok(String::from_utf8(application.response.into_body())?)
    }

    /// Runs a task. Only a call uses `application`.
    fn run<T: Task>(
        &mut self,
        task: T,
        application: &mut Application,
    ) -> Result<T::Output, BoxError> {
        let mut step = self.shared.start(task, context()?);
        loop {
            step = match step {
                Step::Sign(it) => {
                    // The proof names its key. From here on the service uses another one by default.
                    self.service.rotate()?;
                    let signature = self.sign(&it.effect)?;
                    it.signed(Ok(signature), &mut self.shared, context()?)
                }
                Step::Send(mut it) => {
                    let sent = take(&mut it.effect.request);
                    let response = self.send(sent.map(|body| body.into_vec()))?;
                    it.received(&response, &mut self.shared, context()?)
                }
                Step::Call(mut it) => {
                    let mut request = application.request.clone();
                    it.effect.headers.apply(request.headers_mut());
                    application.response = self.send(request)?;
                    let (status, headers) = (
                        application.response.status(),
                        application.response.headers(),
                    );
                    it.received(status, headers, &mut self.shared, context()?)
                }
                Step::Wait(it) => {
                    thread::sleep(it.effect.time.saturating_since(now()));
                    it.woken(&mut self.shared, context()?)
                }
                Step::Done(result) => return Ok(result?),
                _ => return Err("there is no session".into()),
            };
        }
    }

    /// Completes any signature: proofs of token requests and of calls.
    fn sign(&self, request: &SignRequest) -> Result<Signature, BoxError> {
        let key = request.key();
        let response = self.service.request_signature(key, request.message())?;
        let raw = loop {
            match response.recv_timeout(Duration::from_millis(20)) {
                Err(RecvTimeoutError::Timeout) => println!("… time for other work"),
                response => break response?,
            }
        };
        println!("signed by {}", key.thumbprint());
        Ok(Signature::from_jose(key.algorithm(), &raw)?)
    }

    fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, BoxError> {
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
    SystemTime::now().into()
}

fn context() -> Result<RequestContext, BoxError> {
    let mut entropy = [0; 16];
    SystemRandom::new()
        .fill(&mut entropy)
        .map_err(|_| "no random numbers")?;
    Ok(RequestContext::new(now(), entropy))
}
