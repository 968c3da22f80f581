//! An authorization server (`/token`) and a resource server (everything else), strict with the proofs of both.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use keybound_ureq::dpop::ProofVerifier;
use keybound_ureq::{Client, ClientAuth, Endpoint, Secret, UnixTime};
use serde_json::{Value, json};

use super::http::{Asked, Server, response};

/// Which grants it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grants {
    ClientCredentials,
    /// Refresh tokens, each good once. Any authorization code begins anew.
    Strict,
    /// Refresh tokens, of which the one before the last is still taken.
    Grace,
}

/// Which nonces it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nonces {
    No,
    /// The same all the time.
    Lasting,
    /// Another with every response; none but the last is taken.
    Rotating,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) grants: Grants,
    pub(crate) nonces: Nonces,
    pub(crate) life: Duration,
}

pub(crate) struct Peer {
    settings: Settings,
    /// How many seconds its clock is ahead.
    ahead: AtomicI64,
    state: Mutex<State>,
}

#[derive(Default)]
pub(crate) struct State {
    /// How long access tokens live.
    pub(crate) life: Duration,
    /// Each access token is revoked when it has been used.
    pub(crate) good_for_one_call: bool,
    made: u64,
    access: HashMap<String, Instant>,
    /// The refresh token that is good, and the one before.
    pub(crate) current: Option<String>,
    previous: Option<String>,
    /// How often each refresh token came.
    pub(crate) presented: HashMap<String, u32>,
    jtis: HashSet<String>,
    nonces: HashMap<Role, u64>,
    pub(crate) token_requests: usize,
    /// When each token was given, and to whom.
    pub(crate) refreshes: Vec<(Instant, Option<String>)>,
    pub(crate) calls: usize,
    /// How often each call was carried out.
    pub(crate) carried_out: HashMap<String, u32>,
    /// What a client must never do.
    pub(crate) wrongs: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Role {
    As,
    Rs,
}

impl Role {
    fn prefix(self) -> &'static str {
        match self {
            Self::As => "as-",
            Self::Rs => "rs-",
        }
    }
}

/// The response to a request that is refused.
struct Refusal {
    status: &'static str,
    code: &'static str,
    why: String,
}

impl Refusal {
    fn new(status: &'static str, code: &'static str, why: impl Into<String>) -> Self {
        Self {
            status,
            code,
            why: why.into().replace(['"', '\\'], "'"),
        }
    }
}

impl Peer {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        let state = State {
            life: settings.life,
            ..State::default()
        };
        Arc::new(Self {
            settings,
            ahead: AtomicI64::new(0),
            state: Mutex::new(state),
        })
    }

    pub(crate) fn serve(self: &Arc<Self>) -> Server {
        let peer = Arc::clone(self);
        Server::start(move |asked| peer.answer(asked))
    }

    /// Moves its clock.
    pub(crate) fn set_ahead(&self, secs: i64) {
        self.ahead.store(secs, Ordering::SeqCst);
    }

    /// Forgets all access tokens.
    pub(crate) fn revoke_all(&self) {
        self.state().access.clear();
    }

    /// Whether it takes this refresh token.
    pub(crate) fn takes(&self, refresh_token: &str) -> bool {
        self.is_good(&self.state(), refresh_token)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn answer(&self, asked: &Asked) -> String {
        let role = if asked.path == "/token" {
            Role::As
        } else {
            Role::Rs
        };
        let mut state = self.state();
        let answer = match role {
            Role::As => self.token(&mut state, asked),
            Role::Rs => self.resource(&mut state, asked),
        };
        if self.settings.nonces == Nonces::Rotating {
            *state.nonces.entry(role).or_default() += 1;
        }
        let nonce = self.nonce(&state, role);
        let date = httpdate::fmt_http_date(
            SystemTime::UNIX_EPOCH + Duration::from_secs(self.now().as_secs()),
        );
        let mut headers = vec![("Date", date.as_str())];
        headers.extend(nonce.as_ref().map(|nonce| ("DPoP-Nonce", nonce.as_str())));
        match answer {
            Ok(body) => response("200 OK", &headers, &body),
            Err(Refusal { status, code, why }) => {
                let challenge = format!("DPoP error=\"{code}\", error_description=\"{why}\"");
                headers
                    .extend((role == Role::Rs).then_some(("WWW-Authenticate", challenge.as_str())));
                response(
                    status,
                    &headers,
                    &json!({ "error": code, "error_description": why }).to_string(),
                )
            }
        }
    }

    fn token(&self, state: &mut State, asked: &Asked) -> Result<String, Refusal> {
        state.token_requests += 1;
        self.prove(
            state,
            asked,
            Role::As,
            ProofVerifier::default().no_access_token(),
        )?;
        let grant_type = asked.field("grant_type").unwrap_or_default();
        let rotates = self.settings.grants != Grants::ClientCredentials;
        let begins = if rotates {
            "authorization_code"
        } else {
            "client_credentials"
        };
        if rotates && grant_type == "refresh_token" {
            let given = asked.field("refresh_token").unwrap_or_default();
            *state.presented.entry(given.clone()).or_default() += 1;
            if !self.is_good(state, &given) {
                return Err(Refusal::new("400 Bad Request", "invalid_grant", "used up"));
            }
            state.previous = Some(given);
        } else if grant_type != begins {
            return Err(Refusal::new(
                "400 Bad Request",
                "unsupported_grant_type",
                "not here",
            ));
        }
        state
            .refreshes
            .push((Instant::now(), asked.header("x-process").map(str::to_owned)));
        state.made += 1;
        let access = format!("a{}", state.made);
        state
            .access
            .insert(access.clone(), Instant::now() + state.life);
        state.current = rotates.then(|| format!("r{}", state.made));
        let mut body = json!({ "access_token": access, "token_type": "DPoP", "expires_in": state.life.as_secs() });
        if let Some(refresh) = &state.current {
            body["refresh_token"] = Value::from(refresh.as_str());
        }
        Ok(body.to_string())
    }

    fn resource(&self, state: &mut State, asked: &Asked) -> Result<String, Refusal> {
        state.calls += 1;
        let unauthorized = |why| Refusal::new("401 Unauthorized", "invalid_token", why);
        let token = asked.token().ok_or_else(|| unauthorized("there is none"))?;
        if state
            .access
            .get(token)
            .is_none_or(|until| *until <= Instant::now())
        {
            return Err(unauthorized("it is not good, or no longer"));
        }
        self.prove(
            state,
            asked,
            Role::Rs,
            ProofVerifier::default().access_token(&Secret::new(token)),
        )?;
        if state.good_for_one_call {
            state.access.remove(token);
        }
        let times = state
            .carried_out
            .entry(format!("{} {}", asked.method, asked.path))
            .or_default();
        *times += 1;
        if *times > 1 && asked.method == "POST" {
            state
                .wrongs
                .push(format!("POST {} was carried out twice", asked.path));
        }
        Ok("here it is".to_owned())
    }

    fn prove(
        &self,
        state: &mut State,
        asked: &Asked,
        role: Role,
        verifier: ProofVerifier,
    ) -> Result<(), Refusal> {
        let status = if role == Role::As {
            "400 Bad Request"
        } else {
            "401 Unauthorized"
        };
        let verifier = verifier.method(&asked.method).url(&asked.url()).unwrap();
        let verifier = verifier
            .max_age(Duration::from_secs(60))
            .leeway(Duration::from_secs(5));
        let inspection = verifier.verify_headers(&asked.headers, self.now());
        let given = inspection.claims().and_then(|claims| claims.nonce.clone());
        if given
            .as_ref()
            .is_some_and(|nonce| !nonce.starts_with(role.prefix()))
        {
            state
                .wrongs
                .push(format!("{role:?} was given the nonce {given:?}"));
        }
        let Some(verified) = inspection.verified() else {
            let problems: Vec<&str> = inspection
                .problems()
                .iter()
                .map(|problem| problem.code())
                .collect();
            return Err(Refusal::new(
                status,
                "invalid_dpop_proof",
                problems.join(", "),
            ));
        };
        if !state.jtis.insert(verified.jti().to_owned()) {
            state
                .wrongs
                .push(format!("the proof {} came twice", verified.jti()));
        }
        if given != self.nonce(state, role) {
            return Err(Refusal::new(status, "use_dpop_nonce", "it needs the nonce"));
        }
        Ok(())
    }

    fn nonce(&self, state: &State, role: Role) -> Option<String> {
        let number = state.nonces.get(&role).copied().unwrap_or_default();
        (self.settings.nonces != Nonces::No).then(|| format!("{}{number}", role.prefix()))
    }

    fn is_good(&self, state: &State, refresh_token: &str) -> bool {
        let is = |known: &Option<String>| known.as_deref() == Some(refresh_token);
        is(&state.current) || (self.settings.grants == Grants::Grace && is(&state.previous))
    }

    fn now(&self) -> UnixTime {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        UnixTime::from_secs(now.saturating_add_signed(self.ahead.load(Ordering::SeqCst)))
    }
}

/// A client of the peer behind this address.
pub(crate) fn client(address: SocketAddr) -> Client {
    let auth = ClientAuth::basic("id", Secret::new("secret")).unwrap();
    Client::new(
        Endpoint::loopback_http(&format!("http://{address}/token")).unwrap(),
        auth,
    )
}
