use std::io::{self, Write};
use std::{fs, str::FromStr};

use clap::Args;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, LOCATION};
use http::response::Parts;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};

use crate::failure::{Failure, warn};
use crate::grant::TokenOptions;
use crate::input::HEADER;
use crate::output::Stdout;
use crate::{nonce_cache, repeat};

#[derive(Args)]
pub(crate) struct Options {
    /// What to call.
    url: String,
    /// The method; GET, or POST where there are data.
    #[arg(short = 'X', value_name = "METHOD")]
    method: Option<String>,
    /// The body, or @ and the file that holds it. Sent as JSON if it begins like it, else as a form.
    #[arg(short = 'd', value_name = "DATA|@FILE")]
    data: Option<String>,
    /// A header of the call; `NAME: VALUE` will do as well. Without an Accept-Encoding the answer is asked for as it is.
    #[arg(short = 'H', value_name = "NAME=VALUE", value_parser = HEADER)]
    call_header: Vec<(String, String)>,
    /// Prints the status and the headers before the body.
    #[arg(short = 'i')]
    include: bool,
    /// Calls so many times with one session, and prints figures in place of the bodies.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: Option<u32>,
    /// By so many threads.
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
    // What is wrong with the arguments shows here; from now on it is the server's doing.
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
        coding.filter(|coding| !options.is_coding_asked_for() && *coding != IDENTITY)
    {
        warn(&format_args!(
            "warning: the body is encoded as {coding}, although none was asked for"
        ));
    }
    judge(&request_url, &head, length, empty_401).map_err(Failure::refused)
}

/// Whether the call went well, else why not, in words. `length` is the body's; `empty_401` what a 401 without any means.
pub(crate) fn judge(
    url: &Uri,
    head: &Parts,
    length: u64,
    empty_401: Option<&str>,
) -> Result<(), String> {
    match head.status {
        status @ StatusCode::UNAUTHORIZED if length == 0 => {
            let hint = empty_401
                .map(|hint| format!(", and says nothing more: {hint}"))
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
                "the server answered {status}{to}; redirections are not followed"
            ))
        }
        status if status.as_u16() >= 400 => Err(format!("the server answered {status}")),
        _ => Ok(()),
    }
}

/// To which scheme and host a location leads. The rest of it may hold secrets.
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

const IDENTITY: &str = "identity";

/// The headers that the call, or the connection under it, has by itself.
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
        // Checked before a token is asked for.
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
                "method must not be CONNECT: no proof can name its target",
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
                    "header must not be one that the call has by itself",
                ));
            }
            // It may be an API key; the trace doesn't show it.
            value.set_sensitive(true);
            request.headers_mut().insert(name, value);
        }
        // Without it any coding would be allowed (RFC 9110 §12.5.3), and none is decoded here.
        request
            .headers_mut()
            .entry(ACCEPT_ENCODING)
            .or_insert(HeaderValue::from_static(IDENTITY));
        Ok(request)
    }

    fn is_coding_asked_for(&self) -> bool {
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
