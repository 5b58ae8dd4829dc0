//! Questions to an authorizer: how many at once, who waits, and what becomes of the rest.

use std::collections::BTreeMap;
use std::sync::Mutex;

use mcp_sse_core::{Authorization, ConnId, Principal, Refusal, RequestHead, Timeouts, Verdict};

use super::*;
use crate::decisions::{Authorizer, DECISIONS_MAX, Decisions, catch_panic};
use crate::verdicts::VerdictCache;

/// What the authorizer is to say about each token; it waits where there is nothing yet.
#[derive(Clone, Default)]
struct Oracle(Arc<Mutex<Said>>);

#[derive(Default)]
struct Said {
    verdicts: BTreeMap<String, Verdict>,
    waiting: BTreeMap<String, Waker>,
    /// Times it was asked, and polled.
    asked: usize,
    polled: usize,
    unfinished: usize,
}

/// Notes when a decision is given up.
struct Unfinished(Oracle);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().unfinished -= 1;
    }
}

impl Oracle {
    fn authorizer(&self) -> Authorizer {
        let oracle = self.clone();
        Authorizer::new(move |head: Arc<RequestHead>| {
            let token = head.field("authorization").unwrap_or_default();
            let token = String::from_utf8(token.to_vec()).unwrap();
            let mut said = oracle.0.lock().unwrap();
            said.asked += 1;
            said.unfinished += 1;
            let (unfinished, oracle) = (Unfinished(oracle.clone()), oracle.clone());
            core::future::poll_fn(move |cx| {
                let _ = &unfinished;
                let mut said = oracle.0.lock().unwrap();
                said.polled += 1;
                if let Some(verdict) = said.verdicts.get(&token) {
                    return Poll::Ready(verdict.clone());
                }
                said.waiting.insert(token.clone(), cx.waker().clone());
                Poll::Pending
            })
        })
    }

    fn says(&self, token: &str, verdict: Verdict) {
        let mut said = self.0.lock().unwrap();
        said.verdicts.insert(token.to_string(), verdict);
        let waker = said.waiting.remove(token);
        drop(said);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn allows(&self, token: &str) {
        self.says(token, Verdict::Allow(Principal::new(token)));
    }

    /// Times it was asked and polled, and futures that are there.
    fn count(&self) -> (usize, usize, usize) {
        let said = self.0.lock().unwrap();
        (said.asked, said.polled, said.unfinished)
    }
}

/// A shard's server and its questions, without sockets.
struct Desk {
    server: Server,
    decisions: Decisions,
    oracle: Oracle,
    opened: Vec<String>,
}

impl Desk {
    fn new(cache: VerdictCache) -> Self {
        Self::with(cache, Limits::default())
    }

    fn with(cache: VerdictCache, limits: Limits) -> Self {
        let timeouts = Timeouts { idle: None, ..Timeouts::default() };
        let config = Config::builder()
            .authorization(Authorization::Deferred)
            .limits(limits)
            .timeouts(timeouts)
            .build();
        let server = Server::new(config.unwrap(), Box::new(Random::seeded(1)), NOW);
        let (_, controls) = shard_control();
        let oracle = Oracle::default();
        let link = controls.shard_set.own().clone();
        let decisions = Decisions::new(Some(oracle.authorizer()), cache, link);
        Self { server, decisions, oracle, opened: Vec::new() }
    }

    /// A client asks for a stream.
    fn asks(&mut self, token: &str, now: Time) -> ConnId {
        let conn = self.server.accept(Peer::local(), now).unwrap();
        let request =
            format!("GET /sse HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\n\r\n");
        self.server.handle_input(conn, request.as_bytes(), now);
        self.serve(now);
        conn
    }

    fn serve(&mut self, now: Time) {
        while let Some(event) = self.server.poll_event() {
            match event {
                Event::Asked { ticket, head } => {
                    self.decisions.ask(ticket, head, &mut self.server, now);
                }
                Event::Opened { principal, .. } => {
                    self.opened.push(principal.unwrap().name().to_string());
                }
                Event::Message { .. }
                | Event::Foreign { .. }
                | Event::LookedFor { .. }
                | Event::Unblocked { .. }
                | Event::Closed { .. }
                | Event::Settled { .. }
                | Event::Drained => {}
                unknown => unreachable!("an unknown event: {unknown:?}"),
            }
        }
    }

    /// A turn, and further ones for as long as they are wanted.
    fn turn(&mut self, now: Time) {
        self.server.handle_timeout(now);
        while self.decisions.poll(&mut self.server, now) {}
        self.serve(now);
    }

    fn status(&self, conn: ConnId) -> String {
        let mut said = Vec::new();
        self.server.transmit(conn).write_to(&mut said).unwrap();
        String::from_utf8(said).unwrap().get(9..12).unwrap_or("none").to_string()
    }
}

fn after(millis: u64) -> Time {
    NOW.saturating_add(core::time::Duration::from_millis(millis))
}

#[test]
fn many_at_once() {
    let mut desk = Desk::new(VerdictCache::new());
    let tokens: Vec<String> = (0..200).map(|n| format!("t{n}")).collect();
    let conns: Vec<_> = tokens.iter().map(|token| desk.asks(token, NOW)).collect();
    assert_eq!(desk.oracle.count(), (DECISIONS_MAX, DECISIONS_MAX, DECISIONS_MAX));
    for (n, token) in tokens.iter().enumerate() {
        desk.oracle.allows(token);
        desk.turn(after(1));
        let (asked, polled, unfinished) = desk.oracle.count();
        // One is polled because it was woken, one because it has begun, and nobody else.
        assert_eq!(asked, 200.min(n + 1 + DECISIONS_MAX));
        assert_eq!(polled, asked + n + 1);
        assert!(unfinished <= DECISIONS_MAX);
    }
    assert_eq!(desk.opened, tokens);
    assert!(conns.iter().all(|&conn| desk.status(conn) == "200"));
    desk.server.check();
}

#[test]
fn those_that_are_ready_at_once_take_turns() {
    let mut desk = Desk::new(VerdictCache::new().lifetime(None));
    desk.oracle.allows("t");
    for _ in 0..DECISIONS_MAX + 10 {
        desk.asks("t", NOW);
    }
    assert_eq!(desk.oracle.count().0, DECISIONS_MAX);
    assert!(!desk.decisions.poll(&mut desk.server, NOW), "all have begun");
    assert_eq!(desk.oracle.count(), (DECISIONS_MAX + 10, DECISIONS_MAX + 10, 0));
}

#[test]
fn one_question_for_those_with_the_same_credential() {
    let mut desk = Desk::new(VerdictCache::new());
    let conns: Vec<_> = (0..100).map(|_| desk.asks("t", NOW)).collect();
    let other = desk.asks("u", NOW);
    assert_eq!(desk.oracle.count().0, 2);
    desk.oracle.allows("t");
    desk.turn(after(1));
    assert!(conns.iter().all(|&conn| desk.status(conn) == "200"));
    assert_eq!(desk.status(other), "none");
    let late = desk.asks("t", after(59_000));
    assert_eq!((desk.oracle.count().0, desk.status(late).as_str()), (2, "200"));
    desk.asks("t", after(60_001));
    assert_eq!(desk.oracle.count().0, 3);
    // Without remembering each asks for itself.
    let mut desk = Desk::new(VerdictCache::new().lifetime(None));
    desk.asks("t", NOW);
    desk.asks("t", NOW);
    assert_eq!(desk.oracle.count().0, 2);
}

#[test]
fn decisions_that_never_come_make_room() {
    let mut desk = Desk::new(VerdictCache::new());
    let stuck: Vec<_> = (0..DECISIONS_MAX).map(|n| desk.asks(&format!("stuck{n}"), NOW)).collect();
    desk.oracle.allows("t");
    let waits = desk.asks("t", after(2_000));
    assert_eq!(
        (desk.status(waits).as_str(), desk.decisions.deadline()),
        ("none", Some(after(4_000)))
    );
    desk.turn(after(3_999));
    assert_eq!(desk.oracle.count().2, DECISIONS_MAX);
    desk.turn(after(4_000));
    assert!(stuck.iter().all(|&conn| desk.status(conn) == "503"));
    assert_eq!(desk.status(waits), "200");
    assert_eq!((desk.oracle.count().2, desk.decisions.deadline()), (0, None));
}

#[test]
fn a_verdict_that_comes_too_late_is_remembered_all_the_same() {
    let mut desk = Desk::new(VerdictCache::new());
    let left = desk.asks("t", NOW);
    desk.server.handle_disconnect(left, after(1));
    desk.oracle.allows("t");
    desk.turn(after(2));
    assert_eq!(desk.server.metrics().verdicts_late, 1);
    let conn = desk.asks("t", after(3));
    assert_eq!((desk.status(conn).as_str(), desk.oracle.count().0), ("200", 1));
    let metrics = desk.server.metrics();
    assert_eq!((metrics.questions_asked, metrics.verdicts_remembered), (2, 1));
}

#[test]
fn clients_that_leave_take_their_questions_along() {
    let mut desk =
        Desk::with(VerdictCache::new(), Limits { events_max: Some(200), ..Limits::default() });
    for n in 0..10_000 {
        let conn = desk.asks(&format!("t{n}"), NOW);
        assert_eq!(desk.status(conn), "none", "{n}");
        desk.server.handle_disconnect(conn, NOW);
    }
    assert_eq!(desk.oracle.count().0, DECISIONS_MAX);
    // Those who stay are counted.
    let conns: Vec<_> = (0..300).map(|n| desk.asks(&format!("u{n}"), NOW)).collect();
    let refused = conns.iter().filter(|&&conn| desk.status(conn) == "503").count();
    assert_eq!(refused, 100);
}

#[test]
fn a_panic_refuses_a_request_and_no_more() {
    let authorizer = Authorizer::new(|head: Arc<RequestHead>| {
        let token = head.field("authorization").unwrap_or_default().to_vec();
        assert_ne!(token, b"early", "stumbled, as it was told to");
        async move {
            assert_ne!(token, b"late", "stumbled, as it was told to");
            Verdict::Refuse(Refusal::Forbidden)
        }
    });
    let mut desk = Desk::new(VerdictCache::new());
    let (_, controls) = shard_control();
    let link = controls.shard_set.own().clone();
    desk.decisions = Decisions::new(Some(authorizer), VerdictCache::new(), link);
    for (token, status) in [("early", "503"), ("late", "503"), ("t", "403"), ("early", "503")] {
        let conn = desk.asks(token, NOW);
        assert_eq!(desk.status(conn), status, "{token}");
    }
}

#[test]
fn authorizer_that_panics_a_thousand_times_is_a_line_a_second() {
    let clock = mcp_sse_core::Clock::start();
    let lines = crate::testing::lines_in(|| {
        for _ in 0..1_000 {
            // Past the panic hook, whose words are the program's affair.
            let done = catch_panic::<()>(|| std::panic::resume_unwind(Box::new(())));
            assert!(done.is_none());
        }
    });
    let seconds = clock.now().as_micros() / 1_000_000;
    // Another test's panic may have had the line of this second.
    assert!(lines.len() as u64 <= 1 + seconds, "{}", lines.len());
}

#[test]
fn a_key_that_panics_refuses_a_request_and_no_more() {
    let cache = VerdictCache::new().key(|head| {
        let token = head.field("authorization").unwrap_or_default();
        assert_ne!(token, b"bad", "stumbled, as it was told to");
        Some(token.to_vec())
    });
    let mut desk = Desk::new(cache);
    desk.oracle.allows("bad");
    desk.oracle.allows("t");
    for (token, status) in [("bad", "503"), ("t", "200"), ("bad", "503")] {
        let conn = desk.asks(token, NOW);
        assert_eq!(desk.status(conn), status, "{token}");
    }
    assert_eq!(desk.oracle.count().0, 1);
}

#[test]
fn a_wake_gets_the_turn() {
    let mut desk = Desk::new(VerdictCache::new());
    let (_, controls) = shard_control();
    let link = controls.shard_set.own().clone();
    desk.decisions =
        Decisions::new(Some(desk.oracle.authorizer()), VerdictCache::new(), link.clone());
    let conn = desk.asks("t", NOW);
    let turn = Arc::new(Counted::default());
    let waker = Waker::from(turn.clone());
    drop(link.mailbox.take(&Context::from_waker(&waker)));
    desk.oracle.allows("t");
    assert_eq!(turn.0.load(Ordering::Relaxed), 1);
    desk.turn(NOW);
    assert_eq!(desk.status(conn), "200");
}
