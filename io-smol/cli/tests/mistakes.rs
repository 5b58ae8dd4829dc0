//! The error messages and exit statuses of the command.

use core::net::Ipv6Addr;
use core::time::Duration;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Instant;

/// The output of the command, which must end. It is killed if it does not, for example because it serves.
#[track_caller]
fn output(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-sse"));
    let command = command.args(args).stdin(Stdio::null());
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
    let until = Instant::now() + Duration::from_secs(60);
    // The whole output fits into a pipe.
    while child.try_wait().expect("it can be waited for").is_none() {
        if Instant::now() > until {
            let _ = child.kill();
            panic!("{args:?} does not end: {:?}", child.wait_with_output());
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("its output")
}

/// The command fails with this exit status and one line that contains this text.
#[track_caller]
fn check_code(code: i32, args: &[&str], said: &str) {
    let output = output(args);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
    assert!(told.starts_with("mcp-sse: ") && told.contains(said), "{args:?}: {told}");
    assert_eq!(told.lines().count(), 1, "{args:?}: {told}");
    assert!(output.stdout.is_empty(), "{args:?}: nothing is promised");
}

#[track_caller]
fn check(args: &[&str], said: &str) {
    check_code(1, args, said);
}

#[test]
fn invalid_settings_are_flag_errors() {
    check_code(2, &["--sse-path", "sse"], "see --sse-path");
    check_code(2, &["demo", "--heartbeat", "0"], "see --heartbeat");
    check_code(2, &["--allow-host", "http://x"], "see --allow-host");
}

#[cfg(unix)]
#[test]
fn servers_that_cannot_be_run_are_start_errors() {
    check_code(2, &["bridge", "--", "no-such-program"], "there is no program no-such-program");
    check_code(2, &["bridge", "--cwd", "/nothing", "--", "sh"], "no such directory");
    check_code(2, &["bridge", "--sse-path", "sse", "--", "sh"], "see --sse-path");
}

/// The error message contains `said`, and ends with the line to type.
#[cfg(unix)]
#[track_caller]
fn check_line(args: &[&str], said: &str, line: &str) {
    check_code(2, args, &format!("{line}\n"));
    check_code(2, args, said);
}

#[cfg(unix)]
#[test]
fn command_as_one_word_is_answered_with_the_lines_to_type() {
    let apart =
        "there is no program npx -y foo, and it is one word: type mcp-sse bridge npx -y foo";
    let whole = "or, for a shell to read it, mcp-sse bridge --shell 'npx -y foo'";
    check_line(&["bridge", "--", "npx -y foo"], apart, whole);
    check_line(&["bridge", "npx -y foo"], apart, whole);
    check_line(
        &["bridge", "--check", "npx -y foo"],
        "mcp-sse bridge --check npx -y foo",
        "'npx -y foo'",
    );
    let args = ["--port", "0", "bridge", "--env=A=b c", "--", "npx -y foo"];
    let apart = "type mcp-sse bridge --port 0 '--env=A=b c' npx -y foo, or";
    check_line(&args, apart, "mcp-sse bridge --port 0 '--env=A=b c' --shell 'npx -y foo'");
    // A command with quotes or a pipe needs a shell.
    let args = ["bridge", "--", "a 'b c' | d"];
    check_line(
        &args,
        "it is one word: type mcp-sse",
        r"mcp-sse bridge --shell 'a '\''b c'\'' | d'",
    );
}

#[cfg(unix)]
#[test]
fn command_as_one_word_in_a_file_is_answered_with_the_members() {
    let scratch = mcp_sse_tests::scratch::Scratch::new();
    let file = scratch.file("servers.json", r#"{"mcpServers": {"a": {"command": "npx -y foo"}}}"#);
    let said = r#"server "a": there is no program npx -y foo, and it is one word: "#;
    let file = file.to_str().expect("a path");
    let line = r#"write "command": "npx", "args": ["-y","foo"]"#;
    check_line(&["bridge", "--config", file], said, line);
}

#[cfg(unix)]
#[test]
fn flags_of_other_bridges_are_answered_with_the_line_to_type() {
    let check = |args: &[&str], line: &str| check_line(args, "of another program: type", line);
    check(&["--stdio", "npx -y foo"], "mcp-sse bridge npx -y foo");
    check(&["bridge", "--stdio", "npx -y foo"], "mcp-sse bridge npx -y foo");
    check(&["--stdio=a | b", "--port", "9"], "mcp-sse bridge --port 9 --shell 'a | b'");
    check(
        &["--stdio", "x", "--outputTransport", "sse", "--baseUrl", "http://h", "--ssePath", "/s"],
        "mcp-sse bridge --sse-path /s x",
    );
    check(
        &["--messagePath", "/m", "--logLevel", "none", "--cors", "--stdio", "x"],
        "mcp-sse bridge --message-path /m --log-level off --cors-origin '*' x",
    );
    check(
        &["--sse-port=9", "--sse-host", "::1", "--no-pass-environment", "--", "uvx", "-q", "y z"],
        "mcp-sse bridge --port 9 --host ::1 --clean-env uvx -q 'y z'",
    );
    check(&["--named-server-config", "a b.json"], "mcp-sse bridge --config 'a b.json'");
    check(
        &["--server", "sse", "--debug", "npx", "foo"],
        "mcp-sse bridge --log-level debug npx foo",
    );
    check(
        &["bridge", "--ssePath", "/s", "sh", "--stdio"],
        "mcp-sse bridge --sse-path /s sh --stdio",
    );
    check(&["bridge", "--env", "A", "b", "sh", "--", "-c"], "mcp-sse bridge --env A=b sh -- -c");
    // Without a command to run, the line has a placeholder.
    check(&["bridge", "--env", "A", "sh"], "mcp-sse bridge --env A=sh COMMAND");
    check(&["bridge", "--stateful", "--port", "9"], "mcp-sse bridge --port 9 COMMAND");
    check(&["--ssePath", "/s"], "mcp-sse --sse-path /s");
    check_code(2, &["--stdio", "x", "--outputTransport", "ws"], "--outputTransport ws: ");
    check_code(2, &["--sse", "https://example.com/sse"], "--sse: ");
}

#[cfg(unix)]
#[test]
fn command_without_bridge_is_answered_with_the_line_to_type() {
    check_line(&["npx", "-y", "foo"], "there is no command npx", "mcp-sse bridge npx -y foo");
    let line = "mcp-sse bridge --port 0 npx -y foo";
    check_line(&["--port", "0", "npx", "-y", "foo"], "there is no command npx", line);
    let check = |args: &[&str], line: &str| check_line(args, "the command bridge: type", line);
    check(&["--shared", "--", "sh", "-c"], "mcp-sse bridge --shared sh -c");
    check(&["--", "sh"], "mcp-sse bridge sh");
    check(&["--shell", "a | b", "--port", "9"], "mcp-sse bridge --port 9 --shell 'a | b'");
    check(&["--config", "a b.json"], "mcp-sse bridge --config 'a b.json'");
    check(&["--check", "--config=f.json"], "mcp-sse bridge --check --config=f.json");
}

/// These errors have the parser's own message and suggestion.
#[test]
fn other_errors_are_left_to_the_parser() {
    let told = |args: &[&str]| {
        let output = output(args);
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(told(&["brigde", "sh"]).contains("'bridge'"));
    assert!(told(&["bridge", "--prot", "9", "sh"]).contains("'--port'"));
    assert!(told(&["--no-such-flag", "--stdio", "x"]).contains("--no-such-flag"));
    assert!(told(&["bridge", "--port", "0"]).contains("<COMMAND>"));
}

#[cfg(unix)]
#[test]
fn flags_in_front_of_the_command_are_accepted() {
    check_code(
        2,
        &["--port", "0", "bridge", "--", "no-such-program"],
        "no program no-such-program",
    );
    let args = ["--port=0", "--cwd", "/nothing", "--workers", "2", "bridge", "sh"];
    check_code(2, &args, "no such directory");
    check_code(2, &["--heartbeat", "0", "demo"], "see --heartbeat");
    // Flags in front of the command and after it are checked together.
    let output = output(&["--port=1", "bridge", "--unix=/s", "sh"]);
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(told.contains("cannot be used with"), "{told}");
}

#[cfg(unix)]
#[test]
fn bridge_help_lists_its_flags_under_a_heading() {
    let output = output(&["bridge", "--help"]);
    let help = String::from_utf8(output.stdout).expect("text");
    // Each flag with the heading above it.
    let mut under = std::collections::BTreeMap::new();
    let mut heading = "";
    for line in help.lines() {
        if !line.starts_with(' ') && line.ends_with(':') {
            heading = line;
        } else if let Some(flag) = line.trim_start().split([' ', '[']).find(|w| w.starts_with("--"))
            && line.starts_with("  ")
            && line.trim_start().starts_with('-')
        {
            under.insert(flag.to_owned(), heading);
        }
    }
    for flag in ["--shell", "--cwd", "--env", "--config", "--shared", "--check"] {
        assert_eq!(under.get(flag), Some(&"What to run:"), "{flag}: {help}");
    }
    for flag in ["--auth-token-file", "--max-sessions-per-peer"] {
        assert_eq!(under.get(flag), Some(&"Access control:"), "{flag}: {help}");
    }
    for flag in ["--host", "--log-level"] {
        assert_eq!(under.get(flag), Some(&"Options:"), "{flag}: {help}");
    }
}

#[test]
fn localhost_port_taken_in_one_family_is_an_error() {
    let taken = match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(socket) => socket,
        Err(error) => return println!("not tried, there is no ::1: {error}"),
    };
    let port = taken.local_addr().expect("its address").port().to_string();
    let args = ["--host=localhost", "--port", &port];
    check(&args, &format!("cannot listen on localhost:{port}: "));
    check(&args, "; choose another port with --port");
}

#[test]
fn require_https_without_tls_or_proxy_is_refused() {
    check_code(2, &["--require-https"], "add --tls-cert FILE --tls-key FILE, or --trusted-proxy");
}

#[cfg(feature = "tls")]
#[test]
fn certificate_files_unreadable_are_start_errors() {
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let missing = "/nothing/cert.pem";
    let said = "certificate file /nothing/cert.pem: cannot be read";
    check(&["--port=0", "--tls-cert", missing, "--tls-key", here], said);
    let said = "Cargo.toml: has no certificate in it";
    check(&["demo", "--port=0", "--tls-cert", here, "--tls-key", missing], said);
    check(&["--port=0", "--tls-cert", here, "--tls-key", missing], "see --tls-cert");
}

#[cfg(unix)]
#[test]
fn unix_path_of_another_file_is_refused() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let before = fs::read(Path::new(file)).expect("a file");
    check(&["--unix", file], "exists and is not a socket");
    assert_eq!(fs::read(Path::new(file)).expect("a file"), before);
    check(&["--unix", "/nothing/mcp.sock"], "cannot listen on /nothing/mcp.sock");
}
