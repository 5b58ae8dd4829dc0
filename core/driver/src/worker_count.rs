//! The number of shards that a server may have.

use std::io;

/// The maximum number of shards of one server: 256.
// A session's token has room for more, but more shards than processors are useless.
pub const WORKERS_MAX: usize = 256;

/// Returns `workers` if it is a possible number of shards, and an error of kind `InvalidInput` if it is
/// not.
pub(super) fn check(workers: usize) -> io::Result<usize> {
    if (1..=WORKERS_MAX).contains(&workers) {
        return Ok(workers);
    }
    let text = format!("{workers} workers: there must be at least 1, and at most {WORKERS_MAX}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}
