//! What the integration tests share: servers to test, a client that shows every byte, handlers.
//!
//! A test is a function of an [`Adapter`](adapter::Adapter), and [`for_each_adapter!`] makes a
//! `#[test]` of it for each one there is. A further adapter is one more constant in [`adapter`] and
//! one more line in that macro.

pub mod adapter;
pub mod certificate;
pub mod child;
pub mod client;
pub mod fuzz;
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
