//! Posts for sessions of another shard: `Foreign` on the one, `deliver` on the other, and held like others.

use std::collections::{BTreeMap, BTreeSet};

use super::authorize::{allow, asking};
use super::*;
use crate::ShardId;
use crate::error::{Expired, Fault};
use crate::event::{Delivery, ForwardedPost, Outcome, PostTicket, QueuedPostId};

impl Bench {
    /// Delivers a post that is not held.
    #[track_caller]
    pub(super) fn deliver(&mut self, post: ForwardedPost) -> Outcome {
        let delivery = self.server.deliver(post, self.now);
        self.pump();
        match delivery {
            Delivery::Done(outcome) => outcome,
            Delivery::Held(post) => panic!("{post} is held"),
        }
    }
}

/// Two shards of which one has the sessions, and posts come to the other.
struct Pair {
    here: Bench,
    there: Bench,
    owed: BTreeMap<QueuedPostId, PostTicket>,
}

impl Pair {
    /// With these limits there.
    fn limited(change: impl FnOnce(&mut Limits)) -> Self {
        let here = Bench::with(Config::builder().shard(ShardId(1)).forwarding(true));
        let there = Bench::with(limited(change).shard(ShardId(2)).forwarding(true));
        Self { here, there, owed: BTreeMap::new() }
    }

    /// Posts here, and carries it there.
    #[track_caller]
    fn post(&mut self, client: &Client, body: &str) -> ConnId {
        let conn = self.here.connect();
        self.here.says(conn, post(&client.token, body));
        let Some(Event::Foreign { post, ticket, .. }) = self.here.event() else {
            panic!("no post")
        };
        match self.there.server.deliver(post, self.there.now) {
            Delivery::Done(outcome) => self.here.acknowledge(ticket, outcome).unwrap(),
            Delivery::Held(post) => {
                assert!(self.owed.insert(post, ticket).is_none(), "{post} is somebody else's");
            }
        }
        self.there.pump();
        conn
    }

    /// Posts there.
    fn post_there(&mut self, client: &Client, body: &str) -> ConnId {
        let conn = self.there.connect();
        self.there.says(conn, post(&client.token, body));
        conn
    }

    /// The next thing that the application there is told; outcomes are carried back.
    #[track_caller]
    fn event(&mut self) -> Option<Event> {
        loop {
            match self.there.event()? {
                Event::Settled { post, outcome } => {
                    let ticket = self.owed.remove(&post).expect("a post is settled once");
                    self.here.acknowledge(ticket, outcome).unwrap();
                }
                event => return Some(event),
            }
        }
    }

    /// What the messages there are called.
    #[track_caller]
    fn ids(&mut self) -> Vec<String> {
        let name = |event| match event {
            Event::Message { message: m, .. } => m.id().or(m.method()).unwrap().to_string(),
            other => panic!("expected a message: {other:?}"),
        };
        core::iter::from_fn(|| self.event()).map(name).collect()
    }

    #[track_caller]
    fn wait(&mut self, interval: Duration) {
        self.there.wait(interval);
        self.here.wait(interval);
    }
}

#[test]
fn forwarded_and_local_posts_wait_in_one_line() {
    let mut pair = Pair::limited(|limits| limits.inbound_messages_max = Some(2));
    let client = pair.there.open();
    let first = [pair.post(&client, &call(1)), pair.post(&client, &call(2))];
    assert!(first.iter().all(|&conn| pair.here.statuses(conn) == [202]));
    let forwards = [pair.post(&client, &call(3)), pair.post(&client, NOTE)];
    let own = pair.post_there(&client, &call(5));
    let last = pair.post(&client, &call(6));
    for conn in [forwards[0], forwards[1], last] {
        assert!(pair.here.heard(conn).is_empty(), "held");
    }
    assert!(pair.there.heard(own).is_empty());
    assert_eq!(pair.there.server.metrics().posts_held, 4);
    // One has gone, and one comes.
    assert!(matches!(pair.event(), Some(Event::Message { .. })));
    assert!(pair.there.heard(own).is_empty());
    assert_eq!(pair.ids(), ["2", "3", "notifications/note", "5", "6"]);
    for conn in [forwards[0], forwards[1], last] {
        assert_eq!(pair.here.statuses(conn), [202]);
    }
    assert_eq!(pair.there.statuses(own), [202]);
    assert!(pair.owed.is_empty());
}

#[test]
fn forwarded_notification_passes_while_requests_wait_for_answers() {
    let mut pair = Pair::limited(|limits| limits.in_flight_max = Some(1));
    let client = pair.there.open();
    let conns = [&call(1), &call(2), RESULT, NOTE].map(|body| pair.post(&client, body));
    assert_eq!(pair.ids(), ["1", "\"s1\"", "notifications/note"]);
    assert!(pair.here.heard(conns[1]).is_empty());
    pair.there.send(client.session, &reply(1));
    assert_eq!(pair.ids(), ["2"]);
    assert!(conns.iter().all(|&conn| pair.here.statuses(conn) == [202]));
}

#[test]
fn forwarded_post_is_held_for_hold_and_then_refused() {
    for hold in [Some(secs(4)), None] {
        let config = timed(|timeouts| timeouts.hold = hold)
            .limits(Limits { inbound_messages_max: Some(1), ..Limits::default() });
        let mut pair = Pair::limited(|_| {});
        pair.there = Bench::with(config.shard(ShardId(2)));
        let client = pair.there.open();
        pair.post(&client, NOTE);
        let (asks, notes) = (pair.post(&client, &call(2)), pair.post(&client, RESULT));
        pair.wait(secs(4) - Duration::from_micros(1));
        assert!(pair.there.messages(client.conn).is_empty());
        pair.wait(Duration::from_micros(1));
        if hold.is_none() {
            assert_eq!(pair.ids(), ["notifications/note", "2", "\"s1\""]);
            continue;
        }
        let told = pair.there.messages(client.conn);
        assert!(told.len() == 1 && told[0].contains(r#""id":2"#), "{told:?}");
        assert!(told[0].contains("-32000") && told[0].contains("server busy"), "{told:?}");
        // Nobody here has given them up before that is known.
        assert!(pair.here.heard(asks).is_empty() && pair.here.heard(notes).is_empty());
        assert_eq!(pair.ids(), ["notifications/note"], "there is room now, and it is too late");
        assert_eq!(pair.here.statuses(asks), [202]);
        let refused = pair.here.answers(notes).remove(0);
        assert_eq!(refused.status, 503);
        assert!(refused.field("Retry-After").is_some(), "{refused:?}");
        assert_eq!(pair.there.server.metrics().fault(Fault::Busy), 1);
        assert_eq!(pair.here.server.metrics().fault(Fault::Busy), 1);
        assert!(pair.there.server.poll_timeout().is_some_and(|next| next.at > pair.there.now));
    }
}

/// Room comes after the time, and is noticed before the time is.
#[test]
fn forwarded_post_past_its_deadline_is_not_recorded() {
    let mut pair = Pair::limited(|limits| limits.inbound_messages_max = Some(1));
    let client = pair.there.open();
    pair.post(&client, NOTE);
    let conn = pair.post(&client, RESULT);
    pair.there.now = pair.there.now.saturating_add(secs(4) + Duration::from_micros(1));
    pair.there.server.set_backlog(client.session, 0, 0, pair.there.now);
    assert_eq!(pair.ids(), ["notifications/note"]);
    assert_eq!(pair.here.statuses(conn), [503]);
}

#[test]
fn held_forwards_are_settled_when_their_session_ends() {
    let (mut here, _) = shards();
    let unknown = here.ask(post("x", NOTE));
    for shutdown in [false, true] {
        let mut pair = Pair::limited(|limits| limits.inbound_messages_max = Some(1));
        let client = pair.there.open();
        pair.post(&client, NOTE);
        let conn = pair.post(&client, NOTE);
        if shutdown {
            pair.there.shutdown();
        } else {
            pair.there.reset(client.conn);
        }
        let events = core::iter::from_fn(|| pair.event()).count();
        assert!(events >= 2, "the message and the end");
        let answer = pair.here.answers(conn).remove(0);
        if shutdown {
            assert_eq!(answer.status, 503);
        } else {
            assert_eq!(answer, unknown);
        }
        assert!(pair.owed.is_empty());
    }
}

#[test]
fn cancellation_overtakes_a_queued_forward() {
    let mut pair = Pair::limited(|limits| limits.in_flight_max = Some(1));
    let client = pair.there.open();
    pair.post(&client, &call(1));
    let conns = [pair.post(&client, &call(2)), pair.post(&client, &call(3))];
    pair.post_there(
        &client,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#,
    );
    assert_eq!(pair.ids(), ["1", "notifications/cancelled"]);
    assert_eq!(pair.here.statuses(conns[0]), [202]);
    assert!(pair.here.heard(conns[1]).is_empty());
    assert_eq!(pair.there.server.metrics().requests_withdrawn, 1);
    pair.there.send(client.session, &reply(1));
    assert_eq!(pair.ids(), ["3"]);
}

#[test]
fn forwards_are_limited_until_their_outcome_is_polled() {
    let mut pair = Pair::limited(|limits| {
        limits.inbound_messages_max = Some(1);
        limits.forwarded_max = Some(2);
    });
    let client = pair.there.open();
    pair.post(&client, &call(1));
    let conns = [2, 3, 4].map(|id| pair.post(&client, &call(id)));
    assert_eq!(pair.here.statuses(conns[2]), [503]);
    let before: BTreeSet<QueuedPostId> = pair.owed.keys().copied().collect();
    assert_eq!(before.len(), 2);
    // The first of them has room, and nobody has been told.
    assert!(matches!(pair.there.event(), Some(Event::Message { .. })));
    let late = pair.post(&client, &call(5));
    assert_eq!(pair.here.statuses(late), [503], "its place is not free yet");
    assert_eq!(pair.ids(), ["2", "3"]);
    pair.post(&client, &call(6));
    let again = pair.post(&client, &call(7));
    assert!(pair.here.heard(again).is_empty());
    assert!(pair.owed.keys().all(|post| !before.contains(post)), "a handle is used once");
    assert_eq!(pair.ids(), ["6", "7"]);
}

#[test]
fn forwards_count_in_the_budget_of_bodies() {
    let mut pair = Pair::limited(|limits| {
        limits.inbound_messages_max = Some(1);
        limits.bodies_bytes_max = Some(3 * NOTE.len() as u64);
    });
    let client = pair.there.open();
    let conns = [(); 4].map(|()| pair.post(&client, NOTE));
    assert_eq!(pair.here.statuses(conns[3]), [503]);
    assert_eq!(pair.ids().len(), 3);
    assert_eq!(pair.there.server.bodies_bytes, 0);
}

/// Two shards that forward to each other.
fn shards() -> (Bench, Bench) {
    let shard = |number| Bench::with(Config::builder().shard(ShardId(number)).forwarding(true));
    (shard(1), shard(2))
}

#[test]
fn post_reaches_its_session_on_another_shard() {
    let (mut here, mut there) = shards();
    let client = there.open();
    let conn = here.connect();
    here.says(conn, post(&client.token, &call(1)));
    assert!(here.heard(conn).is_empty());
    let Some(Event::Foreign { shard, post: forwarded, ticket }) = here.event() else { panic!() };
    assert_eq!((shard, forwarded.shard()), (ShardId(2), ShardId(2)));
    let outcome = there.deliver(forwarded);
    assert_eq!(outcome, Outcome::Accepted);
    here.acknowledge(ticket, outcome).unwrap();
    assert_eq!(here.statuses(conn), [202]);
    assert_eq!(there.inbox().len(), 1);
    assert_eq!(there.server.session(client.session).unwrap().requests_in_flight(), 1);
}

#[test]
fn post_without_a_session_on_the_other_shard_is_404() {
    let (mut here, mut there) = shards();
    let client = there.open();
    there.reset(client.conn);
    let conn = here.connect();
    here.says(conn, post(&client.token, NOTE));
    let Some(Event::Foreign { post: forwarded, ticket, .. }) = here.event() else { panic!() };
    let outcome = there.deliver(forwarded);
    here.acknowledge(ticket, outcome).unwrap();
    let answer = here.answers(conn).remove(0);
    assert_eq!(answer, here.ask(post("x", NOTE)));
}

#[test]
fn forward_to_a_shard_without_body_budget_is_busy() {
    let (mut here, _) = shards();
    let room = limited(|limits| limits.bodies_bytes_max = Some(NOTE.len() as u64));
    let mut there = Bench::with(room.shard(ShardId(2)));
    let client = there.open();
    let conn = here.connect();
    here.says(conn, post(&client.token, NOTE) + &post(&client.token, NOTE));
    let mut outcomes = Vec::new();
    while let Some(Event::Foreign { post: forwarded, ticket, .. }) = here.event() {
        let outcome = there.deliver(forwarded);
        here.acknowledge(ticket, outcome).unwrap();
        outcomes.push(outcome);
    }
    assert_eq!(outcomes, [Outcome::Accepted, Outcome::Busy]);
    assert_eq!(here.statuses(conn), [202, 503]);
}

#[test]
fn draining_shard_takes_no_forwarded_posts() {
    let (mut here, mut there) = shards();
    let client = there.open();
    there.ask(post(&client.token, &call(1)));
    here.says_once(post(&client.token, NOTE));
    there.shutdown();
    let Some(Event::Foreign { post: forwarded, .. }) = here.event() else { panic!() };
    assert_eq!(there.deliver(forwarded), Outcome::Busy);
}

impl Bench {
    fn says_once(&mut self, request: String) {
        let conn = self.connect();
        self.says(conn, request);
    }
}

#[test]
fn forwarded_post_without_an_outcome_is_503_at_its_deadline() {
    let shard = |number| Bench::with(Config::builder().shard(ShardId(number)).forwarding(true));
    let (mut here, mut there) = (shard(1), shard(2));
    let client = there.open();
    let conn = here.connect();
    here.says(conn, post(&client.token, NOTE));
    let Some(Event::Foreign { ticket, .. }) = here.event() else { panic!() };
    // The other shard may have held it for four seconds and been as slow as a decision may be.
    here.wait(secs(8) - Duration::from_micros(1));
    assert!(here.heard(conn).is_empty());
    here.wait(Duration::from_micros(1));
    assert_eq!(here.statuses(conn), [503]);
    assert_eq!(here.acknowledge(ticket, Outcome::Accepted), Err(Expired));
}

#[test]
fn forward_carries_its_principal() {
    let shard = |number| Bench::with(asking().shard(ShardId(number)).forwarding(true));
    let (mut here, mut there) = (shard(1), shard(2));
    let client = there.open_for("alice");
    for (name, expected) in [("mallory", Outcome::UnknownSession), ("alice", Outcome::Accepted)] {
        let conn = here.connect();
        here.says(conn, post(&client.token, NOTE));
        let ticket = here.asked();
        here.authorize(ticket, allow(name)).unwrap();
        let Some(Event::Foreign { post: forwarded, .. }) = here.event() else { panic!() };
        assert_eq!(there.deliver(forwarded), expected, "{name}");
    }
}

#[test]
fn post_for_another_shard_without_forwarding_is_misrouted() {
    let mut there = Bench::with(Config::builder().shard(ShardId(2)));
    let token = there.open().token;
    let mut here = Bench::with(Config::builder().shard(ShardId(1)));
    assert_eq!(here.ask(post(&token, NOTE)), here.ask(post("x", NOTE)));
    assert_eq!(here.server.metrics().fault(Fault::Misrouted), 1);
    assert!(here.events().is_empty());
}
