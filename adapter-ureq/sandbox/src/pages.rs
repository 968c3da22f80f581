//! Files for browsers.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};

/// The file that a request asks for, if there is one in `folder`.
pub(crate) fn find(folder: Option<&Path>, request: &Request<Bytes>) -> Option<Response<Bytes>> {
    let path = request.uri().path().strip_prefix('/')?;
    let path = if path == "demo/" {
        "demo/index.html"
    } else {
        path
    };
    let (place, file) = path.split_once('/')?;
    let is_plain = !file.starts_with('.') && !file.contains(['/', '\\', ':', '%']);
    if request.method() != "GET" || !matches!(place, "demo" | "dist") || !is_plain {
        return None;
    }
    let mut response = Response::new(fs::read(folder?.join(place).join(file)).ok()?.into());
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
