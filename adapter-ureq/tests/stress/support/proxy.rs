//! A TCP proxy that does to each request what networks, gateways and busy servers do. By a seed, so that it does it
//! again.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use socket2::{SockRef, Socket};

use super::http::{Asked, bind, response, spawn};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Nobody listens.
    Refused,
    /// Reset as soon as it is connected.
    ResetAtOnce,
    /// Reset after the request was carried out, before its response.
    ResetBefore,
    ResetInside,
    /// Reset when the response is there, on a connection that was to be kept.
    ResetAfter,
    /// The response comes slowly.
    Drip,
    /// It comes so slowly that nobody waits for it.
    Trickle,
    Truncated,
    LengthTooLarge,
    LengthTooSmall,
    Status429,
    Status503,
    /// A gateway's page, with the request carried out or not.
    Html502,
    Html200,
}

impl Fault {
    pub(crate) const ALL: [Self; 14] = [
        Self::Refused,
        Self::ResetAtOnce,
        Self::ResetBefore,
        Self::ResetInside,
        Self::ResetAfter,
        Self::Drip,
        Self::Trickle,
        Self::Truncated,
        Self::LengthTooLarge,
        Self::LengthTooSmall,
        Self::Status429,
        Self::Status503,
        Self::Html502,
        Self::Html200,
    ];
}

/// How often each fault has happened.
pub(crate) type Tally = Arc<Mutex<BTreeMap<Fault, usize>>>;

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    weather: Arc<Weather>,
    /// Keeps the address while nobody listens.
    _bound: Socket,
}

struct Weather {
    is_stormy: AtomicBool,
    is_over: AtomicBool,
    tally: Tally,
    /// In thousandths.
    likelihood: u32,
}

impl Proxy {
    pub(crate) fn start(upstream: SocketAddr, seed: u64, likelihood: u32, tally: &Tally) -> Self {
        let bound = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = bound.local_addr().unwrap().as_socket().unwrap();
        let weather = Arc::new(Weather {
            is_stormy: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            tally: Arc::clone(tally),
            likelihood,
        });
        let mut listener = listen(address);
        let mut forecast = Forecast {
            weather: Arc::clone(&weather),
            rng: Rng::with_seed(seed),
            storm: None,
        };
        spawn(move || {
            let mut fault = None;
            loop {
                let (stream, _) = listener.accept().unwrap();
                if forecast.weather.is_over.load(Ordering::SeqCst) {
                    return;
                }
                if let Some(fault) = fault {
                    *forecast
                        .weather
                        .tally
                        .lock()
                        .unwrap()
                        .entry(fault)
                        .or_default() += 1;
                }
                let rng = forecast.rng.fork();
                let served = spawn(move || {
                    // The client may have hung up.
                    let _ = serve(stream, fault, upstream, rng);
                });
                fault = forecast.next();
                if fault == Some(Fault::Refused) {
                    drop(listener);
                    served.join().unwrap();
                    thread::sleep(Duration::from_millis(forecast.rng.u64(10..200)));
                    listener = listen(address);
                    if forecast.weather.is_over.load(Ordering::SeqCst) {
                        return;
                    }
                    fault = None;
                }
            }
        });
        Self {
            address,
            weather,
            _bound: bound,
        }
    }

    pub(crate) fn storm(&self, is_stormy: bool) {
        self.weather.is_stormy.store(is_stormy, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.weather.is_over.store(true, Ordering::SeqCst);
        // While nobody listens, the end is seen when somebody does again.
        let _ = TcpStream::connect(self.address);
    }
}

struct Forecast {
    weather: Arc<Weather>,
    rng: Rng,
    /// What goes on for so many requests.
    storm: Option<(Fault, u32)>,
}

impl Forecast {
    fn next(&mut self) -> Option<Fault> {
        if !self.weather.is_stormy.load(Ordering::SeqCst) {
            return None;
        }
        if let Some((fault, left)) = self.storm.take() {
            self.storm = (left > 1).then_some((fault, left - 1));
            return Some(fault);
        }
        if self.rng.u32(0..1000) >= self.weather.likelihood {
            return None;
        }
        let fault = Fault::ALL[self.rng.usize(0..Fault::ALL.len())];
        if matches!(fault, Fault::Status429 | Fault::Status503) {
            self.storm = Some((fault, self.rng.u32(1..5)));
        }
        Some(fault)
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = bind(address);
    socket.listen(128).unwrap();
    TcpListener::from(socket)
}

fn serve(
    mut stream: TcpStream,
    fault: Option<Fault>,
    upstream: SocketAddr,
    mut rng: Rng,
) -> io::Result<()> {
    if fault == Some(Fault::ResetAtOnce) {
        return reset(&stream);
    }
    let Some(asked) = Asked::read(&stream)? else {
        return Ok(());
    };
    let html = "<html><body><h1>Bad gateway</h1></body></html>";
    match fault {
        Some(Fault::Status429 | Fault::Status503) => {
            let status = match fault {
                Some(Fault::Status429) => "429 Too Many Requests",
                _ => "503 Service Unavailable",
            };
            let wait = [
                ("Retry-After", "0"),
                ("Retry-After", "1"),
                ("X-Nothing", ""),
            ][rng.usize(0..3)];
            return stream.write_all(response(status, &[wait], "").as_bytes());
        }
        Some(Fault::Html502 | Fault::Html200) => {
            if rng.bool() {
                let _ = forward(&asked, upstream)?;
            }
            let status = if fault == Some(Fault::Html200) {
                "200 OK"
            } else {
                "502 Bad Gateway"
            };
            return stream
                .write_all(response(status, &[("Content-Type", "text/html")], html).as_bytes());
        }
        _ => {}
    }
    let answer = forward(&asked, upstream)?;
    let body = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap()
        + 4;
    match fault {
        Some(Fault::ResetBefore) => reset(&stream),
        Some(Fault::ResetInside) => {
            stream.write_all(&answer[..rng.usize(1..answer.len())])?;
            thread::sleep(Duration::from_millis(10));
            reset(&stream)
        }
        Some(Fault::ResetAfter) => {
            stream.write_all(&replaced(
                &answer,
                "Connection: close",
                "Connection: keep-alive",
            ))?;
            thread::sleep(Duration::from_millis(rng.u64(5..50)));
            reset(&stream)
        }
        Some(Fault::Drip | Fault::Trickle) => {
            let delay = if fault == Some(Fault::Drip) { 20 } else { 200 };
            for part in answer.chunks(answer.len() / 12) {
                stream.write_all(part)?;
                thread::sleep(Duration::from_millis(delay));
            }
            Ok(())
        }
        Some(Fault::Truncated) => stream.write_all(&answer[..rng.usize(body..answer.len())]),
        Some(Fault::LengthTooLarge | Fault::LengthTooSmall) => {
            let right = answer.len() - body;
            let wrong = if fault == Some(Fault::LengthTooLarge) {
                right + 7
            } else {
                right / 2
            };
            let (right, wrong) = (
                format!("Content-Length: {right}"),
                format!("Content-Length: {wrong}"),
            );
            stream.write_all(&replaced(&answer, &right, &wrong))
        }
        _ => stream.write_all(&answer),
    }
}

fn forward(asked: &Asked, upstream: SocketAddr) -> io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(upstream)?;
    server.write_all(&asked.bytes)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    Ok(answer)
}

fn replaced(answer: &[u8], from: &str, to: &str) -> Vec<u8> {
    String::from_utf8_lossy(answer)
        .replacen(from, to, 1)
        .into_bytes()
}

/// Closes a connection as a machine does that knows nothing of it.
fn reset(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}
