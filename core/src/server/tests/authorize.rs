//! Decisions that are made elsewhere: authorization, posts for other shards.

use super::*;
use crate::error::{Expired, Fault};
use crate::event::{AuthTicket, Outcome, PostTicket, Refusal, Verdict};
use crate::{Authorization, Principal, ShardId};

pub(super) fn asking() -> ConfigBuilder {
    Config::builder().authorization(Authorization::Deferred)
}

/// A shard that forwards, and the token of a session of another.
pub(super) fn forwarding() -> (Bench, String) {
    let token = Bench::with(Config::builder().shard(ShardId(2))).open().token;
    (Bench::with(Config::builder().shard(ShardId(1)).forwarding(true)), token)
}

impl Bench {
    /// The ticket of a post for another shard.
    #[track_caller]
    pub(super) fn forwarded(&mut self) -> PostTicket {
        match self.event() {
            Some(Event::Foreign { ticket, .. }) => ticket,
            other => panic!("expected a post for another shard: {other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn asked(&mut self) -> AuthTicket {
        match self.event() {
            Some(Event::Asked { ticket, .. }) => ticket,
            other => panic!("expected a question: {other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn authorize(
        &mut self,
        ticket: AuthTicket,
        verdict: Verdict,
    ) -> Result<(), Expired> {
        let result = self.server.authorize(ticket, verdict, self.now);
        self.pump();
        result
    }

    pub(super) fn acknowledge(
        &mut self,
        ticket: PostTicket,
        outcome: Outcome,
    ) -> Result<(), Expired> {
        let result = self.server.acknowledge(ticket, outcome, self.now);
        self.pump();
        result
    }

    /// Opens a session on behalf of somebody.
    #[track_caller]
    pub(super) fn open_for(&mut self, name: &str) -> Client {
        let conn = self.connect();
        self.says(conn, GET);
        let ticket = self.asked();
        self.authorize(ticket, allow(name)).unwrap();
        match self.event() {
            Some(Event::Opened { session, principal, .. }) => {
                assert_eq!(principal, Some(Principal::new(name)));
                Client { conn, session, token: self.stream(conn).token() }
            }
            other => panic!("expected a new session: {other:?}"),
        }
    }

    /// A post on behalf of somebody.
    #[track_caller]
    fn post_for(&mut self, name: &str, request: &str) -> Answer {
        let conn = self.connect();
        self.says(conn, request);
        let ticket = self.asked();
        self.authorize(ticket, allow(name)).unwrap();
        self.answers(conn).remove(0)
    }
}

pub(super) fn allow(name: &str) -> Verdict {
    Verdict::Allow(Principal::new(name))
}

#[test]
fn asked_event_has_the_head_and_allowed_request_proceeds() {
    let mut bench = Bench::with(asking());
    let conn = bench.connect();
    bench.says(conn, "GET /sse?x=y HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer b\r\n\r\n");
    assert!(bench.heard(conn).is_empty());
    assert_eq!(bench.server.interest(conn), Interest::Io { read: false, write: false });
    let Some(Event::Asked { ticket, head }) = bench.event() else { panic!("nobody was asked") };
    assert_eq!((head.method(), head.path()), (crate::http1::Method::Get, "/sse"));
    assert_eq!(head.field("authorization"), Some(&b"Bearer b"[..]));
    assert_eq!(head.fields().count(), 2);
    assert!(!format!("{head:?}").contains("Bearer"));
    bench.authorize(ticket, allow("alice")).unwrap();
    match bench.events().as_slice() {
        [Event::Opened { session, principal, .. }] => {
            assert_eq!(principal.as_ref().map(Principal::name), Some("alice"));
            let view = bench.server.session(*session).unwrap();
            assert_eq!(view.principal(), principal.as_ref());
        }
        other => panic!("{other:?}"),
    }
    assert!(bench.stream(conn).token().len() == 32);
}

#[test]
fn verdict_refusals_have_their_status_codes() {
    for (refusal, status, challenge, body) in [
        (Refusal::Unauthenticated, 401, Some("Bearer"), r#"{"error":"unauthorized","#),
        (
            Refusal::InvalidToken,
            401,
            Some("Bearer error=\"invalid_token\""),
            r#"{"error":"invalid_token","#,
        ),
        (Refusal::Forbidden, 403, None, r#"{"error":"forbidden","#),
        (Refusal::Unavailable, 503, None, ""),
    ] {
        for request in [GET.into(), post("x", NOTE), post_with("x", "Expect: 100-continue\r\n", "")]
        {
            let mut bench = Bench::with(asking());
            let conn = bench.connect();
            bench.says(conn, &request);
            let ticket = bench.asked();
            bench.authorize(ticket, Verdict::Refuse(refusal)).unwrap();
            let answer = bench.answers(conn).remove(0);
            assert_eq!(answer.status, status, "{request}");
            assert_eq!(answer.field("WWW-Authenticate"), challenge);
            assert!(answer.body.starts_with(body), "{answer:?}");
            assert!(bench.is_open(conn) && bench.events().is_empty());
            assert_eq!(bench.server.sessions_open(), 0);
            let undecided = u64::from(refusal == Refusal::Unavailable);
            assert_eq!(bench.server.metrics().fault(Fault::Undecided), undecided);
            assert_eq!(bench.server.metrics().fault(Fault::DecisionTimeout), 0);
        }
    }
}

#[test]
fn unauthorized_post_is_told_nothing_about_its_head() {
    let mut bench = Bench::with(asking());
    let request = post("x", NOTE).replace("application/json", "text/plain");
    let conn = bench.connect();
    bench.says(conn, &request);
    assert!(bench.heard(conn).is_empty());
    let ticket = bench.asked();
    bench.authorize(ticket, allow("alice")).unwrap();
    assert_eq!(bench.statuses(conn), [415]);
    assert!(bench.is_open(conn), "and what came with it is read past");
    bench.says(conn, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(bench.statuses(conn), [415, 200]);
}

#[test]
fn input_behind_a_head_is_used_after_the_verdict() {
    let mut bench = Bench::with(asking());
    let client = bench.open_for("alice");
    let conn = bench.connect();
    bench.says(conn, post(&client.token, &call(1)) + &post(&client.token, &call(2)));
    for id in ["1", "2"] {
        let ticket = bench.asked();
        bench.authorize(ticket, allow("alice")).unwrap();
        let Some(Event::Message { message, .. }) = bench.event() else { panic!("no message") };
        assert_eq!(message.id(), Some(id));
    }
    assert_eq!(bench.statuses(conn), [202, 202]);
}

#[test]
fn disconnect_before_the_verdict_leaves_no_session() {
    let mut bench = Bench::with(asking());
    let conn = bench.connect();
    bench.says(conn, GET);
    let ticket = bench.asked();
    bench.server.handle_eof(conn, bench.now);
    bench.authorize(ticket, allow("alice")).unwrap();
    let events = bench.events();
    let ended = |event: &Event| matches!(event, Event::Closed { reason: CloseReason::Peer, .. });
    assert!(events.last().is_some_and(ended), "{events:?}");
    assert!(!bench.is_open(conn));
}

#[test]
fn ticket_answers_only_its_own_question_in_time() {
    let mut bench = Bench::with(asking());
    // Too late.
    let conn = bench.connect();
    bench.says(conn, GET);
    let ticket = bench.asked();
    bench.wait(secs(4));
    assert_eq!(bench.authorize(ticket, allow("a")), Err(Expired));
    assert_eq!(bench.statuses(conn), [503]);
    // The connection asks again: the old ticket is not for the new question.
    bench.says(conn, GET);
    let old = bench.asked();
    bench.wait(secs(4));
    bench.says(conn, GET);
    let new = bench.asked();
    assert_eq!(bench.authorize(old, allow("a")), Err(Expired));
    bench.authorize(new, allow("a")).unwrap();
    assert!(matches!(bench.events().as_slice(), [Event::Opened { .. }]));
    // The connection is gone.
    let conn = bench.connect();
    bench.says(conn, GET);
    let ticket = bench.asked();
    bench.reset(conn);
    assert_eq!(bench.authorize(ticket, allow("a")), Err(Expired));
    // And its slot has another tenant.
    let conn = bench.connect();
    bench.says(conn, GET);
    let ticket = bench.asked();
    bench.reset(conn);
    let next = bench.connect();
    assert_eq!(conn.slot(), next.slot());
    bench.says(next, GET);
    assert_eq!(bench.authorize(ticket, allow("a")), Err(Expired));
}

#[test]
fn dropped_ticket_is_503_at_its_deadline() {
    let mut bench = Bench::with(asking());
    let conn = bench.connect();
    bench.says(conn, GET);
    drop(bench.events());
    bench.wait(secs(4));
    assert_eq!(bench.statuses(conn), [503]);
}

#[test]
fn session_of_another_principal_is_unknown() {
    let mut bench = Bench::with(asking());
    let client = bench.open_for("alice");
    let stranger = bench.post_for("mallory", &post(&client.token, NOTE));
    let unknown = bench.post_for("mallory", &post("x", NOTE));
    assert_eq!(stranger, unknown);
    assert_eq!(stranger.status, 404);
    assert!(bench.events().is_empty());
    assert_eq!(bench.post_for("alice", &post(&client.token, NOTE)).status, 202);
    assert_eq!(bench.inbox().len(), 1);
}

#[test]
fn post_for_another_shard_gets_the_acknowledged_outcome() {
    for (outcome, status) in
        [(Outcome::Accepted, 202), (Outcome::UnknownSession, 404), (Outcome::Busy, 503)]
    {
        let (mut bench, token) = forwarding();
        let conn = bench.connect();
        bench.says(conn, post(&token, NOTE) + &post(&token, NOTE));
        for answered in 1..=2 {
            let ticket = bench.forwarded();
            assert_eq!(bench.answers(conn).len(), answered - 1);
            bench.acknowledge(ticket, outcome).unwrap();
            assert_eq!(bench.statuses(conn), std::vec![status; answered]);
        }
        // Late, and for a peer that has left.
        bench.says(conn, post(&token, NOTE));
        let ticket = bench.forwarded();
        bench.wait(secs(8));
        assert_eq!(bench.acknowledge(ticket, outcome), Err(Expired));
        bench.says(conn, post(&token, NOTE));
        let ticket = bench.forwarded();
        bench.reset(conn);
        assert_eq!(bench.acknowledge(ticket, outcome), Err(Expired));
    }
}

#[test]
fn answered_question_leaves_no_deadline() {
    let mut bench = Bench::with(asking());
    let client = bench.open_for("alice");
    let conn = bench.connect();
    let request = post(&client.token, NOTE);
    bench.says(conn, request.strip_suffix(NOTE).unwrap());
    let ticket = bench.asked();
    bench.authorize(ticket, allow("alice")).unwrap();
    bench.wait(secs(5));
    assert!(bench.heard(conn).is_empty(), "the body has time of its own");
    bench.says(conn, NOTE);
    assert_eq!(bench.statuses(conn), [202]);
    bench.wait(secs(74));
    assert!(bench.is_open(conn) && bench.statuses(conn) == [202]);
}

#[test]
fn question_over_events_max_is_503() {
    let config =
        limited(|limits| limits.events_max = Some(1)).authorization(Authorization::Deferred);
    let mut bench = Bench::with(config);
    for _ in 0..2 {
        let conn = bench.connect();
        bench.says(conn, GET);
        assert!(bench.heard(conn).is_empty());
    }
    let answer = bench.ask(GET);
    assert!(answer.status == 503 && answer.body.contains("events_max"), "{answer:?}");
    assert_eq!(bench.events().len(), 2);
}

#[test]
fn continue_is_sent_after_authorization() {
    let mut bench = Bench::with(asking());
    let client = bench.open_for("alice");
    let request = post_with(&client.token, "Expect: 100-continue\r\n", NOTE);
    let conn = bench.connect();
    bench.says(conn, request.strip_suffix(NOTE).unwrap());
    assert!(bench.heard(conn).is_empty());
    let ticket = bench.asked();
    bench.authorize(ticket, allow("alice")).unwrap();
    assert_eq!(bench.text(conn), "HTTP/1.1 100 Continue\r\n\r\n");
    bench.says(conn, NOTE);
    assert_eq!(bench.statuses(conn), [100, 202]);
}

#[test]
fn ticket_of_an_earlier_question_is_expired_while_a_later_one_of_its_connection_is_open() {
    // Of verdicts. The connection, its slot and its phase are those of the later question; the number
    // alone tells the two tickets apart.
    let mut bench = Bench::with(asking());
    let conn = bench.connect();
    bench.says(conn, GET);
    let early = bench.asked();
    bench.wait(secs(4));
    assert_eq!(bench.statuses(conn), [503]);
    bench.says(conn, GET);
    let late = bench.asked();
    assert_eq!(bench.authorize(early, allow("mallory")), Err(Expired));
    assert_eq!(bench.server.sessions_open(), 0, "nobody has vouched for the later request");
    assert_eq!(bench.statuses(conn), [503]);
    bench.authorize(late, allow("alice")).unwrap();
    let Some(Event::Opened { principal: Some(principal), .. }) = bench.event() else {
        panic!("a session")
    };
    assert_eq!(principal.name(), "alice");

    // Of posts.
    let (mut bench, token) = forwarding();
    let conn = bench.connect();
    bench.says(conn, post(&token, NOTE));
    let early = bench.forwarded();
    bench.wait(secs(8));
    bench.says(conn, post(&token, NOTE));
    let late = bench.forwarded();
    assert_eq!(bench.acknowledge(early, Outcome::Accepted), Err(Expired));
    assert_eq!(bench.statuses(conn), [503], "the later post is not answered by the earlier ticket");
    bench.acknowledge(late, Outcome::Busy).unwrap();
    assert_eq!(bench.statuses(conn), [503, 503]);
}

/// The phases of a connection in which no ticket is awaited, each with a ticket from before.
#[test]
fn ticket_is_expired_once_its_question_has_been_answered() {
    let (mut bench, token) = forwarding();
    let conn = bench.connect();
    bench.says(conn, post(&token, NOTE));
    let ticket = bench.forwarded();
    bench.wait(secs(8));
    let own = bench.open();
    let next = post(&own.token, NOTE);
    bench.says(conn, &next[..next.len() - 1]);
    assert_eq!(bench.acknowledge(ticket, Outcome::Busy), Err(Expired));
    bench.says(conn, &next[next.len() - 1..]);
    assert_eq!(bench.statuses(conn), [503, 202]);
}
