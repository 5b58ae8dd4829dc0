//! The file that names several servers, in the shape that clients of MCP keep theirs.
//!
//! Knows: `{"mcpServers": {"name": {"command", "args", "env", "cwd"}}}`, and how a mistake in it is reported. Does not know: how they are served.
//!
//! Decision: what an object means does not depend on the order of its members, so each is looked up by its
//! name, and a member that is there twice is a mistake. A member that is `null` is absent. An entry that is not
//! served (`disabled`, or with a `url`, which clients have for servers on the network) is left out with a
//! line in the log, whatever else is in it: the file is the client's too, and has to suit both.

use core::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::command::{ServerCommand, Variable};

/// The longest name of a server, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// A server to be run, and its name.
#[derive(Clone, Debug)]
pub struct BridgedServer {
    /// Its name, for people and, where there are several, in the path.
    pub name: String,
    /// What to run.
    pub command: ServerCommand,
}

/// What is wrong with a file of servers: the file, the server and the field, as far as they are to blame.
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

/// Reads the servers in a file, in their order. Those that are `disabled` or have a `url` are left out,
/// and the log says which. A byte order mark in front is passed over.
///
/// Members that mean nothing here are passed over, with a warning.
///
/// # Errors
///
/// The first thing that is wrong.
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

/// What is wrong with an entry of the file, whose name is added later.
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

/// The members of an object, in their order, with repeated ones.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The members of an object; those that are `null` are absent.
fn present(text: &str) -> Result<Vec<(String, &RawValue)>, EntryError> {
    let Members(mut members) =
        serde_json::from_str(text).map_err(|_| EntryError::new("expected an object"))?;
    members.retain(|(_, raw)| raw.get() != "null");
    Ok(members)
}

/// The same, and none is there twice.
fn members(text: &str) -> Result<Vec<(String, &RawValue)>, EntryError> {
    let members = present(text)?;
    for (at, (name, _)) in members.iter().enumerate() {
        if members.iter().take(at).any(|(known, _)| known == name) {
            return Err(EntryError::new(format!("{name:?} is there twice")));
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
    // Read in one go first, for an error with a line and a column.
    serde_json::from_str::<&RawValue>(text)
        .map_err(|error| EntryError::new(format!("is not JSON: {error}")))?;
    let mut servers = None;
    for (name, raw) in members(text)? {
        match &*name {
            "mcpServers" => servers = Some(raw),
            other => log::warn!("{other:?} beside \"mcpServers\" means nothing here"),
        }
    }
    let servers = servers.ok_or_else(|| EntryError::new("there is no \"mcpServers\" in it"))?;
    let servers = members(servers.get()).map_err(|entry_error| entry_error.field("mcpServers"))?;
    let all = servers.len();
    let mut found = Vec::new();
    for (name, raw) in servers {
        let entry_error = |entry_error: EntryError| entry_error.server(&name);
        match left_out(raw.get()).map_err(entry_error)? {
            Some(why) => log::warn!("server {name:?} is left out: {why}"),
            None => {
                let command = server(&name, raw.get()).map_err(entry_error)?;
                found.push(BridgedServer { name, command });
            }
        }
    }
    match (found.len(), all) {
        (0, 0) => Err(EntryError::new("there is no server in it").field("mcpServers")),
        (0, _) => {
            let why = format!("none of the {all} in it is to be served: see the log");
            Err(EntryError::new(why).field("mcpServers"))
        }
        _ => Ok(found),
    }
}

/// Why an entry is not served, whatever else is in it; `None` if it is.
fn left_out(text: &str) -> Result<Option<&'static str>, EntryError> {
    let fields = present(text)?;
    let all = |field: &'static str| fields.iter().filter(move |(name, _)| name == field);
    // If it is there twice, that is a mistake, unless both say the same.
    let mut disabled = false;
    for (at, (field, raw)) in all("disabled").enumerate() {
        let found = value(raw, field, "true or false")?;
        if at > 0 && found != disabled {
            return Err(EntryError::new(format!("{field:?} is there twice")));
        }
        disabled = found;
    }
    Ok(if disabled {
        Some("it is disabled")
    } else if all("url").next().is_some() {
        Some("it has a url, and only servers on stdio are bridged")
    } else {
        None
    })
}

fn server(name: &str, text: &str) -> Result<ServerCommand, EntryError> {
    check_name(name)?;
    const KNOWN: [&str; 7] = ["command", "args", "env", "cwd", "disabled", "type", "transport"];
    let fields = members(text)?;
    for (field, _) in fields.iter().filter(|(field, _)| !KNOWN.contains(&field.as_str())) {
        log::warn!("{name}: {field:?} means nothing here");
    }
    let get = |field: &str| fields.iter().find(|(name, _)| name == field).map(|(_, raw)| *raw);
    for field in ["type", "transport"] {
        if let Some(raw) = get(field) {
            let kind: String = value(raw, field, "a string")?;
            if kind != "stdio" {
                let why = format!("{kind:?} is not bridged, only \"stdio\"");
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
        return Err(EntryError::new(format!("{word:?} has a NUL in it")).field("command or args"));
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
    const WHAT: &str = "an object with strings in it";
    let _: Members<'_> = value(raw, "env", WHAT)?;
    let mut variables = Vec::new();
    for (name, raw) in members(raw.get()).map_err(|entry_error| entry_error.field("env"))? {
        let text: String = value(raw, "env", WHAT)?;
        if name.is_empty() || name.contains(['=', '\0']) || text.contains('\0') {
            // Not the value, which may be a secret.
            return Err(EntryError::new(format!("{name:?} cannot be a variable")).field("env"));
        }
        variables.push(Variable(name.into(), text.into()));
    }
    Ok(variables)
}

/// Checks a name, which is used as it is in paths and in lines of the log.
fn check_name(name: &str) -> Result<(), EntryError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    if name.is_empty() || !name.chars().all(plain) || matches!(name, "." | "..") {
        let why =
            "a name is a part of a URL: use only letters, digits, \"-\", \".\", \"_\" and \"~\"";
        return Err(EntryError::new(why));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(EntryError::new(format!("a name has {NAME_BYTES_MAX} characters at most")));
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

    /// What a person is told about a file.
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
        entry_error("{}", "f.json: there is no \"mcpServers\" in it");
        entry_error(r#"{"mcpServers": []}"#, "f.json: mcpServers: expected an object");
        entry_error(r#"{"mcpServers": {}}"#, "f.json: mcpServers: there is no server in it");
        let twice = r#"{"mcpServers": {"a": {"command": "x"}, "a": {"command": "y"}}}"#;
        entry_error(twice, "f.json: mcpServers: \"a\" is there twice");
        entry_error(&one(""), "f.json: server \"a\": command: is missing");
        entry_error(&one(r#""command": """#), "f.json: server \"a\": command: is empty");
        entry_error(&one(r#""command": 1"#), "f.json: server \"a\": command: expected a string");
        entry_error(
            &one(r#""command": "x", "command": "y""#),
            "f.json: server \"a\": \"command\" is there twice",
        );
        let args = "f.json: server \"a\": args: expected a list of strings";
        entry_error(&one(r#""command": "x", "args": "y""#), args);
        entry_error(&one(r#""command": "x", "args": [1]"#), args);
        let env = "f.json: server \"a\": env: expected an object with strings in it";
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
            "f.json: server \"a\": type: \"sse\" is not bridged, only \"stdio\"",
        );
        entry_error(
            &one(r#""command": "x", "env": {"A": "1", "A": "2"}"#),
            "f.json: server \"a\": env: \"A\" is there twice",
        );
        entry_error(
            &one(r#""command": "x", "disabled": "yes""#),
            "f.json: server \"a\": disabled: expected true or false",
        );
        entry_error(
            &one(r#""command": "x", "disabled": true, "disabled": false"#),
            "f.json: server \"a\": \"disabled\" is there twice",
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
    fn entry_disabled_or_with_url_is_left_out_in_any_member_order() {
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
        let none = "f.json: mcpServers: none of the 1 in it is to be served: see the log";
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
        entry_error(r#"{"mcpServers": null}"#, "f.json: there is no \"mcpServers\" in it");
        entry_error(
            r#"{"mcpServers": {"a": null}}"#,
            "f.json: mcpServers: there is no server in it",
        );
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
        assert!(told(&text).ends_with("a name has 64 characters at most"));
    }

    #[test]
    fn servers_file_missing_is_an_error() {
        let told = read(Path::new("/nothing/servers.json")).expect_err("no file").to_string();
        assert!(told.starts_with("/nothing/servers.json: cannot be read: "), "{told}");
    }
}
