//! The command `mcp-sse`.
//!
//! Knows: what a person typed, what a person has to be told, signals.
//! Does not know: HTTP, sessions, MCP.

#![forbid(unsafe_code)]

use core::iter;
use core::net::{IpAddr, SocketAddr};
#[cfg(unix)]
use core::time::Duration;
use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
#[cfg(unix)]
use std::sync::{Mutex, PoisonError, mpsc};
#[cfg(unix)]
use std::thread;

#[cfg(unix)]
use clap::error::ContextKind;
use clap::{CommandFactory, Parser, Subcommand};
#[cfg(unix)]
use mcp_sse::bridge::child::{self, Children};
#[cfg(unix)]
use mcp_sse::bridge::services::{Services, Sharing};
#[cfg(unix)]
use mcp_sse::bridge::{self, check, servers::Server};
#[cfg(unix)]
use mcp_sse::descriptors;
use mcp_sse::greeting::Greeting;
use mcp_sse::options::{Mistake, Place, Serve};
use mcp_sse::{demo, logging, stop};
use mcp_sse_core::ConfigBuilder;
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
    /// As in: mcp-sse bridge npx -y @modelcontextprotocol/server-everything
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
    run: bridge::options::Run,
    // The heading of what stands before it would be its own.
    #[command(flatten, next_help_heading = None::<&str>)]
    serve: Serve,
}

impl Cli {
    fn command_to_run(self) -> Command {
        self.command.unwrap_or(Command::Demo(Box::new(self.demo)))
    }
}

fn main() -> ExitCode {
    // This program is also what stands between a server that it bridges to and the rest.
    #[cfg(unix)]
    if let Some(code) = bridge::guard::run() {
        return code;
    }
    let args = command_first(env::args_os().collect(), &Cli::command());
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return explain(&error, &args),
    };
    let done = match cli.command_to_run() {
        Command::Demo(serve) => {
            configure(&serve).and_then(|config| serve_until_stopped(&serve, config, &Demo))
        }
        #[cfg(unix)]
        Command::Bridge(bridge) => serve_bridge(&bridge, &args),
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

/// Puts flags that stand in front of the command's name behind it, where its parser knows them.
fn command_first(mut args: Vec<OsString>, cli: &clap::Command) -> Vec<OsString> {
    let takes_value = |name: &str| {
        let all = iter::once(cli).chain(cli.get_subcommands());
        let mut all = all.flat_map(clap::Command::get_arguments);
        all.find(|arg| arg.get_long() == Some(name)).map(|arg| arg.get_action().takes_values())
    };
    let mut at = 1;
    while let Some(flag) = args.get(at).and_then(|arg| arg.to_str()?.strip_prefix("--")) {
        at += match takes_value(flag) {
            Some(true) => 2,
            Some(false) => 1,
            None if flag.contains('=') => 1,
            None => return args,
        };
    }
    let name = args.get(at).and_then(|arg| arg.to_str());
    if name.is_some_and(|name| cli.find_subcommand(name).is_some()) {
        args[1..=at].rotate_right(1);
    }
    args
}

/// Says what is wrong with the command line: with the line to type instead, if that is known.
#[cfg_attr(not(unix), expect(unused_variables, reason = "there is no bridge to be typed"))]
fn explain(error: &clap::Error, args: &[OsString]) -> ExitCode {
    #[cfg(unix)]
    if error.use_stderr()
        // The parser knows what was meant.
        && error.get(ContextKind::SuggestedSubcommand).is_none()
        && let Some(advice) = bridge::mistyped::advice(args, &Cli::command())
    {
        eprintln!("mcp-sse: {advice}");
        return ExitCode::from(2);
    }
    error.exit()
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
fn configure(options: &Serve) -> Result<Prepared, Failure> {
    logging::init(options.log_level(), options.log_format());
    build(options, options.builder().map_err(mistaken)?, 0, 0)
}

/// A configuration, and what has to be said of it once it is served.
struct Prepared {
    config: Config,
    lowered: Option<String>,
}

/// Builds a configuration, with limits for which there are descriptors. What is served takes some once, and
/// some for each session beside its connection.
fn build(
    options: &Serve,
    builder: ConfigBuilder,
    once: u64,
    per_session: u32,
) -> Result<Prepared, Failure> {
    let build =
        |builder: ConfigBuilder| builder.build().map_err(|error| mistaken(Mistake::Setting(error)));
    let config = build(builder.clone())?;
    #[cfg(unix)]
    let (config, lowered) = {
        descriptors::raise();
        let taken = descriptors::Taken { once, per_session };
        let (limits, lowered) = descriptors::fit(config.limits(), options.workers(), taken);
        (build(builder.limits(limits))?, lowered)
    };
    #[cfg(not(unix))]
    let lowered = {
        let _ = (options, once, per_session);
        None
    };
    Ok(Prepared { config, lowered })
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

    /// What else happens when the server is told to stop at once.
    fn aborter(&self) -> impl Fn() + Send + 'static {
        || {}
    }

    /// Serves one session.
    fn serve(self, session: Session, server: Handle) -> impl Future<Output = ()> + 'static;
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

    fn aborter(&self) -> impl Fn() + Send + 'static {
        let children = self.children.clone();
        move || children.hurry()
    }

    async fn serve(self, session: Session, _: Handle) {
        self.services.serve(session).await;
    }
}

#[cfg(unix)]
fn serve_bridge(Bridge { serve, run }: &Bridge, args: &[OsString]) -> Result<(), Failure> {
    if run.is_one_word()
        && let Err(error) = run.runnable_servers()
        && let Some(advice) = bridge::mistyped::advice_on_one_word(args, &Cli::command())
    {
        return Err(Failure::Flags(format!("{error}, {advice}")));
    }
    if run.checks() {
        // What a server prints is told with the verdict.
        logging::init(serve.log_level().min(log::LevelFilter::Warn), serve.log_format());
        return check_servers(run.servers().map_err(Failure::Flags)?, run.check_timeout());
    }
    logging::init(serve.log_level(), serve.log_format());
    let mut servers = run.runnable_servers().map_err(Failure::Flags)?;
    for Server { command, .. } in &mut servers {
        *command = command.clone().line_bytes_max(serve.line_bytes_max());
    }
    let children = Children::with_stderr_rate(run.stderr_rate()).map_err(no_processes)?;
    let (once, per_session) = match run.sharing() {
        Sharing::None { .. } => (0, child::DESCRIPTORS),
        // Of each server, one process that is there and one that is ending.
        Sharing::All => (2 * u64::from(child::DESCRIPTORS) * servers.len() as u64, 0),
    };
    let services = Services::new(&children, servers, run.sharing(), run.paths());
    let builder = run.allow_headers(serve.builder().map_err(mistaken)?);
    let builder = services.configure(builder, serve.stream_path());
    let prepared = build(serve, builder, once, per_session)?;
    // No system has more processes than that, and their descriptors are not what it is short of.
    const PROCESSES_MAX: u32 = 1 << 16;
    let sessions = prepared.config.limits().sessions_max;
    if let Some(sessions) = sessions.filter(|sessions| *sessions <= PROCESSES_MAX) {
        // Shares of it are rounded up.
        children.limit(sessions as usize + serve.workers());
    }
    let bridged = Bridged { services, children: children.clone() };
    let served = serve_until_stopped(serve, prepared, &bridged);
    drop(bridged);
    // Sessions have ended; what they leave behind has some seconds more.
    match children.finish() {
        0 => served,
        left => Err(Failure::Start(format!("{left} processes cannot be ended"))),
    }
}

#[cfg(unix)]
fn no_processes(error: io::Error) -> Failure {
    Failure::Start(format!("cannot look after processes: {error}"))
}

/// So many servers are tried out at once.
#[cfg(unix)]
const CHECKS_AT_ONCE: usize = 8;

/// What is told of a server that is tried out.
#[cfg(unix)]
enum Told {
    Works(String),
    Fails(String),
    More(String),
}

/// Tries servers out, several at once, and says what comes of each, in their order.
#[cfg(unix)]
fn check_servers(servers: Vec<Server>, timeout: Option<Duration>) -> Result<(), Failure> {
    let (work, results): (Vec<_>, Vec<_>) = servers
        .into_iter()
        .map(|server| {
            let (telling, told) = mpsc::channel();
            ((server, telling), told)
        })
        .unzip();
    let workers = work.len().min(CHECKS_AT_ONCE);
    let work = Mutex::new(work.into_iter());
    let next = || work.lock().unwrap_or_else(PoisonError::into_inner).next();
    let check_next = || {
        while let Some((server, telling)) = next() {
            check_server(&server, timeout, |told| {
                // Whoever listens does so to the end.
                let _ = telling.send(told);
            });
        }
    };
    let mut failed = false;
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(check_next);
        }
        for told in results.into_iter().flatten() {
            match told {
                Told::Works(line) => println!("{line}"),
                Told::Fails(line) => {
                    failed = true;
                    eprintln!("{line}");
                }
                Told::More(line) => eprintln!("{line}"),
            }
        }
    });
    if failed { Err(Failure::Told) } else { Ok(()) }
}

/// Tries one server out. What is told is told when its turn has come, but that it is waited for.
#[cfg(unix)]
fn check_server(Server { name, command }: &Server, timeout: Option<Duration>, tell: impl Fn(Told)) {
    // Of its own: counts and last lines are this server's.
    let children = match Children::new() {
        Ok(children) => children,
        Err(error) => {
            let why = format!("mcp-sse: {name}: cannot look after its process: {error}");
            return tell(Told::Fails(why));
        }
    };
    children.keep_stderr();
    let waiting = |waiting| eprintln!("mcp-sse: {name}: {waiting}");
    let found = async_io::block_on(check::check(&children, command, name, timeout, waiting));
    tell(match &found {
        Ok(findings) => Told::Works(format!("ok: {name}: {findings}")),
        Err(fault) => Told::Fails(format!("mcp-sse: {name}: {fault}")),
    });
    if children.finish() > 0 {
        tell(Told::More(format!("mcp-sse: {name}: its process cannot be ended")));
    }
    if found.is_err() {
        // All of it is there only now.
        let lines = children.last_stderr();
        if !lines.is_empty() {
            tell(Told::More("its stderr ended with:".into()));
        }
        lines.iter().for_each(|line| tell(Told::More(format!("  {line}"))));
    }
}

/// Listens as the options say and serves sessions until a signal comes.
fn serve_until_stopped(
    options: &Serve,
    Prepared { config, lowered }: Prepared,
    service: &impl Service,
) -> Result<(), Failure> {
    // Before anything is bound: a mistake in the files is told alone.
    #[cfg(feature = "tls")]
    let tls = options
        .tls()
        .map_err(|error| Failure::Start(format!("{error}; see --tls-cert and --tls-key")))?;
    let listener = listen(options, config.clone())
        .map_err(|error| Failure::Start(cannot_listen(options.place(), &error)))?;
    let addresses = listener.local_addrs().unwrap_or_default();
    let ips: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
    let place = options.place().bound(&ips, addresses.first().map_or(0, SocketAddr::port));
    if let Some(address) = place.exposed()
        && !options.asks_for_tokens()
    {
        log::warn!("{address} can be reached from other machines, and anybody who does may use it");
    }
    if let Some(lowered) = lowered {
        log::info!("{lowered}");
    }
    let greeting = Greeting::new(&config, place)
        .workers(options.workers())
        .public_path_prefix(options.public_path_prefix())
        .asks_for_tokens(options.asks_for_tokens());
    #[cfg(unix)]
    let greeting = greeting.unix_mode(options.unix_mode());
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

    let (stopping, aborting) = (listener.handle(), listener.handle());
    let aborter = service.aborter();
    stop::on_signals(
        move || {
            log::info!("stopping; a second signal cuts what is under way");
            stopping.shutdown();
        },
        move || {
            aborting.abort();
            aborter();
        },
    )
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

fn listen(options: &Serve, config: Config) -> io::Result<Listener> {
    match options.place() {
        place @ (Place::Tcp(_) | Place::Named(_)) => Listener::bind(&place.addresses()[..], config),
        #[cfg(unix)]
        Place::Unix(path) => Listener::bind_unix_with_mode(path, options.unix_mode(), config),
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
        Place::Tcp(_) | Place::Named(_) => known.map_or("", |(_, hint)| hint),
        Place::Unix(_) => "",
    };
    format!("cannot listen on {place}: {error}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parser_is_sound() {
        <Cli as CommandFactory>::command().debug_assert();
    }

    #[track_caller]
    fn check(args: &[&str], address: &str) {
        let cli = Cli::try_parse_from([&["mcp-sse"], args].concat()).unwrap();
        let serve = match cli.command_to_run() {
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
