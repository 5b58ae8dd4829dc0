//! The budget of request bytes, and the part of it that one address may have.

use super::*;
use crate::ShardId;
use crate::error::Fault;
use crate::event::{LookupAnswer, Outcome};

const BODY: usize = 1_000;

/// Four of the largest bodies for all, and two for an address.
fn bench(change: impl FnOnce(&mut Limits)) -> Bench {
    Bench::with(limited(|limits| {
        limits.body_bytes_max = Some(BODY as u64);
        limits.bodies_bytes_max = Some(4 * BODY as u64);
        limits.bodies_bytes_per_address_max = Some(2 * BODY as u64);
        change(limits);
    }))
}

fn from(address: &str) -> Peer {
    let local = "10.0.0.2:80".parse().unwrap();
    Peer::tcp(alloc::format!("{address}:5").parse().unwrap(), local)
}

/// A post of so many bytes.
fn sized(token: &str, bytes: usize) -> String {
    let empty = r#"{"jsonrpc":"2.0","method":""}"#.len();
    let method = "x".repeat(bytes - empty);
    post(token, &format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#))
}

/// All but the last octet of a post.
fn begin(bench: &mut Bench, peer: Peer, request: &str) -> ConnId {
    let conn = bench.connect_from(peer);
    bench.says(conn, &request[..request.len() - 1]);
    conn
}

#[test]
fn address_over_its_body_budget_is_503_and_others_are_not() {
    let mut bench = bench(|_| {});
    let client = bench.open();
    let request = sized(&client.token, BODY);
    let first: Vec<_> = (0..2).map(|_| begin(&mut bench, from("192.0.2.1"), &request)).collect();
    let third = begin(&mut bench, from("192.0.2.1"), &request);
    let answer = bench.answers(third).remove(0);
    assert!(
        answer.status == 503 && answer.body.contains("bodies_bytes_per_address_max"),
        "{answer:?}"
    );
    assert!(answer.closes() && answer.field("Retry-After").is_some());
    assert_eq!(bench.server.metrics().fault(Fault::BodiesPerAddressFull), 1);
    let other = begin(&mut bench, from("192.0.2.2"), &request);
    assert!(bench.heard(other).is_empty());
    for conn in [first[0], first[1], other] {
        bench.says(conn, "}");
        assert_eq!(bench.statuses(conn), [202]);
    }
    // What is finished does not count for the address any more.
    let again = begin(&mut bench, from("192.0.2.1"), &request);
    bench.inbox();
    bench.says(again, "}");
    assert_eq!(bench.statuses(again), [202]);
    assert_eq!(bench.server.body_addresses.total(), 0);
}

#[test]
fn loopback_and_trusted_proxies_are_exempt_but_not_a_proxys_clients() {
    let config = limited(|limits| {
        limits.body_bytes_max = Some(BODY as u64);
        limits.bodies_bytes_per_address_max = Some(BODY as u64);
    });
    let mut bench = Bench::with(config.trusted_proxy("192.0.2.9/32"));
    let client = bench.open();
    let request = sized(&client.token, BODY);
    for peer in [Peer::local(), from("127.0.0.1"), from("192.0.2.9")] {
        for _ in 0..3 {
            let conn = begin(&mut bench, peer, &request);
            assert!(bench.heard(conn).is_empty(), "{peer:?}");
        }
    }
    let of = |client: &str| {
        let field = format!("X-Forwarded-For: {client}\r\nContent-Type");
        request.replace("Content-Type", &field)
    };
    for (client, expected) in [("203.0.113.1", 0), ("203.0.113.1", 1), ("203.0.113.2", 0)] {
        let conn = begin(&mut bench, from("192.0.2.9"), &of(client));
        assert_eq!(bench.answers(conn).len(), expected, "{client}");
    }
}

#[test]
fn post_that_arrives_whole_is_not_counted_unless_it_is_held() {
    let mut bench = bench(|limits| {
        limits.inbound_messages_max = Some(1);
        limits.bodies_bytes_max = None;
    });
    let client = bench.open();
    let request = sized(&client.token, BODY);
    let conns: Vec<_> = (0..4).map(|_| bench.connect_from(from("192.0.2.1"))).collect();
    for &conn in &conns {
        bench.says(conn, &request);
    }
    assert_eq!(bench.statuses(conns[0]), [202]);
    assert!(bench.heard(conns[1]).is_empty() && bench.heard(conns[2]).is_empty(), "held");
    assert_eq!(bench.statuses(conns[3]), [503]);
    assert_eq!(bench.server.body_addresses.count(&key("192.0.2.1")), 2 * BODY as u64);
    assert_eq!(bench.inbox().len(), 3);
    assert_eq!(bench.server.body_addresses.total(), 0);
}

fn key(address: &str) -> crate::peer::AddressKey {
    crate::peer::AddressKey::of(address.parse().unwrap()).unwrap()
}

#[test]
fn message_of_body_bytes_max_is_always_allowed() {
    let mut bench = bench(|limits| limits.bodies_bytes_per_address_max = Some(0));
    let client = bench.open();
    let conn = begin(&mut bench, from("192.0.2.1"), &sized(&client.token, BODY));
    bench.says(conn, "}");
    assert_eq!(bench.statuses(conn), [202]);
}

/// However much of its posts has come, and whether its end is orderly: what it held is its address's again.
#[test]
fn disconnect_releases_the_bytes_of_its_address() {
    let mut bench = bench(|limits| limits.inbound_messages_max = Some(1));
    let client = bench.open();
    let request = sized(&client.token, BODY);
    let (early, small) = (&request[..request.len() - 1], post(&client.token, &call(1)));
    let full = bench.connect();
    bench.says(full, &small);
    assert_eq!(bench.statuses(full), [202], "the session has no more room");
    let (held, behind) = (request.as_str(), [&request, &small[..9]].concat());
    for (what, said) in [("unfinished", early), ("held", held), ("held, and more", &behind)] {
        for leave in [Bench::reset, Bench::fin] {
            let conn = bench.connect_from(from("192.0.2.1"));
            bench.says(conn, said);
            let counted = bench.server.body_addresses.count(&key("192.0.2.1"));
            assert!(
                bench.heard(conn).is_empty() && counted >= BODY as u64 - 1,
                "{what}: {counted}"
            );
            leave(&mut bench, conn);
            if bench.is_open(conn) {
                bench.reset(conn);
            }
            assert_eq!(bench.server.body_addresses.total(), 0, "{what}");
        }
    }
}

#[test]
fn input_behind_a_held_post_counts_for_its_address() {
    let mut bench = bench(|limits| limits.inbound_messages_max = Some(0));
    let client = bench.open();
    let conn = bench.connect_from(from("192.0.2.1"));
    let request = sized(&client.token, BODY);
    bench.says(conn, request.repeat(2));
    assert_eq!(bench.statuses(conn), [503], "the post and what is behind it are too much");
    assert_eq!(bench.server.body_addresses.total(), 0);
}

#[test]
fn forwarded_post_counts_for_its_address_until_its_outcome_is_known() {
    let config = limited(|limits| limits.bodies_bytes_per_address_max = Some(BODY as u64));
    let mut here = Bench::with(config.shard(ShardId(1)).forwarding(true));
    let mut there = Bench::with(Config::builder().shard(ShardId(2)).forwarding(true));
    let client = there.open();
    let request = sized(&client.token, BODY);
    for whole in [false, true] {
        let conn = here.connect_from(from("192.0.2.1"));
        if whole {
            here.says(conn, &request);
        } else {
            let (early, late) = request.split_at(request.len() - 1);
            here.says(conn, early);
            let Some(Event::LookedFor { ticket, .. }) = here.event() else { panic!("no question") };
            here.server.answer_lookup(ticket, LookupAnswer::Found, here.now).unwrap();
            here.pump();
            here.says(conn, late);
        }
        let Some(Event::Foreign { post, ticket, .. }) = here.event() else { panic!("no post") };
        let counted = here.server.body_addresses.total();
        assert_eq!(counted, if whole { 0 } else { BODY as u64 }, "it has had to wait");
        let outcome = there.deliver(post);
        here.acknowledge(ticket, outcome).unwrap();
        assert_eq!(here.statuses(conn), [202]);
        assert_eq!(here.server.body_addresses.total(), 0);
    }
}

#[test]
fn pending_input_counts_for_the_next_client_of_a_proxy() {
    let config = limited(|limits| limits.answers_bytes_max = Some(0));
    let config = config.shard(ShardId(1)).forwarding(true);
    let token = Bench::with(Config::builder().shard(ShardId(2))).open().token;
    let mut bench = Bench::with(config.trusted_proxy("192.0.2.9/32"));
    let conn = bench.connect_from(from("192.0.2.9"));
    let request = post_with(&token, "X-Forwarded-For: 203.0.113.1\r\n", NOTE);
    bench.says(conn, request.repeat(2));
    let first = request.len() as u64;
    assert_eq!(bench.server.body_addresses.count(&key("203.0.113.1")), first);
    bench.set_reading(conn, false);
    let ticket = bench.forwarded();
    bench.acknowledge(ticket, Outcome::Accepted).unwrap();
    assert_eq!(bench.server.body_addresses.total(), 0, "whose it is, is not known yet");
    bench.set_reading(conn, true);
    let ticket = bench.forwarded();
    bench.acknowledge(ticket, Outcome::Accepted).unwrap();
    assert_eq!(bench.statuses(conn), [202; 2]);
}

/// What is read, held, asked about and forwarded counts for its address, and no end of a server keeps it.
#[test]
fn abort_and_shutdown_release_the_bytes_of_an_address() {
    for abort in [true, false] {
        let config = limited(|limits| limits.inbound_messages_max = Some(0));
        let mut here = Bench::with(config.shard(ShardId(1)).forwarding(true));
        let mut there = Bench::with(Config::builder().shard(ShardId(2)).forwarding(true));
        let (own, foreign) = (here.open(), there.open());
        let peer = from("192.0.2.1");
        begin(&mut here, peer, &sized(&own.token, BODY));
        let held = here.connect_from(peer);
        here.says(held, sized(&own.token, BODY) + "P");
        begin(&mut here, peer, &sized(&foreign.token, BODY));
        let request = sized(&foreign.token, BODY);
        let forwarded = begin(&mut here, peer, &request);
        let lookups = here.events().into_iter().filter_map(|event| match event {
            Event::LookedFor { ticket, .. } => Some(ticket),
            _ => None,
        });
        let ticket = lookups.last().unwrap();
        here.server.answer_lookup(ticket, LookupAnswer::Found, here.now).unwrap();
        here.pump();
        here.says(forwarded, "}");
        assert!(here.server.body_addresses.count(&key("192.0.2.1")) >= 4 * BODY as u64 - 100);
        if abort {
            here.server.abort(here.now);
            here.pump();
        } else {
            here.shutdown();
            here.wait(secs(60));
        }
        here.events();
        assert_eq!(here.server.connections_open(), 0);
        assert_eq!((here.server.body_addresses.total(), here.server.bodies_bytes), (0, 0));
    }
}
