//! The flags of the bridge that name the servers and how they run.
//!
//! Knows: the command line. Does not know: the flags for listening, which are in `mcp-sse-demo`.

use core::time::Duration;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use mcp_sse_bridge::command::{HeaderToEnv, ServerCommand, Variable};
use mcp_sse_bridge::servers_file::{self, BridgedServer};
use mcp_sse_bridge::services::{ProcessSharing, ServicePaths};
use mcp_sse_bridge::stderr::StderrRate;
use mcp_sse_core::ConfigBuilder;
use mcp_sse_demo::options::values::{
    CountFlag, SizeFlag, TimeFlag, parse_count, parse_size, parse_time,
};

/// The flags that name the servers and how they run.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "What to run")]
pub(super) struct Run {
    /// Run this line with the shell (sh -c) instead of a command.
    #[arg(long, value_name = "LINE", conflicts_with = "command")]
    shell: Option<OsString>,
    /// The working directory of the process. By default the current one.
    #[arg(long, value_name = "DIRECTORY")]
    cwd: Option<PathBuf>,
    /// Set a variable of the process's environment. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable())]
    env: Vec<Variable>,
    /// Let the process inherit only HOME, LOGNAME, PATH, SHELL, TERM and USER, besides the variables
    /// of --env.
    #[arg(long)]
    clean_env: bool,
    /// Pass a header field of the request that opens a session to that session's process, as an
    /// environment variable: X-Api-Key=API_KEY. No other field is passed. May be repeated.
    #[arg(long, value_name = "FIELD=VARIABLE")]
    header_to_env: Vec<HeaderToEnv>,
    /// Do not initialize the server for clients that reconnect without a handshake.
    #[arg(long)]
    no_auto_initialize: bool,
    /// Run one process for all sessions instead of one for each. The sessions then share its state, its
    /// log level and its notifications, and it cannot send requests to their clients.
    #[arg(long, conflicts_with_all = ["header_to_env", "no_auto_initialize"])]
    shared: bool,
    /// Serve the servers in this file, {"mcpServers": {"name": {"command", "args", "env", "cwd"}}},
    /// each at /name/sse.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["shell", "command", "cwd", "env"])]
    config: Option<PathBuf>,
    /// Try out the servers instead of serving them: start each, do the handshake, list its tools, and
    /// print what it is or what is wrong with it.
    #[arg(long)]
    check: bool,
    /// With --check: how long each server may take to answer all requests, or "off". The time includes
    /// the download of its package.
    #[arg(
        long,
        value_name = "TIME",
        requires = "check",
        default_value = "60s",
        value_parser = parse_time
    )]
    check_timeout: TimeFlag,
    /// The most lines of one process's stderr that are logged in each second, or "unlimited". The rest is
    /// counted.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = parse_count)]
    stderr_lines_per_second: CountFlag,
    /// The most bytes of one process's stderr that are logged in each second, or "unlimited".
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = parse_size)]
    stderr_bytes_per_second: SizeFlag,
    /// The program to run, and all its arguments. They are run without a shell. A "--" may be in
    /// front.
    #[arg(
        trailing_var_arg = true,
        value_name = "COMMAND",
        required_unless_present_any = ["shell", "config"],
        help_heading = None::<&str>,
    )]
    command: Vec<OsString>,
}

fn variable() -> impl TypedValueParser<Value = Variable> {
    OsStringValueParser::new().try_map(|text| Variable::parse(&text))
}

impl Run {
    /// The servers that the flags name. It is not checked whether their programs exist.
    ///
    /// # Errors
    ///
    /// Returns the message of an invalid servers file or directory.
    pub(super) fn servers(&self) -> Result<Vec<BridgedServer>, String> {
        let mut servers = match &self.config {
            Some(file) => servers_file::read(file).map_err(|error| format!("--config {error}"))?,
            None => vec![BridgedServer { name: self.name(), command: self.command()? }],
        };
        for BridgedServer { command, .. } in &mut servers {
            *command = command
                .clone()
                .clean_env(self.clean_env)
                .header_to_env(self.header_to_env.iter().cloned());
        }
        Ok(servers)
    }

    /// The servers that the flags name, after a check that their programs exist.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`servers`](Self::servers), and a message if a program does not exist.
    pub(super) fn runnable_servers(&self) -> Result<Vec<BridgedServer>, String> {
        let servers = self.servers()?;
        match servers.iter().find(|server| !server.command.is_there()) {
            None => Ok(servers),
            Some(BridgedServer { name, command }) => {
                let program = command.program().display();
                let which = self.config.as_ref().map(|_| format!("server {name:?}: "));
                let which = which.unwrap_or_default();
                let hint = self.config.as_ref().and_then(|_| apart(command.program()));
                let hint = hint.unwrap_or_default();
                Err(format!("{which}there is no program {program}{hint}"))
            }
        }
    }

    fn command(&self) -> Result<ServerCommand, String> {
        let command = match (&self.shell, self.command.split_first()) {
            (Some(line), _) => ServerCommand::shell(line),
            (None, Some((program, args))) => ServerCommand::new(program, args),
            (None, None) => return Err("there is no command to run".into()),
        };
        if let Some(cwd) = &self.cwd
            && !cwd.is_dir()
        {
            return Err(format!("--cwd {}: there is no such directory", cwd.display()));
        }
        Ok(command.cwd(self.cwd.clone()).env(self.env.iter().cloned()))
    }

    /// Allows pages of other origins to send the fields of `--header-to-env`. Without this, the browser's preflight
    /// request would be refused.
    pub(super) fn allow_headers(&self, builder: ConfigBuilder) -> ConfigBuilder {
        let fields = self.header_to_env.iter().map(HeaderToEnv::field);
        fields.fold(builder, |builder, field| builder.cors_header(field))
    }

    /// Whether the servers have to be tried out instead of being served.
    #[must_use]
    pub(super) const fn checks(&self) -> bool {
        self.check
    }

    /// How long the check of one server may take; `None` is unlimited.
    #[must_use]
    pub(super) const fn check_timeout(&self) -> Option<Duration> {
        self.check_timeout.0
    }

    /// How much of each process's stderr is logged.
    #[must_use]
    pub(super) const fn stderr_rate(&self) -> StderrRate {
        StderrRate::new(self.stderr_lines_per_second.0, self.stderr_bytes_per_second.0)
    }

    /// Whether sessions share a process.
    #[must_use]
    pub(super) const fn sharing(&self) -> ProcessSharing {
        if self.shared {
            ProcessSharing::Shared
        } else {
            ProcessSharing::PerSession { auto_initialize: !self.no_auto_initialize }
        }
    }

    /// The paths at which the servers are served.
    #[must_use]
    pub(super) const fn paths(&self) -> ServicePaths {
        if self.config.is_some() { ServicePaths::PerName } else { ServicePaths::Root }
    }

    /// Whether the command is one word that contains white space and does not name a program.
    #[must_use]
    pub(super) fn is_one_word(&self) -> bool {
        let [one] = &*self.command else { return false };
        let spaced = one.to_string_lossy().contains(char::is_whitespace);
        spaced && self.command().is_ok_and(|command| !command.is_there())
    }

    /// The name of the server in a client's configuration.
    fn name(&self) -> String {
        let program = self.command.first().map(Path::new);
        let stem = program.and_then(Path::file_stem);
        stem.map_or_else(|| "server".into(), |stem| stem.to_string_lossy().into_owned())
    }
}

/// A hint how to write a command in a servers file, if it was written as one word.
fn apart(program: &OsStr) -> Option<String> {
    let mut words = program.to_str()?.split_whitespace();
    let (command, args) = (words.next()?, words.collect::<Vec<_>>());
    if args.is_empty() {
        return None;
    }
    let (command, args) = (serde_json::Value::from(command), serde_json::Value::from(args));
    Some(format!(", and it is one word: write \"command\": {command}, \"args\": {args}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        run: Run,
    }

    fn run(args: &[&str]) -> Result<Run, clap::Error> {
        Program::try_parse_from([&["program"], args].concat()).map(|program| program.run)
    }

    #[test]
    fn arguments_behind_the_dashes_are_the_command() {
        let given = run(&["--env", "A=b", "--", "sh", "--cwd", "--", "-c"]).unwrap();
        assert_eq!(given.command().unwrap().to_string(), "sh --cwd -- -c");
        assert_eq!(given.name(), "sh");
        assert_eq!(given.sharing(), ProcessSharing::PerSession { auto_initialize: true });
        // Words after the program's name are its arguments, also without "--" in front.
        let given = run(&["--cwd", "/", "sh", "--cwd", "--", "-c"]).unwrap();
        assert_eq!(given.command().unwrap().to_string(), "sh --cwd -- -c");
        let shell = run(&["--shell", "a | b", "--no-auto-initialize"]).unwrap();
        assert_eq!(shell.command().unwrap().to_string(), "sh -c 'a | b'");
        assert_eq!(shell.name(), "server");
        assert_eq!(shell.sharing(), ProcessSharing::PerSession { auto_initialize: false });
    }

    #[test]
    fn limits_without_flags_are_the_defaults() {
        let given = run(&["--", "sh"]).unwrap();
        assert_eq!(given.stderr_rate(), StderrRate::default());
        assert_eq!(given.check_timeout(), Some(mcp_sse_bridge::check::TIMEOUT));
        let flags = ["--stderr-lines-per-second=5", "--stderr-bytes-per-second=2KiB"];
        let check = ["--check", "--check-timeout", "off", "--", "sh"];
        let given = run(&[&flags[..], &check].concat()).unwrap();
        assert_eq!(given.stderr_rate(), StderrRate::new(Some(5), Some(2 << 10)));
        assert_eq!(given.check_timeout(), None);
    }

    #[test]
    fn flag_errors_are_reported() {
        let refused = |args: &[&str], said: &str| {
            let told = match run(args) {
                Err(error) => error.to_string(),
                Ok(run) => run.runnable_servers().unwrap_err(),
            };
            assert!(told.contains(said), "{told}");
        };
        refused(&[], "<COMMAND>");
        refused(&["--shell", "x", "--", "sh"], "cannot be used with");
        refused(&["--env", "x", "--", "sh"], "expected NAME=VALUE");
        refused(&["--header-to-env", "X-Y=PATH", "--", "sh"], "decides which code is run");
        refused(&["--cwd", "/nothing", "--", "sh"], "--cwd /nothing: there is no such directory");
        refused(&["--", "no-such-program"], "there is no program no-such-program");
        refused(&["--shared", "--header-to-env", "X-Y=Y", "--", "sh"], "cannot be used with");
        refused(&["--config", "f.json", "--", "sh"], "cannot be used with");
        refused(&["--check-timeout", "5s", "--", "sh"], "--check");
        refused(&["--config", "/nothing"], "--config /nothing: cannot be read");
        refused(&["--cwd", "/", "--", "./sh"], "there is no program ./sh");
        refused(&["--env", "PATH=/nothing", "--", "sh"], "there is no program sh");
    }
}
