//! Support for the integration tests: servers to test, a client that shows every byte, handlers.
//!
//! A test is a function of an [`Adapter`](adapter::Adapter); [`for_each_adapter!`] makes a
//! `#[test]` of it for each adapter. The suite in [`conformance`](mod@conformance) tests what an
//! adapter itself can get wrong; an adapter outside this workspace can run it too. Another adapter
//! in the workspace is one more constant in [`adapter`] and one more module in that macro.
//!
//! Everything that a test waits for has a time limit: reads and writes of a [`client`], a condition
//! by [`wait_until`], a future by [`finish`], a blocking call by [`within`], and a whole test of
//! the two macros by [`limited`].

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

/// The examples of documents that use both adapters, compiled.
#[cfg(doctest)]
mod documents {
    macro_rules! compiled {
        ($($name:ident = $path:literal;)+) => {
            $(#[doc = include_str!($path)] struct $name;)+
        };
    }

    compiled! {
        Readme = "../../README.md";
        Handlers = "../../core/driver/src/guide/handlers.md";
        Authentication = "../../core/driver/src/guide/authentication.md";
        Tls = "../../core/driver/src/guide/tls.md";
        UnixSockets = "../../core/driver/src/guide/unix_sockets.md";
        Workers = "../../core/driver/src/guide/workers.md";
        Logs = "../../core/driver/src/guide/logs.md";
        Metrics = "../../core/driver/src/guide/metrics.md";
        Proxies = "../../core/driver/src/guide/proxies.md";
        Replicas = "../../core/driver/src/guide/replicas.md";
        Reconnection = "../../core/driver/src/guide/reconnection.md";
        AxumAndRmcp = "../../core/driver/src/guide/axum_and_rmcp.md";
    }
}

use core::panic::AssertUnwindSafe;
use core::time::Duration;
use std::panic::{catch_unwind, resume_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use mcp_sse_core::{Config, ConfigBuilder, Limits, Timeouts};

/// How long a test waits for what should happen at once. It is shorter than the server's deadline
/// for a request head, whose timer would otherwise hide a lost wake-up.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// The time limit of a whole test: far more than any test takes on a busy machine, and less than
/// the limit of the whole run.
pub const TEST_MAX: Duration = Duration::from_secs(180);

/// Makes a `#[test]` for each adapter of each named function, which takes an adapter, within
/// [`TEST_MAX`].
#[macro_export]
macro_rules! for_each_adapter {
    ($($test:ident),+ $(,)?) => {
        mod smol {
            $(
                #[test]
                fn $test() {
                    $crate::limited(|| super::$test(&$crate::adapter::SMOL));
                }
            )+
        }

        mod tokio {
            $(
                #[test]
                fn $test() {
                    $crate::limited(|| super::$test(&$crate::adapter::TOKIO));
                }
            )+
        }
    };
}

/// The default configuration with changed limits.
pub fn limits(change: impl FnOnce(&mut Limits)) -> ConfigBuilder {
    let mut limits = Limits::default();
    change(&mut limits);
    // A configuration in which one body exceeds the budget of all bodies is invalid.
    if let (Some(body), Some(bodies)) = (limits.body_bytes_max, limits.bodies_bytes_max) {
        limits.body_bytes_max = Some(body.min(bodies));
    }
    Config::builder().limits(limits)
}

/// The default configuration with changed timeouts.
pub fn timeouts(change: impl FnOnce(&mut Timeouts)) -> ConfigBuilder {
    let mut timeouts = Timeouts::default();
    change(&mut timeouts);
    Config::builder().timeouts(timeouts)
}

/// Waits until `condition` holds. Panics with `what` if it does not within [`PATIENCE`].
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Runs a future on this thread. Panics with `what` if it is not ready within [`PATIENCE`]. At the
/// deadline the future is not polled again, so a lost wake-up is a failure and not a delay.
#[track_caller]
pub fn finish<T>(what: &str, future: impl Future<Output = T>) -> T {
    let late = async {
        async_io::Timer::after(PATIENCE).await;
        None
    };
    let done = futures_lite::future::or(late, async { Some(future.await) });
    futures_lite::future::block_on(done).unwrap_or_else(|| panic!("waited in vain: {what}"))
}

/// Runs a blocking call on a new thread. Panics with `what` if it takes longer than `limit`; the
/// thread is then left running.
#[track_caller]
pub fn within<T: Send + 'static>(
    limit: Duration,
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (sender, done) = mpsc::channel();
    let name = thread::current().name().map(str::to_owned);
    let thread = thread::Builder::new().name(name.unwrap_or_else(|| what.to_owned()));
    let worker = move || sender.send(catch_unwind(AssertUnwindSafe(work)));
    thread.spawn(worker).expect("a thread");
    match done.recv_timeout(limit) {
        Ok(Ok(done)) => done,
        Ok(Err(panic)) => resume_unwind(panic),
        Err(_) => panic!("waited in vain, for {limit:?}: {what}"),
    }
}

/// Runs a test with the time limit [`TEST_MAX`].
///
/// # Panics
///
/// If the test panics or takes longer.
#[track_caller]
pub fn limited(test: impl FnOnce() + Send + 'static) {
    within(TEST_MAX, "the end of the test", test);
}

#[cfg(test)]
mod tests {
    use core::task::Poll;

    use super::*;

    #[test]
    #[should_panic(expected = "waited in vain: a wake-up")]
    fn unwoken_future_panics_at_the_deadline() {
        let mut polled = false;
        let done_when_looked_at_again = core::future::poll_fn(|_| {
            if core::mem::replace(&mut polled, true) { Poll::Ready(()) } else { Poll::Pending }
        });
        finish("a wake-up", done_when_looked_at_again);
    }

    #[test]
    #[should_panic(expected = "waited in vain, for 10ms: nothing")]
    fn hanging_work_panics_at_the_limit() {
        let (_keep, never) = mpsc::channel::<()>();
        within(Duration::from_millis(10), "nothing", move || never.recv().is_ok());
    }

    #[test]
    #[should_panic(expected = "its own words")]
    fn limited_test_panics_with_its_own_message() {
        limited(|| panic!("its own words"));
    }
}
