//! The command `mcp-sse`.
//!
//! Knows: what a person typed, what a person has to be told, signals.
//! Does not know: HTTP, sessions, MCP.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mcp_sse::demo;
use mcp_sse::greeting::Greeting;
use mcp_sse::options::{Serve, flag_for};
use mcp_sse::stop;
use mcp_sse_smol::{Handle, Listener, Session};

/// Serve the Model Context Protocol over HTTP+SSE (protocol revision 2024-11-05).
///
/// Without a command, `demo` is run.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    demo: Serve,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a small MCP server with the tools add, echo, burst and broadcast, to try clients with.
    Demo(Serve),
}

impl Cli {
    fn command(self) -> Command {
        self.command.unwrap_or(Command::Demo(self.demo))
    }
}

fn main() -> ExitCode {
    let command = Cli::parse().command();
    let Command::Demo(options) = command;
    env_logger::Builder::new().filter_level(options.log_level()).init();
    match run(&options, demo::serve) {
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

    // The first signal stops the server in order, the second at once.
    let stopping = listener.handle();
    stop::on_signals(move || {
        log::info!("stopping");
        stopping.shutdown();
    })
    .map_err(|error| format!("cannot wait for signals: {error}"))?;

    let handle = listener.handle();
    async_io::block_on(listener.serve_local(move |session| handler(session, handle.clone())))
        .map_err(|error| format!("cannot serve: {error}"))
}

fn cannot_listen(options: &Serve, error: &io::Error) -> String {
    const HINTS: [(io::ErrorKind, &str); 3] = [
        (io::ErrorKind::AddrInUse, "; choose another port with --port, or 0 for any free one"),
        (io::ErrorKind::AddrNotAvailable, "; --host must be an address of this machine"),
        (io::ErrorKind::PermissionDenied, "; ports below 1024 usually need privileges, see --port"),
    ];
    let known = HINTS.into_iter().find(|(kind, _)| *kind == error.kind());
    let hint = known.map_or("", |(_, hint)| hint);
    format!("cannot listen on {}: {error}{hint}", options.address())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_parser_is_sound() {
        <Cli as CommandFactory>::command().debug_assert();
    }

    #[track_caller]
    fn check(args: &[&str], address: &str) {
        let cli = Cli::try_parse_from([&["mcp-sse"], args].concat()).unwrap();
        let Command::Demo(serve) = cli.command();
        assert_eq!(serve.address(), address.parse().unwrap());
    }

    #[test]
    fn the_command_may_be_left_out() {
        check(&[], "127.0.0.1:8000");
        check(&["--port", "9"], "127.0.0.1:9");
        check(&["demo", "--port", "9"], "127.0.0.1:9");
    }
}
