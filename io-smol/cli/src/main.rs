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
use mcp_sse::options::{Place, Serve, flag_for};
use mcp_sse::stop;
use mcp_sse_smol::{Config, Handle, Listener, Session};

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
    // This program is also what stands between a server that it bridges to and the rest.
    #[cfg(unix)]
    if let Some(code) = mcp_sse::bridge::guard::run() {
        return code;
    }
    let command = Cli::parse().command();
    let Command::Demo(options) = command;
    env_logger::Builder::new().filter_level(options.log_level()).init();
    let config = match options.config() {
        Ok(config) => config,
        Err(error) => {
            let flag = flag_for(&error).map(|flag| format!("; see {flag}")).unwrap_or_default();
            eprintln!("mcp-sse: {error}{flag}");
            // As for every other mistake on the command line.
            return ExitCode::from(2);
        }
    };
    match run(&options, config, demo::serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("mcp-sse: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Listens as the options say and serves sessions until a signal comes.
fn run<F>(
    options: &Serve,
    config: Config,
    handler: impl Fn(Session, Handle) -> F + 'static,
) -> Result<(), String>
where
    F: Future<Output = ()> + 'static,
{
    // Before anything is bound: a mistake in the files is told alone.
    #[cfg(feature = "tls")]
    let tls = options.tls().map_err(|error| format!("{error}; see --tls-cert and --tls-key"))?;
    let (listener, place) = listen(options.place(), config.clone())
        .map_err(|error| cannot_listen(options.place(), &error))?;
    if let Place::Tcp(address) = place
        && !address.ip().is_loopback()
    {
        log::warn!("{address} can be reached from other machines, and anybody who does may use it");
    }
    let greeting = Greeting::new(&config, place);
    #[cfg(feature = "tls")]
    let greeting = greeting.tls(tls.is_some());
    // A closed stdout is no reason not to serve.
    let _ = write!(io::stdout(), "{greeting}");
    let _ = io::stdout().flush();
    #[cfg(feature = "tls")]
    let listener = match tls {
        Some(tls) => listener.tls(tls),
        None => listener,
    };

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

/// Listens, and says where: the port may have been for the system to choose.
fn listen(place: Place<'_>, config: Config) -> io::Result<(Listener, Place<'_>)> {
    match place {
        Place::Tcp(address) => {
            let listener = Listener::bind(address, config)?;
            let place = Place::Tcp(listener.local_addr()?);
            Ok((listener, place))
        }
        #[cfg(unix)]
        Place::Unix(path) => Ok((Listener::bind_unix(path, config)?, place)),
        #[cfg(not(unix))]
        Place::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn cannot_listen(place: Place<'_>, error: &io::Error) -> String {
    const HINTS: [(io::ErrorKind, &str); 3] = [
        (io::ErrorKind::AddrInUse, "; choose another port with --port, or 0 for any free one"),
        (io::ErrorKind::AddrNotAvailable, "; --host must be an address of this machine"),
        (io::ErrorKind::PermissionDenied, "; ports below 1024 usually need privileges, see --port"),
    ];
    let known = HINTS.into_iter().find(|(kind, _)| *kind == error.kind());
    let hint = match place {
        Place::Tcp(_) => known.map_or("", |(_, hint)| hint),
        Place::Unix(_) => "",
    };
    format!("cannot listen on {place}: {error}{hint}")
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
        assert_eq!(serve.place(), Place::Tcp(address.parse().unwrap()));
    }

    #[test]
    fn the_command_may_be_left_out() {
        check(&[], "127.0.0.1:8000");
        check(&["--port", "9"], "127.0.0.1:9");
        check(&["demo", "--port", "9"], "127.0.0.1:9");
    }
}
