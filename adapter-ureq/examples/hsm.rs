//! Signs proofs with a key that never leaves a PKCS#11 token: an HSM, a smart card, or SoftHSM2.
//!
//! ```sh
//! KEYBOUND_PKCS11_PIN=… cargo run -p keybound-ureq --example hsm
//! ```
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `KEYBOUND_PKCS11_PIN` | the user's PIN | none: required |
//! | `KEYBOUND_PKCS11_MODULE` | the token's PKCS#11 library | SoftHSM2's, in Debian's path |
//! | `KEYBOUND_PKCS11_TOKEN` | the token's label | the first initialised token |
//!
//! The server is a sandbox in the same process. `.ci/hsm` creates a SoftHSM2 token and runs this
//! example.

use std::env;
use std::error::Error;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use keybound_sandbox::{CLIENT_ID, CLIENT_SECRET, Options, Sandbox};
use keybound_ureq::jose::{PublicJwk, Signature};
use keybound_ureq::{Client, ClientAuth, Endpoint, Grant, Secret, SignRequest, Signer, Transport};
use ring::digest::{SHA256, digest};

type BoxError = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), BoxError> {
    let key = TokenKey::open()?;
    let public = key.public.clone();
    println!("key in the token: {}", public.to_json());

    let sandbox = Sandbox::start(Options::default().require_nonce(true))?;
    let auth = ClientAuth::basic(CLIENT_ID, Secret::new(CLIENT_SECRET))?;
    let client = Client::new(
        Endpoint::https_or_loopback(&(sandbox.oauth() + "/token"))?,
        auth,
    )
    .dpop(public.clone());
    let transport = Transport::new().signer(key);

    let token = transport.execute(client.token(Grant::client_credentials())?)?;
    println!("access token:     bound to {}", public.thumbprint());

    let request = ureq::http::Request::get(sandbox.oauth() + "/resource").body(Vec::new())?;
    let mut response = transport.send(&token, request)?;
    let status = response.status();
    let body = response.body_mut().read_to_string()?;
    println!("resource:         {status} {body}");
    if !status.is_success() || !body.contains(public.thumbprint()) {
        return Err("the resource server did not accept the token".into());
    }
    Ok(())
}

/// An EC P-256 key pair in a token. The private half is only a handle.
struct TokenKey {
    /// A PKCS#11 session supports one operation at a time.
    session: Mutex<Session>,
    private: ObjectHandle,
    public: PublicJwk,
}

impl Signer for TokenKey {
    fn sign(&self, request: &SignRequest) -> Result<Signature, BoxError> {
        if request.key() != &self.public {
            return Err("the request names another key than the token's".into());
        }
        // Not CKM_ECDSA_SHA256, which many tokens don't support. The hash needs no secret, so it is
        // computed here.
        let hash = digest(&SHA256, request.message());
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let raw = session.sign(&Mechanism::Ecdsa, self.private, hash.as_ref())?;
        // PKCS#11 encodes signatures as R‖S, like JOSE.
        Ok(Signature::from_jose(request.key().algorithm(), &raw)?)
    }
}

/// The label of the key, which stays in the token between runs.
const LABEL: &[u8] = b"keybound-dpop";

impl TokenKey {
    fn open() -> Result<Self, BoxError> {
        let session = log_in()?;
        let public = find(&session, ObjectClass::PUBLIC_KEY)?;
        let (public, private) = match (public, find(&session, ObjectClass::PRIVATE_KEY)?) {
            (Some(public), Some(private)) => (public, private),
            (None, None) => generate(&session)?,
            _ => return Err("the token has only one half of the key pair".into()),
        };
        let public = public_jwk(&session, public)?;
        Ok(Self {
            session: Mutex::new(session),
            private,
            public,
        })
    }
}

fn log_in() -> Result<Session, BoxError> {
    let pin = env::var("KEYBOUND_PKCS11_PIN").map_err(|_| "KEYBOUND_PKCS11_PIN is not set")?;
    let token = env::var("KEYBOUND_PKCS11_TOKEN").ok();

    let pkcs11 = Pkcs11::new(module()?)?;
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    for slot in pkcs11.get_slots_with_initialized_token()? {
        let label = pkcs11.get_token_info(slot)?.label().to_owned();
        if token.as_ref().is_none_or(|wanted| *wanted == label) {
            println!("token:            {label}");
            let session = pkcs11.open_rw_session(slot)?;
            session.login(UserType::User, Some(&pin.into()))?;
            return Ok(session);
        }
    }
    Err("no initialised token has this label".into())
}

fn module() -> Result<String, BoxError> {
    if let Ok(module) = env::var("KEYBOUND_PKCS11_MODULE") {
        return Ok(module);
    }
    let default_paths = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    ];
    let found = default_paths
        .into_iter()
        .find(|path| Path::new(path).exists());
    Ok(found
        .ok_or("SoftHSM2 is not installed: set KEYBOUND_PKCS11_MODULE")?
        .to_owned())
}

fn find(session: &Session, class: ObjectClass) -> Result<Option<ObjectHandle>, BoxError> {
    let template = [
        Attribute::Class(class),
        Attribute::KeyType(KeyType::EC),
        Attribute::Label(LABEL.to_vec()),
    ];
    Ok(session.find_objects(&template)?.first().copied())
}

fn generate(session: &Session) -> Result<(ObjectHandle, ObjectHandle), BoxError> {
    let public = [
        Attribute::Token(true),
        Attribute::Label(LABEL.to_vec()),
        Attribute::Verify(true),
        Attribute::EcParams(P256.to_vec()),
    ];
    let private = [
        Attribute::Token(true),
        Attribute::Label(LABEL.to_vec()),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
    ];
    println!("key pair:         none yet, generated in the token");
    Ok(session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?)
}

/// The curve's OID 1.2.840.10045.3.1.7 in DER.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

fn public_jwk(session: &Session, public: ObjectHandle) -> Result<PublicJwk, BoxError> {
    let attributes = session.get_attributes(public, &[AttributeType::EcPoint])?;
    let Some(Attribute::EcPoint(der)) = attributes.first() else {
        return Err("the token does not return the public key".into());
    };
    // An OCTET STRING of 65 bytes: 4 (uncompressed point), x and y.
    let point = der
        .strip_prefix(&[0x04, 65, 0x04])
        .filter(|point| point.len() == 64);
    let (x, y) = point.ok_or("the key isn't on P-256")?.split_at(32);
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let jwk = format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}"}}"#);
    Ok(PublicJwk::from_json(jwk.as_bytes())?)
}
