//! The loopback listener that receives the redirect of the user's browser (RFC 8252 §7.3).

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use http::Uri;

use crate::failure::Failure;

/// The maximum size of a request head, in bytes. Longer redirects would be rejected anyway.
const MAX_HEAD: u64 = 64 * 1024;

/// The time after which a silent connection is closed. Browsers open connections speculatively.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Listener {
    socket: TcpListener,
    redirect_uri: String,
    path: String,
}

impl Listener {
    /// Listens at `redirect_uri`. Default: `http://127.0.0.1/callback` with a free port.
    pub(crate) fn open(redirect_uri: Option<&str>) -> Result<Self, Failure> {
        let requested = redirect_uri.unwrap_or("http://127.0.0.1:0/callback");
        let uri = keybound_ureq::Endpoint::https_or_loopback(requested)
            .map_err(|_| invalid_redirect_uri())?
            .uri()
            .clone();
        let (Some("http"), Some(host), None) = (uri.scheme_str(), uri.host(), uri.query()) else {
            return Err(invalid_redirect_uri());
        };
        let port = uri.port_u16().unwrap_or(80);
        let busy =
            |error: io::Error| Failure::usage(format!("cannot listen at {requested}: {error}"));
        let socket = TcpListener::bind((host.trim_matches(['[', ']']), port)).map_err(busy)?;
        let redirect_uri = match redirect_uri {
            Some(registered) => registered.to_owned(),
            None => format!("http://{}/callback", socket.local_addr().map_err(busy)?),
        };
        Ok(Self {
            socket,
            redirect_uri,
            path: uri.path().to_owned(),
        })
    }

    pub(crate) fn redirect_uri(&self) -> &str {
        &self.redirect_uri
    }

    /// Waits for the first request target for which `parse` returns `Some`, answers its browser,
    /// and returns the result.
    ///
    /// # Errors
    /// Returns [`Failure::Refused`] after `timeout`.
    pub(crate) fn wait<T: Send + 'static>(
        self,
        timeout: Duration,
        parse: impl Fn(&str) -> Option<T> + Send + Sync + 'static,
    ) -> Result<T, Failure> {
        let (results, result) = channel();
        let handler = Arc::new(RedirectHandler {
            path: self.path,
            parse,
            results,
        });
        thread::spawn(move || {
            for stream in self.socket.incoming().flatten() {
                let handler = Arc::clone(&handler);
                // An error of the connection affects only its browser.
                thread::spawn(move || drop(handler.serve(stream)));
            }
        });
        result
            .recv_timeout(timeout)
            .map_err(|_| Failure::refused("the login timed out: no redirect arrived from the browser; --timeout sets a longer time"))
    }
}

fn invalid_redirect_uri() -> Failure {
    Failure::usage("--redirect-uri must be http:// with a loopback host and without a query")
}

/// The handler of all connections.
struct RedirectHandler<T, R> {
    path: String,
    parse: R,
    results: Sender<T>,
}

impl<T, R: Fn(&str) -> Option<T>> RedirectHandler<T, R> {
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        let Some(target) = target(&mut stream)? else {
            return answer(
                &mut stream,
                "400 Bad Request",
                "The request could not be read.",
            );
        };
        if target
            .parse::<Uri>()
            .map_or(true, |target| target.path() != self.path)
        {
            return answer(&mut stream, "404 Not Found", "Not found.");
        }
        match (self.parse)(&target) {
            None => answer(
                &mut stream,
                "400 Bad Request",
                "This redirect does not belong to the login that was started here.",
            ),
            Some(parsed) => {
                let written = answer(
                    &mut stream,
                    "200 OK",
                    "The redirect was received. You can close this window.",
                );
                // Only the first redirect is used: afterwards the receiver is gone.
                let _ = self.results.send(parsed);
                written
            }
        }
    }
}

/// Reads a request head, and returns the target of a GET. Returns `None` for other methods and for
/// an incomplete or too long head.
fn target(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut rest = stream.take(MAX_HEAD);
    let mut chunk = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match rest.read(&mut chunk)? {
            0 => return Ok(None),
            read => head.extend(chunk.iter().take(read)),
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    Ok(match (words.next(), words.next()) {
        (Some("GET"), Some(target)) => Some(target.to_owned()),
        _ => None,
    })
}

fn answer(stream: &mut TcpStream, status: &str, message: &str) -> io::Result<()> {
    let page =
        format!("<!doctype html><meta charset=utf-8><title>keybound</title><p>{message}</p>");
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n\r\n",
        page.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(page.as_bytes())
}
