//! The authorization endpoint: whom it sends back with a code, and what that code is good for.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Response, Uri};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{form, json_response};
use crate::rustcrypto::thumbprint;

pub(crate) const ISSUER: &str = "https://as.example";

/// What a person's browser brought, and what was made of it.
pub(crate) struct Authorizations {
    /// The one client that is registered.
    pub(crate) client_id: &'static str,
    /// The parameters of every authorization request.
    pub(crate) asked: Vec<BTreeMap<String, String>>,
    redeemed: Vec<String>,
    /// The requests that were pushed; the reference is the number.
    pushed: Vec<BTreeMap<String, String>>,
}

impl Authorizations {
    pub(crate) fn new() -> Self {
        Self {
            client_id: "app",
            asked: Vec::new(),
            redeemed: Vec::new(),
            pushed: Vec::new(),
        }
    }

    /// RFC 9126 §2.2.
    pub(crate) fn push(&mut self, params: BTreeMap<String, String>) -> Response<Vec<u8>> {
        self.pushed.push(params);
        let reference = format!(
            "urn:ietf:params:oauth:request_uri:{}",
            self.pushed.len() - 1
        );
        json_response(201, &json!({ "request_uri": reference, "expires_in": 60 }))
    }

    /// The redirect of a person who agrees.
    pub(crate) fn agree(&mut self, url: &Uri) -> String {
        let (endpoint, query) = url
            .path_and_query()
            .expect("a path")
            .as_str()
            .split_once('?')
            .expect("a query");
        assert_eq!((url.host(), endpoint), (Some("as.example"), "/authorize"));
        let mut params = form(query);
        if let Some(reference) = params.get("request_uri") {
            assert_eq!(params.len(), 2, "RFC 9126 §4");
            let (_, number) = reference.rsplit_once(':').expect("a reference of ours");
            let pushed = self.pushed[number.parse::<usize>().expect("a number")].clone();
            assert_eq!(params["client_id"], pushed["client_id"]);
            params = pushed;
        }
        assert_eq!(params["response_type"], "code");
        assert_eq!(params["client_id"], self.client_id);
        assert_eq!(params["code_challenge_method"], "S256");
        for random in ["state", "code_challenge"] {
            assert_eq!(
                URL_SAFE_NO_PAD
                    .decode(&params[random])
                    .expect("base64url")
                    .len(),
                32,
                "{random}"
            );
        }
        let redirect = format!(
            "{}?code=code-{}&state={}&iss={ISSUER}",
            params["redirect_uri"],
            self.asked.len(),
            params["state"]
        );
        self.asked.push(params);
        redirect
    }

    /// Panics unless the token request proves that it is the authorization request's other half.
    pub(crate) fn redeem(&mut self, params: &BTreeMap<String, String>, key: Option<&Value>) {
        let code = &params["code"];
        assert!(!self.redeemed.contains(code), "a code twice");
        self.redeemed.push(code.clone());
        let number: usize = code
            .strip_prefix("code-")
            .expect("a code of ours")
            .parse()
            .expect("a number");
        let asked = &self.asked[number];
        assert_eq!(params["redirect_uri"], asked["redirect_uri"]);
        // It may stand in the header instead.
        assert!(
            params
                .get("client_id")
                .is_none_or(|id| *id == asked["client_id"])
        );
        let verifier = &params["code_verifier"];
        assert!((43..=128).contains(&verifier.len()), "RFC 7636 §4.1");
        assert!(
            verifier
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
        );
        assert_eq!(
            URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)),
            asked["code_challenge"]
        );
        assert_ne!(verifier, &asked["state"]);
        // RFC 9449 §10.
        let thumbprint = key.map(thumbprint);
        assert_eq!(asked.get("dpop_jkt"), thumbprint.as_ref());
    }
}
