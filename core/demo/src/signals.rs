//! The signals that stop a program.

use std::io;

/// Calls `shutdown` at the first termination signal, and `abort` at each further one. The termination signals are
/// SIGINT (Ctrl-C) and SIGTERM; the handling of other signals, such as SIGHUP, is not changed.
///
/// Both functions are called on a thread of their own. They should call [`Handle::shutdown`] and [`Handle::abort`]:
/// the second Ctrl-C then aborts the requests that the first one gave time to finish.
///
/// [`Handle::shutdown`]: mcp_sse_driver::Handle::shutdown
/// [`Handle::abort`]: mcp_sse_driver::Handle::abort
///
/// # Errors
///
/// Returns an error if the signal handlers or the thread cannot be set up.
#[cfg(unix)]
pub fn on_termination(
    shutdown: impl FnOnce() + Send + 'static,
    abort: impl FnMut() + Send + 'static,
) -> io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let mut stop = in_turn(shutdown, abort);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for _ in signals.forever() {
            stop();
        }
    })?;
    Ok(())
}

/// Calls `shutdown` at the first termination signal, and `abort` with its number at each further one, as
/// [`on_termination`] does. In addition, calls `hangup` at each SIGHUP, which would end the program otherwise. If
/// `hangup` returns true, SIGHUP counts as a termination signal.
///
/// All functions are called on a thread of their own, one at a time.
///
/// # Errors
///
/// Returns an error if the signal handlers or the thread cannot be set up.
#[cfg(unix)]
pub fn on_signals(
    shutdown: impl FnOnce() + Send + 'static,
    mut abort: impl FnMut(i32) + Send + 'static,
    mut hangup: impl FnMut() -> bool + Send + 'static,
) -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let mut shutdown = Some(shutdown);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if signal == SIGHUP && !hangup() {
                continue;
            }
            match shutdown.take() {
                Some(shutdown) => shutdown(),
                None => abort(signal),
            }
        }
    })?;
    Ok(())
}

/// Calls `shutdown` at the first Ctrl-C, and `abort` at each further one, on a thread of their own.
///
/// # Errors
///
/// Returns an error if the handler cannot be set up.
#[cfg(not(unix))]
pub fn on_termination(
    shutdown: impl FnOnce() + Send + 'static,
    abort: impl FnMut() + Send + 'static,
) -> io::Result<()> {
    ctrlc::set_handler(in_turn(shutdown, abort)).map_err(io::Error::other)
}

/// Returns a function that calls `first` the first time, and `then` each further time.
fn in_turn(
    first: impl FnOnce() + Send + 'static,
    mut then: impl FnMut() + Send + 'static,
) -> impl FnMut() + Send + 'static {
    let mut first = Some(first);
    move || match first.take() {
        Some(first) => first(),
        None => then(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn first_signal_shuts_down_and_each_further_one_aborts() {
        let (calls, called) = mpsc::channel();
        let again = calls.clone();
        let shutdown = move || calls.send("shutdown").unwrap();
        let mut stop = in_turn(shutdown, move || again.send("abort").unwrap());
        for _ in 0..3 {
            stop();
        }
        drop(stop);
        assert_eq!(called.iter().collect::<Vec<_>>(), ["shutdown", "abort", "abort"]);
    }
}
