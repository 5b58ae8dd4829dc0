//! The command `mcp-sse`.
//!
//! Knows: what a person typed, what a person has to be told, signals.
//! Does not know: HTTP, sessions, MCP.

#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
#[cfg(unix)]
use mcp_sse::bridge::{self, check, child::Children, servers::Server, services::Services};
use mcp_sse::greeting::Greeting;
use mcp_sse::options::{Mistake, Place, Serve};
use mcp_sse::{demo, logging, stop};
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
    Demo(Box<Serve>),
    /// Serve a program that speaks MCP on its standard input and output: one process for each session.
    ///
    /// As in: mcp-sse bridge -- npx -y @modelcontextprotocol/server-everything
    #[cfg(unix)]
    Bridge(Box<Bridge>),
    /// Serve a program that speaks MCP on its standard input and output. On this system it cannot.
    #[cfg(not(unix))]
    Bridge {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        _ignored: Vec<std::ffi::OsString>,
    },
}

/// `bridge`: where to listen, and what to run.
#[cfg(unix)]
#[derive(Debug, clap::Args)]
struct Bridge {
    #[command(flatten)]
    serve: Serve,
    #[command(flatten)]
    run: bridge::options::Run,
}

impl Cli {
    fn command(self) -> Command {
        self.command.unwrap_or(Command::Demo(Box::new(self.demo)))
    }
}

fn main() -> ExitCode {
    // This program is also what stands between a server that it bridges to and the rest.
    #[cfg(unix)]
    if let Some(code) = bridge::guard::run() {
        return code;
    }
    let done = match Cli::parse().command() {
        Command::Demo(serve) => {
            configure(&serve).and_then(|config| serve_until_stopped(&serve, config, &Demo))
        }
        #[cfg(unix)]
        Command::Bridge(bridge) => serve_bridge(&bridge),
        #[cfg(not(unix))]
        Command::Bridge { .. } => {
            Err(Failure::Start("bridge needs process groups, which this system has not".into()))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Flags(message)) => {
            eprintln!("mcp-sse: {message}");
            // As for every other mistake on the command line.
            ExitCode::from(2)
        }
        Err(Failure::Start(message)) => {
            eprintln!("mcp-sse: {message}");
            ExitCode::FAILURE
        }
        #[cfg(unix)]
        Err(Failure::Told) => ExitCode::FAILURE,
    }
}

/// Why the command ends before its time, in words for people.
enum Failure {
    /// What was typed makes no sense.
    Flags(String),
    /// It does, and cannot be done.
    Start(String),
    /// Everything was said already.
    #[cfg(unix)]
    Told,
}

/// The configuration that the flags mean; begins to log as they say.
fn configure(options: &Serve) -> Result<Config, Failure> {
    logging::init(options.log_level(), options.log_format());
    options.config().map_err(mistaken)
}

fn mistaken(mistake: Mistake) -> Failure {
    Failure::Flags(mistake.to_string())
}

/// Something to serve.
trait Service: Clone + Send + Sync + 'static {
    /// What a person is told about it.
    fn describe<'g>(&self, greeting: Greeting<'g>) -> Greeting<'g> {
        greeting
    }

    /// The server is about to begin.
    fn begin(&self, _server: &Handle) {}

    /// What else happens when the server is told to stop: for the first time, or again.
    fn stopper(&self) -> impl Fn(Stop) + Send + 'static {
        |_| {}
    }

    /// Serves one session.
    fn serve(self, session: Session, server: Handle) -> impl Future<Output = ()> + 'static;
}

/// How a server is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    InOrder,
    AtOnce,
}

#[derive(Clone)]
struct Demo;

impl Service for Demo {
    fn serve(self, session: Session, server: Handle) -> impl Future<Output = ()> + 'static {
        demo::serve(session, server)
    }
}

/// Programs on stdio.
#[cfg(unix)]
#[derive(Clone)]
struct Bridged {
    services: Services,
    children: Children,
}

#[cfg(unix)]
impl Service for Bridged {
    fn describe<'g>(&self, greeting: Greeting<'g>) -> Greeting<'g> {
        self.services.iter().fold(greeting, |greeting, service| {
            greeting.of(service.name(), service.path(), service.description())
        })
    }

    fn begin(&self, server: &Handle) {
        self.children.status().report_to(server.clone());
    }

    fn stopper(&self) -> impl Fn(Stop) + Send + 'static {
        let children = self.children.clone();
        move |stop| {
            if stop == Stop::AtOnce {
                children.hurry();
            }
        }
    }

    async fn serve(self, session: Session, _: Handle) {
        self.services.serve(session).await;
    }
}

#[cfg(unix)]
fn serve_bridge(Bridge { serve, run }: &Bridge) -> Result<(), Failure> {
    if run.checks() {
        // What a server prints is told with the verdict.
        logging::init(serve.log_level().min(log::LevelFilter::Warn), serve.log_format());
        return check_servers(run.servers().map_err(Failure::Flags)?);
    }
    logging::init(serve.log_level(), serve.log_format());
    let servers = run.runnable_servers().map_err(Failure::Flags)?;
    let children = take_care_of_processes()?;
    let services = Services::new(&children, servers, run.sharing(), run.paths());
    let builder = run.allow_headers(serve.builder().map_err(mistaken)?);
    let builder = services.configure(builder, serve.stream_path());
    let config = builder.build().map_err(|error| mistaken(Mistake::Setting(error)))?;
    let bridged = Bridged { services, children: children.clone() };
    let served = serve_until_stopped(serve, config, &bridged);
    drop(bridged);
    // Sessions have ended; what they leave behind has some seconds more.
    match children.finish() {
        0 => served,
        left => Err(Failure::Start(format!("{left} processes cannot be ended"))),
    }
}

#[cfg(unix)]
fn take_care_of_processes() -> Result<Children, Failure> {
    Children::new().map_err(|error| Failure::Start(format!("cannot look after processes: {error}")))
}

/// Tries each server out, one after the other, and says what comes of it.
#[cfg(unix)]
fn check_servers(servers: Vec<Server>) -> Result<(), Failure> {
    let mut failed = 0;
    for Server { name, command } in servers {
        // Of its own: counts and last lines are this server's.
        let children = take_care_of_processes()?;
        children.keep_stderr();
        let found = async_io::block_on(check::check(&children, &command, &name));
        match &found {
            Ok(findings) => println!("ok: {name}: {findings}"),
            Err(fault) => eprintln!("mcp-sse: {name}: {fault}"),
        }
        if children.finish() > 0 {
            eprintln!("mcp-sse: {name}: its process cannot be ended");
        }
        if found.is_err() {
            failed += 1;
            // All of it is there only now.
            let lines = children.last_stderr();
            if !lines.is_empty() {
                eprintln!("its stderr ended with:");
            }
            lines.iter().for_each(|line| eprintln!("  {line}"));
        }
    }
    if failed == 0 { Ok(()) } else { Err(Failure::Told) }
}

/// Listens as the options say and serves sessions until a signal comes.
fn serve_until_stopped(
    options: &Serve,
    config: Config,
    service: &impl Service,
) -> Result<(), Failure> {
    // Before anything is bound: a mistake in the files is told alone.
    #[cfg(feature = "tls")]
    let tls = options
        .tls()
        .map_err(|error| Failure::Start(format!("{error}; see --tls-cert and --tls-key")))?;
    let (listener, place) = listen(options.place(), config.clone())
        .map_err(|error| Failure::Start(cannot_listen(options.place(), &error)))?;
    if let Place::Tcp(address) = place
        && !address.ip().is_loopback()
        && !options.asks_for_tokens()
    {
        log::warn!("{address} can be reached from other machines, and anybody who does may use it");
    }
    let greeting = Greeting::new(&config, place)
        .workers(options.workers())
        .public_path_prefix(options.public_path_prefix())
        .asks_for_tokens(options.asks_for_tokens());
    let greeting = service.describe(greeting);
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
    let stopper = service.stopper();
    let again = AtomicBool::new(false);
    stop::on_signals(move || {
        log::info!("stopping");
        stopping.shutdown();
        stopper(if again.swap(true, Relaxed) { Stop::AtOnce } else { Stop::InOrder });
    })
    .map_err(|error| Failure::Start(format!("cannot wait for signals: {error}")))?;

    let handle = listener.handle();
    service.begin(&handle);
    let service = service.clone();
    let handler = move |session| service.clone().serve(session, handle.clone());
    let served = match options.workers() {
        1 => async_io::block_on(listener.serve_local(handler)),
        workers => listener
            .workers(workers)
            .and_then(|listener| async_io::block_on(listener.serve_on_workers(handler))),
    };
    served.map_err(|error| Failure::Start(format!("cannot serve: {error}")))
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
        let serve = match cli.command() {
            Command::Demo(serve) => serve,
            other => panic!("{other:?}"),
        };
        assert_eq!(serve.place(), Place::Tcp(address.parse().unwrap()));
    }

    #[test]
    fn the_command_may_be_left_out() {
        check(&[], "127.0.0.1:8000");
        check(&["--port", "9"], "127.0.0.1:9");
        check(&["demo", "--port", "9"], "127.0.0.1:9");
    }
}
