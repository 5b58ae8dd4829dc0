//! What to run: a program, its arguments, its directory, its environment.
//!
//! Knows: what an operator has configured, before the first request. Of a request it takes the values of header fields
//! that the operator named, into variables that the operator named, and nothing else.
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

/// The variables of the bridge's own environment that a [clean](ServerCommand::clean_env) one has: those that the
/// official SDKs hand down to the servers that they start.
pub const CLEAN_ENV: [&str; 6] = ["HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"];
/// The longest value of a header field that becomes a variable, in bytes. A longer one does not.
pub const HEADER_BYTES_MAX: usize = 8 << 10;

/// How to start an MCP server that speaks on its standard input and output.
#[derive(Clone, Debug)]
pub struct ServerCommand {
    program: OsString,
    args: Vec<OsString>,
    cwd: Option<PathBuf>,
    env: Vec<(OsString, OsString)>,
    clean_env: bool,
    headers: Vec<HeaderToEnv>,
    line_bytes_max: usize,
}

/// A variable of the form `NAME=VALUE`, as the environment has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable(pub OsString, pub OsString);

/// A header field whose value becomes a variable: `X-Api-Key=API_KEY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderToEnv {
    field: String,
    variable: String,
}

impl ServerCommand {
    /// Runs a program with its arguments; no shell reads them.
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
            headers: Vec::new(),
            line_bytes_max: LINE_BYTES_MAX,
        }
    }

    /// Runs a line by the shell.
    #[must_use]
    pub fn shell(line: impl Into<OsString>) -> Self {
        Self::new("sh", [OsString::from("-c"), line.into()])
    }

    /// Sets the directory to run in, the bridge's own by default. A relative program is looked for from there.
    #[must_use]
    pub fn cwd(mut self, cwd: Option<PathBuf>) -> Self {
        self.cwd = cwd;
        self
    }

    /// Sets variables, on top of what is inherited; of two of one name the last counts.
    #[must_use]
    pub fn env(mut self, variables: impl IntoIterator<Item = Variable>) -> Self {
        self.env.extend(variables.into_iter().map(|Variable(name, value)| (name, value)));
        self
    }

    /// Sets whether only [`CLEAN_ENV`] is inherited of the bridge's own environment. By default all of it is.
    #[must_use]
    pub const fn clean_env(mut self, clean: bool) -> Self {
        self.clean_env = clean;
        self
    }

    /// Makes header fields of the request that opened a session variables of that session's process.
    /// Such a variable is never inherited from the bridge; [`env`](Self::env) can give it a default.
    #[must_use]
    pub fn header_to_env(mut self, headers: impl IntoIterator<Item = HeaderToEnv>) -> Self {
        self.headers.extend(headers);
        self
    }

    /// Sets the longest line of its output, in bytes; 16 MiB by default. Longer ones are passed over.
    #[must_use]
    pub const fn line_bytes_max(mut self, line_bytes_max: usize) -> Self {
        self.line_bytes_max = line_bytes_max;
        self
    }

    /// The longest line of its output that is taken, in bytes.
    #[must_use]
    pub const fn longest_line(&self) -> usize {
        self.line_bytes_max
    }

    /// The program, as it was configured.
    #[must_use]
    pub fn program(&self) -> &OsStr {
        &self.program
    }

    /// The directory that it runs in, if one was set.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        self.cwd.as_deref()
    }

    /// Whether there is such a program now.
    #[must_use]
    pub fn is_there(&self) -> bool {
        let here = self.cwd.clone().unwrap_or_default();
        let program = Path::new(&self.program);
        if program.components().count() > 1 || program.has_root() {
            return here.join(program).is_file();
        }
        let environment = self.environment(env::vars_os(), &[]);
        let path = environment.into_iter().find(|(name, _)| name == "PATH").map(|(_, path)| path);
        // Without a PATH the system has one of its own.
        path.is_none_or(|path| {
            env::split_paths(&path).any(|entry| here.join(entry).join(program).is_file())
        })
    }

    /// The process to start for a session that was opened by this request: `runner`, with the program
    /// and its arguments as arguments.
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

    /// The whole environment of one process, of which `own` is the bridge's and `fields` the
    /// session's.
    fn environment(
        &self,
        own: impl IntoIterator<Item = (OsString, OsString)>,
        fields: &[(&str, &[u8])],
    ) -> Vec<(OsString, OsString)> {
        let inherited = own.into_iter().filter(|(name, _)| {
            let kept = !self.clean_env || CLEAN_ENV.iter().any(|clean| name == clean);
            kept && !self.headers.iter().any(|header| *name == *header.variable)
        });
        // What Python prints would otherwise stay in its buffer.
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
    /// The command as it would be typed, as far as that is possible.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&word(&self.program))?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", word(arg)))
    }
}

/// A text as one word of a shell's: quoted where that is needed.
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
    /// Reads `NAME=VALUE`.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
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
    /// The name of the field.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// The value that a request has for it.
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
            "has a NUL in it"
        } else {
            return Some(OsString::from_vec(value.to_vec()));
        };
        static UNFIT: LogThrottle = LogThrottle::new();
        if let Some(unsaid) = UNFIT.tell() {
            log::warn!("{} {fault} and is not passed on{unsaid}", self.field);
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
                    return Err(format!("{variable} decides what is run: no request may set it"));
                }
                Ok(Self { field: field.into(), variable: variable.into() })
            }
            _ => Err("expected FIELD=VARIABLE, as in X-Api-Key=API_KEY".into()),
        }
    }
}

/// Whether loaders, shells or the usual runtimes take code, or where to find it, from this variable.
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
    fn environment_of_servers_is_the_operators() {
        let key = ("API_KEY", "own");
        let (home, path) = (("HOME", "/home"), ("PATH", "/bin"));
        check(&command(), &[], &[key, home, path, UNBUFFERED]);
        check(&command().clean_env(true), &[], &[home, path, UNBUFFERED]);
        let changed = command().env([set("HOME=a"), set("HOME=b=c"), set("PYTHONUNBUFFERED=")]);
        check(&changed, &[], &[key, ("HOME", "b=c"), path, ("PYTHONUNBUFFERED", "")]);
    }

    #[test]
    fn header_fields_become_variables_only_if_configured() {
        let (home, path) = (("HOME", "/home"), ("PATH", "/bin"));
        let fields: &[(&str, &[u8])] = &[("x-api-key", b"theirs"), ("PATH", b"/evil")];
        check(&command(), fields, &[("API_KEY", "own"), home, path, UNBUFFERED]);
        let open = command().header_to_env(["X-Api-Key=API_KEY".parse().unwrap()]);
        check(&open, fields, &[("API_KEY", "theirs"), home, path, UNBUFFERED]);
        // Nobody gets the operator's own by leaving the field out.
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
