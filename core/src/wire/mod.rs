//! The text formats on the wire, written and read: forms, JSON bodies, header fields.

pub(crate) mod challenge;
pub(crate) mod escape;
pub(crate) mod fields;
pub(crate) mod http_date;
pub(crate) mod json;
pub(crate) mod members;
pub(crate) mod refusal;
pub(crate) mod retry_after;
