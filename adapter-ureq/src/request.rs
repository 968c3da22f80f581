//! The application's requests, which may be sent several times.

use std::io::{self, Cursor, Read as _};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, Uri, request};
use keybound_core::driver::PreparedCall;
use keybound_core::{Call, Endpoint, Error, InvalidInput};
use ureq::SendBody;

use crate::driver_loop::{Attempt, Run};
use crate::session::Inner;
use crate::transport::{AgentResult, TimeoutScope, Transport};

/// The maximum length of a body that is buffered for retries: 10 MiB.
const MAX_BODY: u64 = 10 * 1024 * 1024;

/// A request that can be sent several times, unless its body is too long to be buffered. Its URL is
/// one to which a token may be sent: `https`, or `http` on loopback.
pub(crate) struct ReplayableRequest<'a> {
    pub(crate) head: request::Parts,
    pub(crate) body: Vec<u8>,
    /// The unread rest of a body that is too long to be buffered.
    pub(crate) streamed: Streamed<'a>,
}

pub(crate) type Streamed<'a> = Option<Box<dyn io::Read + 'a>>;

impl<'a> ReplayableRequest<'a> {
    pub(crate) fn new(mut head: request::Parts, body: SendBody<'a>) -> Result<Self, Error> {
        // The proof and the request must have the same URL.
        head.uri = Endpoint::from_uri(&head.uri)?.uri().clone();
        let mut buffered = Vec::new();
        let mut rest = body.into_reader();
        rest.by_ref()
            .take(MAX_BODY.saturating_add(1))
            .read_to_end(&mut buffered)
            .map_err(|_| InvalidInput::new("body", "must be readable"))?;
        let is_short = u64::try_from(buffered.len()).is_ok_and(|length| length <= MAX_BODY);
        let (body, streamed): (_, Streamed<'a>) = match is_short {
            true => (buffered, None),
            false => (
                Vec::new(),
                Some(Box::new(Cursor::new(buffered).chain(rest))),
            ),
        };
        Ok(Self {
            head,
            body,
            streamed,
        })
    }

    pub(crate) fn method(&self) -> &Method {
        &self.head.method
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.head.uri
    }

    /// Sets what a call may do with this request: how often, and for how long, it may be sent.
    pub(crate) fn limit(&self, call: Call, timeout: Duration) -> Call {
        let call = call.detect_idempotency_key(&self.head.headers);
        let call = call.timeout(timeout);
        match self.streamed {
            Some(_) => call.single_use_body(),
            None => call,
        }
    }

    /// Sends the request and its retries, and returns the last response.
    pub(crate) fn send(
        mut self,
        transport: &Transport,
        session: Option<&Arc<Inner>>,
        call: Call,
    ) -> Result<Response<ureq::Body>, Error> {
        let call = self.limit(call, transport.total_timeout());
        let mut send = |call: &mut PreparedCall| match self.send_once(transport, call) {
            Ok(response) => Attempt::Response(response),
            Err(error) => Attempt::Failed(error),
        };
        let mut run = Run {
            session,
            send: Some(&mut send),
            response: None,
        };
        transport.run(call, &mut run)?;
        run.response.ok_or(Error::RefreshAborted)
    }

    /// Sends the request once, by the transport's own agent.
    pub(crate) fn send_once(
        &mut self,
        transport: &Transport,
        call: &mut PreparedCall,
    ) -> AgentResult {
        let mut head = self.head.clone();
        call.headers.apply(&mut head.headers);
        let scope = TimeoutScope::Head;
        match &mut self.streamed {
            Some(rest) => {
                let body = SendBody::from_reader(rest);
                transport.send_body(head, body, &[], call.timeout, scope)
            }
            None => transport.send_once(Request::from_parts(head, &self.body), call.timeout, scope),
        }
    }
}
