//! Invariant 7: deadlines that are due together are handled in batches, however many there are.

use core::time::Duration;

use mcp_sse_core::sse::HEARTBEAT_CHUNKED;
use mcp_sse_core::{Config, ConnId, Limits, Peer, Server, Time, Timeouts};
use mcp_sse_tests::sim::random::SeededEntropy;

/// The core's batch: how many timers one call handles.
const BATCH: usize = 256;
const STREAMS: usize = 2_000;

#[test]
fn heartbeats_due_together_are_taken_in_batches() {
    let timeouts = Timeouts { stall: None, ..Timeouts::default() };
    let config = Config::builder().limits(Limits::default()).timeouts(timeouts).build().unwrap();
    let mut server = Server::new(config, Box::new(SeededEntropy::new(1, false)), Time::ZERO);
    let mut conns = Vec::new();
    for _ in 0..STREAMS {
        let conn = server.accept(Peer::local(), Time::ZERO).unwrap();
        let get = b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n";
        server.handle_input(conn, get, Time::ZERO);
        let count = server.transmit(conn).len();
        server.handle_written(conn, count, Time::ZERO);
        while server.poll_event().is_some() {}
        while server.poll_wake().is_some() {}
        conns.push(conn);
    }
    let now = Time::ZERO.saturating_add(Duration::from_secs(15));
    let (mut calls, mut beats) = (0, 0);
    while server.poll_timeout().is_some_and(|deadline| deadline.at <= now) {
        server.handle_timeout(now);
        server.check();
        let woken = core::iter::from_fn(|| server.poll_wake()).count();
        assert!(woken <= BATCH, "7: {woken} in one call");
        (calls, beats) = (calls + 1, beats + woken);
        assert!(calls <= STREAMS, "7: a deadline that has come is not taken");
    }
    assert_eq!((beats, calls), (STREAMS, STREAMS.div_ceil(BATCH)));
    // A client that reads nothing gets no further heartbeat.
    assert_eq!(server.poll_timeout(), None);
    let queued = |&conn: &ConnId| server.transmit(conn).len();
    assert!(conns.iter().map(queued).all(|len| len == HEARTBEAT_CHUNKED.len()));
}
