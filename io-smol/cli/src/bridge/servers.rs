//! The file that names several servers, in the shape that clients of MCP keep theirs.
//!
//! Knows: `{"mcpServers": {"name": {"command", "args", "env", "cwd"}}}`, and how to tell what is wrong
//! with one. Does not know: how they are served.

use core::fmt;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::command::{Command, Variable};

/// The longest name of a server, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// A server to be run, and what it is called.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its name, for people and, where there are several, in the path.
    pub name: String,
    /// What to run.
    pub command: Command,
}

/// What is wrong with a file of servers: the file, the server and the field, as far as they are to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServersError {
    file: PathBuf,
    server: Option<String>,
    field: Option<String>,
    why: String,
}

impl fmt::Display for ServersError {
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

impl core::error::Error for ServersError {}

/// Reads the servers in a file, in their order. Those that are `disabled` are left out.
///
/// Members that mean nothing here are passed over, with a warning.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn read(path: &Path) -> Result<Vec<Server>, ServersError> {
    let fail = |why: String| ServersError { file: path.into(), server: None, field: None, why };
    let text =
        fs::read_to_string(path).map_err(|error| fail(format!("cannot be read: {error}")))?;
    parse(&text).map_err(|Wrong { server, field, why }| ServersError { server, field, ..fail(why) })
}

/// An error of a file whose name is not known yet.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wrong {
    server: Option<String>,
    field: Option<String>,
    why: String,
}

impl Wrong {
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

/// The members of an object, in their order and with those that come again.
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

fn members(text: &str) -> Result<Vec<(String, &RawValue)>, Wrong> {
    let Members(members) =
        serde_json::from_str(text).map_err(|_| Wrong::new("expected an object"))?;
    for (at, (name, _)) in members.iter().enumerate() {
        if members.iter().take(at).any(|(known, _)| known == name) {
            return Err(Wrong::new(format!("{name:?} is there twice")));
        }
    }
    Ok(members)
}

fn value<'a, T: Deserialize<'a>>(raw: &'a RawValue, field: &str, what: &str) -> Result<T, Wrong> {
    serde_json::from_str(raw.get()).map_err(|_| Wrong::new(format!("expected {what}")).field(field))
}

fn parse(text: &str) -> Result<Vec<Server>, Wrong> {
    // Places in a text are known only as long as it is read in one go.
    serde_json::from_str::<&RawValue>(text)
        .map_err(|error| Wrong::new(format!("is not JSON: {error}")))?;
    let mut servers = None;
    for (name, raw) in members(text)? {
        match &*name {
            "mcpServers" => servers = Some(raw),
            other => log::warn!("{other:?} beside \"mcpServers\" means nothing here"),
        }
    }
    let servers = servers.ok_or_else(|| Wrong::new("there is no \"mcpServers\" in it"))?;
    let mut found = Vec::new();
    for (name, raw) in members(servers.get()).map_err(|wrong| wrong.field("mcpServers"))? {
        match server(&name, raw.get()).map_err(|wrong| wrong.server(&name))? {
            Some(command) => found.push(Server { name, command }),
            None => log::info!("{name}: is disabled"),
        }
    }
    if found.is_empty() {
        return Err(Wrong::new("there is no server in it").field("mcpServers"));
    }
    Ok(found)
}

fn server(name: &str, text: &str) -> Result<Option<Command>, Wrong> {
    check_name(name)?;
    let (mut program, mut args, mut env, mut cwd) = (None, Vec::new(), Vec::new(), None);
    let mut url = false;
    for (field, raw) in members(text)? {
        let field = &*field;
        match field {
            "command" => program = Some(value::<String>(raw, field, "a string")?),
            "args" => args = value::<Vec<String>>(raw, field, "a list of strings")?,
            "env" => env = variables(value(raw, field, "an object with strings in it")?)?,
            "cwd" => cwd = value::<Option<PathBuf>>(raw, field, "a string")?,
            "disabled" => {
                if value(raw, field, "true or false")? {
                    return Ok(None);
                }
            }
            "type" | "transport" => {
                let kind: String = value(raw, field, "a string")?;
                if kind != "stdio" {
                    let why = format!("{kind:?} is not bridged, only \"stdio\"");
                    return Err(Wrong::new(why).field(field));
                }
            }
            "url" => url = true,
            other => log::warn!("{name}: {other:?} means nothing here"),
        }
    }
    let program = match program {
        Some(program) if !program.is_empty() => program,
        Some(_) => return Err(Wrong::new("is empty").field("command")),
        None if url => return Err(Wrong::new("is served over HTTP already").field("url")),
        None => return Err(Wrong::new("is missing").field("command")),
    };
    if let Some(word) = core::iter::once(&program).chain(&args).find(|word| word.contains('\0')) {
        return Err(Wrong::new(format!("{word:?} has a NUL in it")).field("command or args"));
    }
    if let Some(cwd) = &cwd
        && !cwd.is_dir()
    {
        let why = format!("{}: there is no such directory", cwd.display());
        return Err(Wrong::new(why).field("cwd"));
    }
    Ok(Some(Command::new(program, args).cwd(cwd).env(env)))
}

fn variables(env: BTreeMap<String, String>) -> Result<Vec<Variable>, Wrong> {
    let bad = |(name, value): &(&String, &String)| {
        name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
    };
    if let Some((name, _)) = env.iter().find(bad) {
        // Not the value, which may be a secret.
        return Err(Wrong::new(format!("{name:?} cannot be a variable")).field("env"));
    }
    Ok(env.into_iter().map(|(name, value)| Variable(name.into(), value.into())).collect())
}

/// A name is a part of a path, as it stands, and of lines of the log.
fn check_name(name: &str) -> Result<(), Wrong> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    if name.is_empty() || !name.chars().all(plain) || matches!(name, "." | "..") {
        let why =
            "a name is a part of a URL: use only letters, digits, \"-\", \".\", \"_\" and \"~\"";
        return Err(Wrong::new(why));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(Wrong::new(format!("a name has {NAME_BYTES_MAX} characters at most")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(&str, &str)]) {
        let found = parse(text).unwrap_or_else(|wrong| panic!("{wrong:?}"));
        let found: Vec<_> =
            found.iter().map(|server| (&*server.name, server.command.to_string())).collect();
        let found: Vec<(&str, &str)> = found.iter().map(|(name, text)| (*name, &**text)).collect();
        assert_eq!(found, expected);
    }

    /// What a person is told about a file.
    fn told(text: &str) -> String {
        let Wrong { server, field, why } = parse(text).expect_err("a mistake");
        ServersError { file: "f.json".into(), server, field, why }.to_string()
    }

    #[track_caller]
    fn wrong(text: &str, expected: &str) {
        assert_eq!(told(text), expected);
    }

    fn one(fields: &str) -> String {
        format!(r#"{{"mcpServers": {{"a": {{{fields}}}}}}}"#)
    }

    #[test]
    fn servers_in_their_order() {
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
    fn mistakes_name_the_server_and_the_field() {
        assert!(told("{").starts_with("f.json: is not JSON: EOF"));
        wrong("[]", "f.json: expected an object");
        wrong("{}", "f.json: there is no \"mcpServers\" in it");
        wrong(r#"{"mcpServers": []}"#, "f.json: mcpServers: expected an object");
        wrong(r#"{"mcpServers": {}}"#, "f.json: mcpServers: there is no server in it");
        let twice = r#"{"mcpServers": {"a": {"command": "x"}, "a": {"command": "y"}}}"#;
        wrong(twice, "f.json: mcpServers: \"a\" is there twice");
        wrong(&one(""), "f.json: server \"a\": command: is missing");
        wrong(&one(r#""command": """#), "f.json: server \"a\": command: is empty");
        wrong(&one(r#""command": 1"#), "f.json: server \"a\": command: expected a string");
        wrong(
            &one(r#""command": "x", "command": "y""#),
            "f.json: server \"a\": \"command\" is there twice",
        );
        let args = "f.json: server \"a\": args: expected a list of strings";
        wrong(&one(r#""command": "x", "args": "y""#), args);
        wrong(&one(r#""command": "x", "args": [1]"#), args);
        let env = "f.json: server \"a\": env: expected an object with strings in it";
        wrong(&one(r#""command": "x", "env": {"A": 1}"#), env);
        wrong(
            &one(r#""command": "x", "env": {"A=B": "secret"}"#),
            "f.json: server \"a\": env: \"A=B\" cannot be a variable",
        );
        wrong(
            &one(r#""command": "x", "cwd": "/nothing/there""#),
            "f.json: server \"a\": cwd: /nothing/there: there is no such directory",
        );
        wrong(
            &one(r#""url": "http://localhost/sse", "type": "sse""#),
            "f.json: server \"a\": type: \"sse\" is not bridged, only \"stdio\"",
        );
        wrong(&one(r#""url": "x""#), "f.json: server \"a\": url: is served over HTTP already");
    }

    #[test]
    fn names_are_parts_of_a_path() {
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
    fn files_that_are_not_there() {
        let told = read(Path::new("/nothing/servers.json")).expect_err("no file").to_string();
        assert!(told.starts_with("/nothing/servers.json: cannot be read: "), "{told}");
    }
}
