//! The status of an API's response, as a message for the user.

use std::str::FromStr as _;

use http::header::LOCATION;
use http::response::Parts;
use http::{StatusCode, Uri};

/// Returns `Ok` for a successful response, otherwise the message for the user. `length` is the
/// length of the body in bytes; `empty_401` is the hint for a 401 with an empty body.
pub(crate) fn check_response(
    url: &Uri,
    head: &Parts,
    length: u64,
    empty_401: Option<&str>,
) -> Result<(), String> {
    match head.status {
        status @ StatusCode::UNAUTHORIZED if length == 0 => {
            let hint = empty_401
                .map(|hint| format!(" without a body: {hint}"))
                .unwrap_or_default();
            Err(format!("the server answered {status}{hint}"))
        }
        status if status.is_redirection() && status != StatusCode::NOT_MODIFIED => {
            let location = head
                .headers
                .get(LOCATION)
                .and_then(|location| location.to_str().ok());
            let to = location
                .and_then(|location| origin(url, location))
                .unwrap_or_default();
            Err(format!(
                "the server answered {status}{to}; redirects are not followed"
            ))
        }
        status if status.as_u16() >= 400 => Err(format!("the server answered {status}")),
        _ => Ok(()),
    }
}

/// Returns the scheme and authority that `location` leads to. The rest may contain secrets.
fn origin(from: &Uri, location: &str) -> Option<String> {
    let has_scheme = location
        .split(['/', '?', '#'])
        .next()
        .is_some_and(|begin| begin.contains(':'));
    let to = if location.starts_with("//") {
        Uri::from_str(&format!("{}:{location}", from.scheme_str()?)).ok()?
    } else if has_scheme {
        Uri::from_str(location).ok()?
    } else {
        from.clone()
    };
    let port = to.port().map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!(", to {}://{}{port}", to.scheme_str()?, to.host()?))
}
