//! What unit tests share: entropy with a seed, and the log of a thread. Not part of the crate.

use core::cell::RefCell;

use mcp_sse_core::{Entropy, EntropyUnavailable};

std::thread_local! {
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Keeps the lines of the threads that want to see theirs.
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

/// What the log says in `run`, on this thread, at the level at which servers are run.
pub(crate) fn lines_in(run: impl FnOnce()) -> Vec<String> {
    // Another test may have done it.
    let _ = log::set_logger(&Lines);
    log::set_max_level(log::LevelFilter::Info);
    LINES.set(Some(Vec::new()));
    run();
    LINES.take().unwrap_or_default()
}

/// SplitMix64: enough for tests, and the same on every machine.
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
