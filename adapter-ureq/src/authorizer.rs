//! Authorises what an application's own agent sends.

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

/// The longest body that is kept to be sent again: 10 MiB.
const MAX_BODY: u64 = 10 * 1024 * 1024;

/// A ureq middleware that authorises requests by a [`Session`], and leaves all others as they are.
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
/// Only requests to the origins that it is given get a token, and none that has an `Authorization` already. Such a
/// request follows no redirection.
///
/// The first request goes down the agent's chain. If it has to be sent again, as [`Session::send`] would, that goes
/// by the session's own transport with the agent's settings, past the middleware that comes after this one. A body
/// of more than 10 MiB is not kept, so its request is sent once, whatever comes.
///
/// An agent that makes errors of statuses, as agents do unless told otherwise, hides the head of a refusal: a
/// `401`, or for a bound token a `400`, is then asked for once more to read it, and a `Retry-After` is not seen the
/// first time. `http_status_as_error(false)` spares that.
#[derive(Clone, Debug)]
pub struct Authorizer {
    session: Session,
    origins: Arc<[Endpoint]>,
}

impl Session {
    /// A middleware for an agent of the application's, which authorises its requests to these origins
    /// (`https://rs.example`; a path is not looked at).
    ///
    /// # Errors
    /// `InvalidInput` for what is no URL that may have a token.
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
        let place = |url: &Endpoint| (url.uri().scheme().cloned(), url.uri().authority().cloned());
        Endpoint::from_uri(uri).is_ok_and(|url| {
            self.origins
                .iter()
                .any(|origin| place(origin) == place(&url))
        })
    }

    fn authorize(
        &self,
        request: Request<SendBody<'_>>,
        next: MiddlewareNext<'_>,
    ) -> Result<Response<Body>, ureq::Error> {
        let transport = self.session.transport();
        let clock = Deadline::start(transport.total_timeout());
        let (head, body) = request.into_parts();
        let (kept, mut streamed) = read(body)?;
        let request = ReplayableRequest::new(configured(head), &kept).map_err(Error::from)?;
        let started = self.session.generation();
        let token = self
            .session
            .token_by(&clock)
            .map_err(|error| ureq::Error::Other(Box::new(error)))?;
        let is_kept = streamed.is_none();

        let mut next = Some(next);
        let mut status_is_error = false;
        let mut down_the_chain = |request: Request<&[u8]>, left: Duration| {
            let Some(next) = next.take() else {
                return transport.send_once(request, left, TimeoutScope::Head);
            };
            let (head, kept) = request.into_parts();
            transport.emit(Event::RequestSent {
                method: &head.method,
                uri: &head.uri,
                headers: &head.headers,
                body: kept,
            });
            match hand_on(next, head, kept, &mut streamed) {
                Err(ureq::Error::StatusCode(status)) => {
                    status_is_error = true;
                    Ok(Response::builder()
                        .status(status)
                        .body(Body::builder().data(Vec::new()))?)
                }
                answer => answer,
            }
        };
        let call = request.call(&token, clock.left()).map_err(Error::from)?;
        let call = if is_kept {
            call
        } else {
            call.single_use_body()
        };
        let mut performed = transport.perform_by(&mut down_the_chain, call, &request, &clock)?;
        let by_ourselves =
            |token: &Token| transport.perform(request.call(token, clock.left())?, &request, &clock);
        // What the refusal says, its head would have said: whether it is the nonce, or the token. Only a proof is
        // refused with 400: any other 400 is the application's.
        let may_be_the_proof = token.key().is_some() && performed.response.status() == 400;
        let is_refused = performed.response.status() == 401 || may_be_the_proof;
        if is_kept && status_is_error && is_refused {
            performed = by_ourselves(&token)?;
        }
        // Where the head is hidden, the proof may be what was refused.
        let is_told = is_kept || !status_is_error || !performed.token_is_refused;
        if is_told
            && self
                .session
                .is_refused(&token, &performed, request.uri(), started)
            && is_kept
        {
            // Without another token, the refusal is the application's.
            if let Some(other) = self.session.another_token(&clock) {
                performed = by_ourselves(&other)?;
                self.session
                    .is_refused(&other, &performed, request.uri(), started);
            }
        }
        let status = performed.response.status();
        if status_is_error && (status.is_client_error() || status.is_server_error()) {
            return Err(ureq::Error::StatusCode(status.as_u16()));
        }
        Ok(performed.response)
    }
}

/// A body that is too long to be kept.
type Streamed<'a> = Option<Box<dyn io::Read + 'a>>;

/// A body as bytes, or, where it is too long to be kept, as what is left to be read.
fn read(body: SendBody<'_>) -> io::Result<(Vec<u8>, Streamed<'_>)> {
    let mut kept = Vec::new();
    let mut rest = body.into_reader();
    rest.by_ref()
        .take(MAX_BODY.saturating_add(1))
        .read_to_end(&mut kept)?;
    if u64::try_from(kept.len()).is_ok_and(|length| length <= MAX_BODY) {
        return Ok((kept, None));
    }
    Ok((Vec::new(), Some(Box::new(Cursor::new(kept).chain(rest)))))
}

/// With the settings of the application's agent, but for redirections: they would take a token, or a proof for
/// another URL, to wherever the server says.
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

/// Sends what is left of a long body, or the bytes of a short one.
fn hand_on(
    next: MiddlewareNext<'_>,
    mut head: request::Parts,
    mut kept: &[u8],
    streamed: &mut Streamed<'_>,
) -> Result<Response<Body>, ureq::Error> {
    if let Some(rest) = streamed {
        return next.handle(Request::from_parts(head, SendBody::from_reader(rest)));
    }
    // These have a length even where there is nothing.
    if kept.is_empty() && !matches!(head.method, Method::POST | Method::PUT | Method::PATCH) {
        return next.handle(Request::from_parts(head, SendBody::none()));
    }
    // Not both: where the application wants its body in chunks, it gets that.
    if !head.headers.contains_key(TRANSFER_ENCODING) {
        head.headers
            .insert(CONTENT_LENGTH, HeaderValue::from(kept.len()));
    }
    next.handle(Request::from_parts(head, SendBody::from_reader(&mut kept)))
}
