//! Posts that are forwarded between the shards of one server, and their outcomes when a shard ends.

use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

use mcp_sse_core::{Config, Limits, Timeouts};

use super::poll;
use super::sockets::{ScriptedSocket, ShardHarness};
use crate::handle::shard_control;
use crate::testing::Random;
use crate::{Handle, Stopped, worker_count};

const GET: &str = "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Makes a server of `count` shards, each of which runs when a test calls it.
fn shards(config: &Config, count: usize) -> (Handle, Vec<ShardHarness>) {
    let (handle, controls) = shard_control();
    let controls = controls.split(count);
    let harness = |(seed, controls)| {
        ShardHarness::with(config.clone(), Box::new(Random::seeded(seed)), handle.clone(), controls)
    };
    let harnesses = (1..).zip(controls).map(harness).collect();
    (handle, harnesses)
}

fn output(socket: &ScriptedSocket) -> String {
    String::from_utf8(socket.0.borrow().output.clone()).unwrap()
}

/// Opens a session and returns its endpoint.
fn open(harness: &mut ShardHarness) -> String {
    let socket = harness.connect(usize::MAX, GET);
    let output = output(&socket);
    let at = output.find("data: ").expect("an endpoint") + "data: ".len();
    output[at..].lines().next().unwrap().into()
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
fn check_status(socket: &ScriptedSocket, status: u16) {
    let output = output(socket);
    assert!(output.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {output:?}");
}

/// Receives the messages that wait in the harness's first session.
fn received(harness: &mut ShardHarness) -> Vec<String> {
    let mut texts = Vec::new();
    while let Poll::Ready(Some(message)) = poll(pin!(harness.sessions[0].recv())) {
        texts.push(message.text().into());
    }
    texts
}

#[test]
fn forwarded_post_is_202_once_the_other_shard_has_it() {
    let (_, mut harnesses) = shards(&Config::default(), 2);
    let [here, there] = &mut *harnesses else { panic!("two") };
    let endpoint = open(there);
    let poster = here.connect(usize::MAX, &post(&endpoint, &note(1)));
    assert_eq!(output(&poster), "", "the other shard has not taken it yet");
    there.run();
    assert_eq!(output(&poster), "");
    assert_eq!(received(there), [note(1)]);
    here.run();
    check_status(&poster, 202);
    // On the session's own shard it is the same.
    let poster = there.connect(usize::MAX, &post(&endpoint, &note(2)));
    check_status(&poster, 202);
    assert_eq!(received(there), [note(2)]);
}

#[test]
fn forwarded_post_to_full_mailbox_is_503_at_once() {
    let limits =
        Limits { inbound_messages_max: None, forwarded_max: Some(2 * 256), ..Limits::default() };
    // Three hundred turns may take longer than the default.
    let timeouts = Timeouts { decision: None, ..Timeouts::default() };
    let config = Config::builder().limits(limits).timeouts(timeouts).build().unwrap();
    let (_, mut harnesses) = shards(&config, 2);
    let [here, there] = &mut *harnesses else { panic!("two") };
    let endpoint = open(there);
    let posters: Vec<_> =
        (0..300).map(|n| here.connect(usize::MAX, &post(&endpoint, &note(n)))).collect();
    for (n, poster) in posters.iter().enumerate() {
        match n {
            0..256 => assert_eq!(output(poster), ""),
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
fn mailbox_bytes_limit_refuses_further_posts() {
    let limits = Limits {
        body_bytes_max: Some(1 << 20),
        bodies_bytes_max: Some(2 * (4 << 20)),
        ..Limits::default()
    };
    let config = Config::builder().limits(limits).build().unwrap();
    let (_, mut harnesses) = shards(&config, 2);
    let [here, there] = &mut *harnesses else { panic!("two") };
    let endpoint = open(there);
    let large = format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, "x".repeat(40_000));
    let posters: Vec<_> =
        (0..120).map(|_| here.connect(usize::MAX, &post(&endpoint, &large))).collect();
    let refused = posters.iter().filter(|poster| !output(poster).is_empty());
    assert_eq!(refused.count(), 120 - (4 << 20) / large.len());
}

#[test]
fn emptied_mailbox_takes_posts_again() {
    let limits = Limits {
        bodies_bytes_max: Some(2 * (64 << 10)),
        body_bytes_max: Some(64 << 10),
        ..Limits::default()
    };
    let config = Config::builder().limits(limits).build().unwrap();
    let (_, mut harnesses) = shards(&config, 2);
    let [here, there] = &mut *harnesses else { panic!("two") };
    let endpoint = open(there);
    let text = format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, "x".repeat(20_000));
    // Two at a time, because an empty mailbox takes one post whatever its limits are.
    for round in 0..20 {
        let posters: Vec<_> =
            (0..2).map(|_| here.connect(usize::MAX, &post(&endpoint, &text))).collect();
        there.run();
        here.run();
        for poster in &posters {
            assert!(
                output(poster).starts_with("HTTP/1.1 202 "),
                "round {round}: {}",
                output(poster)
            );
        }
        assert_eq!(received(there).len(), 2);
    }
}

/// A configuration with room for two messages in a session, and no deadlines for queued posts.
fn two_message_config() -> Config {
    let limits = Limits { inbound_messages_max: Some(2), ..Limits::default() };
    let timeouts = Timeouts { hold: None, decision: None, ..Timeouts::default() };
    Config::builder().limits(limits).timeouts(timeouts).build().unwrap()
}

#[test]
fn local_and_forwarded_posts_share_one_queue() {
    const POSTS: usize = 100;
    let (_, mut harnesses) = shards(&two_message_config(), 2);
    let [here, there] = &mut *harnesses else { panic!("two") };
    let endpoint = open(there);
    let mut posters = Vec::new();
    for n in 0..POSTS {
        let shard = if n % 3 == 0 { &mut *there } else { &mut *here };
        posters.push(shard.connect(usize::MAX, &post(&endpoint, &note(n))));
        // The mailbox is served before the next post, so that the order of posts is known.
        there.run();
    }
    here.run();
    let waiting = posters.iter().filter(|poster| output(poster).is_empty()).count();
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
fn ended_shard_answers_its_queued_posts_503() {
    let (_, mut harnesses) = shards(&two_message_config(), 2);
    let mut there = harnesses.pop().unwrap();
    let here = &mut harnesses[0];
    let endpoint = open(&mut there);
    let posters: Vec<_> =
        (0..20).map(|n| here.connect(usize::MAX, &post(&endpoint, &note(n)))).collect();
    there.run();
    here.run();
    let accepted = posters.iter().filter(|poster| !output(poster).is_empty()).count();
    assert!((1..10).contains(&accepted), "{accepted}");
    drop(there);
    here.run();
    for (n, poster) in posters.iter().enumerate() {
        check_status(poster, if n < accepted { 202 } else { 503 });
    }
}

#[test]
fn forwarded_post_beyond_its_deadline_is_503() {
    let timeouts = Timeouts { decision: Some(Duration::ZERO), ..Timeouts::default() };
    let config = Config::builder().timeouts(timeouts).build().unwrap();
    let (_, mut harnesses) = shards(&config, 2);
    let [here, there] = &mut *harnesses else { panic!("two") };
    let endpoint = open(there);
    let poster = here.connect(usize::MAX, &post(&endpoint, &note(1)));
    there.run();
    here.run();
    check_status(&poster, 503);
    assert!(received(there).is_empty());
}

#[test]
fn ended_shard_answers_posts_in_its_mailbox_503() {
    let (handle, mut harnesses) = shards(&Config::default(), 2);
    let mut there = harnesses.pop().unwrap();
    let here = &mut harnesses[0];
    let endpoint = open(&mut there);
    let waiting = here.connect(usize::MAX, &post(&endpoint, &note(1)));
    let mut metrics = pin!(handle.metrics());
    assert!(poll(metrics.as_mut()).is_pending());
    drop(there);
    here.run();
    check_status(&waiting, 503);
    let late = here.connect(usize::MAX, &post(&endpoint, &note(2)));
    check_status(&late, 503);
    // The counters of the ended shard are still in the sum.
    assert!(matches!(poll(metrics), Poll::Ready(Ok(sum)) if sum.sessions_opened == 1));
    harnesses.clear();
    assert!(matches!(poll(pin!(handle.metrics())), Poll::Ready(Err(Stopped))));
}

#[test]
fn forwarded_post_of_client_that_left_is_delivered() {
    let (_, mut harnesses) = shards(&Config::default(), 2);
    let [here, there] = &mut *harnesses else { panic!("two") };
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
fn unknown_sessions_of_any_shard_get_the_same_404() {
    let (_, mut harnesses) = shards(&Config::default(), 2);
    let [here, there] = &mut *harnesses else { panic!("two") };
    let (own, foreign) = (open(here), open(there));
    // Wrong secrets on both shards, and a shard that does not exist.
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
    assert_eq!(output(&posters[0]), output(&posters[1]));
    assert_eq!(output(&posters[0]), output(&posters[2]));
}

/// Sends more of a request that was begun.
fn send_rest(socket: &ScriptedSocket, harness: &mut ShardHarness, text: &str) {
    socket.0.borrow_mut().input.push_back(text.into());
    harness.run();
}

#[test]
fn unfinished_posts_to_unknown_sessions_are_404_and_free_their_body_budget() {
    let limits = Limits {
        body_bytes_max: Some(1 << 20),
        bodies_bytes_max: Some(2 << 20),
        ..Limits::default()
    };
    let config = Config::builder().limits(limits).build().unwrap();
    let (_, mut harnesses) = shards(&config, 2);
    let [here, there] = &mut *harnesses else { panic!("two") };
    let endpoint = open(there);
    let made_up = format!("{}AAAAAAAA", &endpoint[..endpoint.len() - 8]);
    let text = format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, "x".repeat(900_000));
    let [bad, good] = [&made_up, &endpoint].map(|endpoint| post(endpoint, &text));
    // One read returns at most 64 KiB.
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
        send_rest(&poster, here, core::str::from_utf8(part).unwrap());
    }
    there.run();
    here.run();
    check_status(&poster, 202);
    assert_eq!(received(there), [text]);
}

#[test]
fn unfinished_posts_to_ended_or_missing_shards_are_answered() {
    let (_, mut harnesses) = shards(&Config::default(), 2);
    let mut there = harnesses.pop().unwrap();
    let here = &mut harnesses[0];
    let endpoint = open(&mut there);
    let nowhere = endpoint.replace("=AAE", "=_AE");
    assert_ne!(nowhere, endpoint);
    let begun = |here: &mut ShardHarness, endpoint: &str| {
        let text = post(endpoint, &note(1));
        here.connect(usize::MAX, &text[..text.len() - 1])
    };
    check_status(&begun(here, &nowhere), 404);
    let waiting = begun(here, &endpoint);
    assert_eq!(output(&waiting), "");
    drop(there);
    here.run();
    check_status(&waiting, 503);
    check_status(&begun(here, &endpoint), 503);
}

#[test]
fn shutdown_before_start_reaches_every_shard() {
    let (handle, controls) = shard_control();
    handle.shutdown();
    for controls in controls.split(3) {
        let entropy = Box::new(Random::seeded(1));
        let mut harness = ShardHarness::with(Config::default(), entropy, handle.clone(), controls);
        assert!(harness.run(), "it ends at once");
    }
}

#[test]
fn session_ids_differ_between_shards() {
    let (_, mut harnesses) = shards(&Config::default(), 2);
    harnesses.iter_mut().for_each(|harness| drop(open(harness)));
    assert_ne!(harnesses[0].sessions[0].id(), harnesses[1].sessions[0].id());
}

#[test]
fn shard_count_out_of_range_is_an_error() {
    assert!(worker_count::check(0).is_err());
    assert!(worker_count::check(257).is_err());
    assert!(worker_count::check(256).is_ok());
}
