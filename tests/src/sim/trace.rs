//! The trace of a run: lines for people, and a digest by which runs are compared.
//!
//! Knows: the last lines, or all of them, and the hash of all bytes. Does not know: what a line
//! means.

use core::fmt;
use core::fmt::Write;
use std::collections::VecDeque;

/// How many lines are kept for the report of a failure.
const LINES_KEPT: usize = 60;

/// The trace of one run.
#[derive(Debug, Default)]
pub struct Trace {
    /// Whether lines are written; bytes always go into the digest.
    pub verbose: bool,
    /// Whether every line is printed at once.
    pub whole: bool,
    lines: VecDeque<String>,
    count: u64,
    hash: u64,
}

impl Trace {
    /// Makes a trace. With `verbose` it writes lines, with `whole` it also prints each.
    #[must_use]
    pub fn new(verbose: bool, whole: bool) -> Self {
        Self { verbose, whole, hash: 0xcbf2_9ce4_8422_2325, ..Self::default() }
    }

    /// Writes a line.
    pub fn log(&mut self, line: fmt::Arguments<'_>) {
        if !self.verbose {
            return;
        }
        let full = self.lines.len() == LINES_KEPT;
        let mut text = if full { self.lines.pop_front() } else { None }.unwrap_or_default();
        text.clear();
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{} {line}", self.count);
        self.count += 1;
        self.absorb(text.as_bytes());
        if self.whole {
            eprintln!("{text}");
        }
        self.lines.push_back(text);
    }

    /// Adds `bytes` to the digest.
    pub fn absorb(&mut self, bytes: &[u8]) {
        for eight in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..eight.len()].copy_from_slice(eight);
            self.hash = (self.hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3);
            self.hash ^= self.hash >> 29;
        }
        self.hash = self.hash.wrapping_add(bytes.len() as u64);
    }

    /// The hash of everything.
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.hash
    }

    /// The last lines.
    pub fn tail(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
