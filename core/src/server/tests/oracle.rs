//! Whether the work behind an answer tells anything about sessions: that of a post, from its head to its 404,
//! in steps that are counted.
//!
//! Steps are counted and not times measured: a shortcut in front of a comparison takes some tens of
//! nanoseconds off a post of microseconds, which no measurement shows on a machine that does other things
//! as well, and a count cannot miss. What is counted is each octet that is compared with a secret, a
//! principal or a token. What a miss allocates is counted in `core/tests/allocations.rs`.

use super::authorize::{allow, asking};
use super::identity::{ALICE, BOB, locked, misses};
use super::*;
use crate::event::{Delivery, LookupAnswer, Outcome};
use crate::exchange::Exchange;
use crate::testing::steps_in;
use crate::{Authorization, ShardId};

/// Octets of a secret.
const SECRET: u64 = 18;

/// Says `request` on a new connection, in such pieces. Returns the steps and the status.
#[track_caller]
fn post_steps(bench: &mut Bench, request: &str, piece: usize) -> (u64, u16) {
    let conn = bench.connect();
    let mut sum = 0;
    for piece in request.as_bytes().chunks(piece) {
        let (steps, ()) = steps_in(|| bench.server.handle_input(conn, piece, bench.now));
        sum += steps;
    }
    bench.pump();
    (sum, bench.statuses(conn)[0])
}

/// Targets that all miss, each in another way: those of [`misses`], a slot that there never was, a text of the
/// right length that is no token, and a token of another instance.
fn all_misses(bench: &mut Bench) -> Vec<String> {
    let mut targets = misses(bench).to_vec();
    let others = targets[0].clone();
    targets.push(format!("AAD_____{}", &others[8..]));
    targets.push(format!("{}$", &others[..31]));
    targets.push(format!("a2.{others}"));
    targets
}

#[test]
fn post_that_misses_takes_the_same_steps_whatever_sessions_there_are() {
    let mut bench = Bench::with(locked());
    let targets = all_misses(&mut bench);
    // Two tokens of five octets are known; then the secret; then the name "bob".
    let expected = 2 * 5 + SECRET + 3;
    for target in &targets {
        for piece in [usize::MAX, 7, 1] {
            let request = post_with(target, BOB, NOTE);
            assert_eq!(post_steps(&mut bench, &request, piece), (expected, 404), "{target}");
        }
        // Whoever sends no credentials learns nothing either: no session is looked at.
        let (steps, status) = post_steps(&mut bench, &post(target, NOTE), usize::MAX);
        assert_eq!((steps, status), (0, 401), "{target}");
    }
    // The owner of a session is no exception, so a hit by another's token cannot be told by its time.
    let (steps, status) = post_steps(&mut bench, &post_with(&targets[0], ALICE, ""), usize::MAX);
    assert_eq!((steps, status), (2 * 5 + SECRET + 5, 400), "the empty body is refused");
}

#[test]
fn post_that_misses_takes_the_same_steps_without_authorization() {
    let mut bench = Bench::new();
    let client = bench.open();
    let ended = bench.open();
    bench.reset(ended.conn);
    bench.events();
    let wrong = format!("{}AAAA", &client.token[..28]);
    let beyond = format!("AAD_____{}", &client.token[8..]);
    for target in [&ended.token, &wrong, &beyond, "no-session-id"] {
        let request = post(target, NOTE);
        assert_eq!(post_steps(&mut bench, &request, usize::MAX), (SECRET, 404), "{target}");
    }
}

#[test]
fn exchange_that_misses_takes_the_same_steps() {
    let mut bench = Bench::with(locked());
    let fields: &[(&str, &[u8])] = &[
        ("host", b"localhost"),
        ("content-type", b"application/json"),
        ("authorization", b"Bearer beta"),
    ];
    for target in all_misses(&mut bench) {
        let target = format!("/messages?session_id={target}");
        let request = Exchange { method: "POST", target: &target, fields, mount: "" };
        let (steps, conn) =
            steps_in(|| bench.server.exchange(request, Peer::local(), bench.now).unwrap());
        assert_eq!(bench.server.response(conn).unwrap().status(), 404, "{target}");
        assert_eq!(steps, 2 * 5 + SECRET + 3, "{target}");
        bench.server.handle_disconnect(conn, bench.now);
    }
}

#[test]
fn verdict_on_a_post_that_misses_takes_the_same_steps() {
    let mut bench = Bench::with(asking());
    let others = bench.open_for("alice");
    let ended = bench.open_for("mallory");
    bench.reset(ended.conn);
    bench.events();
    let unknown = format!("{}AAAA", &others.token[..28]);
    for target in [&others.token, &ended.token, &unknown, "no-session-id"] {
        let conn = bench.connect();
        bench.says(conn, post(target, NOTE));
        let ticket = bench.asked();
        let verdict = allow("mallory");
        let (steps, done) = steps_in(|| bench.server.authorize(ticket, verdict, bench.now));
        bench.pump();
        assert_eq!((done, bench.statuses(conn)), (Ok(()), std::vec![404]), "{target}");
        assert_eq!(steps, SECRET + 7, "{target}");
    }
}

#[test]
fn forwarded_post_and_lookup_that_miss_take_the_same_steps() {
    let mut here = Bench::with(asking().shard(ShardId(1)).forwarding(true));
    let mut there = Bench::with(
        asking().authorization(Authorization::Deferred).shard(ShardId(2)).forwarding(true),
    );
    let others = there.open_for("alice");
    let ended = there.open_for("mallory");
    there.reset(ended.conn);
    there.events();
    let unknown = format!("{}AAAA", &others.token[..28]);
    let beyond = format!("{}_____{}", &others.token[..3], &others.token[8..]);
    for target in [&others.token, &ended.token, &unknown, &beyond] {
        let conn = here.connect();
        here.says(conn, post(target, NOTE));
        let ticket = here.asked();
        here.authorize(ticket, allow("mallory")).unwrap();
        let Some(Event::Foreign { post, .. }) = here.event() else { panic!("a post for another") };
        let (steps, delivery) = steps_in(|| there.server.deliver(post, there.now));
        there.pump();
        assert!(matches!(delivery, Delivery::Done(Outcome::UnknownSession)), "{target}");
        assert_eq!(steps, SECRET + 7, "{target}");
        // It is asked about first where its body comes later.
        let conn = here.connect();
        here.says(conn, crate::server::tests::post(target, NOTE).strip_suffix(NOTE).unwrap());
        let ticket = here.asked();
        here.authorize(ticket, allow("mallory")).unwrap();
        let Some(Event::LookedFor { lookup, .. }) = here.event() else { panic!("a question") };
        let (steps, answer) = steps_in(|| there.server.look_up(&lookup));
        assert_eq!((steps, answer), (SECRET + 7, LookupAnswer::UnknownSession), "{target}");
    }
}
