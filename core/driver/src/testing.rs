//! Support for unit tests: seeded entropy, and the log lines of a thread. Not part of the crate.
//!
//! It repeats parts of `core/src/testing.rs`, which is compiled only for the core's own unit tests. A
//! package of test support for both was considered, and a `#[path]` to the core's file: the first is a
//! fourth package for 50 lines, and the second leaves this package's tests without a file once it is
//! packaged.

use core::cell::RefCell;

use mcp_sse_core::{Entropy, EntropyUnavailable};

std::thread_local! {
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// A logger that keeps the lines of threads in [`lines_in`].
struct Lines;

impl log::Log for Lines {
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

/// Returns the lines that this thread logs during `run`, at level `info` and above.
pub(crate) fn lines_in(run: impl FnOnce()) -> Vec<String> {
    // It fails if another test has set it, which is fine.
    let _ = log::set_logger(&Lines);
    log::set_max_level(log::LevelFilter::Info);
    LINES.set(Some(Vec::new()));
    run();
    LINES.take().unwrap_or_default()
}

/// SplitMix64, which is random enough for tests and the same on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
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
