//! The output of `doctor`, its exit statuses, and what it never prints.

use crate::scripted::{ENDPOINT, HEAD, Script, Scripted, Step};
use crate::support::{PATIENT, examine, run};

#[test]
fn text_tells_steps_and_what_to_do() {
    let server = Scripted::start(Script { path: "/other", ..Script::GOOD });
    let url = server.url();
    let output = run(&[&["doctor"], &PATIENT[..], &[&url]].concat(), &[]);
    let told = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(1), "{told}");
    let mut lines = told.lines();
    assert_eq!(lines.next(), Some(&*format!("mcp-sse doctor {url}")));
    for start in [
        "ok    name              127.0.0.1 is 127.0.0.1 (",
        "ok    connection        to 127.0.0.1:",
        "FAIL  stream            the server answered 404 (",
        "problem (not-found): The server answered 404 to the GET, with \"not found\".",
        "  What to do: There is no event stream at ",
        "1 thing was found.",
    ] {
        assert!(told.lines().any(|line| line.starts_with(start)), "{start}: {told}");
    }
}

#[test]
fn good_server_exits_with_0() {
    let server = Scripted::start(Script::GOOD);
    let output = run(&[&["doctor"], &PATIENT[..], &[&server.url()]].concat(), &[]);
    let told = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.ends_with("Nothing wrong was found.\n"), "{told}");
    assert!(told.contains("note (protocol-version): The server is \"scripted\" \"1\""), "{told}");
}

#[test]
fn json_has_all_parts() {
    let server = Scripted::start(Script::GOOD);
    let (_, report) = examine(&[&PATIENT[..], &[&server.url()]].concat(), &[]);
    assert_eq!(report["url"], server.url());
    let measured = &report["measurements"];
    for name in
        ["name_ms", "connect_ms", "first_byte_ms", "endpoint_ms", "initialize_ms", "ping_ms"]
    {
        assert!(measured[name].as_f64().is_some_and(|ms| ms >= 0.0), "{name}: {report:#}");
    }
    assert_eq!((&measured["status"], &measured["server_name"]), (&200.into(), &"scripted".into()));
    let steps = report["steps"].as_array().expect("an array");
    let names: Vec<_> = steps.iter().filter_map(|step| step["name"].as_str()).collect();
    let expected = [
        "name",
        "connection",
        "stream",
        "endpoint",
        "post initialize",
        "initialize",
        "post initialized",
        "post ping",
        "ping",
        "fallback",
        "heartbeat",
    ];
    assert_eq!(names, expected);
    assert!(steps.iter().all(|step| step["result"] == "ok" || step["name"] == "heartbeat"));
}

/// A server that repeats everything does not make the doctor print it.
#[test]
fn secrets_are_never_printed() {
    const ECHO: &str = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer hint=\"bearer-s3cr3t\"\r\n\
        Content-Length: 42\r\n\r\nkey-s3cr3t bearer-s3cr3t query-s3cr3t \x1b[2J";
    // The token is cut where the text is.
    const LONG: &str = concat!(
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 220\r\n\r\n\u{2067}...........................................",
        "................................................................................................",
        "...............................................bearer-s3cr3t....................................",
    );
    const REPEATS: &str =
        "HTTP/1.1 400 Bad\r\nContent-Length: 40\r\n\r\nkey-s3cr3t bearer-s3cr3t s3cr3t-session ";
    let servers = [
        Script { path: "/sse?key=query-s3cr3t", ..Script::getting(&[Step::Say(ECHO)]) },
        Script { path: "/sse?key=query-s3cr3t", ..Script::getting(&[Step::Say(LONG)]) },
        Script {
            path: "/sse?key=query-s3cr3t",
            post: REPEATS,
            ..Script::getting(&[Step::Say(HEAD), Step::Say(ENDPOINT), Step::Hold])
        },
    ];
    for script in servers {
        let server = Scripted::start(script);
        let url = format!("{}?key=query-s3cr3t", server.url());
        let flags = ["--header=X-Key: key-s3cr3t", "--bearer-env=TOKEN", &url];
        for form in [&["doctor"][..], &["doctor", "--json"]] {
            let args = [form, &PATIENT, &flags].concat();
            let output = run(&args, &[("TOKEN", "bearer-s3cr3t")]);
            let told = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
            assert_eq!(output.status.code(), Some(1), "{told}");
            assert!(!told.contains("s3cr3t") && !told.contains("bearer-s"), "{told}");
            assert!(!told.contains('\u{2067}'), "{told}");
            assert!(!told.contains('\x1b') && !told.contains("\\u001b"), "{told}");
            assert!(told.contains("key=…"), "{told}");
        }
    }
}

#[test]
fn invalid_command_line_exits_with_2_and_repeats_no_secret() {
    let check = |args: &[&str], said: &str| {
        let output = run(&[&["doctor"], args].concat(), &[("EMPTY", " ")]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {told}");
        assert!(told.contains(said) && !told.contains("s3cr3t"), "{args:?}: {told}");
        assert!(output.stdout.is_empty());
    };
    let url = "http://127.0.0.1:1/sse";
    check(&["127.0.0.1:1"], "expected a URL");
    check(&["http://me:s3cr3t@127.0.0.1:1/"], "use --header or --bearer-env");
    check(&["--header", "s3cr3t", url], "--header number 1: expected a name");
    check(&["--header=Content-Length: 1", url], "cannot be set");
    check(&["--bearer-env=NOT_SET_ANYWHERE", url], "there is no variable NOT_SET_ANYWHERE");
    check(&["--bearer-env=EMPTY", url], "holds no token");
    check(&["--origin=https://a.example/path", url], "--origin: expected");
    check(&["--late=20s", url], "--late must be less than --timeout");
    check(&["--timeout=11m", url], "--timeout");
    check(&["--quick", "--soak=1m", url], "--soak");
    check(&[], "<URL>");
    let output =
        run(&["doctor", "--bearer-env=T", "--header=Authorization: s3cr3t", url], &[("T", "x")]);
    assert_eq!(output.status.code(), Some(2));
}
