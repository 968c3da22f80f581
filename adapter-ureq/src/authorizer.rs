//! A middleware that authorizes the requests of an application's own agent.

use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::uri::Scheme;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, request};
use keybound_core::driver::PreparedCall;
use keybound_core::{Cause, Endpoint, Error, InvalidInput};
use ureq::middleware::{Middleware, MiddlewareNext};
use ureq::{Body, RequestExt as _, SendBody};

use crate::driver_loop::{Attempt, Run};
use crate::event::Event;
use crate::request::ReplayableRequest;
use crate::session::Session;
use crate::transport::Transport;

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
        let origins = origins
            .into_iter()
            .map(Endpoint::https_or_loopback)
            .collect::<Result<_, _>>()?;
        Ok(Authorizer {
            session: self.clone(),
            origins,
        })
    }
}

impl Middleware for Authorizer {
    fn handle(
        &self,
        request: Request<SendBody<'_>>,
        next: MiddlewareNext<'_>,
    ) -> Result<Response<Body>, ureq::Error> {
        if request.headers().contains_key(AUTHORIZATION) || !self.is_for(request.uri()) {
            return next.handle(request);
        }
        self.authorize(request, next)
    }
}

impl Authorizer {
    fn is_for(&self, uri: &Uri) -> bool {
        let origin_of =
            |url: &Endpoint| (url.uri().scheme().cloned(), url.uri().authority().cloned());
        Endpoint::from_uri(uri).is_ok_and(|url| {
            self.origins
                .iter()
                .any(|origin| origin_of(origin) == origin_of(&url))
        })
    }

    fn authorize(
        &self,
        request: Request<SendBody<'_>>,
        next: MiddlewareNext<'_>,
    ) -> Result<Response<Body>, ureq::Error> {
        let inner = self.session.inner();
        let transport = &inner.transport;
        let (head, body) = request.into_parts();
        let mut request = ReplayableRequest::new(configured(head), body).map_err(into_ureq)?;
        let call = inner.id.call(request.method(), request.uri());
        let call = call.map_err(|invalid| into_ureq(invalid.into()))?;
        let call = request.limit(call, transport.total_timeout());

        let mut next = Some(next);
        let mut hidden = None;
        let mut send = |call: &mut PreparedCall| {
            let result = match next.take() {
                Some(next) => pass_on(transport, next, &mut request, call),
                None => request.send_once(transport, call),
            };
            match result {
                Ok(response) => Attempt::Response(response),
                Err(ureq::Error::StatusCode(status)) => {
                    hidden = Some(status);
                    Attempt::StatusOnly(StatusCode::from_u16(status).unwrap_or_default())
                }
                Err(error) => Attempt::Failed(error),
            }
        };
        let mut run = Run {
            session: Some(inner),
            send: Some(&mut send),
            response: None,
        };
        transport.run(call, &mut run).map_err(into_ureq)?;
        let response = run.response;
        match (response, hidden) {
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
    transport: &Transport,
    next: MiddlewareNext<'_>,
    request: &mut ReplayableRequest<'_>,
    call: &mut PreparedCall,
) -> Result<Response<Body>, ureq::Error> {
    let (mut head, mut body) = (request.head.clone(), request.body.as_slice());
    call.headers.apply(&mut head.headers);
    transport.emit(Event::RequestSent {
        method: &head.method,
        uri: &head.uri,
        headers: &head.headers,
        body,
    });
    let uri = head.uri.clone();
    let result = if let Some(rest) = &mut request.streamed {
        next.handle(Request::from_parts(head, SendBody::from_reader(rest)))
    } else if body.is_empty() && !matches!(head.method, Method::POST | Method::PUT | Method::PATCH)
    {
        // The other methods have a `Content-Length` even without a body.
        next.handle(Request::from_parts(head, SendBody::none()))
    } else {
        // Not both headers: chunked encoding stays if the application requests it.
        if !head.headers.contains_key(TRANSFER_ENCODING) {
            head.headers
                .insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        next.handle(Request::from_parts(head, SendBody::from_reader(&mut body)))
    };
    if let Ok(response) = &result {
        transport.emit(Event::ResponseReceived {
            uri: &uri,
            status: response.status(),
            headers: response.headers(),
            body: None,
        });
    }
    result
}

fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// Returns ureq's own error if that is the cause, so that the application can match it.
fn into_ureq(error: Error) -> ureq::Error {
    match error {
        Error::NoResponse(lost) => {
            let other = ureq::Error::Other(lost.to_string().into());
            let cause = lost.into_client_error().map(Cause::into_inner);
            match cause.map(|cause| cause.map(|cause| cause.downcast())) {
                Some(Ok(Ok(error))) => *error,
                _ => other,
            }
        }
        other => ureq::Error::Other(Box::new(other)),
    }
}
