//! The command of a server: a program, its arguments, its directory and its environment.
//!
//! Knows: what an operator has configured before the first request. From a request, only the header fields that the
//! operator has named are read; their values become environment variables that the operator has named.
//! Does not know: processes (see `children`), sessions.
//!
//! Decision: a variable that a header field may set is never inherited, so that no client gets the
//! operator's own value by leaving the field out. Variables by which loaders and runtimes find code cannot
//! be named.

use core::str::FromStr;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::{env, fmt};

use mcp_sse_core::RequestHead;
use mcp_sse_driver::LogThrottle;

use super::lines::LINE_BYTES_MAX;

/// The variables that a [clean environment](ServerCommand::clean_env) inherits from the bridge. They are the ones
/// that the official SDKs pass to the servers that they start.
pub const CLEAN_ENV: [&str; 6] = ["HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"];
/// The longest value of a header field that becomes a variable: 8 KiB. A longer value is ignored, with a warning.
pub const HEADER_BYTES_MAX: usize = 8 << 10;

/// How to start an MCP server that speaks on its standard input and output.
///
/// ```
/// use mcp_sse_bridge::command::{ServerCommand, Variable};
///
/// let server = ServerCommand::new("npx", ["-y", "@modelcontextprotocol/server-everything"])
///     .cwd(Some("/srv".into()))
///     .env([Variable("LOG_LEVEL".into(), "debug".into())])
///     .header_to_env(["X-Api-Key=API_KEY".parse()?]);
/// assert_eq!(server.to_string(), "npx -y @modelcontextprotocol/server-everything");
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug)]
pub struct ServerCommand {
    program: OsString,
    args: Vec<OsString>,
    cwd: Option<PathBuf>,
    env: Vec<(OsString, OsString)>,
    clean_env: bool,
    withheld: Vec<OsString>,
    headers: Vec<HeaderToEnv>,
    line_bytes_max: usize,
}

/// An environment variable: its name and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable(pub OsString, pub OsString);

/// A header field whose value becomes an environment variable, parsed from text such as `X-Api-Key=API_KEY`.
///
/// Variables that decide what code is run (such as `PATH`, `LD_PRELOAD` or `NODE_OPTIONS`) cannot be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderToEnv {
    field: String,
    variable: String,
}

impl ServerCommand {
    /// Creates a command that runs `program` with `args`, without a shell.
    ///
    /// A `program` without a slash is looked up in `PATH`.
    pub fn new(
        program: impl Into<OsString>,
        args: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            cwd: None,
            env: Vec::new(),
            clean_env: false,
            withheld: Vec::new(),
            headers: Vec::new(),
            line_bytes_max: LINE_BYTES_MAX,
        }
    }

    /// Creates a command that runs `line` with `sh -c`.
    #[must_use]
    pub fn shell(line: impl Into<OsString>) -> Self {
        Self::new("sh", [OsString::from("-c"), line.into()])
    }

    /// Sets the working directory. `None`, the default, is the bridge's own directory. A relative path of the program
    /// starts at the working directory.
    #[must_use]
    pub fn cwd(mut self, cwd: Option<PathBuf>) -> Self {
        self.cwd = cwd;
        self
    }

    /// Adds variables to the environment. A variable replaces an inherited one and an earlier one of the same name.
    /// By default, the environment is inherited, with `PYTHONUNBUFFERED=1` in addition if it is not set.
    #[must_use]
    pub fn env(mut self, variables: impl IntoIterator<Item = Variable>) -> Self {
        self.env.extend(variables.into_iter().map(|Variable(name, value)| (name, value)));
        self
    }

    /// Sets whether the process inherits only the variables in [`CLEAN_ENV`] from the bridge. `false` by default: it
    /// inherits all variables.
    #[must_use]
    pub const fn clean_env(mut self, clean: bool) -> Self {
        self.clean_env = clean;
        self
    }

    /// Names variables that the process does not inherit from the bridge, because they are the bridge's own, such as
    /// those with its tokens. [`env`](Self::env) can set a variable of the same name. By default there are none.
    ///
    /// ```
    /// use mcp_sse_bridge::command::ServerCommand;
    ///
    /// let server = ServerCommand::new("uvx", ["mcp-server-time"]).withhold(["BRIDGE_TOKEN".into()]);
    /// ```
    #[must_use]
    pub fn withhold(mut self, names: impl IntoIterator<Item = OsString>) -> Self {
        self.withheld.extend(names);
        self
    }

    /// Passes header fields of the request that opened a session to that session's process, as environment variables.
    ///
    /// Such a variable is never inherited from the bridge. [`env`](Self::env) can set a default for requests without
    /// the field. A field is ignored with a warning if it is sent twice, is longer than [`HEADER_BYTES_MAX`], or
    /// contains a NUL byte. A [shared process](super::SharedProcess) has no such variables.
    #[must_use]
    pub fn header_to_env(mut self, headers: impl IntoIterator<Item = HeaderToEnv>) -> Self {
        self.headers.extend(headers);
        self
    }

    /// Sets the longest line that the server may print on stdout, in bytes; 16 MiB by default. A longer line is
    /// dropped; if it was an answer, the client gets an error instead.
    #[must_use]
    pub const fn line_bytes_max(mut self, line_bytes_max: usize) -> Self {
        self.line_bytes_max = line_bytes_max;
        self
    }

    /// The longest line that the server may print on stdout, in bytes.
    #[must_use]
    pub const fn longest_line(&self) -> usize {
        self.line_bytes_max
    }

    /// The program, as it was given to [`new`](Self::new).
    #[must_use]
    pub fn program(&self) -> &OsStr {
        &self.program
    }

    /// The working directory, if one was set.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        self.cwd.as_deref()
    }

    /// Whether the program's file exists, at its path or in a directory of `PATH`.
    #[must_use]
    pub fn is_there(&self) -> bool {
        let here = self.cwd.clone().unwrap_or_default();
        let program = Path::new(&self.program);
        if program.components().count() > 1 || program.has_root() {
            return here.join(program).is_file();
        }
        let environment = self.environment(env::vars_os(), &[]);
        let path = environment.into_iter().find(|(name, _)| name == "PATH").map(|(_, path)| path);
        // Without a `PATH`, the operating system uses a default that is not known here.
        path.is_none_or(|path| {
            env::split_paths(&path).any(|entry| here.join(entry).join(program).is_file())
        })
    }

    /// The process to start for a session that was opened by the request `head`. It runs `runner`, which gets the
    /// program and its arguments as arguments.
    pub(super) fn prepare(
        &self,
        runner: impl AsRef<OsStr>,
        head: Option<&RequestHead>,
    ) -> std::process::Command {
        let mut command = std::process::Command::new(runner);
        command.arg(&self.program).args(&self.args);
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        let fields: Vec<_> = head.into_iter().flat_map(RequestHead::fields).collect();
        command.env_clear().envs(self.environment(env::vars_os(), &fields));
        command
    }

    /// The environment of one process. `own` is the bridge's environment, `fields` are the header fields of the
    /// request.
    fn environment(
        &self,
        own: impl IntoIterator<Item = (OsString, OsString)>,
        fields: &[(&str, &[u8])],
    ) -> Vec<(OsString, OsString)> {
        let inherited = own.into_iter().filter(|(name, _)| {
            let kept = !self.clean_env || CLEAN_ENV.iter().any(|clean| name == clean);
            kept && !self.withheld.contains(name)
                && !self.headers.iter().any(|header| *name == *header.variable)
        });
        // Without this, Python keeps its output in a buffer when stdout is a pipe.
        let unbuffered = ("PYTHONUNBUFFERED".into(), "1".into());
        let mut all: Vec<(OsString, OsString)> = vec![unbuffered];
        let from_fields = self
            .headers
            .iter()
            .filter_map(|header| Some((header.variable.clone().into(), header.value(fields)?)));
        for (name, value) in inherited.chain(self.env.iter().cloned()).chain(from_fields) {
            match all.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = value,
                None => all.push((name, value)),
            }
        }
        all
    }
}

impl fmt::Display for ServerCommand {
    /// Writes the command as it would be typed into a shell. Bytes that are not UTF-8 are replaced.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&word(&self.program))?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", word(arg)))
    }
}

/// Formats `text` as one word of a shell command, in single quotes if that is necessary.
///
/// ```
/// assert_eq!(mcp_sse_bridge::command::word("a file".as_ref()), "'a file'");
/// ```
#[must_use]
pub fn word(text: &OsStr) -> String {
    let text = text.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@=%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

impl Variable {
    /// Parses `NAME=VALUE`. The name ends at the first equals sign.
    ///
    /// # Errors
    ///
    /// Returns a message if there is no equals sign, or no name in front of it.
    pub fn parse(text: &OsStr) -> Result<Self, &'static str> {
        let bytes = text.as_bytes();
        let Some(at) = bytes.iter().position(|byte| *byte == b'=').filter(|at| *at > 0) else {
            return Err("expected NAME=VALUE");
        };
        let (name, value) = bytes.split_at(at);
        let value = value.strip_prefix(b"=").unwrap_or(value);
        Ok(Self(OsString::from_vec(name.into()), OsString::from_vec(value.into())))
    }
}

impl HeaderToEnv {
    /// The name of the header field.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// The value of the field in a request with these fields, if it can be a variable.
    fn value(&self, fields: &[(&str, &[u8])]) -> Option<OsString> {
        let mut values = fields
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(&self.field))
            .map(|(_, value)| value);
        let value = values.next()?;
        let fault = if values.next().is_some() {
            "was sent more than once"
        } else if value.len() > HEADER_BYTES_MAX {
            "is too long"
        } else if value.contains(&0) {
            "contains a NUL byte"
        } else {
            return Some(OsString::from_vec(value.to_vec()));
        };
        static UNFIT: LogThrottle = LogThrottle::new();
        if let Some(unsaid) = UNFIT.tell() {
            log::warn!(
                event = "field_not_passed_on",
                field = self.field,
                reason = fault,
                suppressed = unsaid;
                "the request field {} {fault} and is not passed on{unsaid}",
                self.field
            );
        }
        None
    }
}

impl FromStr for HeaderToEnv {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let token = |text: &str| {
            let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            !text.is_empty() && text.bytes().all(is_token)
        };
        let name = |text: &str| {
            !text.is_empty()
                && !text.starts_with(|c: char| c.is_ascii_digit())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        match text.split_once('=') {
            Some((field, variable)) if token(field) && name(variable) => {
                if decides_what_runs(variable) {
                    return Err(format!(
                        "{variable} decides which code is run, so a request may not set it"
                    ));
                }
                Ok(Self { field: field.into(), variable: variable.into() })
            }
            _ => Err("expected FIELD=VARIABLE, as in X-Api-Key=API_KEY".into()),
        }
    }
}

/// Whether loaders, shells or common language runtimes take code, or the place of code, from this variable.
fn decides_what_runs(variable: &str) -> bool {
    const NAMES: [&str; 23] = [
        "BASH_ENV",
        "CLASSPATH",
        "DOTNET_STARTUP_HOOKS",
        "ENV",
        "GCONV_PATH",
        "GIO_EXTRA_MODULES",
        "HOME",
        "IFS",
        "JAVA_TOOL_OPTIONS",
        "JDK_JAVA_OPTIONS",
        "LUA_INIT",
        "NODE_OPTIONS",
        "NODE_PATH",
        "PATH",
        "PERL5DB",
        "PERL5LIB",
        "PERL5OPT",
        "PS4",
        "RUBYLIB",
        "RUBYOPT",
        "SHELL",
        "SHELLOPTS",
        "_JAVA_OPTIONS",
    ];
    let prefixes = ["LD_", "DYLD_", "PYTHON", "npm_config_", "NPM_CONFIG_", "PIP_", "UV_"];
    NAMES.contains(&variable) || prefixes.iter().any(|prefix| variable.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (OsString, OsString) {
        (name.into(), value.into())
    }

    #[track_caller]
    fn check(command: &ServerCommand, fields: &[(&str, &[u8])], expected: &[(&str, &str)]) {
        let own = [pair("PATH", "/bin"), pair("HOME", "/home"), pair("API_KEY", "own")];
        let mut found = command.environment(own, fields);
        found.sort();
        let expected: Vec<_> = expected.iter().map(|(name, value)| pair(name, value)).collect();
        assert_eq!(found, expected);
    }

    fn command() -> ServerCommand {
        ServerCommand::new("server", ["--flag"])
    }

    fn set(text: &str) -> Variable {
        Variable::parse(text.as_ref()).unwrap()
    }

    const UNBUFFERED: (&str, &str) = ("PYTHONUNBUFFERED", "1");

    #[test]
    fn server_environment_is_inherited_and_extended() {
        let key = ("API_KEY", "own");
        let (home, path) = (("HOME", "/home"), ("PATH", "/bin"));
        check(&command(), &[], &[key, home, path, UNBUFFERED]);
        check(&command().clean_env(true), &[], &[home, path, UNBUFFERED]);
        let changed = command().env([set("HOME=a"), set("HOME=b=c"), set("PYTHONUNBUFFERED=")]);
        check(&changed, &[], &[key, ("HOME", "b=c"), path, ("PYTHONUNBUFFERED", "")]);
    }

    #[test]
    fn withheld_variable_is_not_inherited_but_can_be_set() {
        let withheld = command().withhold(["API_KEY".into(), "HOME".into()]);
        check(&withheld, &[], &[("PATH", "/bin"), UNBUFFERED]);
        let set_anyway = withheld.env([set("API_KEY=theirs")]);
        check(&set_anyway, &[], &[("API_KEY", "theirs"), ("PATH", "/bin"), UNBUFFERED]);
    }

    #[test]
    fn header_fields_become_variables_only_if_configured() {
        let (home, path) = (("HOME", "/home"), ("PATH", "/bin"));
        let fields: &[(&str, &[u8])] = &[("x-api-key", b"theirs"), ("PATH", b"/evil")];
        check(&command(), fields, &[("API_KEY", "own"), home, path, UNBUFFERED]);
        let open = command().header_to_env(["X-Api-Key=API_KEY".parse().unwrap()]);
        check(&open, fields, &[("API_KEY", "theirs"), home, path, UNBUFFERED]);
        // A request without the field does not get the operator's own value.
        check(&open, &[], &[home, path, UNBUFFERED]);
        let twice: &[(&str, &[u8])] = &[("X-API-KEY", b"a"), ("x-api-key", b"b")];
        check(&open, twice, &[home, path, UNBUFFERED]);
        check(&open, &[("x-api-key", b"a\0b")], &[home, path, UNBUFFERED]);
        let long = vec![b'k'; HEADER_BYTES_MAX + 1];
        check(&open, &[("x-api-key", &long)], &[home, path, UNBUFFERED]);
        let default = open.env([set("API_KEY=shared")]);
        check(&default, &[], &[("API_KEY", "shared"), home, path, UNBUFFERED]);
    }

    #[test]
    fn header_variable_that_decides_what_runs_is_refused() {
        let fails = |text: &str| text.parse::<HeaderToEnv>().is_err();
        assert!(!fails("X-Api-Key=API_KEY"));
        for text in ["X-Api-Key", "=A", "A=", "X Y=A", "X=A B", "X=A=B", "X=1A", "X=Ä"] {
            assert!(fails(text), "{text}");
        }
        for name in [
            "PATH",
            "HOME",
            "SHELL",
            "LD_PRELOAD",
            "DYLD_INSERT_LIBRARIES",
            "PYTHONPATH",
            "NODE_OPTIONS",
            "_JAVA_OPTIONS",
            "UV_INDEX_URL",
        ] {
            assert!(fails(&format!("X={name}")), "{name}");
        }
    }

    #[test]
    fn variable_is_split_at_the_first_equals_sign() {
        assert_eq!(set("A=b=c"), Variable("A".into(), "b=c".into()));
        assert!(Variable::parse("=x".as_ref()).is_err());
        assert!(Variable::parse("x".as_ref()).is_err());
    }

    #[test]
    fn command_displays_as_typed() {
        let command = ServerCommand::new("npx", ["-y", "@scope/server", "it's", ""]);
        assert_eq!(command.to_string(), r"npx -y @scope/server 'it'\''s' ''");
        assert_eq!(ServerCommand::shell("a | b").to_string(), "sh -c 'a | b'");
    }
}
