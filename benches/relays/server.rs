//! The server: TLS on loopback, in a process of its own, so that the processor time of the client is
//! known.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::{env, thread};

use keybound_benches::Outcome;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// The argument by which this program is the server.
pub(crate) const SERVE: &str = "serve";

/// The response header with the number of connections until then.
pub(crate) const CONNECTIONS: &str = "x-connections";

const BODY: &str = r#"{"access_token":"0123456789","token_type":"DPoP","expires_in":3600}"#;

/// A running server, which ends with its value.
pub(crate) struct Server {
    pub(crate) url: String,
    /// The server's certificate and its private key.
    pub(crate) pem: String,
    process: Child,
}

impl Server {
    pub(crate) fn start() -> Outcome<Self> {
        let pem = certificate()?;
        let mut process = Command::new(env::current_exe()?)
            .arg(SERVE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdin = process.stdin.take().ok_or("no input")?;
        stdin.write_all(pem.as_bytes())?;
        drop(stdin);
        let mut port = String::new();
        let stdout = process.stdout.take().ok_or("no output")?;
        BufReader::new(stdout).read_line(&mut port)?;
        let url = format!("https://127.0.0.1:{}/", port.trim());
        Ok(Self { url, pem, process })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns a new private key and a certificate that it has signed itself.
fn certificate() -> Outcome<String> {
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 \
        -subj /CN=bench -addext subjectAltName=IP:127.0.0.1 \
        -addext basicConstraints=critical,CA:FALSE -keyout - -out -";
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .stderr(Stdio::null())
        .output()?;
    Ok(String::from_utf8(output.stdout)?)
}

/// Serves until the process is killed.
pub(crate) fn serve() -> Outcome {
    let pem = io::read_to_string(io::stdin())?;
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    for (number, stream) in (1..).zip(listener.incoming()) {
        let (stream, config) = (stream?, Arc::clone(&config));
        thread::spawn(move || answer(stream, config, number));
    }
    Ok(())
}

/// Answers requests with bodies of a known length, one after the other.
fn answer(stream: TcpStream, config: Arc<ServerConfig>, number: usize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    loop {
        let (mut line, mut length) = (String::new(), 0);
        while line != "\r\n" {
            line.clear();
            if stream.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        stream.read_exact(&mut vec![0; length])?;
        let response = format!(
            "HTTP/1.1 200 OK\r\n{CONNECTIONS}: {number}\r\ncontent-length: {}\r\n\r\n{BODY}",
            BODY.len()
        );
        stream.get_mut().write_all(response.as_bytes())?;
        stream.get_mut().flush()?;
    }
}
