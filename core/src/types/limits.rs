//! Limits that the core and its drivers share.

/// The longest response body that is read: 256 KiB. A driver need not read beyond one byte more.
pub const MAX_RESPONSE: usize = 256 * 1024;
