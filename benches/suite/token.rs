//! Asking for a token, reading the answer, and both: an exchange without a network.

use http::{Method, Request, Response, Uri};
use keybound_benches::{Case, Limit, Outcome, Work, again, each};
use keybound_core::{
    Ambient, Body, Client, ClientAuth, Endpoint, Grant, Origins, Outgoing, Pending, Received, Scope, Secret,
    Signing, Token, UnixTime,
};
use serde::Deserialize;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

pub(crate) fn cases<'a>() -> Outcome<Vec<Case<'a>>> {
    let auth = ClientAuth::basic("6d1b3a3c-0f0e-4b5e-a9a0", Secret::new("4ZfL-secret_of~32.characters-Q1x"))?;
    let client = Client::new(Endpoint::https("https://as.example.com/oauth2/token")?, auth);
    let grant = Grant::client_credentials().scope(Scope::of(["accounts.read", "transfers.write"])?);
    let answer = answer();

    let request = {
        let (client, grant) = (client.clone(), grant.clone());
        again(move || asked(&client, &grant))
    };
    let response = {
        let (client, grant, answer) = (client.clone(), grant.clone(), answer.clone());
        each(move || Ok(asked(&client, &grant)?.1), move |pending| token(pending, &answer))
    };
    let bearer = {
        let token = token(asked(&client, &grant)?.1, &answer)?;
        let uri = Uri::from_static("https://api.example.com/v1/accounts/0123456789/transfers");
        again(move || {
            Ok(token.authorize(&Method::POST, &uri)?.prepare(&Origins::new(), Ambient::new(NOW, [7; 16]))?)
        })
    };
    let exchange = {
        let answer = answer.clone();
        again(move || token(asked(&client, &grant)?.1, &answer))
    };
    Ok(vec![
        Case::new("token", "request", request).at_most(Limit { instructions: 11_500, allocations: 14 }),
        Case::new("token", "response", response).beside(plain(&answer)),
        Case::new("token", "exchange", exchange)
            .beside(plain(&answer))
            .at_most(Limit { instructions: 22_000, allocations: 23 }),
        Case::new("token", "bearer, authorize", bearer)
            .at_most(Limit { instructions: 1_000, allocations: 0 }),
    ])
}

/// 1.5 kB, as servers send it.
fn answer() -> String {
    let (access, refresh) = ("a".repeat(1000), "r".repeat(300));
    format!(
        r#"{{"access_token":"{access}","token_type":"Bearer","expires_in":3600,"refresh_token":"{refresh}","scope":"accounts.read transfers.write"}}"#
    )
}

fn asked(client: &Client, grant: &Grant) -> Outcome<(Request<Body>, Pending<Token>)> {
    match client.token(grant.clone())?.prepare(&Origins::new(), Ambient::new(NOW, [7; 16]))? {
        Signing::Ready(Outgoing { request, pending }) => Ok((request, pending)),
        Signing::Needs(_) => Err("this client has no key".into()),
    }
}

fn token(pending: Pending<Token>, answer: &str) -> Outcome<Token> {
    match pending.receive(Response::new(answer), &mut Origins::new(), NOW)? {
        Received::Done(token) => Ok(token),
        Received::Again(_) => Err("this answer is a token".into()),
    }
}

/// What anybody does who reads the answer.
fn plain<'a>(answer: &str) -> Work<'a> {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "it is read, and that is what counts")]
    struct Plain {
        access_token: String,
        token_type: String,
        expires_in: u64,
        refresh_token: String,
        scope: String,
    }
    let answer = answer.to_owned();
    again(move || Ok(serde_json::from_slice::<Plain>(answer.as_bytes())?))
}
