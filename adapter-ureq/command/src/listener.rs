//! The place on this machine to which a person's browser comes back (RFC 8252 §7.3).

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use http::Uri;

use crate::failure::Failure;

/// The longest head of a request that is read; no redirect that is longer would be, either.
const MAX_HEAD: u64 = 64 * 1024;

/// A connection that says nothing for so long is closed. Browsers open some to be quick.
const SILENCE: Duration = Duration::from_secs(10);

pub(crate) struct Listener {
    socket: TcpListener,
    redirect_uri: String,
    path: String,
}

impl Listener {
    /// At a URI that is registered with the server, or at any free port.
    pub(crate) fn open(redirect_uri: Option<&str>) -> Result<Self, Failure> {
        let wanted = redirect_uri.unwrap_or("http://127.0.0.1:0/callback");
        let uri = keybound_ureq::Endpoint::https_or_loopback(wanted)
            .map_err(|_| unusable())?
            .uri()
            .clone();
        let (Some("http"), Some(host), None) = (uri.scheme_str(), uri.host(), uri.query()) else {
            return Err(unusable());
        };
        let port = uri.port_u16().unwrap_or(80);
        let busy =
            |error: io::Error| Failure::usage(format!("{wanted} can't be listened at: {error}"));
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

    /// Waits for the first redirect that `read` makes something of, and tells its browser that all is done.
    pub(crate) fn wait<T: Send + 'static>(
        self,
        patience: Duration,
        read: impl Fn(&str) -> Option<T> + Send + Sync + 'static,
    ) -> Result<T, Failure> {
        let (done, result) = channel();
        let desk = Arc::new(Desk {
            path: self.path,
            read,
            done,
        });
        thread::spawn(move || {
            for stream in self.socket.incoming().flatten() {
                let desk = Arc::clone(&desk);
                // A browser that hangs up has seen enough.
                thread::spawn(move || drop(desk.serve(stream)));
            }
        });
        result
            .recv_timeout(patience)
            .map_err(|_| Failure::refused("nobody has come back from the sign-in in time"))
    }
}

fn unusable() -> Failure {
    Failure::usage("--redirect-uri must be http:// with a loopback host and without a query")
}

/// What is done for each connection.
struct Desk<T, R> {
    path: String,
    read: R,
    done: Sender<T>,
}

impl<T, R: Fn(&str) -> Option<T>> Desk<T, R> {
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(SILENCE))?;
        let Some(target) = target(&mut stream)? else {
            return answer(
                &mut stream,
                "400 Bad Request",
                "This is no request that could be read.",
            );
        };
        if target
            .parse::<Uri>()
            .map_or(true, |target| target.path() != self.path)
        {
            return answer(&mut stream, "404 Not Found", "There is nothing here.");
        }
        match (self.read)(&target) {
            None => answer(
                &mut stream,
                "400 Bad Request",
                "This doesn't belong to the sign-in that was begun here.",
            ),
            Some(read) => {
                let told = answer(
                    &mut stream,
                    "200 OK",
                    "That is all. You can close this window.",
                );
                // The first one counts; nobody waits for another.
                let _ = self.done.send(read);
                told
            }
        }
    }
}

/// The target of a GET, once its whole head is here.
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

fn answer(stream: &mut TcpStream, status: &str, said: &str) -> io::Result<()> {
    let page = format!("<!doctype html><meta charset=utf-8><title>keybound</title><p>{said}</p>");
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n\r\n",
        page.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(page.as_bytes())
}
