//! A key service that answers late, from another thread, and rotates its keys meanwhile.
//!
//! What [`keybound_ureq::Transport`] does by itself is driven by hand here, because the interesting part is the
//! wait: what is unsigned is a value, names the key that must sign it, and keeps for as long as that takes.
//! (Not for ever: a proof says when it was begun, and servers take it for some seconds or minutes.)
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
        origins: ServerState::new(),
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
        "the token belongs to the key that was asked for it, however old"
    );

    let answer = app.call(&token, &(sandbox.oauth() + "/resource"))?;
    println!("the resource says: {answer}");
    assert!(
        answer.contains(&format!(r#""jkt":"{}""#, key.thumbprint())),
        "the server sees the same key"
    );
    Ok(())
}

struct App {
    agent: ureq::Agent,
    origins: ServerState,
    service: KeyService,
}

impl App {
    fn token(&mut self, client: &Client) -> Result<Token, BoxError> {
        let mut operation = client.token(Grant::client_credentials())?;
        loop {
            thread::sleep(operation.delay());
            let signing = operation.prepare(&self.origins, context()?)?;
            // The proof is written, and names its key. From here on the service would use another.
            self.service.rotate()?;
            let PreparedRequest { request, pending } = self.sign(signing)?;
            let (head, body) = request.into_parts();
            let response = self.send(Request::from_parts(head, body.as_ref()))?;
            match pending.receive(response, &mut self.origins, now())? {
                Step::Done(token) => return Ok(token),
                Step::RetryAfter(again) => operation = again, // with the nonce that the server wants
            }
        }
    }

    fn call(&mut self, token: &Token, url: &str) -> Result<String, BoxError> {
        let mut request = Request::get(url).body(&[][..])?;
        let mut call = token.authorize(request.method(), request.uri())?;
        loop {
            let signing = call.prepare(&self.origins, context()?)?;
            let PreparedCall { headers, pending } = self.sign(signing)?;
            headers.apply(request.headers_mut());
            let response = self.send(request.clone())?;
            match pending.verdict(
                response.status(),
                response.headers(),
                &mut self.origins,
                now(),
            )? {
                Verdict::RetryAfter(again) => call = again,
                Verdict::Deliver => return Ok(String::from_utf8(response.into_body())?),
                Verdict::TokenRejected => return Err("the token is refused".into()),
            }
        }
    }

    /// One function for whatever is to be signed.
    fn sign<T: Resumable>(&self, mut signing: Signing<T>) -> Result<T, BoxError> {
        loop {
            let unsigned = match signing {
                Signing::Ready(ready) => return Ok(ready),
                Signing::Needs(unsigned) => unsigned,
            };
            let key = unsigned.request().key();
            let answer = self.service.order(key, unsigned.request().message())?;
            let raw = loop {
                match answer.recv_timeout(Duration::from_millis(20)) {
                    Err(RecvTimeoutError::Timeout) => println!("… time for other work"),
                    answer => break answer?,
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

/// A stand-in for a service on the network: it knows its keys by their thumbprints, the old ones too.
struct KeyService(Sender<Order>);

enum Order {
    Rotate {
        answer: Sender<PublicJwk>,
    },
    Sign {
        thumbprint: String,
        message: Vec<u8>,
        answer: Sender<Vec<u8>>,
    },
}

impl KeyService {
    fn start() -> Self {
        let (orders, inbox) = mpsc::channel();
        thread::spawn(move || {
            // It ends when the application is gone. An answer that isn't given shows as a closed channel.
            if let Err(error) = serve(&inbox) {
                eprintln!("the key service failed: {error}");
            }
        });
        Self(orders)
    }

    /// Makes a new key, and says which it is.
    fn rotate(&self) -> Result<PublicJwk, BoxError> {
        let (answer, key) = mpsc::channel();
        self.0.send(Order::Rotate { answer })?;
        let key: PublicJwk = key.recv()?;
        println!("new key   {}", key.thumbprint());
        Ok(key)
    }

    /// Orders a signature, which comes when it comes.
    fn order(&self, key: &PublicJwk, message: &[u8]) -> Result<Receiver<Vec<u8>>, BoxError> {
        let (answer, signature) = mpsc::channel();
        let (thumbprint, message) = (key.thumbprint().to_owned(), message.to_vec());
        self.0.send(Order::Sign {
            thumbprint,
            message,
            answer,
        })?;
        Ok(signature)
    }
}

fn serve(inbox: &Receiver<Order>) -> Result<(), BoxError> {
    let random = SystemRandom::new();
    let mut keys = HashMap::new();
    for order in inbox {
        match order {
            Order::Rotate { answer } => {
                let key = SigningKey::generate(Algorithm::Es256)?;
                let pair = EcdsaKeyPair::from_pkcs8(
                    &ECDSA_P256_SHA256_FIXED_SIGNING,
                    key.to_pkcs8_der().expose(),
                    &random,
                )
                .map_err(|_| "the new key is no good")?;
                keys.insert(key.public().thumbprint().to_owned(), pair);
                answer.send(key.public().clone())?;
            }
            Order::Sign {
                thumbprint,
                message,
                answer,
            } => {
                thread::sleep(Duration::from_millis(50));
                let pair = keys.get(&thumbprint).ok_or("there is no such key")?;
                let raw = pair
                    .sign(&random, &message)
                    .map_err(|_| "no random numbers")?;
                answer.send(raw.as_ref().to_vec())?;
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
