//! Parses the response of a token endpoint into a token, and measures the whole operation without a
//! network.

use std::hint::black_box;
use std::time::SystemTime;

use http::{Response, header};
use huskarl::grant::core::{RawTokenResponse, TokenResponse};
use keybound_benches::{Asking, Case, Outcome, Work, again, each};
use oauth2::basic::{BasicClient, BasicTokenResponse};
use oauth2::{ClientId, ClientSecret, HttpRequest, Scope, TokenUrl};

pub(crate) fn cases(asking: &Asking) -> Outcome<[Case<'_>; 5]> {
    let response = || {
        each(
            || asking.request(),
            |awaiting| asking.receive(awaiting),
        )
    };
    let exchange = || {
        again(|| {
            // oauth2 takes ownership of the response's bytes, so keybound's case copies them as
            // well.
            black_box(asking.answer().to_owned());
            asking.token()
        })
    };
    Ok([
        Case::new("token", "response, keybound", response()),
        Case::new(
            "token",
            "response, oauth2",
            again(|| oauth2_response(asking)),
        )
        .beside(response()),
        Case::new(
            "token",
            "response, huskarl",
            again(|| huskarl_response(asking)),
        )
        .beside(response()),
        Case::new("token", "exchange, keybound", exchange()),
        Case::new("token", "exchange, oauth2", oauth2_exchange(asking)?).beside(exchange()),
    ])
}

/// Parses a response as oauth2 does in a function that is not public.
fn oauth2_response(asking: &Asking) -> Outcome<BasicTokenResponse> {
    let mut json = serde_json::Deserializer::from_slice(asking.answer().as_bytes());
    Ok(serde_path_to_error::deserialize(&mut json)?)
}

fn huskarl_response(asking: &Asking) -> Outcome<TokenResponse> {
    let raw: RawTokenResponse = serde_json::from_slice(asking.answer().as_bytes())?;
    Ok(raw.into_token_response(None, SystemTime::now())?)
}

fn oauth2_exchange(asking: &Asking) -> Outcome<Work<'_>> {
    let client = BasicClient::new(ClientId::new(Asking::CLIENT_ID.to_owned()))
        .set_client_secret(ClientSecret::new(Asking::CLIENT_SECRET.to_owned()))
        .set_token_uri(TokenUrl::new(Asking::URL.to_owned())?);
    let network = |_: HttpRequest| {
        let answer = Response::builder().header(header::CONTENT_TYPE, "application/json");
        answer.body(asking.answer().as_bytes().to_vec())
    };
    Ok(again(move || {
        let scopes = Asking::SCOPES.map(|scope| Scope::new(scope.to_owned()));
        Ok(client
            .exchange_client_credentials()
            .add_scopes(scopes)
            .request(&network)?)
    }))
}
