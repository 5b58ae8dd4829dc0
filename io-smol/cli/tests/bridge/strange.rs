//! Servers that behave strangely affect only their own session.

use core::fmt::Write;
use core::time::Duration;
use std::time::Instant;

use mcp_sse_tests::client::{Client, Stream, StreamItem, answer, call};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Bridge, INITIALIZE, LONG, StreamExt, get, within};

/// The session's requests are answered with this error, and then its stream ends.
#[track_caller]
fn expect_error(stream: &mut Stream, why: &str) {
    let message = stream.message();
    assert!(message.starts_with(r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32603,"#), "{message}");
    assert!(message.contains(&format!("\"message\":\"{why}\"")), "{message}");
    stream.expect_end();
}

/// A server in this mode ends its session with this error, and another session continues.
#[track_caller]
fn check_end(mode: &str, why: &str) {
    let bridge = Bridge::start(&[]);
    let mut bystander = bridge.bystander();
    let mut stream = bridge.open(mode);
    stream.say(INITIALIZE);
    expect_error(&mut stream, why);
    bystander.check_alive(mode);
    // A second session, because the first one must not have broken the bridge.
    let mut stream = bridge.open(mode);
    stream.say(INITIALIZE);
    expect_error(&mut stream, why);
    bystander.check_alive(mode);
    within(LONG, "its end", || bridge.descendants().len() == 2);
}

/// A server in this mode works nevertheless.
#[track_caller]
fn check_use(mode: &str, logged: &[&str]) {
    let bridge = Bridge::start(&[]);
    let mut bystander = bridge.bystander();
    let mut stream = bridge.open(mode);
    stream.begin();
    stream.check_alive(mode);
    bystander.check_alive(mode);
    logged.iter().for_each(|text| bridge.wait_for_log(text));
}

#[test]
fn server_exiting_at_once_fails_its_requests() {
    check_end("exit", "MCP server process exited (status 3)");
}

#[test]
fn server_exiting_later_fails_its_requests() {
    check_end("exit-later", "MCP server process exited (status 4)");
}

#[test]
fn server_killed_fails_its_requests() {
    check_end("killed", "MCP server process exited (status 137)");
}

#[test]
fn program_not_executable_is_reported() {
    check_end("missing", "MCP server process could not be started (status 127)");
}

#[test]
fn endless_invalid_output_does_not_end_the_session() {
    let bridge = Bridge::start(&[]);
    let mut bystander = bridge.bystander();
    let mut stream = bridge.open("rubbish");
    stream.say(INITIALIZE);
    bridge.wait_for_log("invalid output of the server");
    for _ in 0..10 {
        bystander.check_alive("rubbish");
    }
    drop(stream);
    within(LONG, "its end", || bridge.descendants().len() == 2);
}

/// However much other servers print, a post is accepted within [`TURNS_MAX`] of their turns. A turn reads 8 KiB.
#[test]
fn posts_are_taken_while_servers_print_without_end() {
    const TURN_BYTES: u64 = 8 << 10;
    const TURNS_MAX: u64 = 300;
    const POSTS: usize = 300;
    let bridge = Bridge::start(&["--log-level", "error"]);
    let mut bystander = bridge.bystander();
    let printing: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = bridge.open("rubbish");
            stream.say(INITIALIZE);
            stream
        })
        .collect();
    let before = bridge.read();
    within(LONG, "both print", || bridge.read() > before + 20 * TURN_BYTES);
    for n in 0..POSTS {
        let before = bridge.read();
        bystander.say(&call(n, "[]"));
        let turns = (bridge.read() - before) / TURN_BYTES;
        assert!(turns <= TURNS_MAX, "post {n} waited while others had {turns} turns");
        assert_eq!(bystander.message(), answer(n, "[]"));
    }
    drop(printing);
    within(LONG, "their end", || bridge.descendants().len() == 2);
}

#[test]
fn server_closing_its_output_ends_the_session() {
    check_end("closes-output", "MCP server process closed its output");
}

/// A session in the mode "closes-input" ends with an error for each accepted request, although nothing is written to
/// its server after the first `posts`.
#[track_caller]
fn check_closed_input(bridge: &Bridge, posts: u32) {
    let mut stream = bridge.open("closes-input");
    // The session may end between two posts. Every accepted request is answered.
    let taken: Vec<u32> =
        (0..posts).filter(|id| stream.post(&initialize(*id)).status == 202).collect();
    assert_eq!(taken.first(), Some(&0), "the first post finds a session");
    assert_eq!(stream.message(), r#"{"jsonrpc":"2.0","method":"closes"}"#);
    for id in taken {
        let message = stream.message();
        let begins = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32603,"#);
        assert!(message.starts_with(&begins), "{message}");
        assert!(message.contains("MCP server process closed its input"), "{message}");
    }
    stream.expect_end();
}

fn initialize(id: u32) -> String {
    INITIALIZE.replace("\"id\":0", &format!("\"id\":{id}"))
}

#[test]
fn server_closing_its_input_ends_the_session() {
    let bridge = Bridge::start(&[]);
    let mut bystander = bridge.bystander();
    // The first message may be written before the pipe is closed. No other is written.
    check_closed_input(&bridge, 1);
    check_closed_input(&bridge, 2);
    bystander.check_alive("closes-input");
    within(LONG, "its end", || bridge.descendants().len() == 2);
}

#[test]
fn check_reports_exit_though_helpers_hold_the_output() {
    check_end("held", "MCP server process exited (status 5)");
}

#[test]
fn stderr_at_exit_is_logged() {
    let bridge = Bridge::start(&[]);
    let mut stream = bridge.open("last-words");
    stream.say(INITIALIZE);
    expect_error(&mut stream, "MCP server process exited (status 6)");
    bridge.wait_for_log("stderr line 899 of many");
    let log = bridge.log();
    assert!((0..900).all(|n| log.contains(&format!(": stderr line {n} of"))), "{log}");
}

#[test]
fn stderr_beyond_its_rate_is_counted_and_not_logged() {
    let bridge = Bridge::start(&["--stderr-lines-per-second", "100"]);
    let mut stream = bridge.open("shouts");
    stream.begin();
    let counted = || -> u64 {
        let log = bridge.log();
        let counts = log.lines().filter_map(|line| line.split_once(" lines on stderr were not"));
        counts.filter_map(|(text, _)| text.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    };
    let logged = || bridge.log().matches(": shout ").count() as u64;
    within(LONG, "all lines, logged or counted", || counted() + logged() == 3_000);
    assert!(logged() >= 100 && counted() > 0, "{} were logged", logged());
    assert!(bridge.log().contains("--stderr-lines-per-second"), "the setting is named");
    drop(stream);
    within(LONG, "its end", || bridge.descendants().is_empty());
}

#[test]
fn banner_lines_on_stdout_are_ignored() {
    let bridge = Bridge::start(&["--log-level", "debug"]);
    let mut stream = bridge.open("banner");
    stream.begin();
    stream.check_alive("banner");
    for text in ["Starting..", "[INFO] { ready", "\u{fffd}\u{fffd}"] {
        within(LONG, text, || {
            bridge.log().lines().any(|line| line.contains("not a message") && line.contains(text))
        });
    }
}

/// Invalid lines of many servers, and of one server without end, cause one log line a second.
#[test]
fn lines_without_messages_do_not_flood_the_log() {
    const SERVERS: usize = 30;
    let bridge = Bridge::start(&[]);
    let start = Instant::now();
    for _ in 0..SERVERS {
        let mut stream = bridge.open("banner");
        stream.begin();
    }
    let mut stream = bridge.open("rubbish");
    stream.say(INITIALIZE);
    bridge.wait_for_log("more since this was last logged");
    drop(stream);
    let logged = bridge.log().matches("invalid output of the server").count() as u64;
    // One line for each second that has begun. The last one may be written after the log is read.
    let most = start.elapsed().as_secs() + 2;
    assert!((1..=most).contains(&logged), "{logged} lines in {most} s");
    within(LONG, "their end", || bridge.descendants().is_empty());
}

/// Each of many workers has a small share of the limit on queues.
#[test]
fn server_request_larger_than_the_queue_is_answered_with_an_error() {
    let bridge = Bridge::start(&["--workers", "16"]);
    let mut stream = bridge.open("asks-much");
    stream.begin();
    let told = r#"{"jsonrpc":"2.0","method":"told","params":[{"jsonrpc":"2.0","id":5,"error":{"code":-32603,"message":"the request is larger than the queue of any client"}}]}"#;
    assert_eq!(stream.message(), told);
    stream.check_alive("asks-much");
}

#[test]
fn server_request_unreadable_is_answered_with_an_error() {
    let bridge = Bridge::start(&[]);
    let mut stream = bridge.open("asks-wrongly");
    stream.begin();
    let told = stream.message();
    let begins = r#"{"jsonrpc":"2.0","method":"told","params":[{"jsonrpc":"2.0","id":5,"error":{"code":-32700,"message":"the request cannot be passed on: "#;
    assert!(told.starts_with(begins), "{told}");
    stream.check_alive("asks-wrongly");
    bridge.wait_for_log("a request that cannot be passed on");
}

#[test]
fn lines_split_at_every_byte_are_read() {
    check_use("bytes", &[]);
}

#[test]
fn line_of_twenty_mebibytes_is_dropped() {
    check_use("endless", &["a line of more than 16777216 bytes"]);
}

#[test]
fn stderr_lines_are_logged_with_the_session() {
    check_use("noisy", &["INFO  mcp_sse::stderr] s1v2: from stderr"]);
}

#[test]
fn last_line_without_an_end_is_read_at_exit() {
    let bridge = Bridge::start(&[]);
    let mut stream = bridge.open("unended");
    stream.begin();
    stream.expect_end();
}

#[test]
fn pretty_printed_messages_are_read() {
    let bridge = Bridge::start(&[]);
    let mut stream = bridge.open("pretty");
    stream.say(&INITIALIZE.replace("\"id\":0", "\"id\":1"));
    let message = stream.message();
    assert!(message.contains("\"id\": 1") && !message.contains('\n'), "{message}");
    stream.check_alive("pretty");
}

#[test]
fn batches_on_stdout_are_taken_apart() {
    let bridge = Bridge::start(&[]);
    let mut stream = bridge.open("batch");
    stream.say(&INITIALIZE.replace("\"id\":0", "\"id\":1"));
    assert_eq!(stream.message(), r#"{"jsonrpc":"2.0","method":"a"}"#);
    assert_eq!(stream.message(), r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    stream.check_alive("batch");
}

/// More requests in sequence than a session may have in flight.
#[test]
fn lost_answers_are_reported_and_free_their_request() {
    let bridge = Bridge::start(&[]);
    let mut stream = bridge.open("broken");
    stream.begin();
    for id in 1..=70 {
        stream.say(&call(id, "[]"));
        let told = stream.message();
        let begins = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32603,"message":"the server's answer cannot be passed on: Parse error"#
        );
        assert!(told.starts_with(&begins), "{told}");
    }
    bridge.wait_for_log("an answer that cannot be passed on");
}

#[test]
fn answers_not_quite_json_are_read_as_clients_read_them() {
    let bridge = Bridge::start(&[]);
    let mut stream = bridge.open("garbled");
    stream.begin();
    stream.say(&call(7, r#"["x"]"#));
    assert_eq!(stream.message(), answer(7, "[\"\u{fffd}\",null]"));
}

#[test]
fn server_not_reading_ends_with_its_session() {
    let bridge = Bridge::start(&[]);
    let mut bystander = bridge.bystander();
    let mut stream = bridge.open("deaf");
    stream.say(INITIALIZE);
    // More notifications than fit into the pipe and the queue: posts are held, and then refused.
    let mut large = String::from(r#"{"jsonrpc":"2.0","method":"large","params":""#);
    let _ = write!(large, "{}\"}}", "x".repeat(1 << 20));
    let post = stream.post_request(&large);
    let mut poster = Client::connect(bridge.address());
    let mut accepted = 0;
    let refused = loop {
        match poster.ask(&post) {
            response if response.status == 202 => accepted += 1,
            response => break response,
        }
        assert!(accepted < 10, "posts are accepted without a limit");
    };
    assert_eq!(refused.status, 503);
    assert!(refused.field("Retry-After").is_some());
    bystander.check_alive("deaf");
    assert_eq!(bridge.descendants().len(), 4);
    drop((stream, poster));
    within(LONG, "its end", || bridge.descendants().len() == 2);
    bystander.check_alive("deaf");
}

#[test]
fn server_printing_more_than_its_client_reads_is_paused() {
    let bridge = Bridge::start(&["--log-level", "warn"]);
    let mut bystander = bridge.bystander();
    let mut slow = Client::connect(bridge.address());
    slow.send(get("flood"));
    let mut listener = bridge.open("flood");
    let endpoint = {
        let mut text = String::new();
        while !text.contains("\n\n") {
            text.push_str(&String::from_utf8_lossy(&slow.read_once()));
        }
        text.lines().find_map(|line| line.strip_prefix("data: ")).expect("an endpoint").to_owned()
    };
    let post = mcp_sse_tests::client::post_request(&endpoint, INITIALIZE);
    assert_eq!(Client::connect(bridge.address()).ask(post).status, 202);
    listener.say(INITIALIZE);
    let before = bridge.resident();
    for n in 0..20_000 {
        let expected = format!(r#"{{"jsonrpc":"2.0","method":"flood","params":[{n}]}}"#);
        assert_eq!(listener.message(), expected);
    }
    bystander.check_alive("a flood");
    // The server of a client that does not read has to wait, and the bridge stores only a limited part of its output.
    let grown = bridge.resident().saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB");
    drop((slow, listener));
    within(LONG, "their end", || bridge.descendants().len() == 2);
}

/// A slow client gets the output that was still in the pipe of a killed server, and then the reason of its end,
/// however long that takes.
#[test]
fn slow_client_gets_all_that_a_killed_server_printed() {
    let bridge = Bridge::start(&["--log-level", "warn"]);
    let mut slow = bridge.open("flood");
    slow.say(INITIALIZE);
    // The client does not read, so the bridge stops reading and writing.
    let mut written = bridge.written();
    let mut same = 0;
    within(LONG, "a bridge that waits", || {
        std::thread::sleep(Duration::from_millis(20));
        let now = bridge.written();
        same = if now == written { same + 1 } else { 0 };
        written = now;
        same > 20
    });
    // The guard has the lowest process id, and the server the next.
    let mut pids = bridge.descendants();
    pids.sort_unstable();
    let server = Pid::from_raw(pids[1] as i32).expect("a process id");
    kill_process(server, Signal::KILL).expect("it runs");
    // Longer than a server may take to exit after it has closed its stdout or stdin. A shorter time would test
    // nothing.
    std::thread::sleep(Duration::from_secs(2));
    let mut said = 0;
    let last = loop {
        let message = slow.message();
        let expected = format!(r#"{{"jsonrpc":"2.0","method":"flood","params":[{said}]}}"#);
        if message != expected {
            break message;
        }
        said += 1;
    };
    assert!(last.contains("MCP server process exited (status 137)"), "{last} behind {said}");
    assert!(said > 0);
    slow.expect_end();
}

#[test]
fn three_start_failures_make_the_bridge_not_ready() {
    let bridge = Bridge::start(&[]);
    let ready = || {
        let request = "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";
        Client::connect(bridge.address()).ask(request).status
    };
    for _ in 0..3 {
        assert_eq!(ready(), 200);
        let mut stream = bridge.open("missing");
        stream.say(INITIALIZE);
        expect_error(&mut stream, "MCP server process could not be started (status 127)");
    }
    within(LONG, "not ready", || ready() == 503);
    bridge.bystander();
    within(LONG, "ready again", || ready() == 200);
}

#[test]
fn requests_not_taken_yet_are_answered_at_the_end() {
    let bridge = Bridge::start(&[]);
    let mut stream = bridge.open("exit-later");
    let requests: Vec<_> = (0..20)
        .map(|id| stream.post_request(&call(id, "[]").replace("echo", "initialize")))
        .collect();
    Client::connect(bridge.address()).send(requests.concat());
    let mut answered = 0;
    loop {
        match stream.next_item() {
            StreamItem::Event(event) => {
                assert!(event.data.contains("\"code\":-32603"), "{}", event.data);
                answered += 1;
            }
            StreamItem::End => break,
            StreamItem::Cut => panic!("an end in order"),
        }
    }
    // Later posts were refused, because their session had ended.
    assert!((1..=20).contains(&answered), "{answered}");
}
