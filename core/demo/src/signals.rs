//! The signals by which a person or a supervisor stops a program.

use std::io;

/// Calls `shutdown` at the first termination signal, and `abort` at each further one. The signals are SIGINT, which is
/// Ctrl-C, and SIGTERM; the handling of others, SIGHUP among them, is not changed.
///
/// Both functions run on a thread of their own. They are meant for [`Handle::shutdown`] and [`Handle::abort`]: the
/// second Ctrl-C cuts what the first gave time to finish.
///
/// [`Handle::shutdown`]: mcp_sse_driver::Handle::shutdown
/// [`Handle::abort`]: mcp_sse_driver::Handle::abort
///
/// # Errors
///
/// Those of the operating system in setting up the signal handlers and the thread.
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

/// Calls `shutdown` at the first Ctrl-C, and `abort` at each further one, on a thread of their own.
///
/// # Errors
///
/// Those of the operating system in setting up the handler.
#[cfg(not(unix))]
pub fn on_termination(
    shutdown: impl FnOnce() + Send + 'static,
    abort: impl FnMut() + Send + 'static,
) -> io::Result<()> {
    ctrlc::set_handler(in_turn(shutdown, abort)).map_err(io::Error::other)
}

/// A function that calls `first` the first time, and `then` each further time.
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
