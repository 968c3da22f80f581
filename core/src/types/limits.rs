//! Limits that the core and its drivers share.

/// The maximum length of a response body: 256 KiB. A driver can stop reading after one byte more.
pub const MAX_RESPONSE: usize = 256 * 1024;

/// The maximum length of a stored session state: 1 MiB. A storage reads no more.
pub const MAX_STATE: usize = 1024 * 1024;
