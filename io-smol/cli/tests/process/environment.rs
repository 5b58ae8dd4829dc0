//! Flags that environment variables set.

use std::fs;

use mcp_sse_tests::client::Client;
use mcp_sse_tests::scratch::Scratch;

use crate::support::{Program, command, eventually, failure, open_with_token, post_with_token};

/// With these variables and arguments the command fails with status 2, and says all of `said`.
#[track_caller]
fn check_mistake(variables: &[(&str, &str)], args: &[&str], said: &[&str]) {
    let (status, told) = failure(command(args).envs(variables.iter().copied()));
    assert_eq!(status, Some(2), "{told}");
    for said in said {
        assert!(told.contains(said), "{said}: {told}");
    }
}

#[test]
fn value_from_the_environment_that_is_wrong_names_its_variable() {
    let by = |flag: &str, name: &str| format!("{flag} is set by the environment variable {name}");
    let check = |name: &str, value: &str, flag: &str| {
        for args in [&[][..], &["demo"], &["bridge", "cat"]] {
            check_mistake(&[(name, value)], args, &[&by(flag, name)]);
        }
    };
    check("MCP_SSE_PORT", "x", "--port");
    check("PORT", "x", "--port");
    check("MCP_SSE_SSE_PATH", "x", "--sse-path");
    check("MCP_SSE_MAX_BODY", "4MB", "--max-body");
    check("MCP_SSE_REQUIRE_HTTPS", "maybe", "--require-https");
    check("MCP_SSE_RATE_LIMIT", "10/second often", "--rate-limit");
    check("MCP_SSE_ALLOW_HOST", "a.example http://x", "--allow-host");
    check("MCP_SSE_AUTH_TOKEN_FILE", "/nothing", "--auth-token-file");
    check("MCP_SSE_TLS_KEY", "key.pem", "--tls-key");
    let config = by("--config", "MCP_SSE_CONFIG");
    check_mistake(&[("MCP_SSE_CONFIG", "/nothing")], &["bridge"], &[&config]);
    // Neither of two variables that exclude each other is known to be meant.
    let both = [("MCP_SSE_UNIX", "/s"), ("MCP_SSE_PORT", "1")];
    check_mistake(&both, &[], &["MCP_SSE_UNIX", "MCP_SSE_PORT", "cannot be used with"]);
}

#[test]
fn flags_are_set_by_variables_and_the_command_line_takes_precedence() {
    let served = |variables: &[(&str, &str)], args: &[&str]| {
        Program::launch(command(args).envs(variables.iter().copied())).banner.clone()
    };
    let port = ("MCP_SSE_PORT", "0");
    let path = ("MCP_SSE_SSE_PATH", "/of-variable");
    assert!(served(&[port, path], &[]).contains("/of-variable\n"));
    assert!(served(&[port, path], &["demo", "--sse-path", "/typed"]).contains("/typed\n"));
    assert!(served(&[port, path], &["bridge", "cat"]).contains("/of-variable\n"));
    // What is wrong in a variable does not matter if its flag is typed.
    served(&[("MCP_SSE_PORT", "x")], &["--port", "0"]);
    served(&[("PORT", "0"), ("MCP_SSE_PORT", "")], &[]);
    served(&[("PORT", "x"), port], &[]);
    // A Service of Kubernetes that is named mcp-sse sets these.
    served(&[("MCP_SSE_PORT", "tcp://10.0.0.1:80"), ("PORT", "0")], &[]);
    let tokens = [("MCP_SSE_AUTH_TOKEN_ENV", "ONE TWO"), ("ONE", "one"), ("TWO", "two:two"), port];
    let server = Program::launch(command(&[]).envs(tokens));
    for (token, status) in [("one", 200), ("two", 200), ("three", 401)] {
        let mut client = Client::connect(server.address());
        let head = "GET /sse HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer";
        client.send(format!("{head} {token}\r\n\r\n"));
        assert_eq!(client.head().status, status, "{token}");
    }
    // Switches take yes and no; a switch that is off excludes no other flag.
    let off = [("MCP_SSE_SHARED", "no"), ("MCP_SSE_HEADER_TO_ENV", "X-A=A X-B=B"), port];
    let on = [("MCP_SSE_SHARED", "1"), port];
    assert!(served(&off, &["bridge", "cat"]).contains("a process of its own"));
    assert!(!served(&on, &["bridge", "cat"]).contains("a process of its own"));
}

#[test]
fn port_of_a_platform_breaks_no_unix_socket_and_leaves_the_host_at_loopback() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let path = path.to_str().expect("a path");
    let port = ("PORT", "1");
    let certificate = [("MCP_SSE_TLS_CERT", "c"), ("MCP_SSE_TLS_KEY", "k")];
    for variables in [vec![port], vec![("MCP_SSE_PORT", "1"), ("MCP_SSE_HOST", "::"), port]] {
        // TLS needs TCP, so the socket's path on the command line excludes the certificate and its key.
        let variables = [&variables[..], &certificate].concat();
        let server = Program::launch(command(&["--unix", path]).envs(variables));
        assert!(server.banner.contains(path), "{}", server.banner);
    }
    let server = Program::launch(command(&[]).envs([port, ("MCP_SSE_UNIX", path)]));
    assert!(server.banner.contains(path), "{}", server.banner);
    let server = Program::launch(command(&[]).env("PORT", "0"));
    assert!(server.address().ip().is_loopback(), "{}", server.banner);
    server.wait_for_log("can connect if --host or MCP_SSE_HOST is 0.0.0.0 or ::");
}

#[test]
fn variable_of_no_flag_is_logged() {
    let token =
        [("MCP_SSE_PORT", "0"), ("MCP_SSE_TOKEN", "t"), ("MCP_SSE_SERVICE_HOST", "10.0.0.1")];
    let server = Program::launch(
        command(&["--auth-token-env", "MCP_SSE_TOKEN"]).envs(token).env("MCP_SSE_PROT", "9"),
    );
    server.wait_for_log("variable MCP_SSE_PROT sets no flag");
    let log = server.log();
    assert!(!log.contains("TOKEN") && !log.contains("SERVICE"), "{log}");
}

/// The value of every token is withheld from the processes of bridged servers, and so is what the service manager and
/// a hosting platform have set for this program alone.
#[test]
fn bridged_process_does_not_inherit_the_variables_of_the_command() {
    let scratch = Scratch::new();
    let path = scratch.path("environment");
    let line = format!("env > {0}.part; mv {0}.part {0}; cat", path.display());
    let variables = [
        ("MCP_SSE_AUTH_TOKEN_ENV", "SECRET_TOKEN"),
        ("SECRET_TOKEN", "hunter2"),
        ("MCP_SSE_ENV", "unused"),
        ("PORT", "0"),
        ("NOTIFY_SOCKET", "/nothing/notify"),
        ("WATCHDOG_USEC", "1"),
        ("WATCHDOG_PID", "1"),
        ("LISTEN_PID", "1"),
        ("LISTEN_FDS", "1"),
        ("FOR_ALL", "inherited"),
    ];
    let args = ["bridge", "--env", "MCP_SSE_MEANT=set", "--shell", &line];
    let server = Program::launch(command(&args).envs(variables));
    let stream = open_with_token(&server.address().into(), "hunter2");
    assert_eq!(post_with_token(&server.address().into(), &stream.endpoint, "hunter2"), 202);
    let text = eventually(|| fs::read_to_string(&path).ok()).expect("a process");
    let names: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    for (name, _) in variables {
        assert_eq!(names.contains(&name), name == "FOR_ALL", "{name}: {text}");
    }
    assert!(names.contains(&"MCP_SSE_MEANT") && names.contains(&"PATH"), "{text}");
    assert!(!text.contains("hunter2"));
}

/// `--help` names the variable of every flag except the documented ones.
#[test]
fn help_names_the_variable_of_every_flag() {
    for args in [&["--help"][..], &["demo", "--help"], &["bridge", "--help"]] {
        let output = command(args).output().expect("it runs");
        let help = String::from_utf8(output.stdout).expect("text");
        let flags = help.lines().filter_map(|line| {
            let flag = line.trim_start().trim_start_matches("-h, ").trim_start_matches("-V, ");
            flag.strip_prefix("--").filter(|_| !line.starts_with("        "))?.split(' ').next()
        });
        let without = ["help", "version", "check", "check-timeout", "env"];
        let mut count = 0;
        for flag in flags.filter(|flag| flag.chars().all(|c| c.is_ascii_lowercase() || c == '-')) {
            let name = format!("MCP_SSE_{}", flag.to_uppercase().replace('-', "_"));
            let named = help.contains(&format!("[env: {name}]"));
            assert_eq!(named, !without.contains(&flag), "{args:?}: {flag}");
            count += 1;
        }
        assert!(count > 20, "{count}");
        let words: Vec<&str> = help.split_whitespace().collect();
        assert!(words.join(" ").contains("PORT is used"), "{args:?}");
    }
}
