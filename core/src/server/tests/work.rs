//! Work in proportion to the input, in steps that are counted: invariant 7.

use super::*;
use crate::error::SendError;
use crate::testing::steps_in;

#[test]
fn cancellation_of_an_unknown_request_reads_no_held_post() {
    const LONG: usize = 10_000;
    let mut bench = Bench::with(limited(|limits| limits.in_flight_max = Some(0)));
    let client = bench.open();
    let conns: Vec<ConnId> = (0..20).map(|_| bench.connect()).collect();
    for (at, &conn) in conns.iter().enumerate() {
        let id = format!("{}{at}", "x".repeat(LONG));
        let request = format!(r#"{{"jsonrpc":"2.0","id":"{id}","method":"a"}}"#);
        let (steps, ()) = steps_in(|| bench.says(conn, post(&client.token, &request)));
        assert!(steps < 2 * LONG as u64, "a held id is read once, not in {steps} steps");
    }
    assert_eq!(bench.server.metrics().posts_held, 20);
    let cancel = |id: &str| {
        let method = "notifications/cancelled";
        format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{"requestId":{id}}}}}"#)
    };
    let conn = bench.connect();
    for _ in 0..50 {
        let (steps, ()) = steps_in(|| bench.says(conn, post(&client.token, &cancel("7"))));
        assert!(steps < 1_000, "{steps} steps for an id of one digit");
        bench.events();
    }
    let last = format!("\"{}19\"", "x".repeat(LONG));
    bench.says(conn, post(&client.token, &cancel(&last)));
    assert_eq!(bench.server.metrics().requests_withdrawn, 1);
    assert_eq!(bench.statuses(conns[19]), [202]);
}

#[test]
fn event_does_not_visit_every_session_that_waits_for_budget() {
    let mut bench = Bench::with(limited(|limits| limits.queues_bytes_max = Some(3_000)));
    let hog = bench.open();
    let waiting_for_budget: Vec<Client> = (0..40).map(|_| bench.open()).collect();
    bench.set_reading(hog.conn, false);
    bench.send(hog.session, &note(&"x".repeat(700)));
    bench.send(hog.session, &note(&"x".repeat(1_500)));
    let large = note(&"y".repeat(1_500));
    for client in &waiting_for_budget {
        let sent = bench.server.send(client.session, &large, bench.now);
        assert_eq!(sent, Err(SendError::Full));
    }
    let polls = |bench: &mut Bench, count| {
        let polls = || (0..count).for_each(|_| assert!(bench.server.poll_event().is_none()));
        steps_in(polls).0
    };
    // A little room is free all the time, and less than they wait for: the first of them is asked.
    assert_eq!(polls(&mut bench, 100), 100);
    bench.reset(waiting_for_budget[0].conn);
    bench.events();
    bench.takes(hog.conn, 790);
    assert_eq!(polls(&mut bench, 100), 100);
    bench.set_reading(hog.conn, true);
    let Some(Event::Unblocked { session }) = bench.event() else { panic!("now they fit") };
    assert_eq!(session, waiting_for_budget[1].session);
}
