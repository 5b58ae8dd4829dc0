//! The file that names several servers, in the shape that clients of MCP keep theirs.
//!
//! Knows: `{"mcpServers": {"name": {"command", "args", "env", "cwd"}}}`, and how to tell what is wrong
//! with one. Does not know: how they are served.
//!
//! Decided: what an object means does not depend on the order of its members, so each is looked up by its
//! name, and one that is there twice is a mistake. A member that is `null` is absent. An entry that is not
//! served (`disabled`, or with a `url`, which clients have for servers on the network) is left out with a
//! line in the log, whatever else is in it: the file is the client's too, and has to suit both.

use core::fmt;
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

/// Reads the servers in a file, in their order. Those that are `disabled` or have a `url` are left out,
/// and the log says which. A byte order mark in front is passed over.
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

/// The members of an object; those that are `null` are absent.
fn present(text: &str) -> Result<Vec<(String, &RawValue)>, Wrong> {
    let Members(mut members) =
        serde_json::from_str(text).map_err(|_| Wrong::new("expected an object"))?;
    members.retain(|(_, raw)| raw.get() != "null");
    Ok(members)
}

/// The same, and none is there twice.
fn members(text: &str) -> Result<Vec<(String, &RawValue)>, Wrong> {
    let members = present(text)?;
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
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
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
    let servers = members(servers.get()).map_err(|wrong| wrong.field("mcpServers"))?;
    let all = servers.len();
    let mut found = Vec::new();
    for (name, raw) in servers {
        let wrong = |wrong: Wrong| wrong.server(&name);
        match left_out(raw.get()).map_err(wrong)? {
            Some(why) => log::warn!("server {name:?} is left out: {why}"),
            None => {
                let command = server(&name, raw.get()).map_err(wrong)?;
                found.push(Server { name, command });
            }
        }
    }
    match (found.len(), all) {
        (0, 0) => Err(Wrong::new("there is no server in it").field("mcpServers")),
        (0, _) => {
            let why = format!("none of the {all} in it is to be served: see the log");
            Err(Wrong::new(why).field("mcpServers"))
        }
        _ => Ok(found),
    }
}

/// Why an entry is not served, whatever else is in it; `None` if it is.
fn left_out(text: &str) -> Result<Option<&'static str>, Wrong> {
    let fields = present(text)?;
    let all = |field: &'static str| fields.iter().filter(move |(name, _)| name == field);
    // If it is there twice, that is a mistake, unless both say the same.
    let mut disabled = false;
    for (at, (field, raw)) in all("disabled").enumerate() {
        let found = value(raw, field, "true or false")?;
        if at > 0 && found != disabled {
            return Err(Wrong::new(format!("{field:?} is there twice")));
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

fn server(name: &str, text: &str) -> Result<Command, Wrong> {
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
                return Err(Wrong::new(why).field(field));
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
        Some(_) => return Err(Wrong::new("is empty").field("command")),
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
    Ok(Command::new(program, args).cwd(cwd).env(env))
}

fn variables(raw: &RawValue) -> Result<Vec<Variable>, Wrong> {
    const WHAT: &str = "an object with strings in it";
    let _: Members<'_> = value(raw, "env", WHAT)?;
    let mut variables = Vec::new();
    for (name, raw) in members(raw.get()).map_err(|wrong| wrong.field("env"))? {
        let text: String = value(raw, "env", WHAT)?;
        if name.is_empty() || name.contains(['=', '\0']) || text.contains('\0') {
            // Not the value, which may be a secret.
            return Err(Wrong::new(format!("{name:?} cannot be a variable")).field("env"));
        }
        variables.push(Variable(name.into(), text.into()));
    }
    Ok(variables)
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
            &one(r#""command": "x", "type": "sse""#),
            "f.json: server \"a\": type: \"sse\" is not bridged, only \"stdio\"",
        );
        wrong(
            &one(r#""command": "x", "env": {"A": "1", "A": "2"}"#),
            "f.json: server \"a\": env: \"A\" is there twice",
        );
        wrong(
            &one(r#""command": "x", "disabled": "yes""#),
            "f.json: server \"a\": disabled: expected true or false",
        );
        wrong(
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
    fn entry_that_is_disabled_or_elsewhere_is_left_out_in_any_order_of_members() {
        let off = r#""disabled": true"#;
        let url = r#""url": "http://localhost/sse""#;
        for wrong in [
            r#""type": "sse""#,
            url,
            r#""env": []"#,
            r#""args": 7"#,
            r#""command": """#,
            r#""cwd": "/nothing/there""#,
            r#""command": "x", "command": "y""#,
        ] {
            check_orders("a", &[off, wrong, r#""more": 1"#], &[]);
            check_orders("a", &[url, wrong, r#""more": 1"#], &[]);
        }
        for name in ["my server", "github.com/x/y", "", &"x".repeat(NAME_BYTES_MAX + 1)] {
            check_orders(name, &[off, r#""command": "x""#], &[]);
            check_orders(name, &[url], &[]);
        }
        let none = "f.json: mcpServers: none of the 1 in it is to be served: see the log";
        wrong(&one(off), none);
        wrong(&one(url), none);
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
        wrong(&one(r#""command": null"#), "f.json: server \"a\": command: is missing");
        wrong(r#"{"mcpServers": null}"#, "f.json: there is no \"mcpServers\" in it");
        wrong(r#"{"mcpServers": {"a": null}}"#, "f.json: mcpServers: there is no server in it");
    }

    #[test]
    fn byte_order_mark_is_passed_over() {
        check(&format!("\u{feff}{}", one(r#""command": "x""#)), &[("a", "x")]);
        assert!(told("\u{feff}\u{feff}{}").starts_with("f.json: is not JSON: "));
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
