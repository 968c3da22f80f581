//! An HTTP/1.1 server on a listener, using hyper. Requests are handled synchronously.

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

/// The maximum size of a request body, in bytes.
const MAX_BODY: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Server {
    /// Dropping it stops the thread.
    stop: oneshot::Sender<Infallible>,
    thread: JoinHandle<()>,
}

impl Server {
    #[expect(
        clippy::disallowed_macros,
        reason = "`tokio::select!` contains `panic!` and `unreachable!`; with these branches, neither is reached"
    )]
    pub(crate) fn start(
        listener: TcpListener,
        handler: impl Fn(Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let (stop, on_stop) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("keybound-sandbox".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = accept(listener, Arc::new(handler)) => {}
                        _ = on_stop => {}
                    }
                });
            })?;
        Ok(Self { stop, thread })
    }

    pub(crate) fn join(self) {
        let Self { stop, thread } = self;
        // The panic hook has already printed a panic of this thread.
        let _ = thread.join();
        drop(stop);
    }
}

async fn accept(
    listener: TcpListener,
    handler: Arc<impl Fn(Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Most likely there are too many open files. Retry after some have been closed.
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        let handler = Arc::clone(&handler);
        tokio::spawn(async move {
            let service = service_fn(|request| respond(request, &*handler));
            // A broken connection affects only its client.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn respond(
    request: Request<Incoming>,
    handler: &impl Fn(Request<Bytes>) -> Response<Bytes>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let response = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => handler(Request::from_parts(head, body.to_bytes())),
        Err(_) => {
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
            response
        }
    };
    Ok(response.map(Full::new))
}
