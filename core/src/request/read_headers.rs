//! The headers that the core reads.

use http::HeaderName;
use http::header::{AGE, CONTENT_ENCODING, CONTENT_TYPE, DATE, RETRY_AFTER, WWW_AUTHENTICATE};

use crate::types::nonce::DPOP_NONCE;
use crate::wire::error_response::REQUEST_ID;
use crate::wire::retry_after::{RETRY_AFTER_MS, RETRY_IN};

/// The headers of responses, and of the application's requests, that the core reads. A driver that
/// copies headers may leave out all others.
pub static READ_HEADERS: [HeaderName; 12] = [
    AGE,
    CONTENT_ENCODING,
    CONTENT_TYPE,
    DATE,
    DPOP_NONCE,
    IDEMPOTENCY_KEY,
    REQUEST_ID,
    RETRY_AFTER,
    RETRY_AFTER_MS,
    RETRY_IN,
    WWW_AUTHENTICATE,
    X_IDEMPOTENCY_KEY,
];

/// The header by which a server distinguishes a retry from a second request
/// (draft-ietf-httpapi-idempotency-key-header).
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The name that Moov and Treasury Prime use for it.
pub(crate) const X_IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("x-idempotency-key");
