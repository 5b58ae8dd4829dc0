//! Sessions do not see each other.

use std::thread;

use mcp_sse_tests::client::{answer, call, health};

use crate::support::{Bridge, StreamExt};

#[test]
fn fifty_clients_with_equal_ids_get_their_own_answers() {
    fifty_clients(&["--log-level", "warn"]);
}

#[test]
fn fifty_clients_of_several_workers_get_their_own_answers() {
    fifty_clients(&["--log-level", "warn", "--workers", "3"]);
}

fn fifty_clients(flags: &[&str]) {
    let bridge = Bridge::start(flags);
    thread::scope(|scope| {
        for client in 0..50 {
            let bridge = &bridge;
            scope.spawn(move || {
                let mut stream = bridge.bystander();
                for id in 1..=100 {
                    let params = format!("\"client {client} call {id}\"");
                    stream.say(&call(id, &params));
                    assert_eq!(stream.message(), answer(id, &params));
                }
            });
        }
    });
    assert_eq!(bridge.log(), "");
    bridge.wait_for_no_descendants(crate::support::LONG);
}

#[test]
fn many_requests_at_once_are_answered_in_order() {
    let bridge = Bridge::start(&[]);
    let mut stream = bridge.bystander();
    // More requests than may be in flight: the others are held.
    let calls: Vec<_> = (1..=200).map(|id| stream.post_request(&call(id, "[]"))).collect();
    let mut poster = mcp_sse_tests::client::Client::connect(bridge.address());
    poster.send(calls.concat());
    for id in 1..=200 {
        assert_eq!(stream.message(), answer(id, "[]"));
    }
    for _ in 1..=200 {
        assert_eq!(poster.response().status, 202);
    }
}

#[test]
fn stream_without_messages_starts_no_process() {
    let bridge = Bridge::start(&[]);
    let ghosts: Vec<_> = (0..10).map(|_| bridge.open("")).collect();
    let mut used = bridge.bystander();
    used.check_alive("ghosts");
    assert_eq!(health(bridge.address()).sessions, 11);
    // The server and its guard.
    assert_eq!(bridge.descendants().len(), 2);
    drop(ghosts);
    used.check_alive("ghosts that left");
}
