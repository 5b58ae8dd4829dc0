//! Servers that are broken in one way each. The doctor names that fault, and nothing else.

use core::time::Duration;
use std::net::TcpListener;
use std::thread;

use serde_json::json;

use crate::scripted::{ENDPOINT, FOR_EVER, HEAD, Script, Scripted, Step, event, result, well};
use crate::support::{PATIENT, Server, examine};
use Step::{Answer, AnswerTwoTogether, Flood, Hold, Say, Wait};

/// Flags for faults that are found by waiting for the whole timeout. A good step takes milliseconds.
const WAITS: [&str; 3] = ["--quick", "--timeout", "8s"];

/// Examines a server for each row, all at once.
#[track_caller]
fn check(rows: &[(Script, &[&str], &[&str])]) {
    let check_row = |(script, flags, expected): &(Script, &[&str], &[&str])| {
        let server = Scripted::start(*script);
        let url = server.url();
        let (codes, report) = examine(&[*flags, &[&*url]].concat(), &[]);
        assert_eq!(codes, *expected, "{report:#}");
    };
    thread::scope(|scope| {
        for row in rows {
            scope.spawn(move || check_row(row));
        }
    });
}

/// A server that answers the GET with this.
const fn says(answer: &'static [Step]) -> Script {
    Script::getting(answer)
}

#[test]
fn good_script_has_no_findings() {
    check(&[(Script::GOOD, &PATIENT, &[])]);
}

#[test]
fn status_of_the_stream_is_told() {
    check(&[
        (
            says(&[Say(
                "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer error=\"invalid_token\"\r\n\
                        Content-Length: 0\r\n\r\n",
            )]),
            &PATIENT,
            &["unauthorized"],
        ),
        (
            says(&[Say("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")]),
            &PATIENT,
            &["unauthorized-no-challenge"],
        ),
        (
            says(&[Say("HTTP/1.1 403 Forbidden\r\nContent-Length: 12\r\n\r\nnot for you.")]),
            &PATIENT,
            &["forbidden"],
        ),
        (
            says(&[Say(
                "HTTP/1.1 421 Misdirected Request\r\nContent-Length: 19\r\n\r\nInvalid Host header",
            )]),
            &PATIENT,
            &["host-refused"],
        ),
        (
            says(&[Say(
                "HTTP/1.1 403 Forbidden\r\nContent-Length: 21\r\n\r\nInvalid Origin header",
            )]),
            &["--quick", "--timeout=60s", "--header=Origin: http://evil.example"],
            &["origin-refused"],
        ),
        (
            says(&[Say(
                "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n",
            )]),
            &PATIENT,
            &["server-error"],
        ),
        (
            says(&[Say("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n")]),
            &PATIENT,
            &["too-many-requests"],
        ),
        (
            says(&[Say(
                "HTTP/1.1 307 Temporary Redirect\r\nLocation: /sse/\r\nContent-Length: 0\r\n\r\n",
            )]),
            &PATIENT,
            &["redirect"],
        ),
        (
            says(&[Say("HTTP/1.1 406 Not Acceptable\r\nContent-Length: 0\r\n\r\n")]),
            &PATIENT,
            &["bad-status"],
        ),
        (
            says(&[Say("HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")]),
            &PATIENT,
            &["method-not-allowed"],
        ),
    ]);
}

#[test]
fn stream_elsewhere_is_found() {
    let server = Scripted::start(Script { path: "/api/sse", ..Script::GOOD });
    let (codes, report) = examine(&[&PATIENT[..], &[&server.url()]].concat(), &[]);
    assert_eq!(codes, ["not-found"]);
    let advice = report["findings"][0]["advice"].as_str().expect("an advice");
    let place = format!("There is an event stream at http://127.0.0.1:{}/api/sse", server.port());
    assert!(advice.starts_with(&place), "{advice}");

    let moved = Scripted::start(Script {
        path: "/nowhere",
        other: &[("POST /mcp ", STREAMABLE)],
        ..Script::GOOD
    });
    let (codes, report) = examine(&[&PATIENT[..], &[&moved.url()]].concat(), &[]);
    assert_eq!(codes, ["not-found"]);
    let advice = report["findings"][0]["advice"].as_str().expect("an advice");
    let place = format!(
        "There is a server of the Streamable HTTP transport at http://127.0.0.1:{}/mcp:",
        moved.port()
    );
    assert!(advice.starts_with(&place), "{advice}");

    let nothing = Scripted::start(Script { path: "/nowhere", ..Script::GOOD });
    let (codes, report) = examine(&[&PATIENT[..], &[&nothing.url()]].concat(), &[]);
    assert_eq!(codes, ["not-found"]);
    let advice = report["findings"][0]["advice"].as_str().expect("an advice");
    assert!(
        advice.starts_with("There is no event stream at /sse/, /sse/sse, /mcp/sse"),
        "{advice}"
    );
}

/// The answer of a server of the other transport to initialize.
const STREAMABLE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nMcp-Session-Id: x\r\n\r\n\
    event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"protocolVersion\":\"2025-03-26\",\
    \"capabilities\":{},\"serverInfo\":{\"name\":\"s\",\"version\":\"1\"}}}\n\n";

#[test]
fn other_transport_is_named() {
    let gone = Scripted::start(Script {
        post_to_stream: STREAMABLE,
        ..says(&[Say("HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")])
    });
    let (codes, _) = examine(&[&PATIENT[..], &[&gone.url()]].concat(), &[]);
    assert_eq!(codes, ["streamable-http"]);
    let both = Scripted::start(Script { post_to_stream: STREAMABLE, ..Script::GOOD });
    let (codes, _) = examine(&[&PATIENT[..], &[&both.url()]].concat(), &[]);
    assert_eq!(codes, ["streamable-http-too"]);
    // The stream is opened by POST too, which is neither of the transports.
    const OPENED: &str =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nevent: endpoint\ndata: /m\n\n";
    check(&[
        (Script { post_to_stream: OPENED, ..Script::GOOD }, &PATIENT, &["fallback-broken"]),
        (
            Script {
                post_to_stream: "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
                ..Script::GOOD
            },
            &PATIENT,
            &["fallback-broken"],
        ),
    ]);
}

#[test]
fn head_of_the_stream_is_judged() {
    check(&[
        (
            says(&[Say(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
            )]),
            &PATIENT,
            &["content-type"],
        ),
        (
            says(&[
                Say(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n",
                ),
                Hold,
            ]),
            &PATIENT,
            &["compressed"],
        ),
        (says(&[Say("SSH-2.0-OpenSSH_9.2\r\n")]), &PATIENT, &["not-http"]),
        (says(&[]), &PATIENT, &["connection-closed"]),
        (says(&[Hold]), &WAITS, &["no-answer"]),
    ]);
}

#[test]
fn endpoint_event_is_judged() {
    const OTHER_PORT: &str = "event: endpoint\ndata: http://127.0.0.1:1/messages?session_id=1\n\n";
    const OTHER_SCHEME: &str = "event: endpoint\ndata: //0.0.0.0/messages?session_id=1\n\n";
    const RELATIVE: &str = "event: endpoint\ndata: messages?session_id=1\n\n";
    const QUERY: &str = "event: endpoint\ndata: ?session_id=1\n\n";
    const DOTS: &str = "event: endpoint\ndata: /a/../messages?session_id=1\n\n";
    const ENCODED: &str = "event: endpoint\ndata: http%3A//127.0.0.1/messages\n\n";
    const OTHER: &str = "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"a\"}\n\n";
    check(&[
        (says(&[Say(HEAD), Say(OTHER_PORT), Hold]), &PATIENT, &["endpoint-other-origin"]),
        (says(&[Say(HEAD), Say(OTHER_SCHEME), Hold]), &PATIENT, &["endpoint-other-origin"]),
        (says(&[Say(HEAD), Say(RELATIVE), Hold]), &PATIENT, &["endpoint-not-absolute-path"]),
        (says(&[Say(HEAD), Say(QUERY), Hold]), &PATIENT, &["endpoint-not-absolute-path"]),
        (says(&[Say(HEAD), Say(DOTS), Hold]), &PATIENT, &["endpoint-not-absolute-path"]),
        (says(&[Say(HEAD), Say(ENCODED), Hold]), &PATIENT, &["endpoint-not-absolute-path"]),
        (
            says(&[Say(HEAD), Say(OTHER), Say(ENDPOINT), Answer(FOR_EVER, well)]),
            &PATIENT,
            &["endpoint-not-first"],
        ),
        (
            says(&[
                Say(HEAD),
                Say(ENDPOINT),
                Answer(1, well),
                Say(ENDPOINT),
                Answer(FOR_EVER, well),
            ]),
            &PATIENT,
            &["endpoint-repeated"],
        ),
        (says(&[Say(HEAD), Say(":\n"), Hold]), &WAITS, &["endpoint-missing"]),
        (says(&[Say(HEAD), Say(OTHER), Hold]), &WAITS, &["endpoint-missing"]),
        (
            says(&[Say(HEAD), Wait(4), Say(ENDPOINT), Answer(FOR_EVER, well)]),
            &["--quick", "--timeout=60s", "--late=2s"],
            &["endpoint-late"],
        ),
        (says(&[Say(HEAD)]), &PATIENT, &["stream-ended-early"]),
        (says(&[Say(HEAD), Say(ENDPOINT), Answer(1, well)]), &PATIENT, &["stream-ended-early"]),
    ]);
}

#[test]
fn complete_url_as_endpoint_is_a_note() {
    // The port of the server is known only when it runs, so the server is a real one behind a rewriting proxy.
    let server = crate::good::Rewriting::start("data: /", "data: http://HOST/");
    let url = format!("http://127.0.0.1:{}/sse", server.port());
    let (codes, report) = examine(&[&PATIENT[..], &[&url]].concat(), &[]);
    assert_eq!(codes, ["endpoint-full-url"], "{report:#}");
    assert_eq!(report["verdict"], "good");
}

#[test]
fn status_of_a_post_is_told() {
    let post = |post| (Script::posting(post), &PATIENT[..]);
    let rows = [
        (
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: /m/\r\nContent-Length: 0\r\n\r\n",
            "post-redirect",
        ),
        ("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "post-refused"),
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "post-unauthorized"),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "post-forbidden"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "post-not-found"),
        ("HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n", "post-method-not-allowed"),
        ("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "post-server-error"),
        ("HTTP/1.1 204 No Content\r\n\r\n", "post-not-202"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 36\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}",
            "post-not-202",
        ),
    ];
    for (answer, code) in rows {
        let (script, flags) = post(answer);
        let server = Scripted::start(script);
        let (codes, report) = examine(&[flags, &[&server.url()]].concat(), &[]);
        assert_eq!(codes, [code], "{report:#}");
    }
    check(&[
        (Script::posting(""), &WAITS, &["post-no-answer"]),
        (
            Script { post_wait: 4, ..Script::GOOD },
            &["--quick", "--timeout=60s", "--late=2s"],
            &["post-late"],
        ),
    ]);
}

/// With several servers and no routing by session, only some of the posts arrive.
#[test]
fn later_post_to_another_server_is_found() {
    const GONE: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 17\r\n\r\nsession not found";
    let script = Script { later_posts: Some((2, GONE)), ..Script::GOOD };
    check(&[(script, &PATIENT, &["post-not-found"])]);
}

#[test]
fn answers_on_the_stream_are_judged() {
    check(&[
        (says(&[Say(HEAD), Say(ENDPOINT), Hold]), &WAITS, &["answer-missing"]),
        (
            says(&[
                Say(HEAD),
                Say(ENDPOINT),
                Answer(FOR_EVER, |request| well(request).replace("message", "response")),
            ]),
            &WAITS,
            &["answer-missing"],
        ),
        (
            says(&[
                Say(HEAD),
                Say(ENDPOINT),
                Answer(FOR_EVER, |request| {
                    event(&json!({"jsonrpc": "2.0", "id": "1", "result": result(request)}))
                }),
            ]),
            &PATIENT,
            &["answer-wrong-id"],
        ),
        (
            says(&[
                Say(HEAD),
                Say(ENDPOINT),
                Answer(FOR_EVER, |_| "event: message\ndata: Server started\n\n".into()),
            ]),
            &PATIENT,
            &["answer-malformed"],
        ),
        (
            says(&[
                Say(HEAD),
                Say(ENDPOINT),
                Answer(FOR_EVER, |request| {
                    let error = json!({"code": -32602, "message": "Unsupported protocol version"});
                    event(&json!({"jsonrpc": "2.0", "id": request["id"], "error": error}))
                }),
            ]),
            &PATIENT,
            &["initialize-refused"],
        ),
        (
            says(&[
                Say(HEAD),
                Say(ENDPOINT),
                Answer(FOR_EVER, |request| {
                    event(&json!({"jsonrpc": "2.0", "id": request["id"], "result": {}}))
                }),
            ]),
            &PATIENT,
            &["initialize-invalid"],
        ),
        (
            says(&[
                Say(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
                ),
                Say("xyz\r\n"),
                Hold,
            ]),
            &PATIENT,
            &["not-http"],
        ),
    ]);
}

/// The answer to a ping arrives only together with that to the next one.
#[test]
fn held_back_events_are_found() {
    let held = says(&[Say(HEAD), Say(ENDPOINT), Answer(1, well), AnswerTwoTogether, Hold]);
    // The endpoint arrives with the next heartbeat.
    const LATE: &str = "event: endpoint\ndata: /messages?session_id=s3cr3t-session\n\n:\n";
    let endpoint = says(&[Say(HEAD), Wait(6), Say(LATE), Answer(FOR_EVER, well)]);
    let flags = &["--quick", "--timeout=60s", "--late=4s"][..];
    check(&[(held, flags, &["buffered"]), (endpoint, flags, &["buffered"])]);
}

#[test]
fn idle_stream_is_watched() {
    let flags = &["--timeout=60s", "--late=30s", "--heartbeat=3s"][..];
    let beating = says(&[Say(HEAD), Say(ENDPOINT), Answer(2, well), Say(":\n"), Wait(2)]);
    check(&[
        (Script::GOOD, flags, &["heartbeat-missing"]),
        (
            says(&[Say(HEAD), Say(ENDPOINT), Answer(2, well), Wait(1)]),
            &["--timeout=60s", "--late=30s", "--heartbeat=60s"],
            &["idle-cut"],
        ),
        (beating, &["--timeout=60s", "--late=30s", "--heartbeat=60s", "--soak=10m"], &["idle-cut"]),
    ]);
}

#[test]
fn cors_is_judged() {
    const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
        Access-Control-Allow-Origin: *\r\n\r\n";
    const ALLOWED: &str = "HTTP/1.1 204 No Content\r\nAccess-Control-Allow-Origin: https://app.example\r\n\
        Access-Control-Allow-Headers: Content-Type, MCP-Protocol-Version\r\n\r\n";
    const LESS: &str = "HTTP/1.1 204 No Content\r\nAccess-Control-Allow-Origin: *\r\n\
        Access-Control-Allow-Headers: content-type\r\n\r\n";
    let open = says(&[Say(PLAIN), Say(ENDPOINT), Answer(FOR_EVER, well)]);
    let with = |options| Script { options: [options; 2], ..open };
    let flags = [&PATIENT[..], &["--origin=https://app.example"]].concat();
    let with_key = [&flags[..], &["--header=X-Key: s3cr3t"]].concat();
    const ANY: &str = "HTTP/1.1 204 No Content\r\nAccess-Control-Allow-Origin: *\r\n\
        Access-Control-Allow-Headers: *\r\n\r\n";
    let with_token = [&flags[..], &["--header=Authorization: Bearer s3cr3t"]].concat();
    check(&[
        (with(ALLOWED), &flags, &[]),
        (with(ANY), &with_key, &[]),
        (with(ANY), &with_token, &["cors-preflight"]),
        (with(ALLOWED), &with_key, &["cors-preflight"]),
        (with(LESS), &flags, &["cors-preflight"]),
        (open, &flags, &["cors-preflight"]),
        (Script { options: [ALLOWED; 2], ..Script::GOOD }, &flags, &["cors-missing"]),
    ]);
    let (codes, report) = {
        let server = Scripted::start(with(LESS));
        examine(&[&flags[..], &[&server.url()]].concat(), &[])
    };
    assert_eq!(codes, ["cors-preflight"]);
    assert!(report.to_string().contains("does not name mcp-protocol-version"), "{report:#}");
}

#[test]
fn unreachable_servers_are_told_apart() {
    let (codes, _) = examine(&["http://nowhere.invalid/sse", "--timeout=60s"], &[]);
    assert_eq!(codes, ["name-not-found"]);
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").port()
    };
    let (codes, _) = examine(&[&format!("http://127.0.0.1:{port}/sse"), "--timeout=60s"], &[]);
    assert_eq!(codes, ["port-refused"]);
}

/// A listener whose queue is full does not answer, like an address behind a firewall.
#[cfg(target_os = "linux")]
#[test]
fn silent_address_is_told() {
    use core::net::{Ipv4Addr, SocketAddr};
    use std::net::TcpStream;

    use socket2::{Domain, Socket, Type};

    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a port");
    listener.listen(0).expect("a queue of one");
    let address = listener.local_addr().expect("an address").as_socket().expect("TCP");
    let mut queue = Vec::new();
    while let Ok(socket) = TcpStream::connect_timeout(&address, Duration::from_millis(500)) {
        queue.push(socket);
        assert!(queue.len() < 64, "the queue is not bounded");
    }
    let (codes, _) = examine(&[&format!("http://{address}/sse"), "--timeout=1s"], &[]);
    assert_eq!(codes, ["connect-timed-out"]);
}

/// Faults of real servers that are set up wrongly.
#[test]
fn wrong_setups_of_real_servers_are_named() {
    let guarded = Server::start(
        &["--port=0", "--auth-token-env=T"],
        &[("T", "alice:0123456789abcdef0123456789abcdef")],
    );
    let at = |server: &Server, path: &str| format!("http://127.0.0.1:{}{path}", server.port());
    let url = at(&guarded, "/sse");
    let flags = |own: &[&'static str]| [&PATIENT[..], own].concat();
    let examined =
        |own: &[&'static str], url: &str| examine(&[&flags(own)[..], &[url]].concat(), &[]).0;
    assert_eq!(examined(&[], &url), ["unauthorized"]);
    assert_eq!(examined(&["--header=Authorization: Bearer no"], &url), ["unauthorized"]);
    let open = Server::start(&["--port=0"], &[]);
    let url = at(&open, "/sse");
    assert_eq!(examined(&["--header=Host: mcp.example"], &url), ["host-refused"]);
    assert_eq!(examined(&["--header=Origin: https://app.example"], &url), ["origin-refused"]);
    assert_eq!(examined(&["--origin=https://app.example"], &url), ["cors-preflight"]);
    assert_eq!(examined(&[], &at(&open, "/messages")), ["method-not-allowed"]);
    assert_eq!(examined(&[], &at(&open, "/")), ["not-found"]);
    // A proxy offers the server at /mcp/sse, and the server does not know.
    let proxy = crate::good::Stripping::start(open.port());
    let url = format!("http://127.0.0.1:{}/mcp/sse", proxy.port());
    assert_eq!(examined(&[], &url), ["endpoint-without-prefix"]);
}

/// What arrives without a pause does not keep the doctor from noticing that time is over.
#[test]
fn flood_does_not_keep_the_doctor_from_ending() {
    const NOTIFICATION: &str = "data: {\"jsonrpc\":\"2.0\",\"method\":\"n\"}\n\n";
    const CHUNKED: &str = "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
    let flags = &["--quick", "--timeout=16s", "--late=8s"];
    check(&[
        (says(&[Say(HEAD), Flood(NOTIFICATION)]), flags, &["endpoint-missing"]),
        (says(&[Say(HEAD), Flood(":\n\n")]), flags, &["endpoint-missing"]),
        (says(&[Say(HEAD), Say(ENDPOINT), Flood(NOTIFICATION)]), flags, &["answer-missing"]),
        (says(&[Say(CHUNKED), Flood("a: b\r\n")]), flags, &["not-found"]),
    ]);
}

/// A notification that follows the last answer is an event from before, and no heartbeat.
#[test]
fn event_before_the_idle_time_is_no_heartbeat() {
    fn well_and_more(request: &serde_json::Value) -> String {
        well(request) + &event(&json!({"jsonrpc": "2.0", "method": "n"}))
    }
    const GET: &[Step] =
        &[Say(HEAD), Say(ENDPOINT), Answer(1, well), Answer(1, well_and_more), Hold];
    let flags = &["--timeout=60s", "--late=30s", "--heartbeat=2s"];
    check(&[(says(GET), flags, &["heartbeat-missing"])]);
}
