//! The authorization endpoint: whom it sends back with a code, and what that code is good for.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Uri;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::form;
use crate::rustcrypto::thumbprint;

pub(crate) const ISSUER: &str = "https://as.example";

/// What a person's browser brought, and what was made of it.
#[derive(Default)]
pub(crate) struct Authorizations {
    /// The parameters of every authorization request.
    pub(crate) asked: Vec<BTreeMap<String, String>>,
    redeemed: Vec<String>,
}

impl Authorizations {
    /// The redirect of a person who agrees.
    pub(crate) fn agree(&mut self, url: &Uri) -> String {
        let (endpoint, query) =
            url.path_and_query().expect("a path").as_str().split_once('?').expect("a query");
        assert_eq!((url.host(), endpoint), (Some("as.example"), "/authorize"));
        let params = form(query);
        assert_eq!(params["response_type"], "code");
        assert_eq!(params["client_id"], "app");
        assert_eq!(params["code_challenge_method"], "S256");
        for random in ["state", "code_challenge"] {
            assert_eq!(URL_SAFE_NO_PAD.decode(&params[random]).expect("base64url").len(), 32, "{random}");
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
        let number: usize = code.strip_prefix("code-").expect("a code of ours").parse().expect("a number");
        let asked = &self.asked[number];
        assert_eq!(params["redirect_uri"], asked["redirect_uri"]);
        assert_eq!(params["client_id"], asked["client_id"]);
        let verifier = &params["code_verifier"];
        assert!((43..=128).contains(&verifier.len()), "RFC 7636 §4.1");
        assert!(verifier.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)));
        assert_eq!(URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)), asked["code_challenge"]);
        assert_ne!(verifier, &asked["state"]);
        // RFC 9449 §10.
        let thumbprint = key.map(thumbprint);
        assert_eq!(asked.get("dpop_jkt"), thumbprint.as_ref());
    }
}
