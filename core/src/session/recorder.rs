//! Records all inputs of a driver's tasks, with the effect or the result that followed each of them.

use std::collections::VecDeque;
use std::fmt;

use http::{HeaderMap, header};
use serde_json::{Map, Value, json};

use crate::dpop::DPOP;
use crate::jose;
use crate::jose::signing::SignRequest;
use crate::request::effect::{Answer, AuthHeaders, Effect, PreparedRequest, Until};
use crate::request::read_headers::READ_HEADERS;
use crate::request::servers::Judged;
use crate::request::stand_ins::StandIns;
use crate::types::cause::Cause;
use crate::types::error::{Error, InvalidResponseKind, Sent};
use crate::types::escape::form_pairs;
use crate::types::time::RequestContext;

/// The version of the format.
pub(crate) const VERSION: u64 = 1;

/// The lines of a recording that nobody has taken yet, and what they have in common.
#[derive(Clone, PartialEq, Eq)]
#[expect(unnameable_types, reason = "`Task` is sealed")]
pub struct Recorder {
    pub(super) stand_ins: StandIns,
    /// The sessions in the order in which they were opened: a recording counts them from 1.
    pub(super) sessions: Vec<u64>,
    pub(super) lines: VecDeque<String>,
    /// The line of the step that is being taken.
    pub(super) line: Map<String, Value>,
    /// The number of events before this step.
    pub(super) before: usize,
    /// The tasks under way, and whether each is recorded. Of the others, the effect on what is known of
    /// servers is.
    pub(super) tasks: Vec<(u64, bool)>,
}

impl Recorder {
    pub(super) fn new(stand_ins: StandIns) -> Self {
        let header = json!({ "recording": VERSION, "keybound": env!("CARGO_PKG_VERSION") });
        Self {
            stand_ins,
            sessions: Vec::new(),
            lines: VecDeque::from([header.to_string()]),
            line: Map::new(),
            before: 0,
            tasks: Vec::new(),
        }
    }

    /// Records the time, the entropy, and the answer of a step.
    pub(super) fn step(&mut self, id: u64, answer: &Answer<'_>, context: &RequestContext) {
        self.insert("at", context.now.as_millis());
        self.insert("entropy", jose::encode(&context.entropy));
        self.insert("task", id);
        if !self.line.contains_key("start") {
            self.answer(answer);
        }
    }

    /// Records the start of a task.
    pub(super) fn start(&mut self, kind: &str, task: Value) {
        self.insert("start", json!({ kind: task }));
    }

    /// Returns the number of a session in the recording; 0 for one of another driver.
    pub(super) fn session(&self, id: u64) -> usize {
        let at = self.sessions.iter().position(|known| *known == id);
        at.map_or(0, |at| at + 1)
    }

    pub(super) fn insert(&mut self, name: &str, value: impl Into<Value>) {
        self.line.insert(name.to_owned(), value.into());
    }

    pub(super) fn insert_list(&mut self, name: &str, list: Value) {
        if list.as_array().is_some_and(|list| !list.is_empty()) {
            self.insert(name, list);
        }
    }

    pub(super) fn end_line(&mut self) {
        let line = Value::Object(std::mem::take(&mut self.line));
        self.lines.push_back(line.to_string());
    }

    fn answer(&mut self, answer: &Answer<'_>) {
        match answer {
            Answer::Go => self.insert("woken", true),
            // The signature itself may be good for a request.
            Answer::Signed(Ok(_)) => self.insert("signed", true),
            Answer::Signed(Err(error)) => {
                let error = self.error(error);
                self.insert("signed", error);
            }
            Answer::Response {
                status,
                headers,
                body,
            } => {
                let (headers, body) = (self.headers(headers), self.stand_ins.body(body));
                let response =
                    json!({ "status": status.as_u16(), "headers": headers, "body": body });
                self.insert("response", response);
            }
            Answer::Head { status, headers } => {
                let headers = self.headers(headers);
                self.insert(
                    "head",
                    json!({ "status": status.as_u16(), "headers": headers }),
                );
            }
            Answer::StatusOnly(status) => self.insert("status", status.as_u16()),
            Answer::NoResponse(sent, cause) => {
                let cause = cause.as_ref().map(|cause| self.cause(cause));
                let sent = *sent != Sent::No;
                self.insert("no_response", json!({ "maybe_sent": sent, "cause": cause }));
            }
            Answer::Leased(leased) => self.result("leased", leased, |_, leased| (*leased).into()),
            Answer::Loaded(loaded) => self.result("loaded", loaded, |this, loaded| {
                let state = loaded.as_ref();
                state.map_or(Value::Null, |state| {
                    this.stand_ins.body(state.expose()).into()
                })
            }),
            Answer::Saved(saved) => self.result("saved", saved, |_, saved| (*saved).into()),
            Answer::Released => self.insert("released", true),
            Answer::Fetched(fetched) => self.result("fetched", fetched, |this, response| {
                this.stand_ins.body(response.expose()).into()
            }),
        }
    }

    fn result<T>(
        &mut self,
        name: &str,
        result: &Result<T, Cause>,
        value: impl FnOnce(&mut Self, &T) -> Value,
    ) {
        let value = match result {
            Ok(ok) => json!({ "ok": value(self, ok) }),
            Err(cause) => json!({ "error": self.cause(cause) }),
        };
        self.insert(name, value);
    }

    /// Returns the headers that the core reads.
    fn headers(&mut self, headers: &HeaderMap) -> Value {
        let mut pairs = Vec::new();
        for name in &READ_HEADERS {
            for value in headers.get_all(name) {
                let text = String::from_utf8_lossy(value.as_bytes());
                let text = match name.as_str() {
                    "dpop-nonce" => self.stand_ins.nonce(&text),
                    "www-authenticate" => self.stand_ins.challenge(&text),
                    _ => text.into_owned(),
                };
                pairs.push(json!([name.as_str(), text]));
            }
        }
        pairs.into()
    }

    pub(super) fn effect(&mut self, effect: &Effect) -> Value {
        match effect {
            Effect::Send(send) => json!({ "send": self.request(send) }),
            Effect::Call(call) => {
                let AuthHeaders {
                    authorization,
                    proof,
                } = &call.headers;
                let authorization = String::from_utf8_lossy(authorization.as_bytes());
                let (scheme, token) = authorization.split_once(' ').unwrap_or_default();
                json!({ "call": {
                    "scheme": scheme,
                    "token": self.stand_ins.secret(token),
                    "has_proof": proof.is_some(),
                    "timeout": millis(call.timeout),
                } })
            }
            Effect::Sign(request) => json!({ "sign": self.signing(request) }),
            Effect::Wait(Until {
                time,
                unless_generation,
            }) => {
                json!({ "wait": { "until": time.as_millis(), "unless_generation": unless_generation } })
            }
            Effect::Lease(lease) => {
                let name = self.stand_ins.stand_in(&lease.name);
                json!({ "lease": { "name": name, "ttl": millis(lease.ttl) } })
            }
            Effect::Load(load) => json!({ "load": self.stand_ins.stand_in(&load.name) }),
            Effect::Save(save) => {
                let name = self.stand_ins.stand_in(&save.name);
                let state = self.stand_ins.body(save.state.expose());
                json!({ "save": { "name": name, "state": state } })
            }
            Effect::Release(release) => {
                json!({ "release": self.stand_ins.stand_in(&release.name) })
            }
            Effect::Fetch(fetch) => json!({ "fetch": millis(fetch.timeout) }),
        }
    }

    /// Returns the outline of a request: of its parameters, those that tell which token or code it
    /// uses.
    fn request(&mut self, send: &PreparedRequest) -> Value {
        let request = &send.request;
        let headers = request.headers();
        let authorization = headers.get(header::AUTHORIZATION);
        let scheme = authorization.and_then(|value| value.to_str().ok()?.split(' ').next());
        let mut params = Map::new();
        for (name, value) in sent_params(request.body().as_ref()) {
            let shown = match &*name {
                "refresh_token" => self.stand_ins.secret(&value),
                "grant_type" | "client_id" => value,
                _ => "…".to_owned(),
            };
            params.insert(name, shown.into());
        }
        json!({
            "method": request.method().as_str(),
            "url": self.stand_ins.url(&request.uri().to_string()),
            "authorization": scheme,
            "has_proof": headers.contains_key(DPOP),
            "params": params,
            "timeout": millis(send.timeout),
        })
    }

    /// Returns the key and the claims to sign. The hash of the access token is left out.
    fn signing(&mut self, request: &SignRequest) -> Value {
        let message = String::from_utf8_lossy(request.message());
        let payload = message.split('.').nth(1).and_then(jose::decode);
        let payload = payload.and_then(|json| String::from_utf8(json).ok());
        let payload = payload.and_then(|json| self.stand_ins.json(&json));
        let claims = payload.and_then(|json| serde_json::from_str(&json).ok());
        let mut claims: Map<String, Value> = claims.unwrap_or_default();
        for unread in ["ath", "sub", "jti"] {
            claims.remove(unread);
        }
        let key = request.key();
        json!({ "key": key.thumbprint(), "alg": key.algorithm().as_str(), "claims": claims })
    }

    /// Returns the reason of a verdict.
    pub(super) fn verdict(&mut self, judged: &Judged) -> Value {
        let code = judged.code.as_deref();
        let code = code.map(|code| self.stand_ins.member("error", code));
        let code = code.map_or(String::new(), |code| format!(" {code}"));
        format!("{}{code}: {}", judged.response, judged.verdict).into()
    }

    fn cause(&mut self, cause: &Cause) -> String {
        self.stand_ins.message(&cause.to_string())
    }

    /// Returns the kind of an error, without its texts.
    pub(super) fn error(&mut self, error: &Error) -> Value {
        match error {
            Error::Server(refusal) => {
                let code = refusal
                    .code()
                    .map(|code| self.stand_ins.member("error", code));
                json!({ "server": { "status": refusal.status().as_u16(), "code": code } })
            }
            Error::Response(invalid) => {
                let kind = match invalid.kind() {
                    InvalidResponseKind::NotJson { .. } => "NotJson".to_owned(),
                    InvalidResponseKind::Encoded(_) => "Encoded".to_owned(),
                    kind => format!("{kind:?}"),
                };
                json!({ "invalid_response": kind })
            }
            Error::NoResponse(lost) => {
                json!({ "no_response": { "maybe_sent": lost.sent() != Sent::No } })
            }
            Error::InvalidInput(input) => json!({ "invalid_input": input.argument() }),
            _ => error.kind().into(),
        }
    }
}

/// Shows no line: the recording is the driver's to write.
impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

/// Returns the parameters of a body, a form or a JSON object of strings.
fn sent_params(body: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(body);
    let Ok(members) = serde_json::from_str::<Map<String, Value>>(&text) else {
        return form_pairs(&text).collect();
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let members = members.iter();
    members
        .map(|(name, value)| (name.clone(), text(value)))
        .collect()
}

pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
