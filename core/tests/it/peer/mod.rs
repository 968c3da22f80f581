//! An authorization server and a resource server that believe nothing. Whatever a client may not do ends in a
//! panic, and so does a client that goes on for ever.

mod authorization;
mod proof;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, Request, Response};
use keybound_core::driver::{Body, Role};
use keybound_core::{Sent, UnixTime};
use serde_json::{Map, Value, json};

pub(crate) use self::authorization::{Authorizations, ISSUER};
use self::proof::{Claims, Expected};

/// More requests than any exchange has a reason for.
const MAX_STEPS: usize = 100;

/// The scripted result of a request.
pub(crate) enum ScriptedResponse {
    Response(Response<Vec<u8>>),
    NoResponse(Sent),
}

/// When a nonce is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    Never,
    /// For the one nonce that this server has.
    Always,
    /// For a nonce that changes with every success, which says so.
    Rotating,
    /// For yet another one, whatever the proof has.
    Insatiably,
    /// For the very one that the proof has.
    Stubbornly,
}

/// A refusal that asks for a nonce.
#[derive(Clone, Copy)]
pub(crate) struct Challenge {
    pub(crate) status: u16,
    /// The fields of `WWW-Authenticate`.
    pub(crate) fields: &'static [&'static str],
    pub(crate) body: &'static str,
}

/// RFC 9449 §8.
pub(crate) const AT_THE_TOKEN_ENDPOINT: Challenge = Challenge {
    status: 400,
    fields: &[],
    body: r#"{"error":"use_dpop_nonce"}"#,
};

/// RFC 9449 §9.
pub(crate) const AT_THE_RESOURCE: Challenge = Challenge {
    status: 401,
    fields: &[r#"DPoP error="use_dpop_nonce""#],
    body: "",
};

/// One of the two parts that the peer plays.
pub(crate) struct Side {
    name: &'static str,
    pub(crate) asks: Asks,
    pub(crate) challenge: Challenge,
    /// All nonces that it ever gave; the last one is the good one.
    given: Vec<String>,
}

impl Side {
    fn new(name: &'static str, challenge: Challenge) -> Self {
        Self {
            name,
            asks: Asks::Never,
            challenge,
            given: Vec::new(),
        }
    }

    fn fresh_nonce(&mut self) -> String {
        self.given
            .push(format!("{}-{}", self.name, self.given.len() + 1));
        self.given.last().cloned().expect("just given")
    }

    /// The nonce that a refusal asks for, if this one isn't good enough.
    fn demands(&mut self, nonce: Option<&str>) -> Option<String> {
        if let Some(nonce) = nonce {
            assert!(
                self.given.iter().any(|given| given == nonce),
                "{} never gave {nonce}",
                self.name
            );
        }
        let current = self.given.last().cloned();
        match self.asks {
            Asks::Never => None,
            Asks::Insatiably => Some(self.fresh_nonce()),
            Asks::Always | Asks::Rotating if nonce.is_some() && nonce == current.as_deref() => None,
            Asks::Always | Asks::Rotating | Asks::Stubbornly => {
                Some(current.unwrap_or_else(|| self.fresh_nonce()))
            }
        }
    }
}

/// A request, as the peer remembers it.
pub(crate) struct RecordedRequest {
    pub(crate) headers: HeaderMap,
    /// The body's parameters; none at the resource server.
    pub(crate) params: BTreeMap<String, String>,
    pub(crate) jti: Option<String>,
    pub(crate) iat: Option<u64>,
    pub(crate) nonce: Option<String>,
}

pub(crate) struct Peer {
    pub(crate) authorization_server: Side,
    pub(crate) resource_server: Side,
    /// Whether tokens are bound to a key, so that every request has a proof.
    pub(crate) bound: bool,
    /// Whether each refresh brings another refresh token.
    pub(crate) rotates_refresh_tokens: bool,
    /// Members that replace those of a token answer.
    pub(crate) token_members: Map<String, Value>,
    /// What a revocation is answered with.
    pub(crate) revocation_status: u16,
    pub(crate) authorizations: Authorizations,
    /// What is posted to these paths, without a proof, is answered so.
    pub(crate) answers: BTreeMap<&'static str, Value>,
    /// A grant that is taken beside the usual ones.
    pub(crate) grant_type: Option<String>,
    /// The errors with which it is put off at first.
    pub(crate) undecided: VecDeque<&'static str>,
    /// What is to be had by GET, by its URL.
    pub(crate) documents: BTreeMap<String, Value>,
    /// The URLs that were asked for by GET.
    pub(crate) served: Vec<String>,
    /// Answers that are given next, in place of its own.
    pub(crate) script: VecDeque<ScriptedResponse>,
    pub(crate) requests: Vec<RecordedRequest>,
    issued: Vec<Issued>,
    refresh_token: Option<String>,
    jtis: BTreeSet<String>,
}

struct Issued {
    access_token: String,
    key: Option<Value>,
}

impl Peer {
    pub(crate) fn bound() -> Self {
        Self {
            authorization_server: Side::new("as", AT_THE_TOKEN_ENDPOINT),
            resource_server: Side::new("rs", AT_THE_RESOURCE),
            bound: true,
            rotates_refresh_tokens: false,
            token_members: Map::new(),
            revocation_status: 200,
            authorizations: Authorizations::new(),
            answers: BTreeMap::new(),
            grant_type: None,
            undecided: VecDeque::new(),
            documents: BTreeMap::new(),
            served: Vec::new(),
            script: VecDeque::new(),
            requests: Vec::new(),
            issued: Vec::new(),
            refresh_token: None,
            jtis: BTreeSet::new(),
        }
    }

    pub(crate) fn bearer() -> Self {
        Self {
            bound: false,
            ..Self::bound()
        }
    }

    /// The documents, by GET; the token and the revocation endpoint, by POST: whoever sends a `grant_type` wants a token.
    pub(crate) fn ask(&mut self, request: &Request<Body>, now: UnixTime) -> ScriptedResponse {
        if request.method() == "GET" {
            return self.serve(request);
        }
        assert_eq!(request.method(), "POST");
        let params = params(request);
        if let Some(answer) = self.answers.get(request.uri().path()) {
            assert!(
                !request.headers().contains_key("dpop"),
                "a proof where none is asked for"
            );
            let answer = json_response(200, answer);
            self.remember(request.headers(), params, None);
            return ScriptedResponse::Response(answer);
        }
        let claims = self.claims(Role::AuthorizationServer, request, now, None);
        self.remember(request.headers(), params.clone(), claims.as_ref());
        if let Some(answer) = self.scripted(Role::AuthorizationServer) {
            return answer;
        }
        if let Some(challenge) = self.challenge(Role::AuthorizationServer, claims.as_ref()) {
            return ScriptedResponse::Response(challenge);
        }
        if request.uri().path() == "/par" {
            return ScriptedResponse::Response(self.authorizations.push(params));
        }
        let answer = match params.get("grant_type").map(String::as_str) {
            Some("client_credentials") => self.issue(claims),
            Some("authorization_code") => {
                self.authorizations
                    .redeem(&params, claims.as_ref().map(|claims| &claims.key));
                self.issue(claims)
            }
            Some("refresh_token") if params.get("refresh_token") == self.refresh_token.as_ref() => {
                self.issue(claims)
            }
            Some("refresh_token") => json_response(400, &json!({ "error": "invalid_grant" })),
            Some(other) => {
                assert_eq!(self.grant_type, Some(other.into()));
                match self.undecided.pop_front() {
                    Some(error) => json_response(400, &json!({ "error": error })),
                    None => self.issue(claims),
                }
            }
            None if self.revocation_status == 204 => response(204, ""),
            None => json_response(self.revocation_status, &json!({})),
        };
        ScriptedResponse::Response(self.with_next_nonce(Role::AuthorizationServer, answer))
    }

    /// A document, to somebody who proves nothing and says nothing of themselves.
    fn serve(&mut self, request: &Request<Body>) -> ScriptedResponse {
        let names: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(
            (names, request.body().as_ref()),
            (vec!["accept", "accept-encoding"], &b""[..])
        );
        let url = request.uri().to_string();
        self.served.push(url.clone());
        assert!(self.served.len() < MAX_STEPS, "the client goes on for ever");
        let scripted = self.script.pop_front();
        scripted.unwrap_or_else(|| {
            ScriptedResponse::Response(
                self.documents
                    .get(&url)
                    .map_or(response(404, "nothing here"), |json| {
                        json_response(200, json)
                    }),
            )
        })
    }

    /// A protected resource.
    pub(crate) fn call(&mut self, request: &Request<()>, now: UnixTime) -> ScriptedResponse {
        let authorization = request.headers()[AUTHORIZATION].to_str().expect("text");
        let (scheme, token) = authorization.split_once(' ').expect("a scheme and a token");
        assert_eq!(scheme, if self.bound { "DPoP" } else { "Bearer" });
        let claims = self.claims(Role::ResourceServer, request, now, Some(token));
        self.remember(request.headers(), BTreeMap::new(), claims.as_ref());
        if let Some(answer) = self.scripted(Role::ResourceServer) {
            return answer;
        }
        if let Some(challenge) = self.challenge(Role::ResourceServer, claims.as_ref()) {
            return ScriptedResponse::Response(challenge);
        }
        let issued = self
            .issued
            .iter()
            .find(|issued| issued.access_token == token)
            .expect("a token of ours");
        assert_eq!(
            issued.key,
            claims.map(|claims| claims.key),
            "the key that the token is bound to"
        );
        ScriptedResponse::Response(
            self.with_next_nonce(Role::ResourceServer, response(200, "the resource")),
        )
    }

    fn side(&mut self, role: Role) -> &mut Side {
        match role {
            Role::AuthorizationServer => &mut self.authorization_server,
            Role::ResourceServer => &mut self.resource_server,
        }
    }

    fn claims<B>(
        &mut self,
        role: Role,
        request: &Request<B>,
        now: UnixTime,
        token: Option<&str>,
    ) -> Option<Claims> {
        assert!(
            self.requests.len() < MAX_STEPS,
            "the client goes on for ever"
        );
        let proofs: Vec<_> = request.headers().get_all("dpop").iter().collect();
        assert_eq!(
            proofs.len(),
            usize::from(self.bound),
            "as many proofs as a request must have"
        );
        let proof = proofs.first()?;
        assert!(proof.is_sensitive());
        let url = request.uri().to_string();
        let htu = url
            .split_once('?')
            .map_or(&*url, |(before, _)| before)
            .to_owned();
        let expected = Expected {
            method: request.method().as_str(),
            htu,
            now: now.as_secs(),
            token,
        };
        let claims = proof::check(proof.to_str().expect("text"), &expected);
        assert!(self.jtis.insert(claims.jti.clone()), "a jti twice");
        let side = self.side(role);
        assert!(
            claims.nonce.is_none() || !side.given.is_empty(),
            "{} never asked for a nonce",
            side.name
        );
        Some(claims)
    }

    fn remember(
        &mut self,
        headers: &HeaderMap,
        params: BTreeMap<String, String>,
        claims: Option<&Claims>,
    ) {
        self.requests.push(RecordedRequest {
            headers: headers.clone(),
            params,
            jti: claims.map(|claims| claims.jti.clone()),
            iat: claims.map(|claims| claims.iat),
            nonce: claims.and_then(|claims| claims.nonce.clone()),
        });
    }

    fn scripted(&mut self, role: Role) -> Option<ScriptedResponse> {
        let answer = self.script.pop_front()?;
        if let ScriptedResponse::Response(response) = &answer {
            let given = response
                .headers()
                .get("dpop-nonce")
                .map(|nonce| nonce.to_str().expect("text"));
            self.side(role).given.extend(given.map(str::to_owned));
        }
        Some(answer)
    }

    fn challenge(&mut self, role: Role, claims: Option<&Claims>) -> Option<Response<Vec<u8>>> {
        let side = self.side(role);
        let nonce = side.demands(claims.and_then(|claims| claims.nonce.as_deref()))?;
        let Challenge {
            status,
            fields,
            body,
        } = side.challenge;
        let mut refusal = with_header(response(status, body), "dpop-nonce", &nonce);
        for field in fields {
            refusal
                .headers_mut()
                .append(WWW_AUTHENTICATE, field.parse().expect("a field"));
        }
        Some(refusal)
    }

    fn with_next_nonce(&mut self, role: Role, response: Response<Vec<u8>>) -> Response<Vec<u8>> {
        let side = self.side(role);
        if side.asks != Asks::Rotating {
            return response;
        }
        let nonce = side.fresh_nonce();
        with_header(response, "dpop-nonce", &nonce)
    }

    fn issue(&mut self, claims: Option<Claims>) -> Response<Vec<u8>> {
        let number = self.issued.len() + 1;
        if self.refresh_token.is_none() || self.rotates_refresh_tokens {
            self.refresh_token = Some(format!("refresh-{number}"));
        }
        let access_token = format!("access-{number}");
        let mut answer = json!({
            "access_token": access_token,
            "token_type": if self.bound { "DPoP" } else { "Bearer" },
            "expires_in": 3600,
            "refresh_token": self.refresh_token,
        });
        for (name, value) in &self.token_members {
            answer[name] = value.clone();
        }
        self.issued.push(Issued {
            access_token,
            key: claims.map(|claims| claims.key),
        });
        json_response(200, &answer)
    }
}

pub(crate) fn params(request: &Request<Body>) -> BTreeMap<String, String> {
    let body = request.body().as_ref();
    match request.headers()[CONTENT_TYPE].as_bytes() {
        b"application/json" => serde_json::from_slice(body).expect("an object of texts"),
        b"application/x-www-form-urlencoded" => form(std::str::from_utf8(body).expect("ASCII")),
        other => panic!("a body of type {}", String::from_utf8_lossy(other)),
    }
}

fn form(text: &str) -> BTreeMap<String, String> {
    let pairs = text
        .split('&')
        .map(|pair| pair.split_once('=').expect("a name and a value"));
    let params: Vec<_> = pairs
        .map(|(name, value)| (unescape(name), unescape(value)))
        .collect();
    let by_name: BTreeMap<_, _> = params.iter().cloned().collect();
    assert_eq!(by_name.len(), params.len(), "a parameter twice");
    by_name
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().expect("a digit"), rest.next().expect("a digit")];
                u8::from_str_radix(std::str::from_utf8(&digits).expect("ASCII"), 16)
                    .expect("hexadecimal")
            }
            _ => byte,
        });
    }
    String::from_utf8(bytes).expect("UTF-8")
}

pub(crate) fn response(status: u16, body: &str) -> Response<Vec<u8>> {
    Response::builder()
        .status(status)
        .body(body.into())
        .expect("a response")
}

pub(crate) fn json_response(status: u16, body: &Value) -> Response<Vec<u8>> {
    with_header(
        response(status, &body.to_string()),
        "content-type",
        "application/json",
    )
}

pub(crate) fn with_header(
    mut response: Response<Vec<u8>>,
    name: &'static str,
    value: &str,
) -> Response<Vec<u8>> {
    response
        .headers_mut()
        .append(name, value.parse().expect("a field"));
    response
}
