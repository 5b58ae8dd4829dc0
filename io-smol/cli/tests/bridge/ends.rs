//! Every process ends, however its session or the bridge ends.

use core::time::Duration;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use mcp_sse_tests::client::{Client, Stream, answer, call, post_request};
use mcp_sse_tests::scratch::Scratch;
use rustix::process::Signal;

use crate::support::{Bridge, INITIALIZE, LONG, StreamExt, get, within};

/// How long a test waits for the end of processes that would never end by themselves. By design they end within 5 s;
/// the rest is for a machine that stands still for seconds.
const GONE: Duration = Duration::from_secs(60);
const _: () = assert!(2 * mcp_sse_bridge::ending::STEP.as_secs() < 5);

#[test]
fn grandchild_ignoring_sigterm_is_killed() {
    let bridge = Bridge::start(&[]);
    for mode in ["stubborn", "immortal", "leaver", "forker"] {
        let mut stream = bridge.open(mode);
        stream.begin();
        // At least the guard and the server. "stubborn" also has a shell with its `sleep`.
        within(LONG, "all of them", || bridge.descendants().len() >= 2);
        drop(stream);
        bridge.wait_for_no_descendants(GONE);
    }
    let mut bystander = bridge.bystander();
    bystander.check_alive("afterwards");
}

#[test]
fn server_killed_leaves_no_processes() {
    let bridge = Bridge::start(&[]);
    let mut stream = bridge.open("stubborn");
    stream.begin();
    within(LONG, "all of them", || bridge.descendants().len() == 4);
    // The guard has the lowest process id, and the server the next.
    let mut pids = bridge.descendants();
    pids.sort_unstable();
    kill(pids[1], Signal::KILL);
    stream.expect_end();
    bridge.wait_for_no_descendants(GONE);
    // If the guard is killed, the other processes end too.
    let mut stream = bridge.open("stubborn");
    stream.begin();
    within(LONG, "all of them", || bridge.descendants().len() == 4);
    let guard = bridge.descendants().into_iter().min().expect("a guard");
    kill(guard, Signal::KILL);
    stream.expect_end();
    bridge.wait_for_no_descendants(GONE);
}

fn kill(pid: u32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process id");
    rustix::process::kill_process(pid, signal).expect("it runs");
}

#[test]
fn connection_cut_at_every_byte_leaves_no_processes() {
    let bridge = Bridge::start(&["--log-level", "warn"]);
    let request = get("stubborn");
    // The connection ends in the middle of the request that opens a stream.
    for at in 0..request.len() {
        let mut client = Client::connect(bridge.address());
        client.send(&request[..at]);
    }
    // The connections end in the middle of a post.
    let length = post_request(&bridge.open("stubborn").endpoint, INITIALIZE).len();
    for at in 0..=length {
        let stream = bridge.open("stubborn");
        let post = stream.post_request(INITIALIZE);
        let mut poster = Client::connect(bridge.address());
        poster.send(&post[..at]);
        if at % 2 == 0 { drop((stream, poster)) } else { drop((poster, stream)) }
    }
    // The connection ends in the middle of an event.
    let exchange = {
        let mut whole = Vec::new();
        let mut socket = exchange(&bridge);
        while !whole.ends_with(b"\"result\":{}}\n\n\r\n") {
            let mut piece = [0; 1024];
            let count = socket.read(&mut piece).expect("the answer");
            whole.extend_from_slice(&piece[..count]);
        }
        whole.len()
    };
    thread::scope(|scope| {
        for part in 0..4 {
            let bridge = &bridge;
            scope.spawn(move || {
                for at in (0..exchange).filter(|at| at % 4 == part) {
                    let mut heard = vec![0; at];
                    self::exchange(bridge).read_exact(&mut heard).expect("so much of it");
                }
            });
        }
    });
    bridge.wait_for_no_descendants(LONG);
    let mut bystander = bridge.bystander();
    bystander.check_alive("afterwards");
}

/// Opens a stream and initializes its session. No byte of the response has been read from the returned connection.
fn exchange(bridge: &Bridge) -> TcpStream {
    use std::io::Write;
    let mut socket = TcpStream::connect(bridge.address()).expect("a connection");
    socket.set_read_timeout(Some(LONG)).expect("a socket");
    socket.write_all(get("stubborn").as_bytes()).expect("it reads");
    let mut seen = vec![0; 2048];
    let mut endpoint = None;
    within(LONG, "an endpoint", || {
        let count = socket.peek(&mut seen).expect("an answer");
        let text = String::from_utf8_lossy(&seen[..count]).into_owned();
        let line = text.split_once("\ndata: ").and_then(|(_, rest)| rest.split_once('\n'));
        endpoint = line.map(|(endpoint, _)| endpoint.to_owned());
        endpoint.is_some()
    });
    let post = post_request(&endpoint.expect("an endpoint"), INITIALIZE);
    assert_eq!(Client::connect(bridge.address()).ask(post).status, 202);
    socket
}

#[test]
fn thousand_clients_come_and_go_without_leftover_processes() {
    const ROUNDS: usize = 1_000;
    let bridge = Bridge::start(&["--log-level", "error"]);
    let come_and_go = |rounds: usize| {
        thread::scope(|scope| {
            for worker in 0..4 {
                let bridge = &bridge;
                scope.spawn(move || {
                    for round in (0..rounds).filter(|round| round % 4 == worker) {
                        let mut stream = bridge.open("");
                        stream.begin();
                        // Half of the clients leave with a request in flight.
                        if round % 8 < 4 {
                            stream.say(&call(1, "[]"));
                            if round % 8 < 2 {
                                within(LONG, "an answer", || stream.client.has_input());
                                stream.client.reset();
                            }
                        }
                    }
                });
            }
        });
        bridge.wait_for_no_descendants(LONG);
        within(LONG, "their connections' end", || {
            mcp_sse_tests::client::health(bridge.address()).connections == 1
        });
    };
    come_and_go(50);
    let (descriptors, resident) = (bridge.descriptors(), bridge.resident());
    come_and_go(ROUNDS);
    within(LONG, "descriptors as before", || bridge.descriptors() <= descriptors);
    let grown = bridge.resident().saturating_sub(resident);
    // The allocator keeps some memory. A leak of a kilobyte for each session would be more.
    assert!(grown < ROUNDS as u64, "{grown} KiB in {ROUNDS} sessions");
}

#[test]
fn bridge_killed_leaves_no_processes() {
    let mut bridge = Bridge::start(&[]);
    let mut streams: Vec<Stream> =
        ["", "stubborn", "immortal", "leaver"].into_iter().map(|mode| bridge.open(mode)).collect();
    streams.iter_mut().for_each(StreamExt::begin);
    let mut deaf = bridge.open("deaf");
    deaf.say(INITIALIZE);
    within(LONG, "all of them", || bridge.descendants().len() == 14);
    bridge.signal(Signal::KILL);
    bridge.wait_for_end();
    bridge.wait_for_no_descendants(GONE);
}

#[test]
fn bridge_stopped_ends_all_processes() {
    let mut bridge = Bridge::start(&["--shutdown-grace", "1s"]);
    let mut idle = bridge.bystander();
    let mut stubborn = bridge.open("stubborn");
    stubborn.begin();
    let mut leaver = bridge.open("leaver");
    leaver.begin();
    let mut deaf = bridge.open("deaf");
    deaf.say(INITIALIZE);
    within(LONG, "all of them", || bridge.descendants().len() == 12);
    bridge.signal(Signal::TERM);
    idle.expect_end();
    stubborn.expect_end();
    leaver.expect_end();
    // This session has a request in flight.
    deaf.client.wait_for_end();
    assert_eq!(bridge.wait_for_end(), Some(0));
    assert_eq!(bridge.descendants(), [0; 0], "the bridge has waited for its processes");
}

#[test]
fn result_during_the_grace_is_delivered() {
    let scratch = Scratch::new();
    let go = scratch.path("go");
    let variable = format!("GO={}", go.display());
    let mut bridge = Bridge::start(&["--shutdown-grace", "off", "--env", &variable]);
    let mut idle = bridge.bystander();
    let mut stream = bridge.open("waits");
    stream.begin();
    stream.say(&call(7, "[]"));
    bridge.signal(Signal::TERM);
    // The shutdown has begun before the server answers.
    idle.expect_end();
    fs::write(&go, "").expect("a file");
    assert_eq!(stream.message(), answer(7, "[]"));
    stream.expect_end();
    assert_eq!(bridge.wait_for_end(), Some(0));
    assert_eq!(bridge.descendants(), [0; 0]);
}

#[test]
fn bridge_signalled_twice_kills_processes_at_once() {
    let mut bridge = Bridge::start(&["--shutdown-grace", "off"]);
    let mut immortal = bridge.open("immortal");
    immortal.begin();
    let mut leaver = bridge.open("leaver");
    leaver.begin();
    let mut deaf = bridge.open("deaf-to-all");
    deaf.say(INITIALIZE);
    within(LONG, "all of them", || bridge.descendants().len() == 8);
    bridge.signal(Signal::TERM);
    bridge.wait_for_log("shutting down");
    within(LONG, "the end of the idle session", || bridge.descendants().len() == 2);
    // The other session has a request in flight, and the shutdown grace is unlimited.
    let again = Instant::now();
    bridge.signal(Signal::TERM);
    assert_eq!(bridge.wait_for_end(), Some(143));
    // Without the second signal, the bridge would wait for both steps of an end.
    assert!(
        again.elapsed() < 2 * mcp_sse_bridge::ending::STEP,
        "the bridge does not wait for the steps of an end"
    );
    assert_eq!(bridge.descendants(), [0; 0]);
}
