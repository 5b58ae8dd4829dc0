//! `mcp-sse bridge --check`.

use std::process::Command;

use mcp_sse_tests::scratch::Scratch;
use serde_json::json;

use crate::support::output;

/// A server that has three tools on two pages, sends a request of its own, and fails as the variable MODE says.
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
            [ "$MODE" = broken ] && say "\"id\":$id,\"result\":no" && continue
            [ "$MODE" = odd ] && say "\"id\":$id,\"result\":17" && continue
            say "\"id\":$id,\"result\":{\"protocolVersion\":\"2025-06-18\",\"capabilities\":{\"tools\":{}},\"serverInfo\":{\"name\":\"$name\",\"version\":\"0.3\"}}" ;;
        *'"method":"ping"'*)
            say '"id":"q","method":"roots/list"'
            read -r answer
            case $answer in *'"id":"q"'*-32601*) say "\"id\":$id,\"result\":{}" ;; esac ;;
        *'"cursor":"next"'*) say "\"id\":$id,\"result\":{\"tools\":[{\"name\":\"c\"}]}" ;;
        *'"method":"tools/list"'*)
            [ "$MODE" = leaving ] && exec <&- && sleep 0.3
            case $MODE in unended | leaving) printf '{"jsonrpc":"2.0","id":%s,"result":{"tools":[]}}' "$id"; exit 0 ;; esac
            say "\"id\":$id,\"result\":{\"tools\":[{\"name\":\"a\"},{\"name\":\"b\"}],\"nextCursor\":\"next\"}" ;;
    esac
done
"#;

/// Runs the command to its end. Returns its output and its exit status.
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
fn check_of_a_working_server_succeeds() {
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
fn last_line_without_an_end_is_read() {
    let (code, said, told) = mode("unended");
    assert!(said.starts_with("ok: sh: three 0.3, protocol version 2025-06-18, 0 tools"), "{told}");
    assert_eq!((code, &*told), (Some(0), ""));
}

/// A server that exits closes its stdin shortly before its stdout.
#[test]
fn last_line_of_a_server_that_has_closed_its_input_is_read() {
    let (code, said, told) = mode("leaving");
    assert!(said.starts_with("ok: sh: three 0.3, protocol version 2025-06-18, 0 tools"), "{told}");
    assert_eq!((code, &*told), (Some(0), ""));
}

#[test]
fn check_of_a_failing_server_says_why() {
    let check = |which: &str, why: &str| {
        let (code, said, told) = mode(which);
        assert_eq!((code, &*said), (Some(1), ""), "{told}");
        let stderr = format!("its stderr ended with:\n  {which}: a line of stderr\n");
        assert_eq!(told, format!("mcp-sse: sh: {why}\n{stderr}"));
    };
    check("exits", "exited with status 7 before it had answered");
    check("dies", "exited with status 137 before it had answered");
    check("refuses", "answered initialize with an error: not you (-1)");
    let (code, _, told) = mode("broken");
    let why = "answered initialize with an invalid result";
    assert!(
        code == Some(1) && told.contains(why) && told.contains("cannot be passed on"),
        "{told}"
    );
    check("odd", "answered initialize with an invalid result");
}

#[test]
fn check_of_a_silent_server_reports_progress_and_timeout() {
    let flags = ["--check-timeout", "1s", "--env", "MODE=silent", "--", "sh", "-c", SERVER];
    let (code, said, told) = run(&flags);
    assert_eq!((code, &*said), (Some(1), ""), "{told}");
    let lines: Vec<&str> = told.lines().collect();
    let [progress, verdict, _, last] = &lines[..] else { panic!("{told}") };
    assert!(progress.starts_with("mcp-sse: sh: no answer to initialize yet after 0.5 s"), "{told}");
    assert!(progress.ends_with("; its last line on stderr: silent: a line of stderr"), "{told}");
    assert_eq!(*verdict, "mcp-sse: sh: no answer to initialize within 1s (--check-timeout)");
    assert_eq!(*last, "  silent: a line of stderr");
}

#[test]
fn server_that_closes_its_input_fails_the_check() {
    let script = "exec <&-; exec sleep 1000";
    let (code, _, told) = run(&["--check-timeout", "30s", "--", "sh", "-c", script]);
    assert_eq!(code, Some(1));
    assert!(told.starts_with("mcp-sse: sh: closed its stdin"), "{told}");
}

/// The first server answers only after the second has answered everything, so both must run at once.
#[test]
fn check_of_a_file_runs_at_once_and_reports_in_order() {
    let scratch = Scratch::new();
    let wait = |path: &str| format!("while [ ! -e {path} ]; do sleep 0.01; done\n");
    let (started, done) = (scratch.path("started"), scratch.path("done"));
    let (started, done) = (started.display().to_string(), done.display().to_string());
    let first = format!("touch {started}\n{}{SERVER}", wait(&done));
    let second = format!("{}{SERVER}\ntouch {done}", wait(&started));
    let server =
        |script: &str| json!({"command": "sh", "args": ["-c", script], "env": {"MODE": "works"}});
    let servers = json!({"mcpServers": {"first": server(&first), "second": server(&second)}});
    let file = scratch.file("servers.json", servers.to_string());
    let (code, said, told) =
        run(&["--check-timeout", "30s", "--config", &file.display().to_string()]);
    assert_eq!(code, Some(0), "{told}");
    let lines: Vec<&str> = said.lines().collect();
    let [one, two] = &lines[..] else { panic!("{said}") };
    assert!(one.starts_with("ok: first: ") && two.starts_with("ok: second: "), "{said}");
}

#[test]
fn missing_program_is_a_start_error() {
    let check = |program: &str, why: &str| {
        let (code, said, told) = run(&["--", program]);
        assert_eq!((code, &*said), (Some(1), ""), "{told}");
        assert!(told.ends_with(why), "{told}");
    };
    check("no-such-program", "no-such-program: not found in PATH\n");
    check("/nothing/there", "there is no program /nothing/there\n");
}

#[test]
fn check_of_a_file_reports_every_server() {
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
