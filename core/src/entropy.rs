//! The source of randomness for session tokens.
//!
//! Knows: the interface. Does not know: any source; the driver provides one.

use crate::error_text::error_text;

/// A source of unpredictable bytes, given to [`Server::new`](crate::Server::new).
///
/// Adapters use the generator of the operating system; tests use a seeded one, which makes a whole
/// run reproducible. The server takes 18 bytes for each new session, and 8 more
/// for the time in its [`retry`](crate::ConfigBuilder::retry) field, if that is drawn. If
/// [`retry_after`](crate::ConfigBuilder::retry_after) is a range, it takes 8 bytes once.
///
/// ```
/// use mcp_sse_core::{Config, Entropy, EntropyUnavailable, Server, Time};
///
/// struct SystemRandom;
///
/// impl Entropy for SystemRandom {
///     fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
///         getrandom::fill(dest).map_err(|_| EntropyUnavailable)
///     }
/// }
///
/// let server = Server::new(Config::default(), Box::new(SystemRandom), Time::ZERO);
/// ```
pub trait Entropy {
    /// Fills `dest` with unpredictable bytes.
    ///
    /// # Errors
    ///
    /// [`EntropyUnavailable`] if the source cannot provide bytes at present. The session that
    /// needed them is refused with 503; nothing else is affected.
    fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable>;
}

/// A function can be used as a source.
impl<F: FnMut(&mut [u8]) -> Result<(), EntropyUnavailable>> Entropy for F {
    fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
        self(dest)
    }
}

/// The entropy source could not provide bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntropyUnavailable;

error_text!(EntropyUnavailable, |_| "the entropy source is unavailable");
