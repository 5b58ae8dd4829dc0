//! Environment variables that set flags: `MCP_SSE_PORT` sets `--port`, and so on for the flags of `demo` and `bridge`.
//!
//! Knows: the name of each flag's variable, which flags have none and why, the variable `PORT` of hosting platforms,
//! and which variables the processes of bridged servers must not inherit.
//! Does not know: what a flag means.
//!
//! Decision: the names of the variables are derived from the parser's arguments when the program starts, and are not
//! attributes of each flag. So a new flag has a variable without further code, and no name can be misspelt.
//!
//! Decision: the command line takes precedence over the environment. That includes flags that exclude each other: with
//! `--unix` on the command line, `MCP_SSE_PORT` and `PORT` are ignored. The parser itself would report a conflict,
//! because it treats a variable as if its flag were given. So the command line is parsed twice, first without
//! variables. Two variables that exclude each other are an error, because neither of them takes precedence.
//!
//! Decision: an empty variable counts as unset, because files of container tools often set a variable to nothing.
//!
//! Decision: a value of `MCP_SSE_PORT` that begins with `tcp://` is ignored. Kubernetes sets such a variable in every
//! container of a namespace that has a Service named `mcp-sse`.

use std::env;
use std::ffi::{OsStr, OsString};

use clap::builder::BoolishValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};

/// What each variable's name begins with.
const PREFIX: &str = "MCP_SSE_";
/// The variable by which hosting platforms assign a port.
const PORT: &str = "PORT";
/// The commands whose flags have variables, besides the program without a command. Programs that are run once, by
/// hand or by a probe, are not configured by the variables of the server beside which they run.
const COMMANDS: [&str; 2] = ["demo", "bridge"];
/// The flags without variables, by their names in the parser, each with the reason.
const EXCEPTIONS: [(&str, &str); 5] = [
    ("help", "it is an action, and no setting"),
    ("version", "it is an action, and no setting"),
    ("check", "it is an action; as a variable it would turn a server into a check that ends"),
    ("check_timeout", "it belongs to --check"),
    ("env", "its values are variables, which can be set in the environment itself"),
];
/// The flags that say where to listen. They have no effect if the service manager has passed sockets.
const ADDRESS_FLAGS: [&str; 4] = ["host", "port", "unix", "unix_mode"];
/// Flags without which others are invalid. If the former are ignored because of the command line, so are the latter.
const DEPENDENTS: [(&str, &str); 3] =
    [("tls_cert", "tls_key"), ("tls_key", "tls_cert"), ("unix", "unix_mode")];
/// The variables of the service manager, which are meant for this process alone.
const SERVICE_MANAGER: [&str; 6] = [
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];
/// How the names of variables begin that Kubernetes sets beside a Service that is named `mcp-sse`.
const SERVICE_LINKS: [&str; 2] = ["MCP_SSE_SERVICE_", "MCP_SSE_PORT_"];

/// The variables of the environment that have set flags.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    /// Each flag, as in `--port`, with the variable that has set it.
    used: Vec<(String, &'static str)>,
    /// Variables that begin with [`PREFIX`] and belong to no flag.
    unknown: Vec<String>,
    /// Whether the port is the one in [`PORT`], and the address is the default one.
    only_loopback_at_assigned_port: bool,
}

/// Parses the command line `args` and the environment. If `sockets_passed` is true, variables that say where to listen
/// are ignored.
///
/// # Errors
///
/// Returns the parser's error. If the wrong value is that of a variable, the error names the variable. Returns an error
/// for flags that say where to listen if `sockets_passed` is true.
pub(crate) fn parse<C: CommandFactory + FromArgMatches>(
    args: &[OsString],
    sockets_passed: bool,
) -> Result<(C, Environment), clap::Error> {
    // Without variables, to find out which flags are on the command line. Mistakes in it are reported below.
    let typed = C::command().ignore_errors(true).try_get_matches_from(args);
    if let (true, Ok(typed)) = (sockets_passed, &typed)
        && let Some(flag) = ADDRESS_FLAGS.iter().find(|id| is_typed(innermost(typed), id))
    {
        let flag = flag.replace('_', "-");
        let text = format!(
            "--{flag} cannot be used, because the service manager has passed sockets to listen on (LISTEN_FDS)"
        );
        return Err(C::command().error(ErrorKind::ArgumentConflict, text));
    }
    let (command, applied) = match &typed {
        Ok(typed) => with_variables(C::command(), typed, sockets_passed),
        // The help shows all variables.
        Err(_) => (with_names(C::command()), Vec::new()),
    };
    let used = applied.iter().map(|Applied { flag, variable, .. }| (flag.clone(), *variable));
    let environment = Environment {
        used: used.collect(),
        unknown: unknown_variables(&C::command()),
        only_loopback_at_assigned_port: applied.iter().any(|one| one.variable == PORT)
            && !is_set("host", &applied, typed.as_ref().ok().map(innermost)),
    };
    match command.try_get_matches_from(args).and_then(|found| C::from_arg_matches(&found)) {
        Ok(parsed) => Ok((parsed, environment)),
        Err(error) => Err(with_sources(error, &applied)),
    }
}

/// A flag that a variable sets.
struct Applied {
    /// The flag's name in the parser.
    id: String,
    /// The flag as it is typed, as in `--port`.
    flag: String,
    variable: &'static str,
}

/// The matches of the command that was given, or of the program if none was.
fn innermost(found: &ArgMatches) -> &ArgMatches {
    found.subcommand().map_or(found, |(_, inner)| inner)
}

fn is_typed(typed: &ArgMatches, id: &str) -> bool {
    typed.try_contains_id(id).is_ok() && typed.value_source(id) == Some(ValueSource::CommandLine)
}

fn is_set(id: &str, applied: &[Applied], typed: Option<&ArgMatches>) -> bool {
    applied.iter().any(|one| one.id == id) || typed.is_some_and(|typed| is_typed(typed, id))
}

/// The name of the flag's variable, if the flag has one. Names live as long as the program, because the parser needs
/// them so long.
fn variable_of(arg: &Arg) -> Option<&'static str> {
    let id = arg.get_id().as_str();
    let long =
        arg.get_long().filter(|_| EXCEPTIONS.iter().all(|(exception, _)| *exception != id))?;
    let name = format!("{PREFIX}{}", long.to_ascii_uppercase().replace('-', "_"));
    Some(name.leak())
}

/// The variable that sets the flag, if one does.
fn variable_in_use(arg: &Arg) -> Option<&'static str> {
    let name = variable_of(arg)?;
    let value = |name| env::var_os(name).filter(|value| !value.is_empty());
    let own = value(name).filter(|value| match arg.get_id().as_str() {
        "port" => !value.as_encoded_bytes().starts_with(b"tcp://"),
        // A flag that is switched off is not given, so it excludes no other.
        _ => !matches!(arg.get_action(), ArgAction::SetTrue) || !is_off(value),
    });
    match arg.get_id().as_str() {
        _ if own.is_some() => Some(name),
        "port" => value(PORT).map(|_| PORT),
        _ => None,
    }
}

/// Whether this is one of the words by which [`BoolishValueParser`] is told "no".
fn is_off(value: &OsStr) -> bool {
    ["n", "no", "f", "false", "off", "0"].iter().any(|off| value.eq_ignore_ascii_case(off))
}

/// Gives the flags of the command that `typed` has the values of their variables, except for flags that the command
/// line sets or excludes.
fn with_variables(
    program: Command,
    typed: &ArgMatches,
    sockets_passed: bool,
) -> (Command, Vec<Applied>) {
    let name = typed.subcommand_name().map(str::to_owned);
    let command = match &name {
        None => Some(&program),
        Some(name) if COMMANDS.contains(&&**name) => program.find_subcommand(name),
        Some(_) => None,
    };
    let applied = command.map_or_else(Vec::new, |command| {
        variables_to_apply(command, innermost(typed), sockets_passed)
    });
    let apply = |command: Command| {
        applied.iter().fold(command, |command, Applied { id, variable, .. }| {
            command.mut_arg(id, |arg| set_by(arg, variable))
        })
    };
    let program = match name {
        Some(name) if !applied.is_empty() => program.mut_subcommand(name, apply),
        Some(_) => program,
        None => apply(program),
    };
    (program, applied)
}

fn variables_to_apply(command: &Command, typed: &ArgMatches, sockets_passed: bool) -> Vec<Applied> {
    let given: Vec<&Arg> =
        command.get_arguments().filter(|arg| is_typed(typed, arg.get_id().as_str())).collect();
    let excludes = |one: &Arg, other: &Arg| {
        command.get_arg_conflicts_with(one).iter().any(|found| found.get_id() == other.get_id())
    };
    let mut ignored: Vec<&str> = if sockets_passed { ADDRESS_FLAGS.into() } else { Vec::new() };
    let mut found = Vec::new();
    for arg in command.get_arguments() {
        let id = arg.get_id().as_str();
        let Some(variable) = variable_in_use(arg).filter(|_| !is_typed(typed, id)) else {
            continue;
        };
        if given.iter().any(|typed| excludes(typed, arg) || excludes(arg, typed)) {
            ignored.push(id);
        }
        found.push((arg, variable));
    }
    for (needed, dependent) in DEPENDENTS {
        if ignored.contains(&needed) {
            ignored.push(dependent);
        }
    }
    // A platform sets `PORT` for every program, so it does not contradict a socket's path.
    let on_unix_socket = found.iter().any(|(arg, _)| arg.get_id() == "unix");
    found.retain(|(arg, variable)| {
        let id = arg.get_id().as_str();
        !ignored.contains(&id) && (*variable != PORT || !on_unix_socket)
    });
    let applied = found.into_iter().map(|(arg, variable)| Applied {
        id: arg.get_id().to_string(),
        flag: format!("--{}", arg.get_long().unwrap_or_default()),
        variable,
    });
    applied.collect()
}

/// Gives the flag the value of the variable. Values of a flag that may be repeated are separated by spaces, because
/// commas and colons occur in them.
fn set_by(arg: Arg, variable: &'static str) -> Arg {
    let arg = arg.env(variable).hide_env_values(true);
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        arg.value_parser(BoolishValueParser::new())
    } else if matches!(arg.get_action(), ArgAction::Append) {
        arg.value_delimiter(' ')
    } else {
        arg
    }
}

/// Names the variables of all flags, for the help.
fn with_names(program: Command) -> Command {
    let named = |arg: Arg| match variable_of(&arg) {
        Some(_) if arg.get_id() == "port" => {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let arg = arg.help(format!("{help}. If MCP_SSE_PORT is not set, {PORT} is used"));
            arg.env("MCP_SSE_PORT").hide_env_values(true)
        }
        Some(variable) => arg.env(variable).hide_env_values(true),
        None => arg,
    };
    let program = program.mut_args(named);
    COMMANDS.iter().fold(program, |program, name| {
        program.mut_subcommand(name, |command| command.mut_args(named))
    })
}

/// Adds the variables to an error about values that they have set.
fn with_sources(mut error: clap::Error, applied: &[Applied]) -> clap::Error {
    // The error has a flag as it is in the usage, as in "--port <PORT>".
    let is = |arg: &str, one: &Applied| arg.split(' ').next() == Some(&*one.flag);
    let named = |one: &&Applied| {
        [ContextKind::InvalidArg, ContextKind::PriorArg].into_iter().any(|kind| {
            match error.get(kind) {
                Some(ContextValue::String(arg)) => is(arg, one),
                Some(ContextValue::Strings(args)) => args.iter().any(|arg| is(arg, one)),
                _ => false,
            }
        })
    };
    // This error names the flag that is missing, and not the one that needs it.
    let all = error.kind() == ErrorKind::MissingRequiredArgument;
    let tips = applied.iter().filter(|one| all || named(one)).map(|one| {
        format!("{} is set by the environment variable {}", one.flag, one.variable).into()
    });
    let tips: Vec<_> = tips.collect();
    if !tips.is_empty() {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    error
}

/// Variables that look as if they set a flag, but belong to none.
fn unknown_variables(program: &Command) -> Vec<String> {
    let commands =
        program.get_subcommands().filter(|command| COMMANDS.contains(&command.get_name()));
    let commands = commands.chain([program]);
    let known: Vec<&str> =
        commands.flat_map(Command::get_arguments).filter_map(variable_of).collect();
    let mut unknown: Vec<String> = env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with(PREFIX) && !known.contains(&&**name))
        .filter(|name| !SERVICE_LINKS.iter().any(|link| name.starts_with(link)))
        .collect();
    unknown.sort_unstable();
    unknown
}

impl Environment {
    /// Logs what may surprise about the variables. `tokens` are the variables with tokens, which may have any name.
    pub(crate) fn log(&self, tokens: &[String]) {
        for name in self.unknown.iter().filter(|name| !tokens.contains(name)) {
            log::warn!(
                event = "variable_unknown",
                variable = name;
                "the environment variable {name} sets no flag; --help lists those that do"
            );
        }
        if self.only_loopback_at_assigned_port {
            log::info!(
                event = "port_from_environment",
                variable = PORT;
                "the port is the one in the environment variable {PORT}; other machines, and the platform that \
                 has set it, can connect if --host or MCP_SSE_HOST is 0.0.0.0 or ::"
            );
        }
    }

    /// The variables that have set the flags in `message`, as the end of a sentence.
    pub(crate) fn sources_of(&self, message: &str) -> String {
        let has = |flag: &str| {
            let words = message.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
            words.into_iter().any(|word| word == flag)
        };
        let used = self.used.iter().filter(|(flag, _)| has(flag));
        used.map(|(flag, name)| format!("; {flag} is set by the environment variable {name}"))
            .collect()
    }

    /// The variables that a bridged server's process does not inherit: those that set flags, those with tokens, those
    /// of the service manager, and [`PORT`] if this program listens there.
    ///
    /// A server that found `PORT` would listen at the same port, and one that found `NOTIFY_SOCKET` could tell the
    /// service manager that this program is ready.
    #[cfg(unix)]
    pub(crate) fn withheld(&self, tokens: &[String]) -> Vec<OsString> {
        let own = env::vars_os().map(|(name, _)| name);
        let own = own.filter(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()));
        let port = self.used.iter().any(|(_, variable)| *variable == PORT).then_some(PORT);
        own.chain(tokens.iter().map(OsString::from))
            .chain(SERVICE_MANAGER.map(OsString::from))
            .chain(port.map(OsString::from))
            .collect()
    }
}
