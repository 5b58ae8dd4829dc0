//! The queues of peers that do not read, and the room that is left to those that do.

use super::*;
use crate::error::{Fault, SendError};

const RESERVE: u64 = 2_000;
/// How long a frame waits before anybody's queue is ended for it.
const PAUSE: Duration = Duration::from_millis(250);

/// With so much for all queues together, and 2,000 bytes for each session's own.
fn reserving(queues_bytes_max: u64) -> Bench {
    Bench::with(limited(|limits| {
        limits.queue_reserve_bytes = RESERVE;
        limits.queues_bytes_max = Some(queues_bytes_max);
    }))
}

/// A session whose client does not read, and has this much queued.
fn hog(bench: &mut Bench, bytes: usize) -> Client {
    let client = bench.open();
    bench.set_reading(client.conn, false);
    bench.send(client.session, &costing(bytes));
    client
}

/// A frame that costs so much in a queue.
fn costing(bytes: usize) -> Frame {
    let with = |fill| note(&"x".repeat(fill));
    let cost = |frame: &Frame| frame.chunked().len() + Limits::SEGMENT_COST as usize;
    // About as long a chunk size.
    let more = cost(&with(bytes)) - bytes;
    let frame = with(bytes - more);
    assert_eq!(cost(&frame), bytes);
    frame
}

fn stalled(bench: &mut Bench) -> Vec<SessionId> {
    let closed = bench.events().into_iter().filter_map(|event| match event {
        Event::Closed { session, reason: CloseReason::Stalled, .. } => Some(session),
        Event::Unblocked { .. } => None,
        other => panic!("{other:?}"),
    });
    closed.collect()
}

#[test]
fn frame_within_the_reserve_is_queued_while_all_queues_are_full() {
    let mut bench = reserving(10_000);
    hog(&mut bench, 12_000);
    let reader = bench.open();
    bench.set_reading(reader.conn, false);
    let half = note(&"y".repeat(800));
    bench.send(reader.session, &half);
    bench.send(reader.session, &half);
    // What is beyond it counts with all others.
    assert_eq!(bench.server.send(reader.session, &half, bench.now), Err(SendError::Full));
    bench.set_reading(reader.conn, true);
    assert_eq!(bench.messages(reader.conn).len(), 2);
}

#[test]
fn new_session_opens_while_all_queues_are_full() {
    let mut bench = reserving(10_000);
    hog(&mut bench, 12_000);
    // An answer past the budget makes it fuller than it may be.
    let conn = bench.connect();
    bench.set_reading(conn, false);
    bench.says(conn, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(bench.server.queues_full());
    let client = bench.open();
    bench.send(client.session, &note("hello"));
    assert_eq!(bench.messages(client.conn).len(), 1);
}

#[test]
fn reserve_applies_from_the_beginning_of_the_stream() {
    let mut bench = reserving(10_000);
    // Answers that were queued before on the same connection become a part of it.
    let conn = bench.connect();
    bench.set_reading(conn, false);
    bench.says(conn, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2));
    assert!(bench.server.queues_cost > 0);
    bench.says(conn, GET);
    assert_eq!(bench.server.queues_cost, 0, "all of it is the session's own now");
    bench.reset(conn);
    assert_eq!(bench.server.queues_cost, 0);
}

#[test]
fn frame_is_too_large_only_beyond_the_reserve() {
    let mut bench = reserving(1_000);
    let client = bench.open();
    bench.send(client.session, &costing(3_000));
    let sent = bench.server.send(client.session, &costing(3_001), bench.now);
    assert_eq!(sent, Err(SendError::TooLarge));
}

#[test]
fn largest_stalled_queues_end_until_a_waiting_frame_fits() {
    let mut bench = reserving(10_000);
    let small = hog(&mut bench, 4_000);
    let large = hog(&mut bench, 7_000);
    let middle = hog(&mut bench, 4_500);
    let reader = bench.open();
    let answer = note(&"y".repeat(2_900));
    bench.wait(secs(2) - Duration::from_micros(1));
    assert_eq!(bench.server.send(reader.session, &answer, bench.now), Err(SendError::Full));
    assert_eq!(stalled(&mut bench), [], "they may be about to read");
    bench.wait(Duration::from_micros(1));
    // The pause between two looks.
    bench.wait(secs(1));
    assert_eq!(stalled(&mut bench), [large.session], "and that is enough");
    bench.send(reader.session, &answer);
    assert_eq!(bench.messages(reader.conn).len(), 1);
    let metrics = bench.server.metrics();
    assert_eq!(metrics.fault(Fault::Stalled), 1);
    let limits = metrics.limit_refusals();
    let reached: Vec<_> = limits.iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(reached, [&("queues_bytes_max", 1)]);
    assert!(bench.is_open(small.conn) && bench.is_open(middle.conn));
}

/// Frames of different sizes, of which only the smaller ones fit: whichever waits first, the others do not
/// wait for it, with or without `stall_when_full`.
#[test]
fn first_in_line_for_which_no_room_can_be_made_goes_to_its_end() {
    for stall_when_full in [Some(secs(2)), None] {
        let bench = reserving(10_000);
        let limits = bench.server.config().limits().clone();
        let timeouts = Timeouts { stall_when_full, heartbeat: None, ..Timeouts::default() };
        let mut bench = Bench::with(Config::builder().limits(limits).timeouts(timeouts));
        let slow = hog(&mut bench, 6_000);
        bench.send(slow.session, &costing(5_000));
        let (large, small, other) = (bench.open(), bench.open(), bench.open());
        let waits = |bench: &mut Bench, client: &Client, cost| {
            let sent = bench.server.send(client.session, &costing(cost), bench.now);
            assert_eq!(sent, Err(SendError::Full));
        };
        waits(&mut bench, &large, 11_500);
        waits(&mut bench, &small, 5_000);
        // Now there is room for the small one.
        bench.takes(slow.conn, 6_000);
        assert!(bench.events().is_empty(), "it is not its turn");
        let told_of_room = |bench: &mut Bench| {
            bench.wait(Duration::from_millis(250));
            let Some(Event::Unblocked { session }) = bench.event() else { panic!("no room") };
            session
        };
        assert_eq!(told_of_room(&mut bench), small.session);
        // And for one that comes later, behind the large one.
        bench.set_reading(other.conn, false);
        bench.send(other.session, &costing(8_000));
        waits(&mut bench, &small, 5_000);
        bench.set_reading(other.conn, true);
        assert_eq!(told_of_room(&mut bench), small.session);
        // The large one still waits.
        bench.set_reading(slow.conn, true);
        let Some(Event::Unblocked { session }) = bench.event() else {
            panic!("it is told of room")
        };
        assert_eq!(session, large.session);
    }
}

#[test]
fn second_session_in_line_waits_no_longer_than_a_pause() {
    let mut bench = reserving(10_000);
    let slow = hog(&mut bench, 6_000);
    bench.send(slow.session, &costing(5_000));
    let (large, small) = (bench.open(), bench.open());
    let sent = bench.server.send(large.session, &costing(11_500), bench.now);
    assert_eq!(sent, Err(SendError::Full));
    // The first pass ends no queue, and no further one can for nearly as long as `stall_when_full`.
    bench.wait(PAUSE);
    let sent = bench.server.send(small.session, &costing(5_000), bench.now);
    assert_eq!(sent, Err(SendError::Full));
    bench.takes(slow.conn, 6_000);
    bench.wait(PAUSE);
    let Some(Event::Unblocked { session }) = bench.event() else { panic!("it is told of room") };
    assert_eq!(session, small.session);
    assert!(bench.is_open(slow.conn));
}

#[test]
fn frame_waits_for_a_pause_before_stalled_queues_end() {
    let mut bench = reserving(100_000);
    let hogs: Vec<_> = (0..80).map(|_| hog(&mut bench, 2_000 + 1_250)).collect();
    let reader = bench.open();
    bench.wait(secs(5));
    let answer = note(&"y".repeat(4_000));
    assert_eq!(bench.server.send(reader.session, &answer, bench.now), Err(SendError::Full));
    bench.wait(PAUSE);
    let events = bench.events();
    let told =
        |event: &Event| matches!(event, Event::Unblocked { session } if *session == reader.session);
    assert_eq!(events.iter().filter(|event| told(event)).count(), 1);
    assert_eq!(events.len(), 3, "two of {} were enough: {events:?}", hogs.len());
    bench.send(reader.session, &answer);
    assert_eq!(bench.messages(reader.conn).len(), 1);
}

#[test]
fn peer_that_takes_enough_keeps_its_queue() {
    let mut bench = reserving(10_000);
    let hog = hog(&mut bench, 12_000);
    let reader = bench.open();
    let answer = note(&"y".repeat(4_000));
    assert_eq!(bench.server.send(reader.session, &answer, bench.now), Err(SendError::Full));
    // A frame counts until all of it has left.
    for _ in 0..8 {
        bench.wait(secs(1));
        bench.takes(hog.conn, 1_024);
        assert_eq!(stalled(&mut bench), []);
    }
    // A byte now and then is not enough.
    for _ in 0..3 {
        bench.wait(secs(1));
        bench.takes(hog.conn, 1);
    }
    assert_eq!(stalled(&mut bench), [hog.session]);
}

#[test]
fn stalled_queues_are_kept_while_no_frame_waits_or_where_it_is_off() {
    let mut bench = reserving(10_000);
    hog(&mut bench, 12_000);
    bench.wait(secs(20));
    assert_eq!(stalled(&mut bench), []);
    let limits = bench.server.config().limits().clone();
    let timeouts = Timeouts { stall_when_full: None, ..Timeouts::default() };
    let mut bench = Bench::with(Config::builder().limits(limits).timeouts(timeouts));
    let hog = hog(&mut bench, 12_000);
    let reader = bench.open();
    let sent = bench.server.send(reader.session, &note(&"y".repeat(4_000)), bench.now);
    assert_eq!(sent, Err(SendError::Full));
    bench.wait(secs(29));
    assert_eq!(stalled(&mut bench), []);
    bench.wait(secs(1));
    assert_eq!(stalled(&mut bench), [hog.session]);
}

#[test]
fn stalled_queues_of_answers_end_as_well() {
    let page = "p".repeat(9_000);
    let mut bench = Bench::with(
        limited(|limits| {
            limits.queue_reserve_bytes = RESERVE;
            limits.queues_bytes_max = Some(10_000);
        })
        .index_page(&page),
    );
    let conn = bench.connect();
    bench.set_reading(conn, false);
    bench.says(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let reader = bench.open();
    bench.wait(secs(3));
    let answer = note(&"y".repeat(4_000));
    assert_eq!(bench.server.send(reader.session, &answer, bench.now), Err(SendError::Full));
    bench.wait(PAUSE);
    assert!(!bench.is_open(conn));
    bench.send(reader.session, &answer);
}

#[test]
fn room_for_a_large_frame_is_made_in_several_calls() {
    let mut bench = reserving(100_000);
    for _ in 0..40 {
        hog(&mut bench, 2_000 + 2_400);
    }
    let reader = bench.open();
    bench.wait(secs(3));
    let answer = costing(101_000);
    assert_eq!(bench.server.send(reader.session, &answer, bench.now), Err(SendError::Full));
    bench.now = bench.now.saturating_add(PAUSE);
    bench.server.handle_timeout(bench.now);
    let ended = bench.server.metrics().fault(Fault::Stalled);
    assert!((1..40).contains(&ended), "{ended} in one call");
    assert!(bench.server.poll_timeout().is_some_and(|next| next.at <= bench.now), "it goes on");
    bench.wait(Duration::ZERO);
    stalled(&mut bench);
    bench.send(reader.session, &answer);
}

#[test]
fn queues_do_not_end_before_they_could_be_written() {
    let mut bench = reserving(10_000);
    let hog = hog(&mut bench, 12_000);
    let reader = bench.open();
    // The thread was held up for so long: nobody has tried to write meanwhile.
    bench.now = bench.now.saturating_add(secs(3));
    let answer = note(&"y".repeat(4_000));
    assert_eq!(bench.server.send(reader.session, &answer, bench.now), Err(SendError::Full));
    bench.server.handle_timeout(bench.now);
    bench.takes(hog.conn, 1_024);
    bench.wait(secs(1));
    assert_eq!(stalled(&mut bench), []);
    // And its deadline is one that a driver can see to be late.
    let deadline = bench.server.poll_timeout().unwrap().at;
    bench.server.handle_wall_clock(0);
    bench.server.handle_input(reader.conn, b"", bench.now.saturating_add(secs(9)));
    assert_eq!(bench.server.poll_timeout().unwrap().at, deadline);
}
