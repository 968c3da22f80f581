//! keybound beside other libraries that do the same. `../README.md` says how to run it.

use std::hint::black_box;
use std::path::Path;

use http::{Response, header};
use keybound_benches::{Asking, Case, Outcome, again, run};
use oauth2::basic::{BasicClient, BasicTokenResponse};
use oauth2::{ClientId, ClientSecret, HttpRequest, Scope, TokenUrl};

fn main() -> Outcome {
    let asking = Asking::new()?;
    run(
        oauth2(&asking)?.into(),
        &Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("keybound-peers.json"),
    )
}

/// The usual client of OAuth 2.0, by itself and as what keybound is held against.
fn oauth2(asking: &Asking) -> Outcome<[Case<'_>; 2]> {
    let exchange = || {
        let client = BasicClient::new(ClientId::new(Asking::CLIENT_ID.to_owned()))
            .set_client_secret(ClientSecret::new(Asking::CLIENT_SECRET.to_owned()))
            .set_token_uri(TokenUrl::new(Asking::URL.to_owned())?);
        let network = |_: HttpRequest| {
            let answer = Response::builder().header(header::CONTENT_TYPE, "application/json");
            answer.body(asking.answer().as_bytes().to_vec())
        };
        Ok::<_, Box<dyn std::error::Error>>(move || -> Outcome<BasicTokenResponse> {
            let scopes = Asking::SCOPES.map(|scope| Scope::new(scope.to_owned()));
            Ok(client.exchange_client_credentials().add_scopes(scopes).request(&network)?)
        })
    };
    // oauth2 wants the answer's bytes for itself; so we copy them as well.
    let ours = || {
        black_box(asking.answer().to_owned());
        asking.exchange()
    };
    Ok([
        Case::new("token", "exchange, by oauth2", again(exchange()?)),
        Case::new("token", "exchange, beside oauth2", again(ours)).beside(again(exchange()?)),
    ])
}
