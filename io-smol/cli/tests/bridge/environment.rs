//! A request can only set variables that the operator has named, and only in its own session's process.

use std::time::Instant;

use mcp_sse_tests::client::{Client, Stream};
use mcp_sse_tests::scratch::Scratch;

use crate::support::{Bridge, INITIALIZE, StreamExt};

/// The directory, variables and arguments of a process that was started for a session with these header fields and
/// this target.
fn seen(bridge: &Bridge, target: &str, fields: &str) -> String {
    let request =
        format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nX-Mode: environment\r\n{fields}\r\n");
    let mut stream = Stream::open_with(bridge.address(), &request);
    stream.say(&INITIALIZE.replace("\"id\":0", "\"id\":1"));
    let message = stream.message();
    let result = message.split_once("\"result\":").expect("a result").1;
    result.strip_suffix('}').expect("an end").to_owned()
}

#[test]
fn request_does_not_influence_the_command() {
    let scratch = Scratch::new();
    let directory = scratch.as_path().canonicalize().expect("a directory");
    let directory = directory.to_str().expect("a name");
    let bridge = Bridge::start(&["--cwd", directory, "--header-to-env", "X-Api-Key=API_KEY"]);
    let usual = format!(r#"["{directory}","none","none","1","fixed argument"]"#);
    assert_eq!(seen(&bridge, "/sse", ""), usual);
    let evil = "EVIL: yes\r\nX-EVIL: yes\r\nPWD: /\r\nX-Forwarded-Prefix: /x\r\nCwd: /\r\n";
    let target = "/sse?command=evil&args=evil&cwd=/&env=EVIL=yes&EVIL=yes&url=x";
    assert_eq!(seen(&bridge, target, evil), usual);
    // The named field becomes a variable, only for this session.
    let named = format!(r#"["{directory}","k; $(id)","none","1","fixed argument"]"#);
    assert_eq!(seen(&bridge, "/sse", "x-api-key: k; $(id)\r\n"), named);
    assert_eq!(seen(&bridge, "/sse", ""), usual);
    let twice = "X-Api-Key: a\r\nX-Api-Key: b\r\n";
    assert_eq!(seen(&bridge, "/sse", twice), usual);
}

#[test]
fn env_flag_overrides_inherited_variables() {
    let flags = ["--clean-env", "--env", "EVIL=good", "--env", "PYTHONUNBUFFERED="];
    let bridge = Bridge::start(&flags);
    let seen = seen(&bridge, "/sse", "");
    assert!(seen.ends_with(r#","none","good","","fixed argument"]"#), "{seen}");
}

#[test]
fn shell_line_is_run_by_the_shell() {
    let line = r#"read -r line; echo "{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{}}" | cat"#;
    let bridge = Bridge::start_with(&["--shell", line], &[]);
    bridge.bystander();
}

/// A session without the header field does not get the variable of another session, whether the other session has
/// ended or not, and whether the operator has set a default or not.
#[test]
fn header_variable_of_one_session_is_absent_from_the_next() {
    let variable = |seen: &str| seen.split(',').nth(1).expect("a variable").to_owned();
    for (flags, otherwise) in
        [(&[][..], r#""none""#), (&["--env", "API_KEY=default"][..], r#""default""#)]
    {
        let named = ["--header-to-env", "X-Api-Key=API_KEY"];
        let bridge = Bridge::start(&[&named, flags].concat());
        let with = |key: &str| variable(&seen(&bridge, "/sse", &format!("X-Api-Key: {key}\r\n")));
        let without = || variable(&seen(&bridge, "/sse", ""));
        assert_eq!(with("first"), r#""first""#);
        assert_eq!(without(), otherwise, "after a session that has ended");
        let mut open = Stream::open_with(
            bridge.address(),
            "GET /sse HTTP/1.1\r\nHost: localhost\r\nX-Mode:\r\nX-Api-Key: second\r\n\r\n",
        );
        open.begin();
        assert_eq!(without(), otherwise, "beside a session that is open");
        assert_eq!(with("third"), r#""third""#);
        assert_eq!(without(), otherwise);
    }
}

/// A browser's preflight allows the fields of `--header-to-env`.
#[test]
fn preflight_allows_the_fields_that_become_variables() {
    let cors = ["--cors-origin", "http://localhost:*", "--cors-header", "X-Trace"];
    let bridge = Bridge::start(&[&cors[..], &["--header-to-env", "X-Api-Key=API_KEY"]].concat());
    for (path, method) in [("/sse", "GET"), ("/messages", "POST")] {
        let mut client = Client::connect(bridge.address());
        client.send(format!(
            "OPTIONS {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost:6274\r\n\
             Access-Control-Request-Method: {method}\r\n\
             Access-Control-Request-Headers: content-type,x-api-key\r\n\
             Access-Control-Request-Private-Network: true\r\n\r\n"
        ));
        let response = client.head();
        assert_eq!(response.status, 204, "{response:?}");
        let allowed = response.field("Access-Control-Allow-Headers").expect("a list");
        for name in ["X-Mode", "X-Api-Key", "X-Trace", "authorization"] {
            assert!(allowed.split(", ").any(|known| known == name), "{name}: {allowed}");
        }
        assert_eq!(response.field("Access-Control-Allow-Private-Network"), Some("true"));
    }
}

/// A client that opens many failing sessions causes one log line a second.
#[test]
fn failing_sessions_are_logged_once_a_second() {
    const SESSIONS: u64 = 60;
    let bridge = Bridge::start(&["--header-to-env", "X-Api-Key=API_KEY"]);
    let start = Instant::now();
    for _ in 0..SESSIONS {
        let request = "GET /sse HTTP/1.1\r\nHost: localhost\r\nX-Mode: exit\r\n\
                       X-Api-Key: a\r\nX-Api-Key: b\r\n\r\n";
        let mut stream = Stream::open_with(bridge.address(), request);
        stream.say(INITIALIZE);
        assert!(stream.message().contains("exited (status 3)"));
        stream.expect_end();
    }
    let lines_max = 2 + start.elapsed().as_secs();
    for cause in ["MCP server process exited", "was sent more than once"] {
        bridge.wait_for_log(cause);
        let log = bridge.log();
        let count = log.lines().filter(|line| line.contains(cause)).count() as u64;
        assert!((1..=lines_max).contains(&count), "{cause}: {count} of {lines_max}\n{log}");
    }
}
