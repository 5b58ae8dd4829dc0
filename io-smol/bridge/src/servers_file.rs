//! Reads the configuration file that names several servers, in the format of MCP clients.
//!
//! Knows: `{"mcpServers": {"name": {"command", "args", "env", "cwd"}}}`, and how a mistake in the file is reported.
//! Does not know: how servers are served.
//!
//! Decision: the meaning of an object does not depend on the order of its members. So a member that is given twice is
//! a mistake, and a member that is `null` counts as absent. An entry that is disabled, or that has a `url` (a server
//! on the network), is skipped with a line in the log, and its other members are not checked: the same file may be
//! used by a client, for which such an entry is valid.

use core::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::command::{ServerCommand, Variable};

/// The longest name of a server, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// The name and the command of one server.
#[derive(Clone, Debug)]
pub struct BridgedServer {
    /// The server's name, for the log and, if there are several servers, for its path.
    pub name: String,
    /// The command that starts the server.
    pub command: ServerCommand,
}

/// A mistake in a servers file. It displays the file and, if the mistake is in an entry, the server and the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServersFileError {
    file: PathBuf,
    server: Option<String>,
    field: Option<String>,
    why: String,
}

impl fmt::Display for ServersFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        if let Some(server) = &self.server {
            write!(f, "server {server:?}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.why)
    }
}

impl core::error::Error for ServersFileError {}

/// Reads the servers in the file at `path`, in their order.
///
/// Entries that are `disabled` or have a `url` are skipped, and unknown members are ignored, each with a warning in
/// the log. A byte order mark at the beginning is ignored.
///
/// # Errors
///
/// Returns the first mistake: the file cannot be read, is not JSON, or contains no server that can be served; or a
/// member of an entry is missing, invalid or given twice.
///
/// ```
/// use std::path::Path;
///
/// use mcp_sse_bridge::servers_file;
///
/// # let path = std::env::temp_dir().join(format!("servers-{}.json", std::process::id()));
/// # let path = path.as_path();
/// std::fs::write(path, r#"{"mcpServers": {"time": {"command": "uvx", "args": ["mcp-server-time"]}}}"#)?;
/// let servers = servers_file::read(path).expect("a valid file");
/// assert_eq!(servers[0].name, "time");
/// assert_eq!(servers[0].command.to_string(), "uvx mcp-server-time");
/// # std::fs::remove_file(path)?;
/// let missing = servers_file::read(Path::new("/no/servers.json")).unwrap_err();
/// assert!(missing.to_string().starts_with("/no/servers.json: cannot be read: "));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn read(path: &Path) -> Result<Vec<BridgedServer>, ServersFileError> {
    let fail = |why: String| ServersFileError { file: path.into(), server: None, field: None, why };
    let text =
        fs::read_to_string(path).map_err(|error| fail(format!("cannot be read: {error}")))?;
    parse(&text).map_err(|EntryError { server, field, why }| ServersFileError {
        server,
        field,
        ..fail(why)
    })
}

/// A mistake in a file whose path is added later.
#[derive(Debug, Default, PartialEq, Eq)]
struct EntryError {
    server: Option<String>,
    field: Option<String>,
    why: String,
}

impl EntryError {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), ..Self::default() }
    }

    fn field(self, field: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..self }
    }

    fn server(self, server: &str) -> Self {
        Self { server: Some(server.into()), ..self }
    }
}

/// All members of an object, in their order. Repeated members are kept.
struct EntryMembers<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for EntryMembers<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = EntryMembers<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(EntryMembers(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The members of an object that are not `null`.
fn present(text: &str) -> Result<Vec<(String, &RawValue)>, EntryError> {
    let EntryMembers(mut members) =
        serde_json::from_str(text).map_err(|_| EntryError::new("expected an object"))?;
    members.retain(|(_, raw)| raw.get() != "null");
    Ok(members)
}

/// The members of an object that are not `null`. A repeated member is an error.
fn members(text: &str) -> Result<Vec<(String, &RawValue)>, EntryError> {
    let members = present(text)?;
    for (at, (name, _)) in members.iter().enumerate() {
        if members.iter().take(at).any(|(known, _)| known == name) {
            return Err(EntryError::new(format!("{name:?} is given twice")));
        }
    }
    Ok(members)
}

fn value<'a, T: Deserialize<'a>>(
    raw: &'a RawValue,
    field: &str,
    what: &str,
) -> Result<T, EntryError> {
    serde_json::from_str(raw.get())
        .map_err(|_| EntryError::new(format!("expected {what}")).field(field))
}

fn parse(text: &str) -> Result<Vec<BridgedServer>, EntryError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // The whole text is parsed first, so that an error has a line and a column.
    serde_json::from_str::<&RawValue>(text)
        .map_err(|error| EntryError::new(format!("is not JSON: {error}")))?;
    let mut servers = None;
    for (name, raw) in members(text)? {
        match &*name {
            "mcpServers" => servers = Some(raw),
            other => log::warn!(
                event = "member_ignored",
                member = other;
                "the member {other:?} beside \"mcpServers\" is ignored"
            ),
        }
    }
    let servers = servers.ok_or_else(|| EntryError::new("\"mcpServers\" is missing"))?;
    let servers = members(servers.get()).map_err(|entry_error| entry_error.field("mcpServers"))?;
    let all = servers.len();
    let mut found = Vec::new();
    for (name, raw) in servers {
        let entry_error = |entry_error: EntryError| entry_error.server(&name);
        match skip_reason(raw.get()).map_err(entry_error)? {
            Some(why) => log::warn!(
                event = "server_skipped",
                server = name,
                reason = why;
                "server {name:?} is skipped: {why}"
            ),
            None => {
                let command = server(&name, raw.get()).map_err(entry_error)?;
                found.push(BridgedServer { name, command });
            }
        }
    }
    match (found.len(), all) {
        (0, 0) => Err(EntryError::new("it contains no server").field("mcpServers")),
        (0, _) => {
            let why = format!("all of its {all} servers are skipped: see the log");
            Err(EntryError::new(why).field("mcpServers"))
        }
        _ => Ok(found),
    }
}

/// The reason why an entry is skipped; `None` if it has to be served.
fn skip_reason(text: &str) -> Result<Option<&'static str>, EntryError> {
    let fields = present(text)?;
    let all = |field: &'static str| fields.iter().filter(move |(name, _)| name == field);
    // It may be given twice with the same value.
    let mut disabled = false;
    for (at, (field, raw)) in all("disabled").enumerate() {
        let found = value(raw, field, "true or false")?;
        if at > 0 && found != disabled {
            return Err(EntryError::new(format!("{field:?} is given twice")));
        }
        disabled = found;
    }
    Ok(if disabled {
        Some("it is disabled")
    } else if all("url").next().is_some() {
        Some("it has a \"url\", and only servers on stdio can be bridged")
    } else {
        None
    })
}

fn server(name: &str, text: &str) -> Result<ServerCommand, EntryError> {
    check_name(name)?;
    const KNOWN: [&str; 7] = ["command", "args", "env", "cwd", "disabled", "type", "transport"];
    let fields = members(text)?;
    for (field, _) in fields.iter().filter(|(field, _)| !KNOWN.contains(&field.as_str())) {
        log::warn!(
            event = "server_member_ignored",
            server = name,
            member = field;
            "{name}: the member {field:?} is ignored"
        );
    }
    let get = |field: &str| fields.iter().find(|(name, _)| name == field).map(|(_, raw)| *raw);
    for field in ["type", "transport"] {
        if let Some(raw) = get(field) {
            let kind: String = value(raw, field, "a string")?;
            if kind != "stdio" {
                let why = format!("{kind:?} cannot be bridged, only \"stdio\" can");
                return Err(EntryError::new(why).field(field));
            }
        }
    }
    let program: Option<String> =
        get("command").map(|raw| value(raw, "command", "a string")).transpose()?;
    let args: Option<Vec<String>> =
        get("args").map(|raw| value(raw, "args", "a list of strings")).transpose()?;
    let env = get("env").map(variables).transpose()?;
    let cwd: Option<PathBuf> = get("cwd").map(|raw| value(raw, "cwd", "a string")).transpose()?;
    let (args, env) = (args.unwrap_or_default(), env.unwrap_or_default());
    let program = match program {
        Some(program) if !program.is_empty() => program,
        Some(_) => return Err(EntryError::new("is empty").field("command")),
        None => return Err(EntryError::new("is missing").field("command")),
    };
    if let Some(word) = core::iter::once(&program).chain(&args).find(|word| word.contains('\0')) {
        return Err(EntryError::new(format!("{word:?} contains NUL")).field("command or args"));
    }
    if let Some(cwd) = &cwd
        && !cwd.is_dir()
    {
        let why = format!("{}: there is no such directory", cwd.display());
        return Err(EntryError::new(why).field("cwd"));
    }
    Ok(ServerCommand::new(program, args).cwd(cwd).env(env))
}

fn variables(raw: &RawValue) -> Result<Vec<Variable>, EntryError> {
    const WHAT: &str = "an object of strings";
    let _: EntryMembers<'_> = value(raw, "env", WHAT)?;
    let mut variables = Vec::new();
    for (name, raw) in members(raw.get()).map_err(|entry_error| entry_error.field("env"))? {
        let text: String = value(raw, "env", WHAT)?;
        if name.is_empty() || name.contains(['=', '\0']) || text.contains('\0') {
            // The message does not contain the value, which may be a secret.
            return Err(EntryError::new(format!("{name:?} cannot be a variable")).field("env"));
        }
        variables.push(Variable(name.into(), text.into()));
    }
    Ok(variables)
}

/// Checks a server's name, which is used in paths and log lines without escaping.
fn check_name(name: &str) -> Result<(), EntryError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    if name.is_empty() || !name.chars().all(plain) || matches!(name, "." | "..") {
        let why =
            "a name is a part of a URL: use only letters, digits, \"-\", \".\", \"_\" and \"~\"";
        return Err(EntryError::new(why));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(EntryError::new(format!("a name has at most {NAME_BYTES_MAX} characters")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(&str, &str)]) {
        let found = parse(text).unwrap_or_else(|entry_error| panic!("{entry_error:?}"));
        let found: Vec<_> =
            found.iter().map(|server| (&*server.name, server.command.to_string())).collect();
        let found: Vec<(&str, &str)> = found.iter().map(|(name, text)| (*name, &**text)).collect();
        assert_eq!(found, expected);
    }

    /// The error message for a file.
    fn told(text: &str) -> String {
        let EntryError { server, field, why } = parse(text).expect_err("a mistake");
        ServersFileError { file: "f.json".into(), server, field, why }.to_string()
    }

    #[track_caller]
    fn entry_error(text: &str, expected: &str) {
        assert_eq!(told(text), expected);
    }

    fn one(fields: &str) -> String {
        format!(r#"{{"mcpServers": {{"a": {{{fields}}}}}}}"#)
    }

    #[test]
    fn servers_file_keeps_the_order() {
        check(
            r#"{"mcpServers": {
                "time": {"command": "uvx", "args": ["mcp-server-time", "it's"], "type": "stdio"},
                "off": {"command": "x", "disabled": true},
                "a.B-c_~1": {"command": "/bin/server", "disabled": false, "cwd": null, "more": {}}
            }, "other": 1}"#,
            &[("time", r"uvx mcp-server-time 'it'\''s'"), ("a.B-c_~1", "/bin/server")],
        );
        check(&one(r#""command": "x", "env": {"A": "=1"}, "cwd": "/""#), &[("a", "x")]);
    }

    #[test]
    fn servers_file_errors_name_server_and_field() {
        assert!(told("{").starts_with("f.json: is not JSON: EOF"));
        entry_error("[]", "f.json: expected an object");
        entry_error("{}", "f.json: \"mcpServers\" is missing");
        entry_error(r#"{"mcpServers": []}"#, "f.json: mcpServers: expected an object");
        entry_error(r#"{"mcpServers": {}}"#, "f.json: mcpServers: it contains no server");
        let twice = r#"{"mcpServers": {"a": {"command": "x"}, "a": {"command": "y"}}}"#;
        entry_error(twice, "f.json: mcpServers: \"a\" is given twice");
        entry_error(&one(""), "f.json: server \"a\": command: is missing");
        entry_error(&one(r#""command": """#), "f.json: server \"a\": command: is empty");
        entry_error(&one(r#""command": 1"#), "f.json: server \"a\": command: expected a string");
        entry_error(
            &one(r#""command": "x", "command": "y""#),
            "f.json: server \"a\": \"command\" is given twice",
        );
        let args = "f.json: server \"a\": args: expected a list of strings";
        entry_error(&one(r#""command": "x", "args": "y""#), args);
        entry_error(&one(r#""command": "x", "args": [1]"#), args);
        let env = "f.json: server \"a\": env: expected an object of strings";
        entry_error(&one(r#""command": "x", "env": {"A": 1}"#), env);
        entry_error(
            &one(r#""command": "x", "env": {"A=B": "secret"}"#),
            "f.json: server \"a\": env: \"A=B\" cannot be a variable",
        );
        entry_error(
            &one(r#""command": "x", "cwd": "/nothing/there""#),
            "f.json: server \"a\": cwd: /nothing/there: there is no such directory",
        );
        entry_error(
            &one(r#""command": "x", "type": "sse""#),
            "f.json: server \"a\": type: \"sse\" cannot be bridged, only \"stdio\" can",
        );
        entry_error(
            &one(r#""command": "x", "env": {"A": "1", "A": "2"}"#),
            "f.json: server \"a\": env: \"A\" is given twice",
        );
        entry_error(
            &one(r#""command": "x", "disabled": "yes""#),
            "f.json: server \"a\": disabled: expected true or false",
        );
        entry_error(
            &one(r#""command": "x", "disabled": true, "disabled": false"#),
            "f.json: server \"a\": \"disabled\" is given twice",
        );
    }

    /// Each order of the members of an object.
    fn orders(members: &[&str]) -> Vec<String> {
        if members.is_empty() {
            return vec![String::new()];
        }
        let mut all = Vec::new();
        for (at, first) in members.iter().enumerate() {
            let rest: Vec<&str> = members[..at].iter().chain(&members[at + 1..]).copied().collect();
            for rest in orders(&rest) {
                all.push(if rest.is_empty() {
                    (*first).into()
                } else {
                    format!("{first}, {rest}")
                });
            }
        }
        all
    }

    /// An entry with these members, in any order, beside one that is served.
    #[track_caller]
    fn check_orders(name: &str, members: &[&str], expected: &[(&str, &str)]) {
        for order in orders(members) {
            let file =
                format!(r#"{{"mcpServers": {{"b": {{"command": "y"}}, "{name}": {{{order}}}}}}}"#);
            check(&file, &[&[("b", "y")], expected].concat());
        }
    }

    #[test]
    fn entry_disabled_or_with_url_is_skipped_in_any_member_order() {
        let off = r#""disabled": true"#;
        let url = r#""url": "http://localhost/sse""#;
        for entry_error in [
            r#""type": "sse""#,
            url,
            r#""env": []"#,
            r#""args": 7"#,
            r#""command": """#,
            r#""cwd": "/nothing/there""#,
            r#""command": "x", "command": "y""#,
        ] {
            check_orders("a", &[off, entry_error, r#""more": 1"#], &[]);
            check_orders("a", &[url, entry_error, r#""more": 1"#], &[]);
        }
        for name in ["my server", "github.com/x/y", "", &"x".repeat(NAME_BYTES_MAX + 1)] {
            check_orders(name, &[off, r#""command": "x""#], &[]);
            check_orders(name, &[url], &[]);
        }
        let none = "f.json: mcpServers: all of its 1 servers are skipped: see the log";
        entry_error(&one(off), none);
        entry_error(&one(url), none);
    }

    #[test]
    fn member_that_is_null_is_absent() {
        let nulls: Vec<String> =
            ["args", "env", "cwd", "type", "transport", "disabled", "url", "x"]
                .map(|field| format!("\"{field}\": null"))
                .into();
        for null in &nulls {
            check_orders("a", &[r#""command": "x""#, null], &[("a", "x")]);
        }
        check(&one(&format!("\"command\": \"x\", {}", nulls.join(", "))), &[("a", "x")]);
        check(&one(r#""args": null, "command": "x", "args": ["y"]"#), &[("a", "x y")]);
        check(&one(r#""command": "x", "env": {"A": null, "B": "c"}"#), &[("a", "x")]);
        check(r#"{"mcpServers": {"a": null, "b": {"command": "y"}}, "c": null}"#, &[("b", "y")]);
        entry_error(&one(r#""command": null"#), "f.json: server \"a\": command: is missing");
        entry_error(r#"{"mcpServers": null}"#, "f.json: \"mcpServers\" is missing");
        entry_error(r#"{"mcpServers": {"a": null}}"#, "f.json: mcpServers: it contains no server");
    }

    #[test]
    fn byte_order_mark_is_ignored() {
        check(&format!("\u{feff}{}", one(r#""command": "x""#)), &[("a", "x")]);
        assert!(told("\u{feff}\u{feff}{}").starts_with("f.json: is not JSON: "));
    }

    #[test]
    fn server_names_are_path_segments() {
        for name in ["", "a b", "a/b", ".", "..", "ä", "a%20b", "a?b", "a:b"] {
            let text = format!(r#"{{"mcpServers": {{"{name}": {{"command": "x"}}}}}}"#);
            let told = told(&text);
            assert!(told.starts_with(&format!("f.json: server {name:?}: a name is")), "{told}");
        }
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        let text = format!(r#"{{"mcpServers": {{"{long}": {{"command": "x"}}}}}}"#);
        assert!(told(&text).ends_with("a name has at most 64 characters"));
    }

    #[test]
    fn servers_file_missing_is_an_error() {
        let told = read(Path::new("/nothing/servers.json")).expect_err("no file").to_string();
        assert!(told.starts_with("/nothing/servers.json: cannot be read: "), "{told}");
    }
}
