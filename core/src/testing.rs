//! Helpers for unit tests: a seeded random generator, every way to split an input, counted steps,
//! and captured log lines. Compiled for tests only.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt::Debug;

use crate::entropy::{Entropy, EntropyUnavailable};

thread_local! {
    static STEPS: core::cell::Cell<u64> = const { core::cell::Cell::new(0) };
}

thread_local! {
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// A logger that captures the lines of threads that asked for it.
struct CapturedLog;

impl log::Log for CapturedLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        LINES.with_borrow(Option::is_some)
    }

    fn log(&self, record: &log::Record<'_>) {
        LINES.with_borrow_mut(|lines| {
            if let Some(lines) = lines {
                lines.push(format!("{} {}", record.level(), record.args()));
            }
        });
    }

    fn flush(&self) {}
}

/// The lines that `run` logs on this thread at level info and above.
pub(crate) fn lines_in(run: impl FnOnce()) -> Vec<String> {
    // Another test may have set the logger already.
    let _ = log::set_logger(&CapturedLog);
    log::set_max_level(log::LevelFilter::Info);
    LINES.set(Some(Vec::new()));
    run();
    LINES.take().unwrap_or_default()
}

/// Counts one step of work, so that tests can compare the work of different inputs: one octet of a
/// constant-time comparison or of the fingerprint of an id, or one entry of a traversal.
pub(crate) fn step() {
    STEPS.set(STEPS.get() + 1);
}

/// Runs `run`, and returns the number of steps that it took.
pub(crate) fn steps_in<T>(run: impl FnOnce() -> T) -> (u64, T) {
    let before = STEPS.get();
    let value = run();
    (STEPS.get() - before, value)
}

/// The SplitMix64 generator, which gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// A random element of `choices`.
    pub(crate) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// A copy of `bytes` with a few random octets changed, removed, inserted, doubled or swapped.
    /// Inserted octets come from `octets`.
    pub(crate) fn mutate(&mut self, bytes: &[u8], octets: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len().max(1)).min(bytes.len());
            match self.below(6) {
                0 if !bytes.is_empty() => drop(bytes.remove(at)),
                1 => bytes.insert(at, *self.pick(octets)),
                2 if !bytes.is_empty() => bytes[at] = *self.pick(octets),
                3 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                4 if !bytes.is_empty() => bytes.insert(at, bytes[at]),
                5 if !bytes.is_empty() => {
                    let other = self.below(bytes.len());
                    bytes.swap(at, other);
                }
                _ => {}
            }
        }
        bytes
    }

    /// `input` split into pieces of random size.
    pub(crate) fn cut<'a>(&mut self, mut input: &'a [u8]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        while !input.is_empty() {
            let (piece, rest) = input.split_at(1 + self.below(input.len()));
            pieces.push(piece);
            input = rest;
        }
        pieces
    }
}

impl Entropy for Random {
    fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
        for byte in dest {
            *byte = self.next() as u8;
        }
        Ok(())
    }
}

/// Passes `input` to `run` in one piece, byte by byte, and split in two at every point, and asserts
/// that the result is always the same.
#[track_caller]
pub(crate) fn every_way<T: PartialEq + Debug>(
    input: &[u8],
    mut run: impl FnMut(&[&[u8]]) -> T,
) -> T {
    let whole = run(&[input]);
    let text = input.escape_ascii();
    assert_eq!(whole, run(&input.chunks(1).collect::<Vec<_>>()), "byte by byte: {text}");
    for cut in 0..=input.len() {
        let (head, tail) = input.split_at(cut);
        assert_eq!(whole, run(&[head, tail]), "cut at {cut}: {text}");
    }
    whole
}
