//! Limits that the core and its drivers share.

/// The maximum length of a response body: 256 KiB. A driver can stop reading after one byte more.
pub const MAX_RESPONSE: usize = 256 * 1024;
