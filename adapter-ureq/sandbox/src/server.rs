//! HTTP/1.1 on a listener, by hyper; the answers are made synchronously.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

const MAX_BODY: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Server {
    /// Dropped, it ends the thread.
    stop: oneshot::Sender<Infallible>,
    thread: JoinHandle<()>,
}

impl Server {
    pub(crate) fn start(
        listener: TcpListener,
        answer: impl Fn(Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("keybound-sandbox".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = accept(listener, Arc::new(answer)) => {}
                        _ = stopped => {}
                    }
                });
            })?;
        Ok(Self { stop, thread })
    }

    pub(crate) fn join(self) {
        let Self { stop, thread } = self;
        // A panic of the server's has been printed already.
        let _ = thread.join();
        drop(stop);
    }
}

async fn accept(
    listener: TcpListener,
    answer: Arc<impl Fn(Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Too many open files, most likely: some will be closed.
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        let answer = Arc::clone(&answer);
        tokio::spawn(async move {
            let service = service_fn(|request| respond(request, &*answer));
            // A connection that breaks concerns its client alone.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn respond(
    request: Request<Incoming>,
    answer: &impl Fn(Request<Bytes>) -> Response<Bytes>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let response = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => answer(Request::from_parts(head, body.to_bytes())),
        Err(_) => {
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
            response
        }
    };
    Ok(response.map(Full::new))
}
