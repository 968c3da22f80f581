//! A middleware that authorizes the requests of an application's own agent.

use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::uri::Scheme;
use http::{HeaderValue, Request, StatusCode, Uri, request};
use keybound_core::{Cause, Endpoint, Error, InvalidInput};
use ureq::middleware::{Middleware, MiddlewareNext};
use ureq::{RequestExt as _, SendBody};

use crate::request::ReplayableRequest;
use crate::session::Session;
use crate::transport::{AgentResult, has_body, is_same_origin};

/// A ureq middleware that authorizes requests to the given origins with the token of a [`Session`].
/// It passes other requests on unchanged.
///
/// ```no_run
/// # fn get(session: &keybound_ureq::Session) -> Result<(), Box<dyn std::error::Error>> {
/// let agent = ureq::Agent::config_builder()
///     .middleware(session.authorizer(["https://rs.example"])?)
///     .build()
///     .new_agent();
/// let accounts = agent.get("https://rs.example/accounts").call()?.body_mut().read_to_string()?;
/// # Ok(())
/// # }
/// ```
///
/// Only requests to the given origins get a token, and only if they have no `Authorization` header.
/// Redirects of such requests are not followed.
///
/// The first attempt uses the agent's middleware chain. Retries, for the same reasons as those of
/// [`Session::send`], use the session's own transport with the agent's settings and bypass the
/// middleware after this one. A body of more than 10 MiB is not buffered, so its request is never
/// retried.
///
/// By default an agent converts 4xx and 5xx into errors, which hides their headers. Then this
/// middleware repeats an idempotent request (RFC 9110 §9.2.2), or one with an `Idempotency-Key` or
/// `X-Idempotency-Key`, after a `401`, and for a bound token after a `400`, once more in order to
/// read them, and the first `Retry-After` is ignored. Any other request is not repeated then: set
/// `http_status_as_error(false)` on the agent, so that it can be.
#[derive(Clone, Debug)]
pub struct Authorizer {
    session: Session,
    origins: Arc<[Endpoint]>,
}

impl Session {
    /// Returns a middleware for an agent of the application. It authorizes the agent's requests to
    /// these origins, such as `https://rs.example`; paths are ignored.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] for a URL that must not get a token: it must be `https`, or `http`
    /// on loopback, without user information or a fragment.
    pub fn authorizer<'a>(
        &self,
        origins: impl IntoIterator<Item = &'a str>,
    ) -> Result<Authorizer, InvalidInput> {
        let origins = origins.into_iter().map(Endpoint::https_or_loopback);
        let (session, origins) = (self.clone(), origins.collect::<Result<_, _>>()?);
        Ok(Authorizer { session, origins })
    }
}

impl Middleware for Authorizer {
    fn handle(&self, request: Request<SendBody<'_>>, next: MiddlewareNext<'_>) -> AgentResult {
        if request.headers().contains_key(AUTHORIZATION) || !self.is_for(request.uri()) {
            return next.handle(request);
        }
        self.authorize(request, next)
    }
}

impl Authorizer {
    fn is_for(&self, uri: &Uri) -> bool {
        let mut origins = self.origins.iter();
        let mut has = |url: &Uri| origins.any(|origin| is_same_origin(origin.uri(), url));
        Endpoint::from_uri(uri).is_ok_and(|url| has(url.uri()))
    }

    fn authorize(&self, request: Request<SendBody<'_>>, next: MiddlewareNext<'_>) -> AgentResult {
        let inner = self.session.inner();
        let transport = &inner.transport;
        let (head, body) = request.into_parts();
        let request = ReplayableRequest::new(configured(head), body).map_err(into_ureq)?;
        let call = inner.id.call(&request.head.method, &request.head.uri);
        let call = call.map_err(|invalid| into_ureq(invalid.into()))?;

        let mut next = Some(next);
        let mut hidden = None;
        let send = |request: &mut ReplayableRequest<'_>, head, left| {
            let result = match next.take() {
                Some(next) => pass_on(next, request, head),
                None => request.send_once(transport, head, left),
            };
            match result {
                Err(ureq::Error::StatusCode(status)) => {
                    hidden = Some(status);
                    Ok(Err(StatusCode::from_u16(status).unwrap_or_default()))
                }
                result => result.map(Ok),
            }
        };
        let response = request.send_with(transport, Some(inner), call, send);
        match (response.map_err(into_ureq)?, hidden) {
            (Some(response), Some(_)) if is_error(response.status()) => {
                Err(ureq::Error::StatusCode(response.status().as_u16()))
            }
            (Some(response), _) => Ok(response),
            (None, status) => Err(ureq::Error::StatusCode(status.unwrap_or_default())),
        }
    }
}

/// Applies the settings of the application's agent, except for redirects: they would send a token,
/// or a proof for another URL, to a URL that the server chooses.
fn configured(head: request::Parts) -> request::Parts {
    let request = Request::from_parts(head, ());
    let is_plain = request.uri().scheme() == Some(&Scheme::HTTP);
    let bare = request.clone();
    let Some(config) = request.middleware_config() else {
        return bare.into_parts().0;
    };
    let config = config.max_redirects(0).max_redirects_will_error(false);
    let config = if is_plain { config.proxy(None) } else { config };
    config.build().into_parts().0
}

/// Passes the request on, with the rest of a long body or the bytes of a short one.
fn pass_on(
    next: MiddlewareNext<'_>,
    request: &mut ReplayableRequest<'_>,
    mut head: request::Parts,
) -> AgentResult {
    if let Some(rest) = &mut request.streamed {
        return next.handle(Request::from_parts(head, SendBody::from_reader(rest)));
    }
    let mut body = request.body.as_slice();
    if !has_body(&head.method, body) {
        return next.handle(Request::from_parts(head, SendBody::none()));
    }
    // Not both headers: chunked encoding stays if the application requests it.
    if !head.headers.contains_key(TRANSFER_ENCODING) {
        let length = HeaderValue::from(body.len());
        head.headers.insert(CONTENT_LENGTH, length);
    }
    next.handle(Request::from_parts(head, SendBody::from_reader(&mut body)))
}

fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// Returns ureq's own error if that is the cause, so that the application can match it.
fn into_ureq(error: Error) -> ureq::Error {
    let Error::NoResponse(lost) = error else {
        return ureq::Error::Other(Box::new(error));
    };
    let other = ureq::Error::Other(lost.to_string().into());
    let cause = lost.into_client_error().map(Cause::into_inner);
    let own = cause.and_then(|cause| cause.ok()?.downcast().ok());
    own.map_or(other, |own| *own)
}
