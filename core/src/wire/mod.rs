//! Serialisation and parsing of the formats on the wire: forms, JSON bodies, header fields.

pub(crate) mod challenge;
pub(crate) mod error_response;
pub(crate) mod http_date;
pub(crate) mod json;
pub(crate) mod json_object;
pub(crate) mod params;
pub(crate) mod retry_after;
