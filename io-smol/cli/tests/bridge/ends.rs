//! Every process ends, whatever becomes of its session or of the bridge.

use core::time::Duration;
use std::io::Read;
use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use mcp_sse_tests::client::{Client, Stream, call, post_request};
use rustix::process::Signal;

use crate::support::{Bridge, INITIALIZE, LONG, StreamExt, get, within};

/// By when no process of a session that has ended is looked for any more. By design it is 5 s, and so
/// it is measured, where nothing else keeps the machine busy.
const GONE: Duration = Duration::from_secs(10);
const _: () = assert!(2 * mcp_sse_bridge::ending::STEP.as_secs() < 5);

#[test]
fn grandchild_ignoring_sigterm_is_killed() {
    let bridge = Bridge::start(&[]);
    for mode in ["stubborn", "immortal", "leaver", "forker"] {
        let mut stream = bridge.open(mode);
        stream.begin();
        // The guard, the server, and for "stubborn" a shell with its sleep.
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
    // The guard is first, and the server second.
    let mut pids = bridge.descendants();
    pids.sort_unstable();
    kill(pids[1], Signal::KILL);
    stream.expect_end();
    bridge.wait_for_no_descendants(GONE);
    // If somebody kills the guard itself, the others follow.
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
    // In the middle of the request that opens a stream.
    for at in 0..request.len() {
        let mut client = Client::connect(bridge.address());
        client.send(&request[..at]);
    }
    // In the middle of a post, with its stream.
    let length = post_request(&bridge.open("stubborn").endpoint, INITIALIZE).len();
    for at in 0..=length {
        let stream = bridge.open("stubborn");
        let post = stream.post_request(INITIALIZE);
        let mut poster = Client::connect(bridge.address());
        poster.send(&post[..at]);
        if at % 2 == 0 { drop((stream, poster)) } else { drop((poster, stream)) }
    }
    // In the middle of what the stream says.
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

/// The connection of a stream that says its endpoint and the answer to an `initialize`, of which
/// nothing has been read that is not to be read again.
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
                        // Half of them have something under way when they leave.
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
    // An allocator keeps some; a leak of a kilobyte a session would be more.
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
    // A request is under way in this one.
    deaf.client.wait_for_end();
    assert_eq!(bridge.wait_for_end(), Some(0));
    assert_eq!(bridge.descendants(), [0; 0], "the bridge waits for them");
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
    // A request is under way in the other, and there is no end to the grace.
    let again = Instant::now();
    bridge.signal(Signal::TERM);
    assert_eq!(bridge.wait_for_end(), Some(0));
    // Whoever waits does so twice: for an end behind that of its input, and for one behind SIGTERM.
    assert!(again.elapsed() < 2 * mcp_sse_bridge::ending::STEP, "nobody is waited for");
    assert_eq!(bridge.descendants(), [0; 0]);
}
