//! Static files of the browser demonstration.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};

/// Returns the requested file from the `demo` or `dist` subdirectory of `folder`. Returns `None` if
/// it does not exist, or if its name could lead outside of that directory.
pub(crate) fn find(folder: Option<&Path>, request: &Request<Bytes>) -> Option<Response<Bytes>> {
    let path = request.uri().path().strip_prefix('/')?;
    let path = if path == "demo/" {
        "demo/index.html"
    } else {
        path
    };
    let (directory, file) = path.split_once('/')?;
    let is_plain_name = !file.starts_with('.') && !file.contains(['/', '\\', ':', '%']);
    if request.method() != "GET" || !matches!(directory, "demo" | "dist") || !is_plain_name {
        return None;
    }
    let mut response = Response::new(fs::read(folder?.join(directory).join(file)).ok()?.into());
    let content_type = match file.rsplit_once('.')?.1 {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "wasm" => "application/wasm",
        _ => return None,
    };
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Some(response)
}
