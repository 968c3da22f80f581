//! HTTP/1.1 on loopback, by hand: one request to a connection, each in a thread of its own.

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use socket2::{Domain, Socket, Type};
use ureq::http::{HeaderMap, HeaderName, HeaderValue};

/// The threads of servers do little, and there are many.
const STACK: usize = 256 * 1024;

/// A request, as it came.
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    /// All of it, to be handed on.
    pub(crate) bytes: Vec<u8>,
}

impl Asked {
    /// `None` if there is no more.
    pub(crate) fn read(stream: &TcpStream) -> io::Result<Option<Self>> {
        let mut reader = BufReader::new(stream);
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            if reader.read_until(b'\n', &mut bytes)? == 0 {
                return Ok(None);
            }
        }
        let head = String::from_utf8(bytes.clone()).map_err(io::Error::other)?;
        let mut lines = head.lines();
        let mut words = lines
            .next()
            .unwrap_or_default()
            .split(' ')
            .map(str::to_owned);
        let (method, path) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let headers: HeaderMap = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| {
                (
                    name.parse::<HeaderName>().unwrap(),
                    value.parse::<HeaderValue>().unwrap(),
                )
            })
            .collect();
        let length = headers
            .get("content-length")
            .map_or(0, |value| value.to_str().unwrap().parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        bytes.extend(&body);
        Ok(Some(Self {
            method,
            path,
            headers,
            body: String::from_utf8_lossy(&body).into_owned(),
            bytes,
        }))
    }

    /// The URL as its sender has it.
    pub(crate) fn url(&self) -> String {
        format!(
            "http://{}{}",
            self.header("host").unwrap_or_default(),
            self.path
        )
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// What stands behind the scheme in `Authorization`.
    pub(crate) fn token(&self) -> Option<&str> {
        self.header("authorization")
            .and_then(|value| value.split_once(' '))
            .map(|(_, token)| token)
    }

    pub(crate) fn field(&self, name: &str) -> Option<String> {
        field(self.body.as_bytes(), name)
    }
}

/// A field of a form.
pub(crate) fn field(form: &[u8], name: &str) -> Option<String> {
    form_urlencoded::parse(form)
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.into_owned())
}

/// A response, after which the connection is closed.
pub(crate) fn response(status: &str, headers: &[(&str, &str)], body: &str) -> String {
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Answers whatever comes, until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stopped: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Asked) -> String + Send + Sync + 'static) -> Self {
        let socket = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        // A thousand may knock at once.
        socket.listen(1024).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let (is_stopped, answer) = (Arc::clone(&stopped), Arc::new(answer));
        spawn(move || {
            for stream in listener.incoming() {
                if is_stopped.load(Ordering::SeqCst) {
                    return;
                }
                let answer = Arc::clone(&answer);
                spawn(move || {
                    // A connection that breaks concerns its client alone.
                    let mut stream = stream.unwrap();
                    if let Ok(Some(asked)) = Asked::read(&stream) {
                        let _ = stream.write_all(answer(&asked).as_bytes());
                    }
                });
            }
        });
        Self { address, stopped }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url())
    }
}

/// A socket that has its address, and doesn't listen yet: who connects is refused.
pub(crate) fn bind(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket
}

pub(crate) fn spawn(run: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::Builder::new().stack_size(STACK).spawn(run).unwrap()
}
