//! The command `mcp-sse`.
//!
//! Knows: the command line, and which command it names. Does not know: HTTP, sessions, MCP.

#![forbid(unsafe_code)]

#[cfg(unix)]
mod bridge;
mod environment;
mod failure;
mod serving;

use core::iter;
use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

#[cfg(unix)]
use clap::error::ContextKind;
use clap::{CommandFactory, Parser, Subcommand};
use mcp_sse_demo::logging;
use mcp_sse_demo::options::ServeFlags;

use environment::Environment;
use failure::Failure;
use serving::Demo;

/// Serve the Model Context Protocol over HTTP+SSE (protocol revision 2024-11-05).
///
/// Without a command, `demo` is run.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    demo: ServeFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a small MCP server for trying out clients, with the tools add, echo, burst and broadcast.
    Demo(Box<ServeFlags>),
    /// Serve a program that speaks MCP on its standard input and output: one process for each session.
    ///
    /// Example: mcp-sse bridge npx -y @modelcontextprotocol/server-everything
    #[cfg(unix)]
    Bridge(Box<bridge::Bridge>),
    /// Serve a program that speaks MCP on its standard input and output (not available on this system).
    #[cfg(not(unix))]
    Bridge {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        _ignored: Vec<OsString>,
    },
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
    let (cli, environment) = match environment::parse::<Cli>(&args, false) {
        Ok(parsed) => parsed,
        Err(error) => return explain(&error, &args),
    };
    let done = match cli.command_to_run() {
        Command::Demo(serve) => serve_demo(&serve, &environment),
        #[cfg(unix)]
        Command::Bridge(bridge) => bridge::run(&bridge, &args, &Cli::command(), &environment),
        #[cfg(not(unix))]
        Command::Bridge { .. } => Err(Failure::Start(
            "bridge needs process groups, which this system does not have".into(),
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(&environment),
    }
}

fn serve_demo(serve: &ServeFlags, environment: &Environment) -> Result<(), Failure> {
    logging::init(serve.log_level(), serve.log_format());
    environment.log(serve.token_variables());
    let prepared = serving::prepare(serve, serve.builder()?, 0, 0)?;
    serving::serve_until_stopped(serve, prepared, &Demo)
}

/// Moves flags in front of the command's name behind it, because only the parser of the command knows them.
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
        let serve = match cli.command_to_run() {
            Command::Demo(serve) => serve,
            other => panic!("{other:?}"),
        };
        assert_eq!(serve.address(), ListenAddress::Tcp(address.parse().unwrap()));
    }

    #[test]
    fn command_left_out_is_demo() {
        check(&[], "127.0.0.1:8000");
        check(&["--port", "9"], "127.0.0.1:9");
        check(&["demo", "--port", "9"], "127.0.0.1:9");
    }
}
