//! How many shards one server may have.

use std::io;

/// The most shards that one server can have. A session's token has room for more; a machine has not.
pub const WORKERS_MAX: usize = 256;

/// Checks a number of workers.
pub(super) fn check(workers: usize) -> io::Result<usize> {
    if (1..=WORKERS_MAX).contains(&workers) {
        return Ok(workers);
    }
    let text = format!("{workers} workers: there must be at least 1, and at most {WORKERS_MAX}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}
