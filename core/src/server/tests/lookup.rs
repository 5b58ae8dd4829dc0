//! Posts whose bodies arrive after their heads, for sessions of another shard, which is asked first.

use super::authorize::{allow, asking};
use super::*;
use crate::ShardId;
use crate::error::{Expired, Fault};
use crate::event::{LookupAnswer, LookupTicket, SessionLookup};
use crate::exchange::Exchange;

/// A shard that posts come to, and the one that has the sessions.
fn shards() -> (Bench, Bench) {
    let shard = |number| Bench::with(Config::builder().shard(ShardId(number)).forwarding(true));
    (shard(1), shard(2))
}

impl Bench {
    /// What another shard is to be asked.
    #[track_caller]
    fn looked_for(&mut self) -> (SessionLookup, LookupTicket) {
        match self.event() {
            Some(Event::LookedFor { shard: ShardId(2), lookup, ticket }) => (lookup, ticket),
            other => panic!("no question: {other:?}"),
        }
    }

    fn answer_lookup(&mut self, ticket: LookupTicket, answer: LookupAnswer) -> Result<(), Expired> {
        let answered = self.server.answer_lookup(ticket, answer, self.now);
        self.pump();
        answered
    }

    /// Asks `there`, and takes the answer.
    #[track_caller]
    fn look_up(&mut self, there: &Self) -> LookupAnswer {
        let (lookup, ticket) = self.looked_for();
        let answer = there.server.look_up(&lookup);
        self.answer_lookup(ticket, answer).unwrap();
        answer
    }

    /// Carries a post there, and its outcome back.
    #[track_caller]
    fn forward(&mut self, there: &mut Self) {
        let Some(Event::Foreign { post, ticket, .. }) = self.event() else { panic!("no post") };
        let outcome = there.deliver(post);
        self.acknowledge(ticket, outcome).unwrap();
    }
}

fn chunked(token: &str) -> String {
    let (length, chunked) = ("Content-Length: 47", "Transfer-Encoding: chunked");
    let request = post(token, NOTE).replace(length, chunked);
    request.replace(NOTE, &format!("2f\r\n{NOTE}\r\n0\r\n\r\n"))
}

#[test]
fn ticket_of_another_server_is_expired_and_harms_no_connection() {
    let (mut here, mut there) = shards();
    let client = there.open();
    let mut other = Bench::with(asking().shard(ShardId(1)));
    let conn = other.connect();
    other.says(conn, GET);
    let foreign = other.asked();
    // The same connection and the same number, which waits for something else.
    let conn = here.connect();
    here.says(conn, &chunked(&client.token)[..chunked(&client.token).len() - 10]);
    let (lookup, ticket) = here.looked_for();
    assert_eq!(here.authorize(foreign, allow("a")), Err(Expired));
    here.answer_lookup(ticket, there.server.look_up(&lookup)).unwrap();
}

#[test]
fn body_is_read_after_its_shard_has_found_the_session() {
    let (mut here, mut there) = shards();
    let client = there.open();
    for request in [post(&client.token, NOTE), chunked(&client.token)] {
        let head = request.find("\r\n\r\n").unwrap() + 4;
        for cut in [head, head + 1, head + 20, request.len() - 1] {
            let conn = here.connect();
            here.says(conn, &request[..cut]);
            // The rest waits in its socket.
            here.says(conn, &request[cut..]);
            assert_eq!(here.unread(conn), 1, "cut at {cut}");
            assert_eq!(here.look_up(&there), LookupAnswer::Found);
            assert_eq!(here.unread(conn), 0);
            here.forward(&mut there);
            assert_eq!(here.statuses(conn), [202], "cut at {cut}");
            assert_eq!(there.inbox().len(), 1);
            // The connection goes on, and a post that comes whole asks nobody first.
            here.says(conn, &request);
            here.forward(&mut there);
            assert_eq!(here.statuses(conn), [202, 202]);
            assert_eq!(there.inbox().len(), 1);
            here.reset(conn);
        }
    }
    assert_eq!(here.server.bodies_bytes, 0);
}

#[test]
fn post_to_an_unknown_session_is_404_before_its_body_with_the_same_bytes() {
    let (mut here, mut there) = shards();
    let client = there.open();
    let wrong = format!("{}AAAAAAAA", &client.token[..24]);
    for length in [100, 1 << 20] {
        let head = |token: &str| {
            post(token, NOTE).replace("Content-Length: 47", &format!("Content-Length: {length}"))
        };
        let own = here.ask(head("x").strip_suffix(NOTE).unwrap());
        assert_eq!(own.status, 404);
        for sent in ["", NOTE] {
            let conn = here.connect();
            here.says(conn, head(&wrong).replace(NOTE, sent));
            assert!(here.heard(conn).is_empty());
            assert!(here.server.bodies_bytes < 100, "no body is taken");
            assert_eq!(here.look_up(&there), LookupAnswer::UnknownSession);
            assert_eq!(here.answers(conn), core::slice::from_ref(&own), "{sent:?}");
        }
    }
    assert_eq!(here.server.metrics().fault(Fault::BodiesFull), 0);
}

#[test]
fn expect_continue_is_answered_after_the_lookup() {
    let (mut here, mut there) = shards();
    let client = there.open();
    let wrong = format!("{}AAAAAAAA", &client.token[..24]);
    for (token, expected) in [(&client.token, &[100, 202][..]), (&wrong, &[404])] {
        for at_once in [false, true] {
            let request = post_with(token, "Expect: 100-continue\r\n", NOTE);
            let conn = here.connect();
            let (head, body) = request.split_at(request.len() - NOTE.len());
            if at_once {
                here.says(conn, &request);
            } else {
                here.says(conn, head);
            }
            assert!(here.heard(conn).is_empty());
            let found = here.look_up(&there) == LookupAnswer::Found;
            if found && !at_once {
                assert_eq!(here.text(conn), "HTTP/1.1 100 Continue\r\n\r\n");
                here.says(conn, body);
            }
            if found {
                here.forward(&mut there);
            }
            assert_eq!(here.statuses(conn), expected);
        }
    }
}

#[test]
fn lookup_is_for_the_principal_and_the_service_of_the_post() {
    let shard = |number| Bench::with(asking().shard(ShardId(number)).forwarding(true));
    let (mut here, mut there) = (shard(1), shard(2));
    let client = there.open_for("alice");
    let request = post(&client.token, NOTE);
    for (name, expected) in
        [("mallory", LookupAnswer::UnknownSession), ("alice", LookupAnswer::Found)]
    {
        let conn = here.connect();
        here.says(conn, request.strip_suffix(NOTE).unwrap());
        let ticket = here.asked();
        here.authorize(ticket, allow(name)).unwrap();
        assert_eq!(here.look_up(&there), expected, "{name}");
    }
}

#[test]
fn lookup_without_an_answer_is_503_at_its_deadline() {
    let (mut here, mut there) = shards();
    let client = there.open();
    let conn = here.connect();
    let request = post(&client.token, NOTE);
    here.says(conn, request.strip_suffix(NOTE).unwrap());
    let (_, ticket) = here.looked_for();
    here.wait(secs(4) - Duration::from_micros(1));
    assert!(here.heard(conn).is_empty());
    here.wait(Duration::from_micros(1));
    assert_eq!(here.statuses(conn), [503]);
    assert_eq!(here.answer_lookup(ticket, LookupAnswer::Found), Err(Expired));
    // What was not read of it is thrown away.
    here.says(conn, String::from(NOTE) + &request);
    here.forward(&mut there);
    assert_eq!(here.statuses(conn), [503, 202]);
}

#[test]
fn lookup_at_a_draining_or_unavailable_shard_is_503() {
    let (mut here, mut there) = shards();
    let client = there.open();
    // Its session lives on, for the sake of the answer.
    there.ask(post(&client.token, &call(1)));
    there.shutdown();
    let conn = here.connect();
    here.says(conn, post(&client.token, NOTE).strip_suffix(NOTE).unwrap());
    assert_eq!(here.look_up(&there), LookupAnswer::Unavailable);
    let answer = here.answers(conn).remove(0);
    assert_eq!((answer.status, answer.field("Retry-After")), (503, Some("1")));
}

#[test]
fn body_deadline_runs_from_the_answer_to_the_lookup() {
    let (mut here, mut there) = shards();
    let client = there.open();
    let conn = here.connect();
    here.says(conn, post(&client.token, NOTE).strip_suffix(NOTE).unwrap());
    let (lookup, ticket) = here.looked_for();
    here.wait(secs(3));
    here.answer_lookup(ticket, there.server.look_up(&lookup)).unwrap();
    here.wait(secs(30) - Duration::from_micros(1));
    assert!(here.heard(conn).is_empty());
    here.wait(Duration::from_micros(1));
    assert_eq!(here.statuses(conn), [408]);
    assert_eq!(there.inbox().len(), 0);
}

#[test]
fn post_cut_short_during_a_lookup_is_not_executed() {
    for fin in [false, true] {
        let (mut here, mut there) = shards();
        let client = there.open();
        let conn = here.connect();
        let request = post(&client.token, NOTE);
        here.says(conn, &request[..request.len() - 1]);
        if fin {
            here.server.handle_eof(conn, here.now);
            assert_eq!(here.look_up(&there), LookupAnswer::Found);
            assert!(!here.is_open(conn) && here.heard(conn).is_empty());
            assert_eq!(here.server.metrics().fault(Fault::Truncated), 1);
        } else {
            here.reset(conn);
            let (_, ticket) = here.looked_for();
            assert_eq!(here.answer_lookup(ticket, LookupAnswer::Found), Err(Expired));
        }
        assert!(here.events().is_empty());
        assert_eq!(there.inbox().len(), 0);
    }
}

#[test]
fn pipelined_posts_are_looked_up_one_after_the_other() {
    let (mut here, mut there) = shards();
    let client = there.open();
    let conn = here.connect();
    let all: String = (0..3).map(|id| post(&client.token, &call(id))).collect();
    let (early, late) = all.split_at(all.len() - 5);
    here.says(conn, early);
    for _ in 0..2 {
        here.forward(&mut there);
    }
    assert_eq!(here.look_up(&there), LookupAnswer::Found);
    here.says(conn, late);
    here.forward(&mut there);
    assert_eq!(here.statuses(conn), [202; 3]);
    assert_eq!(there.inbox().len(), 3);
}

#[test]
fn lookup_over_events_max_is_503() {
    let config = limited(|limits| limits.events_max = Some(1));
    let mut here = Bench::with(config.shard(ShardId(1)).forwarding(true));
    let (_, mut there) = shards();
    let client = there.open();
    let request = post(&client.token, NOTE);
    let head = request.strip_suffix(NOTE).unwrap();
    for _ in 0..2 {
        let conn = here.connect();
        here.says(conn, head);
        assert!(here.heard(conn).is_empty());
    }
    let answer = here.ask(head);
    assert!(answer.status == 503 && answer.body.contains("events_max"), "{answer:?}");
}

#[test]
fn exchange_whose_body_arrives_in_pieces_is_looked_up() {
    for pieces in [&[NOTE][..], &[&NOTE[..10], &NOTE[10..]]] {
        let (mut here, mut there) = shards();
        let client = there.open();
        let target = format!("/messages?session_id={}", client.token);
        let fields: &[(&str, &[u8])] =
            &[("Host", b"localhost"), ("Content-Type", b"application/json")];
        for length in [None, Some(("Content-Length", &b"47"[..]))] {
            let fields: Vec<_> = fields.iter().copied().chain(length).collect();
            let exchange = Exchange { method: "POST", target: &target, fields: &fields, mount: "" };
            let conn = here.server.exchange(exchange, Peer::local(), here.now).unwrap();
            assert!(here.server.poll_event().is_none());
            let mut whole = length.is_some() && pieces.len() == 1;
            for piece in pieces {
                here.server.handle_input(conn, piece.as_bytes(), here.now);
                if !core::mem::replace(&mut whole, true) {
                    let (lookup, ticket) = here.looked_for();
                    let answer = there.server.look_up(&lookup);
                    here.server.answer_lookup(ticket, answer, here.now).unwrap();
                }
            }
            here.server.handle_eof(conn, here.now);
            let Some(Event::Foreign { post, ticket, .. }) = here.server.poll_event() else {
                panic!("no post")
            };
            let outcome = there.deliver(post);
            here.server.acknowledge(ticket, outcome, here.now).unwrap();
            assert_eq!(here.server.response(conn).unwrap().status(), 202);
            assert_eq!(there.inbox().len(), 1);
            here.server.handle_disconnect(conn, here.now);
            while here.server.poll_wake().is_some() {}
        }
    }
}
