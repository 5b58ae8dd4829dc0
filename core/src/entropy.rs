//! Where the secrets of session tokens come from.
//!
//! Knows: how to ask. Does not know: any source; the driver brings one.

use core::fmt;

/// A source of unpredictable bytes, given to the server at construction.
///
/// Adapters use the operating system's generator; tests use a seeded one, which makes a whole run
/// repeatable. It is asked once per new session.
pub trait Entropy {
    /// Fills `dest` with unpredictable bytes.
    ///
    /// # Errors
    ///
    /// [`EntropyUnavailable`] when the source cannot deliver now. That refuses the one session that
    /// asked (503) and harms nothing else.
    fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable>;
}

/// A function is a source, too.
impl<F: FnMut(&mut [u8]) -> Result<(), EntropyUnavailable>> Entropy for F {
    fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
        self(dest)
    }
}

/// The entropy source had nothing to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntropyUnavailable;

impl fmt::Display for EntropyUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the entropy source is unavailable")
    }
}

impl core::error::Error for EntropyUnavailable {}
