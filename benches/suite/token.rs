//! Prepares a token request, parses the response, and both; then makes a call with the token.

use http::{Method, Uri};
use keybound_benches::{Asking, Case, Limit, Outcome, Work, again, each};
use keybound_core::UnixTime;
use keybound_core::driver::{RequestContext, Shared, Step};
use serde::Deserialize;

pub(crate) fn cases(asking: &Asking) -> Outcome<[Case<'_>; 4]> {
    let request = again(|| asking.request());
    let response = each(|| asking.request(), |awaiting| asking.receive(awaiting));
    let operation = again(|| asking.token());
    Ok([
        Case::new("token", "request", request).with_limit(Limit {
            instructions: 11_500,
            allocations: 14,
        }),
        Case::new("token", "response", response).beside(plain(asking)),
        Case::new("token", "exchange", operation)
            .beside(plain(asking))
            .with_limit(Limit {
                instructions: 19_000,
                allocations: 20,
            }),
        Case::new("token", "bearer, authorize", bearer(asking)?).with_limit(Limit {
            instructions: 1_850,
            allocations: 0,
        }),
    ])
}

fn bearer<'a>(asking: &Asking) -> Outcome<Work<'a>> {
    let token = asking.token()?;
    let uri = Uri::from_static("https://api.example.com/v1/accounts/0123456789/transfers");
    Ok(again(move || {
        let context = RequestContext::new(UnixTime::from_secs(1_800_000_000), [7; 16]);
        let call = token.authorize(&Method::POST, &uri)?;
        match Shared::new().start(call, context) {
            Step::Call(awaiting) => Ok(awaiting.effect),
            _ => Err("a bearer token needs no signature".into()),
        }
    }))
}

/// The minimum work to parse the response.
fn plain(asking: &Asking) -> Work<'_> {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "it is read, and that is what counts")]
    struct Plain {
        access_token: String,
        token_type: String,
        expires_in: u64,
        refresh_token: String,
        scope: String,
    }
    again(|| Ok(serde_json::from_slice::<Plain>(asking.answer().as_bytes())?))
}
