//! The application's requests, which may be sent several times.

use std::io::{self, Cursor, Read as _};
use std::{mem, sync::Arc, time::Duration};

use http::{Request, Response, StatusCode, request};
use keybound_core::driver::{PreparedCall, Role};
use keybound_core::{Call, Endpoint, Error, InvalidInput};
use ureq::SendBody;

use crate::transport::{AgentResult, TimeoutScope, Transport};
use crate::{driver_loop::Attempt, session::Inner};

/// The maximum length of a body that is buffered for retries: 10 MiB.
const MAX_BODY: u64 = 10 * 1024 * 1024;

/// A request that can be sent several times, unless its body is too long to be buffered. Its URL is
/// one to which a token may be sent: `https`, or `http` on loopback.
pub(crate) struct ReplayableRequest<'a> {
    pub(crate) head: request::Parts,
    pub(crate) body: Vec<u8>,
    /// The unread rest of a body that is too long to be buffered.
    pub(crate) streamed: Option<Box<dyn io::Read + 'a>>,
}

impl<'a> ReplayableRequest<'a> {
    pub(crate) fn new(mut head: request::Parts, body: SendBody<'a>) -> Result<Self, Error> {
        // The proof and the request must have the same URL.
        head.uri = Endpoint::from_uri(&head.uri)?.uri().clone();
        let (mut rest, mut body) = (body.into_reader(), Vec::new());
        let read = rest.by_ref().take(MAX_BODY + 1).read_to_end(&mut body);
        read.map_err(|_| InvalidInput::new("body", "must be readable"))?;
        let is_short = u64::try_from(body.len()).is_ok_and(|length| length <= MAX_BODY);
        let streamed: Option<Box<dyn io::Read + 'a>> = match is_short {
            true => None,
            false => Some(Box::new(Cursor::new(mem::take(&mut body)).chain(rest))),
        };
        Ok(Self {
            head,
            body,
            streamed,
        })
    }

    /// Sends the request and its retries, and returns the last response.
    pub(crate) fn send(
        self,
        transport: &Transport,
        session: Option<&Arc<Inner>>,
        call: Call,
    ) -> Result<Response<ureq::Body>, Error> {
        let send = |it: &mut Self, head, left| it.send_once(transport, head, left).map(Ok);
        let response = self.send_with(transport, session, call, send)?;
        response.ok_or(Error::RefreshAborted)
    }

    /// Sends the request and its retries by `send`, each with its own headers and timeout, and
    /// returns the last response.
    pub(crate) fn send_with(
        mut self,
        transport: &Transport,
        session: Option<&Arc<Inner>>,
        call: Call,
        mut send: impl FnMut(&mut Self, request::Parts, Duration) -> Attempt,
    ) -> Result<Option<Response<ureq::Body>>, Error> {
        let call = call.detect_idempotency_key(&self.head.headers);
        let call = call.timeout(transport.timeout);
        let call = match self.streamed {
            Some(_) => call.single_use_body(),
            None => call,
        };
        let mut send = |call: &mut PreparedCall| {
            let mut head = self.head.clone();
            call.headers.apply(&mut head.headers);
            let (role, number) = (Role::ResourceServer, call.attempt);
            let observed = transport.observe(session, role, number, &head, &self.body);
            let attempt = send(&mut self, head, call.timeout);
            if let Some(observed) = observed {
                match &attempt {
                    Ok(Ok(response)) => observed.received(response, None),
                    Ok(Err(status)) => observed.received(&without_headers(*status), None),
                    Err(cause) => observed.lost(cause),
                }
            }
            attempt
        };
        Ok(transport.run_with(call, session, &mut send)?.1)
    }

    /// Sends the request once, by the transport's own agent.
    pub(crate) fn send_once(
        &mut self,
        transport: &Transport,
        head: request::Parts,
        left: Duration,
    ) -> AgentResult {
        let Some(rest) = &mut self.streamed else {
            return transport.send_once(head, &self.body, left, TimeoutScope::Head);
        };
        let request = Request::from_parts(head, SendBody::from_reader(rest));
        transport.send_body(request, left, TimeoutScope::Head)
    }
}

/// A response whose headers the agent has hidden.
fn without_headers(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}
