//! One process for all sessions.

use std::fs;
use std::thread;

use mcp_sse_tests::client::{Client, Stream, answer, call, health};
use mcp_sse_tests::scratch::Scratch;
use serde_json::{Value, json};

use crate::support::{Bridge, LONG, StreamExt, within};

/// A server as a shell script. It answers each request with its params, and has a special behaviour for some methods.
/// It writes its input to a file, and does not start while a certain file exists.
const SERVER: &str = r#"
[ -e "$BROKEN" ] && exit 3
while IFS= read -r line; do
    printf '%s\n' "$line" >>"$RECORD"
    case $line in *'"id":'*) ;; *) continue ;; esac
    id=${line#*\"id\":} id=${id%%,*} params=null
    case $line in *'"params":'*) params=${line#*\"params\":} params=${params%\}} ;; esac
    case $line in
        *'"method":"die"'*) exit 5 ;;
        *'"method":"last"'*) printf '{"jsonrpc":"2.0","id":%s,"result":{}}' "$id"; exit 5 ;;
        *'"method":"broken"'*) printf '{"jsonrpc":"2.0","id":%s,"result":no}\n' "$id"; continue ;;
        *'"method":"update"'*) printf '{"jsonrpc":"2.0","method":"notifications/resources/updated","params":%s}\n' "$params" ;;
        *'"method":"hang"'*) continue ;;
        *'"method":"deaf"'*) exec sleep 1000 ;;
        *'"method":"helped"'*) sleep 1000 & setsid sleep 1000 & exit 5 ;;
        *'"method":"close"'*) exec <&-; exec sleep 1000 ;;
        *'"method":"loud"'*)
            [ -n "$noise" ] || noise=$(head -c 262144 /dev/zero | tr '\0' x)
            printf '{"jsonrpc":"2.0","method":"noise","params":"%s"}\n' "$noise" ;;
        *'"method":"ask"'*)
            echo '{"jsonrpc":"2.0","id":"q","method":"sampling/createMessage","params":{}}'
            IFS= read -r params ;;
        *'"method":"progress"'*)
            token=${line#*\"progressToken\":} token=${token%%\}*}
            printf '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"progress":1}}\n' "$token" ;;
    esac
    printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$params"
done
"#;

struct Shared {
    bridge: Bridge,
    scratch: Scratch,
}

impl Shared {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(flags: &[&str]) -> Self {
        let scratch = Scratch::new();
        let variable = |name: &str| format!("{name}={}", scratch.path(name).display());
        let (record, broken) = (variable("RECORD"), variable("BROKEN"));
        let shared = ["--shared", "--env", &record, "--env", &broken];
        let bridge = Bridge::launch(&[flags, &shared, &["--", "sh", "-c", SERVER]].concat());
        Self { bridge, scratch }
    }

    fn open(&self) -> Stream {
        Stream::open(self.bridge.address())
    }

    /// A session after its handshake.
    #[track_caller]
    fn begin(&self) -> Stream {
        let mut stream = self.open();
        let params = r#"{"protocolVersion":"2024-11-05","capabilities":{"sampling":{}}}"#;
        stream.say(&call(1, params).replace("echo", "initialize"));
        let welcome = r#"{"capabilities":{},"protocolVersion":"2024-11-05"}"#;
        assert_eq!(stream.message(), answer(1, welcome));
        stream.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        stream
    }

    /// The messages that the server has received, without `notifications/initialized`.
    fn heard(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.scratch.path("RECORD")).unwrap_or_default();
        let values = text.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        values.filter(|value: &Value| value["method"] != "notifications/initialized").collect()
    }

    fn set_broken(&self, broken: bool) {
        let file = self.scratch.path("BROKEN");
        if broken { fs::write(file, "") } else { fs::remove_file(file) }.expect("a file");
    }
}

fn died(id: u32) -> String {
    let error = r#"{"code":-32603,"message":"MCP server process exited (status 5)"}"#;
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
}

fn method(name: &str, id: u32) -> String {
    call(id, "{}").replace("echo", name)
}

#[test]
fn fifty_clients_with_equal_ids_get_their_own_answers() {
    let shared = Shared::start();
    thread::scope(|scope| {
        for client in 0..50 {
            let shared = &shared;
            scope.spawn(move || {
                let mut stream = shared.begin();
                let mut poster = Client::connect(shared.bridge.address());
                let params = |id: u32| format!("\"client {client} call {id}\"");
                // All requests are sent at once.
                let calls: Vec<_> =
                    (1..=100).map(|id| stream.post_request(&call(id, &params(id)))).collect();
                poster.send(calls.concat());
                for id in 1..=100 {
                    assert_eq!(stream.message(), answer(id, &params(id)));
                }
                for _ in 1..=100 {
                    assert_eq!(poster.response().status, 202);
                }
            });
        }
    });
    // The server and its guard.
    assert_eq!(shared.bridge.descendants().len(), 2);
    assert!(!shared.bridge.log().contains(" WARN "));
    let heard = shared.heard();
    assert_eq!(heard.len(), 1 + 50 * 100);
    assert_eq!(heard[0]["params"]["capabilities"], json!({}), "no capabilities");
}

/// The sessions, their posts and the process are on different threads, and there is only one process.
#[test]
fn clients_of_two_workers_share_one_process() {
    let shared = Shared::start_with(&["--workers", "2"]);
    thread::scope(|scope| {
        for client in 0..16 {
            let shared = &shared;
            scope.spawn(move || {
                let mut stream = shared.begin();
                for id in 1..=20 {
                    let params = format!("\"client {client} call {id}\"");
                    stream.say(&call(id, &params));
                    assert_eq!(stream.message(), answer(id, &params));
                }
            });
        }
    });
    assert_eq!(shared.bridge.descendants().len(), 2, "the server and its guard");
    let mut streams: Vec<_> = (0..8).map(|_| shared.begin()).collect();
    streams[0].say(&method("loud", 2));
    for stream in &mut streams {
        assert!(stream.message().contains("noise"), "notifications are for all");
    }
    assert_eq!(streams[0].message(), answer(2, "{}"));
    streams[0].say(&method("die", 3));
    assert_eq!(streams[0].message(), died(3));
    for (at, stream) in streams.iter_mut().enumerate() {
        stream.say(&call(4, &format!("[{at}]")));
        assert_eq!(stream.message(), answer(4, &format!("[{at}]")));
    }
}

#[test]
fn stream_without_messages_does_not_join() {
    let shared = Shared::start();
    let ghosts: Vec<_> = (0..10).map(|_| shared.open()).collect();
    assert_eq!(shared.bridge.descendants().len(), 0);
    let mut used = shared.begin();
    used.say(&method("loud", 2));
    assert!(used.message().contains("noise"));
    drop(ghosts);
    assert_eq!(used.message(), answer(2, "{}"));
}

#[test]
fn sessions_survive_an_exit_of_the_shared_process() {
    let shared = Shared::start();
    let (mut one, mut other) = (shared.begin(), shared.begin());
    other.say(&method("hang", 7));
    within(LONG, "the request", || shared.heard().len() == 2);
    one.say(&method("die", 8));
    assert_eq!(one.message(), died(8));
    assert_eq!(other.message(), died(7));
    shared.bridge.wait_for_log("MCP server process exited (status 5); 2 requests are lost");
    // The next process gets the same `initialize`, and then the messages that have arrived meanwhile.
    other.say(&call(9, "[1]"));
    assert_eq!(other.message(), answer(9, "[1]"));
    one.say(&call(9, "[2]"));
    assert_eq!(one.message(), answer(9, "[2]"));
    let hellos: Vec<Value> =
        shared.heard().into_iter().filter(|value| value["method"] == "initialize").collect();
    assert_eq!(hellos.len(), 2);
    assert_eq!(hellos[0]["params"], hellos[1]["params"]);
}

#[test]
fn exit_during_handshake_counts_one_lost_request() {
    let shared = Shared::start();
    shared.set_broken(true);
    let mut stream = shared.open();
    stream.say(&method("initialize", 1));
    let told = stream.message();
    assert!(told.contains("\"id\":1,\"error\""), "{told}");
    within(LONG, "the loss in the log", || {
        let log = shared.bridge.log();
        log.contains("could not be started") || log.contains("requests are lost")
    });
    let log = shared.bridge.log();
    assert!(!log.contains("; 0 requests are lost"), "{log}");
}

#[test]
fn last_line_without_an_end_is_read() {
    let shared = Shared::start();
    let mut stream = shared.begin();
    stream.say(&method("last", 2));
    assert_eq!(stream.message(), answer(2, "{}"));
}

#[test]
fn lost_answers_are_reported_and_free_their_request() {
    let shared = Shared::start();
    let mut stream = shared.begin();
    for id in 2..=71 {
        stream.say(&method("broken", id));
        let told = stream.message();
        let begins = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32603,"#);
        assert!(told.starts_with(&begins), "{told}");
    }
    stream.say(&call(72, "[]"));
    assert_eq!(stream.message(), answer(72, "[]"));
}

#[test]
fn subscriptions_belong_to_their_session() {
    let shared = Shared::start();
    let (mut one, mut other) = (shared.begin(), shared.begin());
    let params = r#"{"uri":"r:x"}"#;
    let ask = |id: u32, what: &str| call(id, params).replace("echo", what);
    for stream in [&mut one, &mut other] {
        stream.say(&ask(2, "resources/subscribe"));
        assert_eq!(stream.message(), answer(2, params));
    }
    one.say(&ask(3, "resources/unsubscribe"));
    assert_eq!(one.message(), answer(3, "{}"));
    one.say(&ask(4, "update"));
    // Only the session that is still subscribed gets the update.
    assert_eq!(one.message(), answer(4, params));
    let told = other.message();
    assert!(told.contains("notifications/resources/updated"), "{told}");
    let unsubscribed =
        || shared.heard().iter().filter(|said| said["method"] == "resources/unsubscribe").count();
    assert_eq!(unsubscribed(), 0);
    drop(other);
    within(LONG, "that the last subscription is undone", || unsubscribed() == 1);
}

#[test]
fn shared_server_failing_to_restart_is_reported_and_retried() {
    let shared = Shared::start();
    let ready = || {
        let request = "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";
        Client::connect(shared.bridge.address()).ask(request).status
    };
    let mut stream = shared.begin();
    assert_eq!(ready(), 200);
    shared.set_broken(true);
    stream.say(&method("die", 2));
    assert_eq!(stream.message(), died(2));
    // Requests wait for at most the time of an outage.
    stream.say(&call(3, "[]"));
    let told = stream.message();
    assert!(
        told.contains(r#""id":3,"error":{"code":-32603,"message":"MCP server process "#),
        "{told}"
    );
    within(LONG, "not ready", || ready() == 503);
    shared.set_broken(false);
    within(LONG, "ready again", || ready() == 200);
    stream.say(&call(4, "[]"));
    assert_eq!(stream.message(), answer(4, "[]"));
}

#[test]
fn session_not_reading_is_closed_and_others_go_on() {
    let shared = Shared::start();
    let (deaf, mut other) = (shared.begin(), shared.begin());
    // Each notification of 256 KiB goes to all sessions, until all buffers to the client that does not read are full.
    let mut id = 1;
    while health(shared.bridge.address()).sessions == 2 {
        id += 1;
        assert!(id < 400, "the buffers are never full");
        other.say(&method("loud", id));
        assert!(other.message().contains("noise"));
        assert_eq!(other.message(), answer(id, "{}"));
        if shared.bridge.log().contains("closed, because") {
            break;
        }
    }
    shared.bridge.wait_for_log("closed, because");
    other.say(&call(1_000, "[]"));
    assert_eq!(other.message(), answer(1_000, "[]"));
    drop(deaf);
}

#[test]
fn server_requests_are_refused() {
    let shared = Shared::start();
    let mut stream = shared.begin();
    stream.say(&method("ask", 2));
    let told: Value = serde_json::from_str(&stream.message()).expect("JSON");
    assert_eq!(told["id"], 2);
    assert_eq!(
        (&told["result"]["id"], &told["result"]["error"]["code"]),
        (&json!("q"), &json!(-32601))
    );
}

#[test]
fn progress_reaches_the_requester_only() {
    let shared = Shared::start();
    let mut streams = [shared.begin(), shared.begin()];
    for _ in 0..20 {
        for (at, stream) in streams.iter_mut().enumerate() {
            let params = json!({"_meta": {"progressToken": format!("t{at}")}});
            stream.say(
                &json!({"jsonrpc": "2.0", "id": 1, "method": "progress", "params": params})
                    .to_string(),
            );
        }
        for (at, stream) in streams.iter_mut().enumerate() {
            let told = stream.message();
            assert!(told.contains(&format!(r#""progressToken":"t{at}","#)), "{told}");
            let told = stream.message();
            assert!(told.starts_with(r#"{"jsonrpc":"2.0","id":1,"result":"#), "{told}");
        }
    }
}

#[test]
fn session_leaving_cancels_its_requests() {
    let shared = Shared::start();
    let mut stays = shared.begin();
    let mut leaves = shared.begin();
    leaves.say(&method("hang", 2));
    within(LONG, "the request", || shared.heard().len() == 2);
    drop(leaves);
    within(LONG, "that it is taken back", || shared.heard().len() == 3);
    let heard = shared.heard();
    assert_eq!(heard[2]["method"], "notifications/cancelled");
    assert_eq!(heard[2]["params"]["requestId"], heard[1]["id"]);
    stays.say(&call(1, "[]"));
    assert_eq!(stays.message(), answer(1, "[]"));
}

#[test]
fn shared_process_ends_with_the_bridge() {
    let mut shared = Shared::start();
    let mut stream = shared.begin();
    stream.say(&method("hang", 2));
    within(LONG, "the request", || shared.heard().len() == 2);
    shared.bridge.signal(rustix::process::Signal::TERM);
    // Two pending signals of one kind may count as one.
    shared.bridge.wait_for_log("a second signal aborts");
    shared.bridge.signal(rustix::process::Signal::TERM);
    assert_eq!(shared.bridge.wait_for_end(), Some(143));
    shared.bridge.wait_for_no_descendants(LONG);
}

#[test]
fn process_not_reading_ends_with_the_bridge() {
    let mut shared = Shared::start();
    let mut stream = shared.begin();
    stream.say(&method("deaf", 2));
    let before = shared.bridge.written();
    // Larger than a pipe and the bytes that are accepted while it is full.
    stream.say(&call(3, &format!("\"{}\"", "x".repeat(400 << 10))));
    within(LONG, "a full pipe", || shared.bridge.written() >= before + (64 << 10));
    shared.bridge.signal(rustix::process::Signal::TERM);
    // Two pending signals of one kind may count as one.
    shared.bridge.wait_for_log("a second signal aborts");
    shared.bridge.signal(rustix::process::Signal::TERM);
    assert_eq!(shared.bridge.wait_for_end(), Some(143), "{}", shared.bridge.log());
    shared.bridge.wait_for_no_descendants(LONG);
}

#[test]
fn exit_is_reported_though_helpers_hold_the_output() {
    let shared = Shared::start();
    let mut stream = shared.begin();
    stream.say(&method("helped", 2));
    assert_eq!(stream.message(), died(2));
    within(LONG, "the end of the helpers", || shared.bridge.descendants().is_empty());
}

#[test]
fn process_that_closes_its_input_is_noticed_without_another_post() {
    let shared = Shared::start();
    let mut stream = shared.begin();
    stream.say(&method("close", 2));
    let message = stream.message();
    assert!(message.contains("MCP server process closed its input"), "{message}");
}
