//! A middleware that authorizes the requests of an application's own agent.

use std::io::{self, Cursor, Read as _};
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::uri::Scheme;
use http::{HeaderValue, Method, Request, Response, Uri, request};
use keybound_core::{Endpoint, InvalidInput, Token};
use ureq::middleware::{Middleware, MiddlewareNext};
use ureq::{Body, RequestExt as _, SendBody};

use crate::clock::Deadline;
use crate::transport::{ReplayableRequest, TimeoutScope};
use crate::{Error, Event, Session};

/// The maximum length of a body that is buffered for retries: 10 MiB.
const MAX_BODY: u64 = 10 * 1024 * 1024;

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
/// middleware repeats a request after a `401`, and for a bound token after a `400`, once more in
/// order to read them, and the first `Retry-After` is ignored. `http_status_as_error(false)` avoids
/// this.
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
        let transport = self.session.transport();
        let deadline = Deadline::start(transport.total_timeout());
        let (head, body) = request.into_parts();
        let (buffered, mut streamed) = read(body)?;
        let request = ReplayableRequest::new(configured(head), &buffered).map_err(Error::from)?;
        let started = self.session.generation();
        let token = self
            .session
            .token_by(&deadline)
            .map_err(|error| ureq::Error::Other(Box::new(error)))?;
        let is_buffered = streamed.is_none();

        let mut next = Some(next);
        let mut status_is_error = false;
        let mut send = |request: Request<&[u8]>, left: Duration| {
            let Some(next) = next.take() else {
                return transport.send_once(request, left, TimeoutScope::Head);
            };
            let (head, buffered) = request.into_parts();
            transport.emit(Event::RequestSent {
                method: &head.method,
                uri: &head.uri,
                headers: &head.headers,
                body: buffered,
            });
            match pass_on(next, head, buffered, &mut streamed) {
                Err(ureq::Error::StatusCode(status)) => {
                    status_is_error = true;
                    Ok(Response::builder()
                        .status(status)
                        .body(Body::builder().data(Vec::new()))?)
                }
                result => result,
            }
        };
        let call = request.call(&token, deadline.left()).map_err(Error::from)?;
        let call = if is_buffered {
            call
        } else {
            call.single_use_body()
        };
        let mut result = transport.perform_with(&mut send, call, &request, &deadline)?;
        let resend = |token: &Token| {
            transport.perform(request.call(token, deadline.left())?, &request, &deadline)
        };
        // The hidden headers show whether the nonce or the token was rejected. A 400 can concern
        // only a proof: for a bearer token it is passed to the application.
        let may_be_proof_error = token.key().is_some() && result.response.status() == 400;
        let is_refused = result.response.status() == 401 || may_be_proof_error;
        if is_buffered && status_is_error && is_refused {
            result = resend(&token)?;
        }
        // With hidden headers, the proof may have been rejected instead of the token.
        let is_conclusive = is_buffered || !status_is_error || !result.token_rejected;
        if is_conclusive
            && self
                .session
                .is_refused(&token, &result, request.uri(), started)
            && is_buffered
        {
            // Without a new token, the application gets the response that rejected the token.
            if let Some(new_token) = self.session.another_token(&deadline) {
                result = resend(&new_token)?;
                self.session
                    .is_refused(&new_token, &result, request.uri(), started);
            }
        }
        let status = result.response.status();
        if status_is_error && (status.is_client_error() || status.is_server_error()) {
            return Err(ureq::Error::StatusCode(status.as_u16()));
        }
        Ok(result.response)
    }
}

/// The unread rest of a body that is too long to be buffered.
type Streamed<'a> = Option<Box<dyn io::Read + 'a>>;

/// Returns a body as bytes, or as a reader if it is too long to be buffered.
fn read(body: SendBody<'_>) -> io::Result<(Vec<u8>, Streamed<'_>)> {
    let mut buffered = Vec::new();
    let mut rest = body.into_reader();
    rest.by_ref()
        .take(MAX_BODY.saturating_add(1))
        .read_to_end(&mut buffered)?;
    if u64::try_from(buffered.len()).is_ok_and(|length| length <= MAX_BODY) {
        return Ok((buffered, None));
    }
    Ok((
        Vec::new(),
        Some(Box::new(Cursor::new(buffered).chain(rest))),
    ))
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
    mut head: request::Parts,
    mut buffered: &[u8],
    streamed: &mut Streamed<'_>,
) -> Result<Response<Body>, ureq::Error> {
    if let Some(rest) = streamed {
        return next.handle(Request::from_parts(head, SendBody::from_reader(rest)));
    }
    // These methods have a `Content-Length` even without a body.
    if buffered.is_empty() && !matches!(head.method, Method::POST | Method::PUT | Method::PATCH) {
        return next.handle(Request::from_parts(head, SendBody::none()));
    }
    // Not both headers: chunked encoding stays if the application requests it.
    if !head.headers.contains_key(TRANSFER_ENCODING) {
        head.headers
            .insert(CONTENT_LENGTH, HeaderValue::from(buffered.len()));
    }
    next.handle(Request::from_parts(
        head,
        SendBody::from_reader(&mut buffered),
    ))
}
