//! Posts between the shards of one server, and what is left of them when a shard ends.

use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

use mcp_sse_core::{Acknowledgement, Config, Limits, Timeouts};

use super::poll;
use super::sockets::{Bench, Scripted};
use crate::handle::shard_control;
use crate::testing::Random;
use crate::{Handle, Stopped, worker_count};

const GET: &str = "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Shards that are run one after the other, when a test says so.
fn shards(config: &Config, count: usize) -> (Handle, Vec<Bench>) {
    let (handle, controls) = shard_control();
    let controls = controls.split(count);
    let bench = |(seed, controls)| {
        Bench::with(config.clone(), Box::new(Random::seeded(seed)), handle.clone(), controls)
    };
    let benches = (1..).zip(controls).map(bench).collect();
    (handle, benches)
}

fn heard(socket: &Scripted) -> String {
    String::from_utf8(socket.0.borrow().heard.clone()).unwrap()
}

/// Opens a session; returns where to post to it.
fn open(bench: &mut Bench) -> String {
    let socket = bench.connect(usize::MAX, GET);
    let heard = heard(&socket);
    let at = heard.find("data: ").expect("an endpoint") + "data: ".len();
    heard[at..].lines().next().unwrap().into()
}

fn post(endpoint: &str, body: &str) -> String {
    format!(
        "POST {endpoint} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn note(n: usize) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"note","params":[{n}]}}"#)
}

#[track_caller]
fn check_status(socket: &Scripted, status: u16) {
    let heard = heard(socket);
    assert!(heard.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {heard:?}");
}

/// What the application has been given of a bench's first session.
fn received(bench: &mut Bench) -> Vec<String> {
    let mut texts = Vec::new();
    while let Poll::Ready(Some(message)) = poll(pin!(bench.sessions[0].recv())) {
        texts.push(message.text().into());
    }
    texts
}

#[test]
fn a_post_is_answered_when_the_other_shard_has_it() {
    for mode in [Acknowledgement::Queued, Acknowledgement::Deferred] {
        let config = Config::builder().acknowledgement(mode).build().unwrap();
        let (_, mut benches) = shards(&config, 2);
        let [here, there] = &mut *benches else { panic!("two") };
        let endpoint = open(there);
        let poster = here.connect(usize::MAX, &post(&endpoint, &note(1)));
        assert_eq!(heard(&poster), "", "nobody has taken it yet");
        there.run();
        assert_eq!(heard(&poster), "");
        assert_eq!(received(there), [note(1)]);
        here.run();
        check_status(&poster, 202);
        // On the session's own shard it is the same.
        let poster = there.connect(usize::MAX, &post(&endpoint, &note(2)));
        check_status(&poster, 202);
        assert_eq!(received(there), [note(2)]);
    }
}

#[test]
fn a_full_mailbox_is_busy_at_once() {
    let limits =
        Limits { inbound_messages_max: None, forwarded_max: Some(2 * 256), ..Limits::default() };
    // Three hundred turns may take a while.
    let timeouts = Timeouts { decision: None, ..Timeouts::default() };
    let config = Config::builder().limits(limits).timeouts(timeouts).build().unwrap();
    let (_, mut benches) = shards(&config, 2);
    let [here, there] = &mut *benches else { panic!("two") };
    let endpoint = open(there);
    let posters: Vec<_> =
        (0..300).map(|n| here.connect(usize::MAX, &post(&endpoint, &note(n)))).collect();
    for (n, poster) in posters.iter().enumerate() {
        match n {
            0..256 => assert_eq!(heard(poster), ""),
            _ => check_status(poster, 503),
        }
    }
    there.run();
    here.run();
    posters[..256].iter().for_each(|poster| check_status(poster, 202));
    assert_eq!(received(there), (0..256).map(note).collect::<Vec<_>>());
    // There is room again.
    let again = here.connect(usize::MAX, &post(&endpoint, &note(300)));
    there.run();
    here.run();
    check_status(&again, 202);
}

#[test]
fn bytes_fill_a_mailbox_too() {
    let limits = Limits {
        body_bytes_max: Some(1 << 20),
        bodies_bytes_max: Some(2 * (4 << 20)),
        ..Limits::default()
    };
    let config = Config::builder().limits(limits).build().unwrap();
    let (_, mut benches) = shards(&config, 2);
    let [here, there] = &mut *benches else { panic!("two") };
    let endpoint = open(there);
    let large = format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, "x".repeat(40_000));
    let posters: Vec<_> =
        (0..120).map(|_| here.connect(usize::MAX, &post(&endpoint, &large))).collect();
    let refused = posters.iter().filter(|poster| !heard(poster).is_empty());
    assert_eq!(refused.count(), 120 - (4 << 20) / large.len());
}

#[test]
fn mailbox_takes_more_than_its_bytes_in_the_course_of_time() {
    let limits = Limits {
        bodies_bytes_max: Some(2 * (64 << 10)),
        body_bytes_max: Some(64 << 10),
        ..Limits::default()
    };
    let config = Config::builder().limits(limits).build().unwrap();
    let (_, mut benches) = shards(&config, 2);
    let [here, there] = &mut *benches else { panic!("two") };
    let endpoint = open(there);
    let text = format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, "x".repeat(20_000));
    // Two at a time, because a mailbox that is empty takes one whatever it has counted.
    for round in 0..20 {
        let posters: Vec<_> =
            (0..2).map(|_| here.connect(usize::MAX, &post(&endpoint, &text))).collect();
        there.run();
        here.run();
        for poster in &posters {
            assert!(heard(poster).starts_with("HTTP/1.1 202 "), "round {round}: {}", heard(poster));
        }
        assert_eq!(received(there).len(), 2);
    }
}

/// With room for two messages in a session, and all the time to wait for it.
fn narrow() -> Config {
    let limits = Limits { inbound_messages_max: Some(2), ..Limits::default() };
    let timeouts = Timeouts { hold: None, decision: None, ..Timeouts::default() };
    Config::builder().limits(limits).timeouts(timeouts).build().unwrap()
}

#[test]
fn posts_of_both_shards_wait_in_one_line() {
    const POSTS: usize = 100;
    let (_, mut benches) = shards(&narrow(), 2);
    let [here, there] = &mut *benches else { panic!("two") };
    let endpoint = open(there);
    let mut posters = Vec::new();
    for n in 0..POSTS {
        let shard = if n % 3 == 0 { &mut *there } else { &mut *here };
        posters.push(shard.connect(usize::MAX, &post(&endpoint, &note(n))));
        // What was sent to a mailbox has come before the next is posted.
        there.run();
    }
    here.run();
    let waiting = posters.iter().filter(|poster| heard(poster).is_empty()).count();
    assert!(waiting > POSTS / 2, "{waiting}");
    let mut all = Vec::new();
    while all.len() < POSTS {
        let some = received(there);
        assert!(!some.is_empty(), "{} came", all.len());
        all.extend(some);
        there.run();
    }
    assert_eq!(all, (0..POSTS).map(note).collect::<Vec<_>>());
    here.run();
    posters.iter().for_each(|poster| check_status(poster, 202));
    assert!(received(there).is_empty());
}

#[test]
fn a_shard_that_ends_answers_what_it_holds() {
    let (_, mut benches) = shards(&narrow(), 2);
    let mut there = benches.pop().unwrap();
    let here = &mut benches[0];
    let endpoint = open(&mut there);
    let posters: Vec<_> =
        (0..20).map(|n| here.connect(usize::MAX, &post(&endpoint, &note(n)))).collect();
    there.run();
    here.run();
    let accepted = posters.iter().filter(|poster| !heard(poster).is_empty()).count();
    assert!((1..10).contains(&accepted), "{accepted}");
    drop(there);
    here.run();
    for (n, poster) in posters.iter().enumerate() {
        check_status(poster, if n < accepted { 202 } else { 503 });
    }
}

#[test]
fn a_post_that_has_been_on_its_way_for_too_long_is_not_taken_in() {
    let timeouts = Timeouts { decision: Some(Duration::ZERO), ..Timeouts::default() };
    let config = Config::builder().timeouts(timeouts).build().unwrap();
    let (_, mut benches) = shards(&config, 2);
    let [here, there] = &mut *benches else { panic!("two") };
    let endpoint = open(there);
    let poster = here.connect(usize::MAX, &post(&endpoint, &note(1)));
    there.run();
    here.run();
    check_status(&poster, 503);
    assert!(received(there).is_empty());
}

#[test]
fn a_shard_that_ends_leaves_no_post_without_an_answer() {
    let (handle, mut benches) = shards(&Config::default(), 2);
    let mut there = benches.pop().unwrap();
    let here = &mut benches[0];
    let endpoint = open(&mut there);
    let waiting = here.connect(usize::MAX, &post(&endpoint, &note(1)));
    let mut metrics = pin!(handle.metrics());
    assert!(poll(metrics.as_mut()).is_pending());
    drop(there);
    here.run();
    check_status(&waiting, 503);
    let late = here.connect(usize::MAX, &post(&endpoint, &note(2)));
    check_status(&late, 503);
    // What it has counted counts.
    assert!(matches!(poll(metrics), Poll::Ready(Ok(sum)) if sum.sessions_opened == 1));
    benches.clear();
    assert!(matches!(poll(pin!(handle.metrics())), Poll::Ready(Err(Stopped))));
}

#[test]
fn whoever_posted_may_leave_before_the_answer() {
    let (_, mut benches) = shards(&Config::default(), 2);
    let [here, there] = &mut *benches else { panic!("two") };
    let endpoint = open(there);
    let poster = here.connect(usize::MAX, &post(&endpoint, &note(1)));
    poster.0.borrow_mut().closed = true;
    poster.0.borrow_mut().broken = true;
    here.run();
    there.run();
    here.run();
    assert_eq!(received(there), [note(1)]);
}

#[test]
fn unknown_sessions_look_alike_wherever_they_are() {
    let (_, mut benches) = shards(&Config::default(), 2);
    let [here, there] = &mut *benches else { panic!("two") };
    let (own, foreign) = (open(here), open(there));
    // Another secret, on both; and a shard that does not exist.
    let own = format!("{}AAAAAAAA", &own[..own.len() - 8]);
    let foreign = format!("{}AAAAAAAA", &foreign[..foreign.len() - 8]);
    let nowhere = foreign.replace("=AAE", "=_AE");
    assert_ne!(nowhere, foreign);
    let posters: Vec<_> = [own, foreign, nowhere]
        .iter()
        .map(|endpoint| here.connect(usize::MAX, &post(endpoint, &note(1))))
        .collect();
    there.run();
    here.run();
    check_status(&posters[0], 404);
    assert_eq!(heard(&posters[0]), heard(&posters[1]));
    assert_eq!(heard(&posters[0]), heard(&posters[2]));
}

/// Says the rest of what was begun.
fn goes_on(socket: &Scripted, bench: &mut Bench, text: &str) {
    socket.0.borrow_mut().said.push_back(text.into());
    bench.run();
}

#[test]
fn unfinished_posts_with_made_up_ids_are_404_and_leave_the_budget_of_bodies() {
    let limits = Limits {
        body_bytes_max: Some(1 << 20),
        bodies_bytes_max: Some(2 << 20),
        ..Limits::default()
    };
    let config = Config::builder().limits(limits).build().unwrap();
    let (_, mut benches) = shards(&config, 2);
    let [here, there] = &mut *benches else { panic!("two") };
    let endpoint = open(there);
    let made_up = format!("{}AAAAAAAA", &endpoint[..endpoint.len() - 8]);
    let text = format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, "x".repeat(900_000));
    let [bad, good] = [&made_up, &endpoint].map(|endpoint| post(endpoint, &text));
    // As much as the socket brings at once.
    let posters: Vec<_> = (0..10)
        .map(|_| {
            let poster = here.connect(usize::MAX, &bad[..60_000]);
            there.run();
            here.run();
            poster
        })
        .collect();
    posters.iter().for_each(|poster| check_status(poster, 404));
    let poster = here.connect(usize::MAX, &good[..60_000]);
    for part in good.as_bytes()[60_000..].chunks(60_000) {
        there.run();
        goes_on(&poster, here, core::str::from_utf8(part).unwrap());
    }
    there.run();
    here.run();
    check_status(&poster, 202);
    assert_eq!(received(there), [text]);
}

#[test]
fn unfinished_posts_to_shards_that_end_or_never_were_are_answered() {
    let (_, mut benches) = shards(&Config::default(), 2);
    let mut there = benches.pop().unwrap();
    let here = &mut benches[0];
    let endpoint = open(&mut there);
    let nowhere = endpoint.replace("=AAE", "=_AE");
    assert_ne!(nowhere, endpoint);
    let begun = |here: &mut Bench, endpoint: &str| {
        let text = post(endpoint, &note(1));
        here.connect(usize::MAX, &text[..text.len() - 1])
    };
    check_status(&begun(here, &nowhere), 404);
    let waiting = begun(here, &endpoint);
    assert_eq!(heard(&waiting), "");
    drop(there);
    here.run();
    check_status(&waiting, 503);
    check_status(&begun(here, &endpoint), 503);
}

#[test]
fn a_shutdown_before_the_beginning_reaches_every_shard() {
    let (handle, controls) = shard_control();
    handle.shutdown();
    for controls in controls.split(3) {
        let entropy = Box::new(Random::seeded(1));
        let mut bench = Bench::with(Config::default(), entropy, handle.clone(), controls);
        assert!(bench.run(), "it ends at once");
    }
}

#[test]
fn sessions_of_different_shards_have_different_ids() {
    let (_, mut benches) = shards(&Config::default(), 2);
    benches.iter_mut().for_each(|bench| drop(open(bench)));
    assert_ne!(benches[0].sessions[0].id(), benches[1].sessions[0].id());
}

#[test]
fn too_few_and_too_many_are_mistakes() {
    assert!(worker_count::check(0).is_err());
    assert!(worker_count::check(257).is_err());
    assert!(worker_count::check(256).is_ok());
}
