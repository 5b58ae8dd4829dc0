//! Instance ids: session ids with a prefix, and posts that a load balancer gave to the wrong process.

use super::*;
use crate::error::Fault;
use crate::event::{Delivery, Outcome};
use crate::exchange::Exchange;
use crate::testing::{lines_in, steps_in};
use crate::{InstanceId, ShardId};

fn named(id: &str) -> ConfigBuilder {
    Config::builder().instance_id(id)
}

/// Posts to sessions of others, each with what the log says besides the fault, and one to a session that is
/// unknown here.
fn posts_to_others(own: Option<&str>, bare: &str) -> Vec<(String, String)> {
    let this = own
        .map_or("this server has no instance id".into(), |own| format!("this is instance {own}"));
    let of =
        |id: &str| (format!("{id}.{bare}"), format!("the session is of instance {id}, and {this}"));
    let mut posts = vec![of("a2"), of("a"), of("a11"), of("abcdefghijklmnop")];
    if own.is_some() {
        posts.push((bare.into(), format!("the session id names no instance, and {this}")));
    }
    posts
}

#[track_caller]
fn check_misrouted(own: Option<&str>) {
    let mut bench = Bench::with(own.map_or(Config::builder(), named));
    let client = bench.open();
    let bare = client.token.rsplit('.').next().unwrap().to_string();
    let unknown = bench.ask(post("x", NOTE));
    assert_eq!(unknown.status, 404);
    let posts = posts_to_others(own, &bare);
    for (token, meant) in &posts {
        let lines = lines_in(|| assert_eq!(bench.ask(post(token, NOTE)), unknown, "{token}"));
        assert_eq!(lines.len(), 1, "{lines:?}");
        let line = &lines[0];
        let begin = "INFO refused POST of a message from a local peer: unknown session: ";
        assert_eq!(*line, format!("{begin}{meant} (404)"));
        assert!(!line.contains(&bare[8..]), "{line}");
        bench.wait(secs(2));
    }
    assert_eq!(bench.server.metrics().fault(Fault::Misrouted), posts.len() as u64);
    // What is no instance id names no instance: nothing of it is for the log.
    for prefix in ["", "A2", "a_2", "%61", "a1.a1", "abcdefghijklmnopq"] {
        let token = format!("{prefix}.{bare}");
        let lines = lines_in(|| assert_eq!(bench.ask(post(&token, NOTE)), unknown, "{token}"));
        assert!(lines.iter().all(|line| !line.contains("instance")), "{prefix}: {lines:?}");
    }
    assert_eq!(bench.server.metrics().fault(Fault::Misrouted), posts.len() as u64);
    assert_eq!(bench.ask(post(&client.token, NOTE)).status, 202);
}

#[test]
fn post_to_a_session_of_another_instance_is_the_404_of_an_unknown_one_and_the_log_names_it() {
    check_misrouted(Some("a1"));
}

#[test]
fn post_with_a_prefix_to_a_server_without_instance_id_is_misrouted() {
    check_misrouted(None);
}

#[test]
fn exchange_for_another_instance_is_answered_like_one_for_an_unknown_session() {
    let mut bench = Bench::with(named("a1"));
    let client = bench.open();
    let bare = client.token.strip_prefix("a1.").unwrap();
    let mut answers = Vec::new();
    for token in ["x", bare, &format!("a2.{bare}"), &format!("A2.{bare}")] {
        let target = format!("/messages?session_id={token}");
        let fields: &[(&str, &[u8])] =
            &[("host", b"localhost"), ("content-type", b"application/json")];
        let post = Exchange { method: "POST", target: &target, fields, mount: "" };
        let conn = bench.server.exchange(post, Peer::local(), bench.now).unwrap();
        bench.server.handle_eof(conn, bench.now);
        let head = format!("{:?}", bench.server.response(conn).expect("an answer"));
        answers.push((head, bench.server.transmit(conn).chunks().collect::<Vec<_>>().concat()));
        bench.server.handle_disconnect(conn, bench.now);
    }
    assert!(answers[0].0.contains("404"), "{answers:?}");
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

#[test]
fn post_to_another_instance_takes_the_steps_of_any_miss() {
    let mut bench = Bench::with(named("a1"));
    let client = bench.open();
    let bare = client.token.strip_prefix("a1.").unwrap().to_string();
    let another = if bare.ends_with('A') { "B" } else { "A" };
    let mut steps = |token: &str| {
        let conn = bench.connect();
        let request = post(token, NOTE);
        steps_in(|| bench.server.handle_input(conn, request.as_bytes(), bench.now)).0
    };
    let wrong_secret = steps(&format!("a1.{}{another}", &bare[..31]));
    assert!(wrong_secret >= 18, "{wrong_secret}");
    for token in [&*bare, &format!("a2.{bare}"), &format!("A2.{bare}"), "x", "a1.x"] {
        assert_eq!(steps(token), wrong_secret, "{token}");
    }
}

#[test]
fn shards_of_an_instance_forward_to_each_other() {
    let [mut here, mut there] =
        [1, 2].map(|shard| Bench::with(named("a1").shard(ShardId(shard)).forwarding(true)));
    let client = there.open();
    assert_eq!(client.token.len(), "a1.".len() + 32);
    let conn = here.connect();
    here.says(conn, post(&client.token, NOTE));
    let Some(Event::Foreign { shard, post: forwarded, ticket }) = here.event() else {
        panic!("no post to forward")
    };
    assert_eq!(shard, ShardId(2));
    let Delivery::Done(outcome) = there.server.deliver(forwarded, there.now) else {
        panic!("it is held")
    };
    assert_eq!(outcome, Outcome::Accepted);
    here.acknowledge(ticket, outcome).unwrap();
    assert_eq!(here.statuses(conn), [202]);
    assert_eq!(there.inbox().len(), 1);
    // A session of another instance is not looked for in another shard.
    let other = client.token.replace("a1.", "a2.");
    assert_eq!(here.ask(post(&other, NOTE)).status, 404);
    assert!(here.events().is_empty());
}

#[test]
fn shard_to_which_nothing_forwards_is_named_in_the_log() {
    let mut bench = Bench::with(Config::builder().shard(ShardId(3)));
    let lines = lines_in(|| {
        assert_eq!(bench.ask(post("AAEAAAACAAAAAAAAAAAAAAAAAAAAAAAA", NOTE)).status, 404);
    });
    assert_eq!(
        lines,
        ["INFO refused POST of a message from a local peer: unknown session: the session is of \
             shard 1, and this is shard 3 (404)"]
    );
}

#[test]
fn health_names_the_instance() {
    let ask = |config| Bench::with(config).ask("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let body: serde_json::Value = serde_json::from_str(&ask(named("a1")).body).unwrap();
    assert_eq!(body["instance_id"], "a1");
    assert!(!ask(Config::builder()).body.contains("instance"));
    let config = named("a1").build().unwrap();
    assert_eq!(config.instance_id(), InstanceId::parse(b"a1"));
    assert_eq!(Config::default().instance_id(), None);
}
