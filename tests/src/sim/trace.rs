//! What happened, for people to read and for runs to be compared by.
//!
//! Knows: the last lines, or all of them, and one number that stands for every byte of all.
//! Does not know: what any of it means.

use core::fmt;
use core::fmt::Write;
use std::collections::VecDeque;

/// How much is kept to be printed when something goes wrong.
const LINES_KEPT: usize = 60;

/// A record of one run.
#[derive(Debug, Default)]
pub struct Trace {
    /// Whether lines are written at all; bytes always count.
    pub verbose: bool,
    /// Whether every line is kept.
    pub whole: bool,
    lines: VecDeque<String>,
    count: u64,
    hash: u64,
}

impl Trace {
    /// A record of lines; of all of them if `whole`, which are printed as they come.
    #[must_use]
    pub fn new(verbose: bool, whole: bool) -> Self {
        Self { verbose, whole, hash: 0xcbf2_9ce4_8422_2325, ..Self::default() }
    }

    /// Writes a line.
    pub fn say(&mut self, line: fmt::Arguments<'_>) {
        if !self.verbose {
            return;
        }
        let full = self.lines.len() == LINES_KEPT;
        let mut text = if full { self.lines.pop_front() } else { None }.unwrap_or_default();
        text.clear();
        // Into a `String` that cannot fail.
        let _ = write!(text, "{} {line}", self.count);
        self.count += 1;
        self.absorb(text.as_bytes());
        if self.whole {
            eprintln!("{text}");
        }
        self.lines.push_back(text);
    }

    /// Makes `bytes` count in the number.
    pub fn absorb(&mut self, bytes: &[u8]) {
        for eight in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..eight.len()].copy_from_slice(eight);
            self.hash = (self.hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3);
            self.hash ^= self.hash >> 29;
        }
        self.hash = self.hash.wrapping_add(bytes.len() as u64);
    }

    /// One number for all of it.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.hash
    }

    /// The last lines.
    pub fn tail(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
