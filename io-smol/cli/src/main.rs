//! The command `mcp-sse`.
//!
//! Knows: what a person typed, what a person has to be told, signals.
//! Does not know: HTTP, sessions, MCP.

#![forbid(unsafe_code)]

mod greeting;
mod options;

use std::io::{self, Write};
use std::process::ExitCode;

use async_signal::{Signal, Signals};
use clap::Parser;
use futures_lite::{StreamExt, future};
use mcp_sse::demo;
use mcp_sse_smol::{Handle, Listener, Session};

use crate::greeting::Greeting;
use crate::options::{Cli, Command, Serve, flag_for};

fn main() -> ExitCode {
    let command = Cli::parse().command();
    let Command::Demo(options) = command;
    env_logger::Builder::new().filter_level(options.log_level()).init();
    match run(&options, |session, handle| demo::serve(session, handle)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("mcp-sse: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Listens as the options say and serves sessions until a signal comes.
fn run<F>(options: &Serve, handler: impl Fn(Session, Handle) -> F + 'static) -> Result<(), String>
where
    F: Future<Output = ()> + 'static,
{
    let config = options.config().map_err(|error| match flag_for(&error) {
        Some(flag) => format!("{error}; see {flag}"),
        None => error.to_string(),
    })?;
    let greeting_config = config.clone();
    let listener = Listener::bind(options.address(), config)
        .map_err(|error| cannot_listen(options, &error))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    if !address.ip().is_loopback() {
        log::warn!("{address} can be reached from other machines, and anybody who does may use it");
    }
    // A closed stdout is no reason not to serve.
    let _ = write!(io::stdout(), "{}", Greeting::new(&greeting_config, address));
    let _ = io::stdout().flush();

    let handle = listener.handle();
    let stopping = listener.handle();
    let serving = listener.serve_local(move |session| handler(session, handle.clone()));
    async_io::block_on(future::or(
        async { serving.await.map_err(|error| format!("cannot serve: {error}")) },
        stop_on_signals(stopping),
    ))
}

fn cannot_listen(options: &Serve, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "; choose another port with --port, or 0 for any free one",
        io::ErrorKind::AddrNotAvailable => "; --host must be an address of this machine",
        io::ErrorKind::PermissionDenied => "; ports below 1024 usually need privileges, see --port",
        _ => "",
    };
    format!("cannot listen on {}: {error}{hint}", options.address())
}

/// The first signal stops the server in order, the second at once. Never ready otherwise.
async fn stop_on_signals(handle: Handle) -> Result<(), String> {
    #[cfg(unix)]
    let wanted = [Signal::Int, Signal::Term];
    #[cfg(not(unix))]
    let wanted = [Signal::Int];
    let mut signals =
        Signals::new(wanted).map_err(|error| format!("cannot wait for signals: {error}"))?;
    while let Some(Ok(signal)) = signals.next().await {
        log::info!("stopping: {signal:?}");
        handle.shutdown();
    }
    future::pending().await
}
