//! The command `mcp-sse`.
//!
//! Knows: the command line, and which command it names. Does not know: HTTP, sessions, MCP.

#![forbid(unsafe_code)]

#[cfg(unix)]
mod bridge;
mod client;
mod doctor;
mod environment;
mod failure;
mod flags;
mod health;
mod metrics;
mod reload;
#[cfg(unix)]
mod service_manager;
mod serving;

use core::iter;
use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

#[cfg(unix)]
use clap::error::ContextKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use mcp_sse_demo::logging;
use mcp_sse_demo::options::ServeFlags;

use environment::Environment;
use failure::{EXIT_STATUSES, Failure};
use metrics::MetricsFlags;
#[cfg(unix)]
use service_manager::PassedSockets;
use serving::{Demo, Startup};

/// Serve the Model Context Protocol over HTTP+SSE (protocol revision 2024-11-05).
///
/// Without a command, `demo` is run.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_help = EXIT_STATUSES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    demo: DemoFlags,
}

/// The flags of the command `demo`.
#[derive(Debug, Args)]
struct DemoFlags {
    #[command(flatten)]
    serve: ServeFlags,
    #[command(flatten)]
    metrics: MetricsFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a small MCP server for trying out clients, with the tools add, echo, burst and broadcast.
    #[command(after_help = EXIT_STATUSES)]
    Demo(Box<DemoFlags>),
    /// Serve a program that speaks MCP on its standard input and output: one process for each session.
    ///
    /// Example: mcp-sse bridge npx -y @modelcontextprotocol/server-everything
    #[cfg(unix)]
    #[command(after_help = EXIT_STATUSES)]
    Bridge(Box<bridge::Bridge>),
    /// Serve a program that speaks MCP on its standard input and output (not available on this system).
    #[cfg(not(unix))]
    Bridge {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        _ignored: Vec<OsString>,
    },
    /// Connect to a server as a client does, and say what is wrong and what to do.
    ///
    /// Exit status: 0 if nothing is wrong, 1 if something was found, 2 if the command could not run. It calls no
    /// tools, and leaves no session behind. Root certificates are the system's, or those in the file SSL_CERT_FILE.
    Doctor(Box<doctor::DoctorFlags>),
    /// Ask a server whether it is healthy: exit status 0 if /health answers 200, else 1.
    Health(Box<health::HealthFlags>),
}

impl Cli {
    fn command_to_run(self) -> Command {
        self.command.unwrap_or(Command::Demo(Box::new(self.demo)))
    }
}

fn main() -> ExitCode {
    // The guard of a bridged server is this same program.
    #[cfg(unix)]
    if let Some(code) = mcp_sse_bridge::guard::run() {
        return code;
    }
    let args = command_first(env::args_os().collect(), &Cli::command());
    // This changes the environment, so no other thread may run yet.
    #[cfg(unix)]
    let sockets = PassedSockets::take();
    #[cfg(unix)]
    let sockets_passed = !sockets.as_ref().is_ok_and(PassedSockets::is_none);
    #[cfg(not(unix))]
    let sockets_passed = false;
    let (cli, environment) = match environment::parse::<Cli>(&args, sockets_passed) {
        Ok(parsed) => parsed,
        Err(error) => return explain(&error, &args),
    };
    let done = match cli.command_to_run() {
        #[cfg(unix)]
        Command::Demo(mut flags) => {
            let startup = Startup::with_sockets(&mut flags.serve, sockets);
            startup.and_then(|startup| serve_demo(&flags, &environment, startup))
        }
        #[cfg(not(unix))]
        Command::Demo(flags) => serve_demo(&flags, &environment, Startup::new(&flags.serve)),
        #[cfg(unix)]
        Command::Bridge(mut bridge) => {
            let startup = Startup::with_sockets(bridge.serve_flags(), sockets);
            startup.and_then(|startup| {
                bridge::run(&bridge, &args, &Cli::command(), &environment, startup)
            })
        }
        #[cfg(not(unix))]
        Command::Bridge { .. } => Err(Failure::Start(
            "bridge needs process groups, which this system does not have".into(),
        )),
        Command::Doctor(flags) => doctor::run(&flags),
        Command::Health(flags) => health::run(&flags),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(&environment),
    }
}

fn serve_demo(
    DemoFlags { serve, metrics }: &DemoFlags,
    environment: &Environment,
    startup: Startup,
) -> Result<(), Failure> {
    logging::init(serve.log_level(), serve.log_format());
    environment.log(serve.token_variables());
    let prepared = serving::prepare(serve, metrics, serve.builder()?, 0, 0)?;
    serving::serve_until_stopped(serve, prepared, startup, &Demo)
}

/// Moves flags in front of the command's name behind it, because only the parser of the command knows them.
fn command_first(mut args: Vec<OsString>, cli: &clap::Command) -> Vec<OsString> {
    // Whether the flag's value is the next argument, and not part of this one.
    let takes_value = |name: &str| {
        let all = iter::once(cli).chain(cli.get_subcommands());
        let mut all = all.flat_map(clap::Command::get_arguments);
        let arg = all.find(|arg| arg.get_long() == Some(name))?;
        Some(arg.get_action().takes_values() && !arg.is_require_equals_set())
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

/// Prints what is wrong with the command line, and the line to type instead if it is known. Returns the exit status.
#[cfg_attr(not(unix), expect(unused_variables, reason = "there is no bridge on this system"))]
fn explain(error: &clap::Error, args: &[OsString]) -> ExitCode {
    #[cfg(unix)]
    if error.use_stderr()
        // If the parser suggests a command, its message is better.
        && error.get(ContextKind::SuggestedSubcommand).is_none()
        && let Some(advice) = bridge::mistyped::advice(args, &Cli::command())
    {
        eprintln!("mcp-sse: {advice}");
        return ExitCode::from(2);
    }
    error.exit()
}

#[cfg(test)]
mod tests {
    use mcp_sse_demo::options::ListenAddress;

    use super::*;

    #[test]
    fn parser_definition_is_valid() {
        <Cli as CommandFactory>::command().debug_assert();
    }

    #[track_caller]
    fn check(args: &[&str], address: &str) {
        let cli = Cli::try_parse_from([&["mcp-sse"], args].concat()).unwrap();
        let Command::Demo(flags) = cli.command_to_run() else {
            panic!("{args:?} is another command")
        };
        assert_eq!(flags.serve.address(), ListenAddress::Tcp(address.parse().unwrap()));
    }

    #[test]
    fn command_left_out_is_demo() {
        check(&[], "127.0.0.1:8000");
        check(&["--port", "9"], "127.0.0.1:9");
        check(&["demo", "--port", "9"], "127.0.0.1:9");
    }

    #[test]
    fn command_behind_a_flag_whose_value_needs_an_equals_sign_is_found() {
        let moved = |args: &[&str]| {
            let args = args.iter().map(OsString::from).collect();
            command_first(args, &Cli::command())
        };
        assert_eq!(
            moved(&["x", "--metrics-principals", "demo"]),
            ["x", "demo", "--metrics-principals"]
        );
        assert_eq!(moved(&["x", "--port", "1", "demo"]), ["x", "demo", "--port", "1"]);
    }
}
