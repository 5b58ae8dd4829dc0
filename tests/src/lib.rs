//! What the integration tests share: servers to test, a client that shows every byte, handlers.
//!
//! A test is a function of an [`Adapter`](adapter::Adapter), and [`for_each_adapter!`] makes a
//! `#[test]` of it for each one there is. What an adapter by itself can get wrong is in
//! [`conformance`](mod@conformance), which one that is not in this workspace can run as well. A further
//! adapter in it is one more constant in [`adapter`] and one more line in that macro.

pub mod adapter;
pub mod certificate;
pub mod child;
pub mod client;
pub mod conformance;
pub mod fuzz;
pub mod guard_table;
pub mod handlers;
pub mod scratch;
#[path = "../../io-tokio/examples/toolbox/service.rs"]
pub mod sdk;
pub mod sim;

/// The README's examples, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

use core::time::Duration;
use std::time::Instant;

use mcp_sse_core::{Config, ConfigBuilder, Limits, Timeouts};

/// For how long a test waits for what should happen at once. Shorter than the time a server gives a
/// request head, whose timer would otherwise make up for a wake-up that was lost.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// Runs the tests named, which take an adapter, on each adapter.
#[macro_export]
macro_rules! for_each_adapter {
    ($($test:ident),+ $(,)?) => {
        mod smol {
            $(
                #[test]
                fn $test() {
                    super::$test(&$crate::adapter::SMOL);
                }
            )+
        }

        mod tokio {
            $(
                #[test]
                fn $test() {
                    super::$test(&$crate::adapter::TOKIO);
                }
            )+
        }
    };
}

/// The defaults with other limits.
pub fn limits(change: impl FnOnce(&mut Limits)) -> ConfigBuilder {
    let mut limits = Limits::default();
    change(&mut limits);
    // One body fits in any case, or there would be no such configuration.
    if let (Some(body), Some(bodies)) = (limits.body_bytes_max, limits.bodies_bytes_max) {
        limits.body_bytes_max = Some(body.min(bodies));
    }
    Config::builder().limits(limits)
}

/// The defaults with other deadlines.
pub fn timeouts(change: impl FnOnce(&mut Timeouts)) -> ConfigBuilder {
    let mut timeouts = Timeouts::default();
    change(&mut timeouts);
    Config::builder().timeouts(timeouts)
}

/// Looks until `condition` holds; panics, naming `what`, if it does not in time.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs a future on this thread; panics, naming `what`, if it is not done in time.
#[track_caller]
pub fn finish<T>(what: &str, future: impl Future<Output = T>) -> T {
    let late = async {
        async_io::Timer::after(PATIENCE).await;
        None
    };
    let done = futures_lite::future::or(async { Some(future.await) }, late);
    futures_lite::future::block_on(done).unwrap_or_else(|| panic!("waited in vain: {what}"))
}
