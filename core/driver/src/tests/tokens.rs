//! Tokens that are replaced while the shards of a server are being made.

use core::pin::pin;
use core::task::Poll;

use mcp_sse_core::{Authorization, Config, StaticTokens};

use super::poll;
use super::sockets::ShardHarness;
use crate::handle::shard_control;
use crate::testing::Random;

fn tokens(token: &str) -> StaticTokens {
    StaticTokens::builder().token("alice", token).build().unwrap()
}

/// The status of a request for a stream with this token.
fn status(shard: &mut ShardHarness, token: &str) -> String {
    let get =
        format!("GET /sse HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    let socket = shard.connect(usize::MAX, &get);
    let output = socket.0.borrow().output.clone();
    String::from_utf8_lossy(output.get(9..12).unwrap_or_default()).into()
}

#[test]
fn tokens_that_were_replaced_before_the_workers_exist_are_those_of_every_worker() {
    let (handle, controls) = shard_control();
    let mut replaced = pin!(handle.replace_tokens(tokens("new")));
    assert!(poll(replaced.as_mut()).is_pending());
    let authorization = Authorization::Static(tokens("old"));
    let config = Config::builder().authorization(authorization).build().unwrap();
    for controls in controls.split(3) {
        let random = Box::new(Random::seeded(1));
        let mut shard = ShardHarness::with(config.clone(), random, handle.clone(), controls);
        assert_eq!(["old", "new"].map(|token| status(&mut shard, token)), ["401", "200"]);
    }
    assert_eq!(poll(replaced), Poll::Ready(Ok(())));
}

/// Two calls may reach one shard in one order, and another shard in the other.
#[test]
fn call_that_reaches_a_shard_late_does_not_undo_a_later_call() {
    let authorization = Authorization::Static(tokens("old"));
    let config = Config::builder().authorization(authorization).build().unwrap();
    let (handle, controls) = shard_control();
    let random = Box::new(Random::seeded(1));
    let mut shard = ShardHarness::with(config, random, handle.clone(), controls);
    // The shard is busy: the first call has to wait until it can be sent.
    let mut others: Vec<_> = (0..1_000).map(|_| Box::pin(handle.metrics())).collect();
    assert!(others.iter_mut().all(|other| poll(other.as_mut()).is_pending()));
    let mut first = pin!(handle.replace_tokens(tokens("first")));
    assert!(poll(first.as_mut()).is_pending());
    shard.run();
    let mut second = pin!(handle.replace_tokens(tokens("second")));
    assert!(poll(second.as_mut()).is_pending());
    assert!(poll(first.as_mut()).is_pending());
    shard.run();
    let statuses = ["old", "first", "second"].map(|token| status(&mut shard, token));
    assert_eq!(statuses, ["401", "401", "200"]);
    assert_eq!((poll(first), poll(second)), (Poll::Ready(Ok(())), Poll::Ready(Ok(()))));
}
