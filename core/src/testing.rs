//! Helpers for unit tests: a seeded random generator, every way to split an input, counted steps,
//! and captured log lines. Compiled for tests only.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt::Debug;

use log::LevelFilter;
use log::kv::{self, Key, Value};

use crate::entropy::{Entropy, EntropyUnavailable};

thread_local! {
    static STEPS: core::cell::Cell<u64> = const { core::cell::Cell::new(0) };
}

thread_local! {
    static CAPTURED: RefCell<Option<(LevelFilter, Vec<LogRecord>)>> = const { RefCell::new(None) };
}

/// A captured record of the log.
#[derive(Clone, Debug)]
pub(crate) struct LogRecord {
    pub(crate) level: log::Level,
    pub(crate) sentence: String,
    /// Keys and values, in their order: a number as itself, anything else in quotes, and null.
    pub(crate) keys: Vec<(String, String)>,
}

impl LogRecord {
    fn of(record: &log::Record<'_>) -> Self {
        struct Pairs(Vec<(String, String)>);
        impl<'kvs> kv::VisitSource<'kvs> for Pairs {
            fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
                let mut written = String::new();
                value.visit(Written(&mut written))?;
                self.0.push((key.as_str().into(), written));
                Ok(())
            }
        }
        let mut pairs = Pairs(Vec::new());
        record.key_values().visit(&mut pairs).expect("never fails");
        let sentence = record.args().to_string();
        Self { level: record.level(), sentence, keys: pairs.0 }
    }

    /// The value of `event`, without quotes.
    pub(crate) fn event(&self) -> &str {
        self.value("event").trim_matches('"')
    }

    /// The value of a key, which is there.
    #[track_caller]
    pub(crate) fn value(&self, key: &str) -> &str {
        let found = self.keys.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| &**value).unwrap_or_else(|| panic!("no {key} in {self:?}"))
    }

    /// All keys whose value is not null, as `key=value` with spaces between.
    pub(crate) fn pairs(&self) -> String {
        let known = self.keys.iter().filter(|(_, value)| value != "null");
        known.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
    }
}

/// Writes a value such that its type can be seen.
struct Written<'a>(&'a mut String);

impl<'v> kv::VisitValue<'v> for Written<'_> {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), kv::Error> {
        self.visit_str(&value.to_string())
    }
    fn visit_str(&mut self, value: &str) -> Result<(), kv::Error> {
        *self.0 = format!("{value:?}");
        Ok(())
    }
    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        *self.0 = value.to_string();
        Ok(())
    }
    fn visit_null(&mut self) -> Result<(), kv::Error> {
        *self.0 = "null".into();
        Ok(())
    }
}

/// A logger that captures the records of threads that asked for it.
struct CapturedLog;

impl log::Log for CapturedLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        CAPTURED.with_borrow(|captured| {
            captured.as_ref().is_some_and(|(level, _)| metadata.level() <= *level)
        })
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let record = LogRecord::of(record);
            CAPTURED.with_borrow_mut(|captured| captured.as_mut().expect("enabled").1.push(record));
        }
    }

    fn flush(&self) {}
}

/// The records that `run` logs on this thread at `level` and above.
pub(crate) fn records_in(level: LevelFilter, run: impl FnOnce()) -> Vec<LogRecord> {
    // Another test may have set the logger already. The level of other tests may be another one, so it is
    // compared for each thread.
    let _ = log::set_logger(&CapturedLog);
    log::set_max_level(LevelFilter::Trace);
    CAPTURED.set(Some((level, Vec::new())));
    run();
    CAPTURED.take().map(|(_, records)| records).unwrap_or_default()
}

/// The sentences that `run` logs on this thread at level info and above, each behind its level.
pub(crate) fn lines_in(run: impl FnOnce()) -> Vec<String> {
    let records = records_in(LevelFilter::Info, run);
    records.iter().map(|record| format!("{} {}", record.level, record.sentence)).collect()
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
