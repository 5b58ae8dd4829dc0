//! A fleet of 10,000 clients whose server restarts: `retry` and `drain_spread` flatten the storm in which
//! they come back.

use core::time::Duration;

use mcp_sse_tests::sim::fleet::{Comeback, DEFAULT_RETRY, Restart, restart};

const CLIENTS: usize = 10_000;
const SECOND: Duration = Duration::from_secs(1);

/// A restart with these settings: the times of `retry`, and the spread.
fn comeback(retry: bool, spread: bool, start_up: Option<Duration>) -> Comeback {
    restart(&Restart {
        clients: CLIENTS,
        retry: retry.then(|| SECOND..=5 * SECOND),
        drain_spread: spread.then(|| 5 * SECOND),
        start_up,
    })
}

/// Without settings all come back in one instant. With either setting, the most in one second are about
/// a fifth to a quarter: both are spread over 4 or 5 seconds. With both they are no more.
#[test]
fn peak_of_new_sessions_with_a_replica_is_flattened_by_retry_and_by_spread() {
    let none = comeback(false, false, None);
    assert_eq!((none.peak_per_second(), none.complete_after()), (CLIENTS, DEFAULT_RETRY));
    let share = |retry, spread| {
        let comeback = comeback(retry, spread, None);
        assert_eq!((comeback.times.len(), comeback.attempts_failed), (CLIENTS, 0));
        comeback.peak_per_second() as f64 / CLIENTS as f64
    };
    let (retry, spread, both) = (share(true, false), share(false, true), share(true, true));
    assert!((0.25..0.28).contains(&retry), "{retry}");
    assert!((0.20..0.21).contains(&spread), "{spread}");
    assert!(both <= spread + 0.02, "{both} with both, and {spread} with the spread alone");
}

/// A single process, which is back a second after it ended: clients that try too early try again.
#[test]
fn peak_of_new_sessions_with_one_process_is_flattened_by_retry_and_by_spread() {
    let peak = |retry, spread| comeback(retry, spread, Some(SECOND)).peak_per_second();
    let (none, retry) = (peak(false, false), peak(true, false));
    let (spread, both) = (peak(false, true), peak(true, true));
    assert_eq!(none, CLIENTS);
    assert!(retry < CLIENTS / 2 && spread < CLIENTS / 2, "{retry} {spread}");
    assert!(both < CLIENTS / 2, "{both}");
}
