//! The reserve of connections: neither streams nor silent connections can keep posts out.

use super::*;
use crate::error::{AcceptError, Fault};
use crate::timers::TimerKind;

/// Sixteen places, of which two are the reserve.
fn small() -> ConfigBuilder {
    limited(|limits| limits.connections_max = Some(16))
}

/// What still has a socket.
fn open(bench: &Bench, conns: &[ConnId]) -> Vec<usize> {
    (0..conns.len()).filter(|&at| bench.is_open(conns[at])).collect()
}

impl Bench {
    /// Connections that come a second after each other and say nothing.
    fn silent(&mut self, count: usize) -> Vec<ConnId> {
        (0..count)
            .map(|_| {
                self.now = self.now.saturating_add(Duration::from_millis(1));
                let conn = self.connect();
                self.pump();
                conn
            })
            .collect()
    }
}

#[test]
fn silent_connection_is_closed_for_a_later_one() {
    let mut bench = Bench::with(small());
    let client = bench.open();
    let silent = bench.silent(14);
    assert_eq!(open(&bench, &silent).len(), 14);
    // The sixteenth place is the last: from here on the oldest goes for each that comes.
    let more = bench.silent(3);
    assert_eq!(open(&bench, &silent), (3..14).collect::<Vec<_>>());
    assert_eq!(open(&bench, &more), [0, 1, 2]);
    assert!(bench.server.can_accept());
    assert_eq!(bench.ask(post(&client.token, NOTE)).status, 202);
    assert_eq!(bench.inbox().len(), 1);
    assert_eq!(bench.server.metrics().fault(Fault::ConnectionEvicted), 4);
    bench.send(client.session, &note("and the stream is untouched"));
    assert_eq!(bench.messages(client.conn).len(), 1);
}

#[test]
fn connection_without_a_request_for_longest_is_closed() {
    let mut bench = Bench::with(small());
    bench.open();
    // Kept alive behind an answer, in the middle of a head, about to close, and silent, in this order.
    let idle = bench.silent(1)[0];
    bench.says(idle, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let partial = bench.silent(1)[0];
    bench.says(partial, "GET /hea");
    let lingering = bench.silent(1)[0];
    bench.says(lingering, "nonsense\r\n\r\n");
    let silent = bench.silent(11);
    let order = [idle, partial, lingering, silent[0]];
    for gone in 0..=4 {
        assert_eq!(open(&bench, &order), (gone..4).collect::<Vec<_>>());
        bench.silent(1);
    }
}

#[test]
fn no_second_connection_is_closed_until_the_first_is_gone() {
    let evicted = |server: &Server| server.metrics().fault(Fault::ConnectionEvicted);
    let now = Time::ZERO;
    let mut server = Server::new(small().build().unwrap(), Box::new(Random::seeded(1)), now);
    let conns: Vec<_> = (0..16).map(|_| server.accept(Peer::local(), now).unwrap()).collect();
    assert_eq!((evicted(&server), server.interest(conns[0])), (1, Interest::Close));
    // Another one leaves by itself, and its place is taken, before the driver has closed the first.
    server.handle_disconnect(conns[5], now);
    server.accept(Peer::local(), now).unwrap();
    assert_eq!(evicted(&server), 1);
    assert_eq!(server.accept(Peer::local(), now), Err(AcceptError::AtCapacity));
    server.handle_disconnect(conns[0], now);
    server.accept(Peer::local(), now).unwrap();
    assert_eq!((evicted(&server), server.interest(conns[1])), (2, Interest::Close));
}

#[test]
fn request_under_way_is_not_closed_for_room() {
    let mut bench = Bench::with(small());
    let client = bench.open();
    let request = post(&client.token, NOTE);
    let busy = bench.connect();
    bench.says(busy, &request[..request.len() - 1]);
    bench.silent(40);
    bench.says(busy, &request[request.len() - 1..]);
    assert_eq!(bench.statuses(busy), [202]);
    assert_eq!(bench.inbox().len(), 1);
}

#[test]
fn connection_with_a_queued_answer_is_not_closed_for_room() {
    let mut bench = Bench::with(small());
    let client = bench.open();
    let request = post(&client.token, NOTE);
    let (early, late) = request.split_at(request.len() - 1);
    for _ in 0..13 {
        let busy = bench.connect();
        bench.says(busy, early);
    }
    // Nobody else could go but the one whose answer has not been written yet.
    let answered = bench.connect();
    bench.set_reading(answered, false);
    bench.says(answered, early);
    bench.says(answered, late);
    bench.silent(1);
    assert!(bench.is_open(answered));
    // For as long as that takes, and no longer.
    bench.now = bench.now.saturating_add(secs(1));
    bench.reset(client.conn);
    bench.silent(1);
    assert!(!bench.is_open(answered));
}

#[test]
fn streams_leave_the_reserve_to_requests() {
    let mut bench = Bench::with(small());
    let clients: Vec<_> = (0..14).map(|_| bench.open()).collect();
    assert_eq!(bench.ask("GET /ready HTTP/1.1\r\nHost: a\r\n\r\n").body, "{\"status\":\"full\"}\n");
    let conn = bench.connect();
    bench.says(conn, GET);
    let answer = bench.answers(conn).remove(0);
    assert_eq!((answer.status, answer.field("Retry-After")), (503, Some("1")));
    assert!(answer.body.contains("connections_reserve"), "{answer:?}");
    // Posts still have their turn, one after the other.
    for client in &clients {
        assert_eq!(bench.ask(post(&client.token, NOTE)).status, 202);
    }
    assert_eq!(bench.inbox().len(), 14);
    assert_eq!(bench.server.sessions_open(), 14);
    bench.reset(clients[0].conn);
    bench.events();
    bench.open();
}

/// Fills the table with connections in the midst of a post: who they are, and what each still has to say.
fn all_busy(bench: &mut Bench, client: &Client) -> (Vec<ConnId>, &'static str) {
    let mut early = post(&client.token, NOTE);
    assert_eq!(early.pop(), Some('}'));
    let says_early = |_| {
        let conn = bench.connect();
        bench.says(conn, &early);
        conn
    };
    ((0..15).map(says_early).collect(), "}")
}

#[test]
fn first_connection_that_becomes_idle_is_closed_at_capacity() {
    let mut bench = Bench::with(small());
    let client = bench.open();
    let (busy, late) = all_busy(&mut bench, &client);
    assert!(!bench.server.can_accept());
    assert_eq!(bench.server.accept(Peer::local(), bench.now), Err(AcceptError::AtCapacity));
    assert_eq!(bench.server.metrics().fault(Fault::ConnectionsFull), 1);
    bench.says(busy[3], late);
    assert!(!bench.server.can_accept(), "it may have more to say");
    bench.now = bench.now.saturating_add(secs(1));
    bench.says(busy[4], late);
    assert_eq!(open(&bench, &busy).len(), 14);
    assert!(!bench.is_open(busy[3]) && bench.server.can_accept());
    assert_eq!(bench.inbox().len(), 2);
}

#[test]
fn end_of_the_grace_of_an_idle_connection_is_a_deadline() {
    let mut bench = Bench::with(small());
    let client = bench.open();
    let (busy, late) = all_busy(&mut bench, &client);
    assert!(
        bench.server.poll_timeout().is_some_and(|next| next.at > bench.now.saturating_add(secs(1)))
    );
    bench.says(busy[3], late);
    let next = bench.server.poll_timeout().unwrap();
    assert_eq!((next.at, next.cause), (bench.now.saturating_add(secs(1)), TimerKind::Idle));
    bench.wait(secs(1));
    assert!(!bench.is_open(busy[3]) && bench.server.can_accept());
    assert!(bench.server.poll_timeout().is_some_and(|next| next.at > bench.now));
}

#[test]
fn draining_server_closes_no_connection_for_room() {
    let mut bench = Bench::with(small());
    let client = bench.open();
    // With this under way the stream stays.
    let conn = bench.connect();
    bench.says(conn, post(&client.token, &call(1)));
    bench.reset(conn);
    bench.events();
    let (busy, late) = all_busy(&mut bench, &client);
    bench.shutdown();
    bench.says(busy[3], late);
    bench.wait(secs(1));
    assert_eq!(bench.server.metrics().fault(Fault::ConnectionEvicted), 0);
}

#[test]
fn order_of_idle_connections_holds_without_timeouts() {
    let timeouts = Timeouts { head: None, idle: None, linger: None, ..Timeouts::default() };
    let mut bench = Bench::with(small().timeouts(timeouts));
    let idle = bench.connect();
    bench.says(idle, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let silent = bench.silent(14);
    assert_eq!(bench.server.poll_timeout(), None);
    assert!(bench.is_open(idle));
    bench.silent(1);
    assert!(!bench.is_open(idle));
    bench.silent(2);
    assert_eq!(open(&bench, &silent), (2..14).collect::<Vec<_>>());
}

#[test]
fn connections_max_below_eight_has_no_reserve() {
    let mut bench = Bench::with(limited(|limits| limits.connections_max = Some(7)));
    let silent = bench.silent(7);
    assert_eq!(open(&bench, &silent).len(), 7);
    assert!(!bench.server.can_accept());
}
