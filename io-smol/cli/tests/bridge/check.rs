//! `--check`: the first thing that a user runs.

use std::process::Command;

use mcp_sse_tests::scratch::Scratch;
use serde_json::json;

use crate::support::output;

/// A server that has three tools on two pages, asks something meanwhile, and fails as MODE says.
const SERVER: &str = r#"
echo "$MODE: a line of stderr" >&2
[ "$MODE" = exits ] && exit 7
[ "$MODE" = dies ] && kill -9 $$
[ "$MODE" = silent ] && exec sleep 1000
[ "$MODE" = banner ] && echo 'Listening on stdio'
name=three
[ "$MODE" = coloured ] && name='\u001b[31mred'
say() { printf '{"jsonrpc":"2.0",%s}\n' "$1"; }
while IFS= read -r line; do
    id=${line#*\"id\":} id=${id%%,*}
    case $line in
        *'"method":"initialize"'*)
            [ "$MODE" = refuses ] && say "\"id\":$id,\"error\":{\"code\":-1,\"message\":\"not you\"}" && continue
            [ "$MODE" = odd ] && say "\"id\":$id,\"result\":17" && continue
            say "\"id\":$id,\"result\":{\"protocolVersion\":\"2025-06-18\",\"capabilities\":{\"tools\":{}},\"serverInfo\":{\"name\":\"$name\",\"version\":\"0.3\"}}" ;;
        *'"method":"ping"'*)
            say '"id":"q","method":"roots/list"'
            read -r answer
            case $answer in *'"id":"q"'*-32601*) say "\"id\":$id,\"result\":{}" ;; esac ;;
        *'"cursor":"next"'*) say "\"id\":$id,\"result\":{\"tools\":[{\"name\":\"c\"}]}" ;;
        *'"method":"tools/list"'*)
            say "\"id\":$id,\"result\":{\"tools\":[{\"name\":\"a\"},{\"name\":\"b\"}],\"nextCursor\":\"next\"}" ;;
    esac
done
"#;

/// What the command says on stdout and stderr, and how it ends.
fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-sse"));
    command.args(["bridge", "--check"]).args(args);
    let output = output(command);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn mode(mode: &str) -> (Option<i32>, String, String) {
    run(&["--env", &format!("MODE={mode}"), "--", "sh", "-c", SERVER])
}

#[test]
fn a_server_that_works() {
    let (code, said, told) = mode("works");
    let findings = "ok: sh: three 0.3, protocol version 2025-06-18, 3 tools, within ";
    assert!(said.starts_with(findings) && said.ends_with(" s\n"), "{said}");
    assert_eq!((code, &*told), (Some(0), ""));
    let (_, said, _) = mode("coloured");
    assert!(said.starts_with(r"ok: sh: \u{1b}[31mred 0.3, "), "{said}");
    let (code, said, told) = mode("banner");
    assert_eq!(code, Some(0));
    assert!(said.ends_with("; lines on its stdout that were no messages: 1\n"), "{said}");
    assert!(told.contains("Listening on stdio"), "{told}");
}

#[test]
fn servers_that_do_not() {
    let check = |which: &str, why: &str| {
        let (code, said, told) = mode(which);
        assert_eq!((code, &*said), (Some(1), ""), "{told}");
        let stderr = format!("its stderr ended with:\n  {which}: a line of stderr\n");
        assert_eq!(told, format!("mcp-sse: sh: {why}\n{stderr}"));
    };
    check("exits", "exited with status 7 before it had answered");
    check("dies", "exited with status 137 before it had answered");
    check("refuses", "answered initialize with an error: not you (-1)");
    check("odd", "answered initialize with what is no answer to it");
    check("silent", "no answer to initialize within 10s");
}

#[test]
fn programs_that_are_not_there() {
    let check = |program: &str, why: &str| {
        let (code, said, told) = run(&["--", program]);
        assert_eq!((code, &*said), (Some(1), ""), "{told}");
        assert!(told.ends_with(why), "{told}");
    };
    check("no-such-program", "no-such-program: not found in PATH\n");
    check("/nothing/there", "there is no program /nothing/there\n");
}

#[test]
fn each_server_of_a_file() {
    let scratch = Scratch::new();
    let server =
        |mode: &str| json!({"command": "sh", "args": ["-c", SERVER], "env": {"MODE": mode}});
    let servers = json!({"mcpServers": {"bad": server("exits"), "good": server("works")}});
    let file = scratch.file("servers.json", servers.to_string());
    let (code, said, told) = run(&["--config", &file.display().to_string()]);
    assert_eq!(code, Some(1));
    assert!(said.starts_with("ok: good: three 0.3, "), "{said}");
    assert!(told.starts_with("mcp-sse: bad: exited with status 7 "), "{told}");
}
