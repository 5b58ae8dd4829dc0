//! The signals by which a person or a supervisor stops a program.

use std::io;

/// Calls `stop` at each signal to end: SIGINT, which is Ctrl-C, and SIGTERM. Others, SIGHUP among them,
/// stay what whoever started the program made them.
///
/// `stop` runs on a thread of its own. Call it twice, as [`Handle::shutdown`] is meant to be, and the
/// second Ctrl-C ends what the first left time.
///
/// [`Handle::shutdown`]: mcp_sse_core::driver::Handle::shutdown
///
/// # Errors
///
/// If the operating system cannot be asked to tell about signals.
#[cfg(unix)]
pub fn on_signals(stop: impl Fn() + Send + 'static) -> io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for _ in signals.forever() {
            stop();
        }
    })?;
    Ok(())
}

/// Calls `stop` at each Ctrl-C, on a thread of its own.
///
/// # Errors
///
/// If the operating system cannot be asked to tell about it.
#[cfg(not(unix))]
pub fn on_signals(stop: impl Fn() + Send + 'static) -> io::Result<()> {
    ctrlc::set_handler(stop).map_err(io::Error::other)
}
