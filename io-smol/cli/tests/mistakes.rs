//! What the command says when it cannot do what it was told, and how it ends.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The command fails with this code and one line that says this.
#[track_caller]
fn check_code(code: i32, args: &[&str], said: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-sse"));
    command.args(args);
    let output = mcp_sse_tests::within(mcp_sse_tests::TEST_MAX, "the command's end", move || {
        command.output().expect("the command starts")
    });
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
fn settings_that_make_no_sense() {
    check_code(2, &["--sse-path", "sse"], "see --sse-path");
    check_code(2, &["demo", "--heartbeat", "0"], "see --heartbeat");
    check_code(2, &["--allow-host", "http://x"], "see --allow-host");
}

#[cfg(unix)]
#[test]
fn servers_that_cannot_be_run() {
    check_code(2, &["bridge", "--", "no-such-program"], "there is no program no-such-program");
    check_code(2, &["bridge", "--cwd", "/nothing", "--", "sh"], "no such directory");
    check_code(2, &["bridge", "--sse-path", "sse", "--", "sh"], "see --sse-path");
}

#[cfg(feature = "tls")]
#[test]
fn certificate_files() {
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
fn files_that_are_not_sockets() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let before = fs::read(Path::new(file)).expect("a file");
    check(&["--unix", file], "exists and is not a socket");
    assert_eq!(fs::read(Path::new(file)).expect("a file"), before);
    check(&["--unix", "/nothing/mcp.sock"], "cannot listen on /nothing/mcp.sock");
}
