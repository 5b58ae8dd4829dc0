//! Decisions of an authorizer: how many run at once, which requests wait, and what ends them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use mcp_sse_core::{Authorization, ConnId, Principal, Refusal, RequestHead, Timeouts, Verdict};

use super::*;
use crate::decisions::{
    Authorizer, DECISIONS_MAX, DECISIONS_PER_ADDRESS_MAX, Decisions, catch_panic,
};
use crate::verdicts::VerdictCache;

/// An authorizer with a verdict for each token; without one, its decision is pending.
#[derive(Clone, Default)]
struct ScriptedAuthorizer(Arc<Mutex<AuthorizerScript>>);

#[derive(Default)]
struct AuthorizerScript {
    verdicts: BTreeMap<String, Verdict>,
    waiting: BTreeMap<String, Waker>,
    /// How many times the authorizer was called.
    asked: usize,
    /// How many times its futures were polled.
    polled: usize,
    /// How many of its futures exist.
    unfinished: usize,
}

/// Held by each future: counts the future while it exists.
struct Unfinished(ScriptedAuthorizer);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().unfinished -= 1;
    }
}

impl ScriptedAuthorizer {
    fn authorizer(&self) -> Authorizer {
        let authorizer = self.clone();
        Authorizer::new(move |head: Arc<RequestHead>| {
            let token = head.field("authorization").unwrap_or_default();
            let token = String::from_utf8(token.to_vec()).unwrap();
            let mut script = authorizer.0.lock().unwrap();
            script.asked += 1;
            script.unfinished += 1;
            let (unfinished, authorizer) = (Unfinished(authorizer.clone()), authorizer.clone());
            core::future::poll_fn(move |cx| {
                let _ = &unfinished;
                let mut script = authorizer.0.lock().unwrap();
                script.polled += 1;
                if let Some(verdict) = script.verdicts.get(&token) {
                    return Poll::Ready(verdict.clone());
                }
                script.waiting.insert(token.clone(), cx.waker().clone());
                Poll::Pending
            })
        })
    }

    fn decide(&self, token: &str, verdict: Verdict) {
        let mut script = self.0.lock().unwrap();
        script.verdicts.insert(token.to_string(), verdict);
        let waker = script.waiting.remove(token);
        drop(script);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn allow(&self, token: &str) {
        self.decide(token, Verdict::Allow(Principal::new(token)));
    }

    /// The number of calls, of polls, and of futures that exist.
    fn count(&self) -> (usize, usize, usize) {
        let script = self.0.lock().unwrap();
        (script.asked, script.polled, script.unfinished)
    }
}

/// A shard's server and its decisions, without sockets.
struct DecisionsHarness {
    server: Server,
    decisions: Decisions,
    authorizer: ScriptedAuthorizer,
    opened: Vec<String>,
}

impl DecisionsHarness {
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
        let authorizer = ScriptedAuthorizer::default();
        let shard = controls.shard_set.own().clone();
        let decisions = Decisions::new(Some(authorizer.authorizer()), cache, shard);
        Self { server, decisions, authorizer, opened: Vec::new() }
    }

    /// Requests a stream on a new connection.
    fn request_stream(&mut self, token: &str, now: Time) -> ConnId {
        self.request_stream_from(Peer::local(), token, now)
    }

    fn request_stream_from(&mut self, peer: Peer, token: &str, now: Time) -> ConnId {
        let conn = self.server.accept(peer, now).unwrap();
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

    /// Takes a turn, and further ones until none is requested.
    fn turn(&mut self, now: Time) {
        self.server.handle_timeout(now);
        while self.decisions.poll(&mut self.server, now) {}
        self.serve(now);
    }

    fn status(&self, conn: ConnId) -> String {
        let mut output = Vec::new();
        self.server.transmit(conn).write_to(&mut output).unwrap();
        String::from_utf8(output).unwrap().get(9..12).unwrap_or("none").to_string()
    }
}

/// A peer whose requests count for its address.
fn peer(address: &str) -> Peer {
    let remote = format!("{address}:5").parse().unwrap();
    Peer::tcp(remote, "192.0.2.1:80".parse().unwrap())
}

fn after(millis: u64) -> Time {
    NOW.saturating_add(core::time::Duration::from_millis(millis))
}

#[test]
fn decisions_beyond_the_limit_wait_and_each_wake_polls_one() {
    let mut harness = DecisionsHarness::new(VerdictCache::new());
    let tokens: Vec<String> = (0..200).map(|n| format!("t{n}")).collect();
    let conns: Vec<_> = tokens.iter().map(|token| harness.request_stream(token, NOW)).collect();
    assert_eq!(harness.authorizer.count(), (DECISIONS_MAX, DECISIONS_MAX, DECISIONS_MAX));
    for (n, token) in tokens.iter().enumerate() {
        harness.authorizer.allow(token);
        harness.turn(after(1));
        let (asked, polled, unfinished) = harness.authorizer.count();
        // Two are polled: the one that was woken, and the one that was started in its slot.
        assert_eq!(asked, 200.min(n + 1 + DECISIONS_MAX));
        assert_eq!(polled, asked + n + 1);
        assert!(unfinished <= DECISIONS_MAX);
    }
    assert_eq!(harness.opened, tokens);
    assert!(conns.iter().all(|&conn| harness.status(conn) == "200"));
    harness.server.check();
}

#[test]
fn one_address_leaves_slots_to_others_and_is_answered_in_order() {
    let mut harness = DecisionsHarness::new(VerdictCache::new());
    let tokens: Vec<String> = (0..DECISIONS_MAX + 10).map(|n| format!("t{n}")).collect();
    let network = |n: usize| peer(&format!("[2001:db8::{n:x}]"));
    let conns: Vec<_> = tokens
        .iter()
        .enumerate()
        .map(|(n, token)| harness.request_stream_from(network(n), token, NOW))
        .collect();
    assert_eq!(harness.authorizer.count().0, DECISIONS_PER_ADDRESS_MAX);
    // Further requests of the address delay no other, and request no turn.
    harness.authorizer.allow("u");
    let other = harness.request_stream_from(peer("203.0.113.9"), "u", NOW);
    assert_eq!(harness.status(other), "200");
    let asked = harness.authorizer.count().0;
    harness.turn(after(1));
    assert_eq!(harness.authorizer.count().0, asked);
    assert_eq!(harness.decisions.considered, 0, "no slot of the address is free");
    // Requests of another address wait behind them, and get a slot before them.
    let others: Vec<_> = (asked - 1..DECISIONS_MAX)
        .map(|n| harness.request_stream_from(peer("127.0.0.1"), &format!("l{n}"), NOW))
        .collect();
    let late = harness.request_stream_from(peer("203.0.113.9"), "v", NOW);
    assert_eq!(harness.authorizer.count().2, DECISIONS_MAX);
    harness.authorizer.allow("v");
    harness.authorizer.decide(&format!("l{}", asked - 1), Verdict::Refuse(Refusal::Forbidden));
    harness.turn(after(2));
    assert_eq!((harness.status(others[0]).as_str(), harness.status(late).as_str()), ("403", "200"));
    for (n, token) in tokens.iter().enumerate() {
        assert_eq!(harness.status(conns[n]), "none");
        harness.authorizer.allow(token);
        harness.turn(after(3));
        assert_eq!(harness.status(conns[n]), "200", "{n}");
    }
    let opened: Vec<_> = harness.opened.iter().filter(|who| who.starts_with('t')).collect();
    assert_eq!(opened, tokens.iter().collect::<Vec<_>>());
    assert_eq!(harness.authorizer.count().2, others.len() - 1);
    harness.server.check();
}

#[test]
fn end_of_a_decision_frees_one_slot_of_its_address() {
    let mut harness = DecisionsHarness::new(VerdictCache::new());
    let tokens: Vec<String> = (0..DECISIONS_PER_ADDRESS_MAX + 5).map(|n| format!("t{n}")).collect();
    for token in &tokens {
        harness.request_stream_from(peer("203.0.113.9"), token, NOW);
    }
    for (ended, token) in tokens.iter().enumerate() {
        let unfinished = DECISIONS_PER_ADDRESS_MAX.min(tokens.len() - ended);
        assert_eq!(harness.authorizer.count().2, unfinished, "{ended} have ended");
        harness.authorizer.allow(token);
        harness.turn(after(1));
    }
    assert_eq!(harness.opened, tokens);
    assert_eq!(harness.authorizer.count().2, 0);
}

#[test]
fn overtaken_request_stays_before_those_that_came_after_it() {
    let mut harness = DecisionsHarness::new(VerdictCache::new());
    for n in 0..DECISIONS_PER_ADDRESS_MAX {
        harness.request_stream_from(peer("203.0.113.9"), &format!("t{n}"), NOW);
    }
    for n in DECISIONS_PER_ADDRESS_MAX..DECISIONS_MAX {
        harness.request_stream(&format!("l{n}"), NOW);
    }
    harness.request_stream_from(peer("203.0.113.9"), "overtaken", NOW);
    harness.request_stream("first", NOW);
    harness.request_stream("second", NOW);
    let started = |harness: &DecisionsHarness| {
        let tokens = ["overtaken", "first", "second"];
        tokens.map(|token| harness.authorizer.0.lock().unwrap().waiting.contains_key(token))
    };
    // A slot that the address may not use goes to the next request that may use it.
    harness.authorizer.decide("l16", Verdict::Refuse(Refusal::Forbidden));
    harness.turn(after(1));
    assert_eq!(started(&harness), [false, true, false]);
    // A slot that it may use goes to the request that has waited for longest.
    harness.authorizer.decide("t0", Verdict::Refuse(Refusal::Forbidden));
    harness.turn(after(2));
    assert_eq!(started(&harness), [true, true, false]);
}

#[test]
fn ready_decisions_are_limited_per_turn() {
    let mut harness = DecisionsHarness::new(VerdictCache::new().lifetime(None));
    harness.authorizer.allow("t");
    for _ in 0..DECISIONS_MAX + 10 {
        harness.request_stream("t", NOW);
    }
    assert_eq!(harness.authorizer.count().0, DECISIONS_MAX);
    assert!(!harness.decisions.poll(&mut harness.server, NOW), "all have begun");
    assert_eq!(harness.authorizer.count(), (DECISIONS_MAX + 10, DECISIONS_MAX + 10, 0));
}

#[test]
fn requests_with_same_credential_share_one_decision() {
    let mut harness = DecisionsHarness::new(VerdictCache::new());
    let conns: Vec<_> = (0..100).map(|_| harness.request_stream("t", NOW)).collect();
    let other = harness.request_stream("u", NOW);
    assert_eq!(harness.authorizer.count().0, 2);
    harness.authorizer.allow("t");
    harness.turn(after(1));
    assert!(conns.iter().all(|&conn| harness.status(conn) == "200"));
    assert_eq!(harness.status(other), "none");
    let late = harness.request_stream("t", after(59_000));
    assert_eq!((harness.authorizer.count().0, harness.status(late).as_str()), (2, "200"));
    harness.request_stream("t", after(60_001));
    assert_eq!(harness.authorizer.count().0, 3);
    // Without a cache each request has a decision of its own.
    let mut harness = DecisionsHarness::new(VerdictCache::new().lifetime(None));
    harness.request_stream("t", NOW);
    harness.request_stream("t", NOW);
    assert_eq!(harness.authorizer.count().0, 2);
}

#[test]
fn timed_out_decisions_free_their_slots() {
    let mut harness = DecisionsHarness::new(VerdictCache::new());
    let stuck: Vec<_> =
        (0..DECISIONS_MAX).map(|n| harness.request_stream(&format!("stuck{n}"), NOW)).collect();
    harness.authorizer.allow("t");
    let waits = harness.request_stream("t", after(2_000));
    assert_eq!(
        (harness.status(waits).as_str(), harness.decisions.deadline()),
        ("none", Some(after(4_000)))
    );
    harness.turn(after(3_999));
    assert_eq!(harness.authorizer.count().2, DECISIONS_MAX);
    harness.turn(after(4_000));
    assert!(stuck.iter().all(|&conn| harness.status(conn) == "503"));
    assert_eq!(harness.status(waits), "200");
    assert_eq!((harness.authorizer.count().2, harness.decisions.deadline()), (0, None));
}

#[test]
fn verdict_after_client_left_is_cached() {
    let mut harness = DecisionsHarness::new(VerdictCache::new());
    let left = harness.request_stream("t", NOW);
    harness.server.handle_disconnect(left, after(1));
    harness.authorizer.allow("t");
    harness.turn(after(2));
    assert_eq!(harness.server.metrics().verdicts_late, 1);
    let conn = harness.request_stream("t", after(3));
    assert_eq!((harness.status(conn).as_str(), harness.authorizer.count().0), ("200", 1));
    let metrics = harness.server.metrics();
    assert_eq!((metrics.questions_asked, metrics.verdicts_remembered), (2, 1));
}

#[test]
fn requests_of_clients_that_left_are_removed() {
    let mut harness = DecisionsHarness::with(
        VerdictCache::new(),
        Limits { events_max: Some(200), ..Limits::default() },
    );
    for n in 0..10_000 {
        let conn = harness.request_stream(&format!("t{n}"), NOW);
        assert_eq!(harness.status(conn), "none", "{n}");
        harness.server.handle_disconnect(conn, NOW);
    }
    assert_eq!(harness.authorizer.count().0, DECISIONS_MAX);
    // Requests of clients that stay are limited.
    let conns: Vec<_> = (0..300).map(|n| harness.request_stream(&format!("u{n}"), NOW)).collect();
    let refused = conns.iter().filter(|&&conn| harness.status(conn) == "503").count();
    assert_eq!(refused, 100);
}

#[test]
fn authorizer_panic_refuses_only_its_request() {
    let authorizer = Authorizer::new(|head: Arc<RequestHead>| {
        let token = head.field("authorization").unwrap_or_default().to_vec();
        assert_ne!(token, b"early", "this token makes the test's code panic");
        async move {
            assert_ne!(token, b"late", "this token makes the test's code panic");
            Verdict::Refuse(Refusal::Forbidden)
        }
    });
    let mut harness = DecisionsHarness::new(VerdictCache::new());
    let (_, controls) = shard_control();
    let shard = controls.shard_set.own().clone();
    harness.decisions = Decisions::new(Some(authorizer), VerdictCache::new(), shard);
    for (token, status) in [("early", "503"), ("late", "503"), ("t", "403"), ("early", "503")] {
        let conn = harness.request_stream(token, NOW);
        assert_eq!(harness.status(conn), status, "{token}");
    }
}

#[test]
fn repeated_authorizer_panics_log_one_line_a_second() {
    let clock = mcp_sse_core::Clock::start();
    let lines = crate::testing::lines_in(|| {
        for _ in 0..1_000 {
            // `resume_unwind` does not call the panic hook, so it prints nothing.
            let done = catch_panic::<()>(|| std::panic::resume_unwind(Box::new(())));
            assert!(done.is_none());
        }
    });
    let seconds = clock.now().as_micros() / 1_000_000;
    // Another test's panic may have used up this second's line.
    assert!(lines.len() as u64 <= 1 + seconds, "{}", lines.len());
}

#[test]
fn cache_key_panic_refuses_only_its_request() {
    let cache = VerdictCache::new().key(|head| {
        let token = head.field("authorization").unwrap_or_default();
        assert_ne!(token, b"bad", "this token makes the test's code panic");
        Some(token.to_vec())
    });
    let mut harness = DecisionsHarness::new(cache);
    harness.authorizer.allow("bad");
    harness.authorizer.allow("t");
    for (token, status) in [("bad", "503"), ("t", "200"), ("bad", "503")] {
        let conn = harness.request_stream(token, NOW);
        assert_eq!(harness.status(conn), status, "{token}");
    }
    assert_eq!(harness.authorizer.count().0, 1);
}

#[test]
fn woken_decision_wakes_the_turn() {
    let mut harness = DecisionsHarness::new(VerdictCache::new());
    let (_, controls) = shard_control();
    let shard = controls.shard_set.own().clone();
    harness.decisions =
        Decisions::new(Some(harness.authorizer.authorizer()), VerdictCache::new(), shard.clone());
    let conn = harness.request_stream("t", NOW);
    let turn = Arc::new(Counted::default());
    let waker = Waker::from(turn.clone());
    drop(shard.mailbox.take(&Context::from_waker(&waker)));
    harness.authorizer.allow("t");
    assert_eq!(turn.0.load(Ordering::Relaxed), 1);
    harness.turn(NOW);
    assert_eq!(harness.status(conn), "200");
}
