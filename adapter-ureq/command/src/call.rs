//! The `call` subcommand: an authorized request.

use std::io::{self, Write};
use std::{fs, str::FromStr};

use clap::Args;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http::response::Parts;
use http::{HeaderName, HeaderValue, Method, Request};

use crate::failure::{Failure, warn};
use crate::grant::TokenOptions;
use crate::input::HEADER;
use crate::output::Stdout;
use crate::response::check_response;
use crate::{nonce_cache, repeat};

#[derive(Args)]
pub(crate) struct Options {
    /// The URL of the request.
    url: String,
    /// The method. Default: GET, or POST with -d.
    #[arg(short = 'X', value_name = "METHOD")]
    method: Option<String>,
    /// The request body, or @ and the name of a file that contains it. Its type is JSON if it
    /// begins with `{` or `[`, otherwise a form; -H overrides it.
    #[arg(short = 'd', value_name = "DATA|@FILE")]
    data: Option<String>,
    /// A header of the request; `NAME: VALUE` is accepted as well. Default Accept-Encoding:
    /// identity.
    #[arg(short = 'H', value_name = "NAME=VALUE", value_parser = HEADER)]
    call_header: Vec<(String, String)>,
    /// Prints the status line and the headers before the body.
    #[arg(short = 'i')]
    include: bool,
    /// Sends the request N times with one session, and prints statistics as JSON instead of the
    /// bodies.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: Option<u32>,
    /// The number of threads that send the requests.
    #[arg(long, value_name = "P", default_value_t = 1, requires = "repeat", value_parser = clap::value_parser!(u32).range(1..=1024))]
    parallel: u32,
    #[command(flatten)]
    token: TokenOptions,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let mut request = options.request()?;
    let (ready, grant) = options.token.ready()?;
    let empty_401 = ready.empty_401;
    for (name, value) in &ready.api_headers {
        request
            .headers_mut()
            .entry(name)
            .or_insert_with(|| value.clone());
    }
    if let Some(times) = options.repeat {
        return repeat::run(
            ready,
            grant,
            &request,
            times,
            options.parallel,
            &options.token,
        );
    }
    // Invalid arguments are detected here (status 2). Later errors come from servers (status 1).
    let _ = ready.client.token(grant.clone())?;
    let session = options
        .token
        .session(ready.transport, ready.client, grant)?;
    let request_url = request.uri().clone();
    let response = session.send(request);
    nonce_cache::store(&session.transport().server_state());
    let (head, body) = response
        .map_err(|error| Failure::refused(error.to_string()))?
        .into_parts();

    let mut out = Stdout;
    if options.include {
        write_head(&mut out, &head)?;
    }
    let length = io::copy(&mut body.into_reader(), &mut out)?;
    out.flush()?;
    let coding = head
        .headers
        .get(CONTENT_ENCODING)
        .and_then(|coding| coding.to_str().ok());
    if let Some(coding) =
        coding.filter(|coding| !options.has_accept_encoding() && *coding != IDENTITY)
    {
        warn(&format_args!(
            "warning: the body is printed in the content coding {coding}, which was not requested"
        ));
    }
    check_response(&request_url, &head, length, empty_401).map_err(Failure::refused)
}

const IDENTITY: &str = "identity";

/// The headers that are set by the request itself or by its connection.
const OWN_HEADERS: [&str; 6] = [
    "authorization",
    "connection",
    "content-length",
    "dpop",
    "host",
    "transfer-encoding",
];

impl Options {
    fn request(&self) -> Result<Request<Vec<u8>>, Failure> {
        // Checked before a token is requested.
        let url = keybound_ureq::Endpoint::https_or_loopback(&self.url)?;
        let data = match self
            .data
            .as_deref()
            .map(|data| data.strip_prefix('@').ok_or(data))
        {
            None => Vec::new(),
            Some(Err(data)) => data.as_bytes().to_vec(),
            Some(Ok(file)) => fs::read(file)
                .map_err(|error| Failure::usage(format!("{file} can't be read: {error}")))?,
        };
        let default_method = if self.data.is_some() { "POST" } else { "GET" };
        let method = Method::from_str(self.method.as_deref().unwrap_or(default_method))
            .map_err(|_| Failure::usage("method must be a token, such as GET"))?;
        if method == Method::CONNECT {
            return Err(Failure::usage(
                "method must not be CONNECT: a DPoP proof cannot contain its target",
            ));
        }
        let mut request = Request::new(data);
        *request.method_mut() = method;
        *request.uri_mut() = url.uri().clone();
        if self.data.is_some() {
            let kind = match request.body().first() {
                Some(b'{' | b'[') => "application/json",
                _ => "application/x-www-form-urlencoded",
            };
            request
                .headers_mut()
                .insert("content-type", HeaderValue::from_static(kind));
        }
        for (name, value) in &self.call_header {
            let name = HeaderName::from_str(name)
                .map_err(|_| Failure::usage("header must have a valid name"))?;
            let mut value = HeaderValue::from_str(value).map_err(|_| {
                Failure::usage("header must have a value without control characters")
            })?;
            if OWN_HEADERS.contains(&name.as_str()) {
                return Err(Failure::usage(
                    "header must not be one that the request sets itself, such as Host",
                ));
            }
            // The value may be an API key: a sensitive value is redacted in the trace.
            value.set_sensitive(true);
            request.headers_mut().insert(name, value);
        }
        // Without this header any coding would be allowed (RFC 9110 §12.5.3), and none is decoded
        // here.
        request
            .headers_mut()
            .entry(ACCEPT_ENCODING)
            .or_insert(HeaderValue::from_static(IDENTITY));
        Ok(request)
    }

    fn has_accept_encoding(&self) -> bool {
        self.call_header
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case(ACCEPT_ENCODING.as_str()))
    }
}

fn write_head(out: &mut impl Write, head: &Parts) -> io::Result<()> {
    writeln!(out, "{:?} {}", head.version, head.status)?;
    for (name, value) in &head.headers {
        write!(out, "{name}: ")?;
        out.write_all(value.as_bytes())?;
        writeln!(out)?;
    }
    writeln!(out)
}
