//! Round trips: a post and its response on the stream, cut at any byte, and many at once.

use std::sync::mpsc;
use std::thread;

use mcp_sse_core::Config;
use mcp_sse_tests::adapter::{Adapter, RunningServer};
use mcp_sse_tests::client::{Client, Stream, answer, call, health, post_request};
use mcp_sse_tests::{PATIENCE, finish, for_each_adapter, handlers, wait_until};

for_each_adapter!(
    post_cut_at_every_byte_is_answered,
    thousand_pipelined_posts_are_answered_in_order,
    thousand_posts_wait_for_a_late_receiver,
    thousand_posts_on_hundred_connections_are_answered,
    fifty_sessions_stay_separate,
);

fn post_cut_at_every_byte_is_answered(on: &Adapter) {
    let server = RunningServer::start(on, Config::default(), handlers::echo());
    let mut stream = Stream::open(server.address());
    let mut beside = Client::connect(server.address());
    let mut poster = Client::connect(server.address());
    let body = |cut: usize| call(cut, "\"\u{1f980}\\u2028\"");
    let length = stream.post_request(&body(100)).len();
    for cut in 1..length {
        // Every post has the same length, so that each byte position is a cut once.
        let id = 100 + cut;
        let post = stream.post_request(&body(id));
        assert_eq!(post.len(), length, "{cut}");
        poster.send(&post[..cut]);
        // When this is answered, the server has read the first part.
        let ready = "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";
        assert_eq!(beside.ask(ready).status, 200, "{cut}");
        assert!(!poster.has_input(), "{cut}: an answer to half a post");
        poster.send(&post[cut..]);
        assert_eq!(poster.response().status, 202, "{cut}");
        assert_eq!(stream.message(), answer(id, "\"\u{1f980}\\u2028\""), "{cut}");
    }
}

fn thousand_pipelined_posts_are_answered_in_order(on: &Adapter) {
    const POSTS: u32 = 1_000;
    let server = RunningServer::start(on, Config::default(), handlers::echo());
    let mut other_session = Stream::open(server.address());
    let mut stream = Stream::open(server.address());
    let posts: Vec<u8> =
        (0..POSTS).flat_map(|n| stream.post_request(&call(n, &format!("[{n}]")))).collect();
    let mut poster = Client::connect(server.address());
    let mut writer = poster.clone_socket();
    thread::scope(|scope| {
        let _cut = writer.cut_on_panic();
        scope.spawn(|| writer.send(&posts));
        scope.spawn(|| {
            for n in 0..POSTS {
                assert_eq!(poster.response().status, 202, "{n}");
            }
        });
        for n in 0..POSTS {
            assert_eq!(stream.message(), answer(n, &format!("[{n}]")));
        }
    });
    // Each was answered exactly once: the next event is the answer to this call.
    stream.check_alive("after a thousand posts");
    other_session.check_alive("beside a thousand posts");
    assert_eq!(server.metrics().messages_received, u64::from(POSTS) + 2);
}

/// Posts are queued while no message is received; none is lost or overtaken.
fn thousand_posts_wait_for_a_late_receiver(on: &Adapter) {
    const POSTS: u32 = 1_000;
    let (sender, sessions) = mpsc::channel();
    let server = RunningServer::start(on, Config::default(), handlers::give(sender));
    let mut stream = Stream::open(server.address());
    let mut session = sessions.recv_timeout(PATIENCE).expect("a session");
    let posts: Vec<u8> =
        (0..POSTS).flat_map(|n| stream.post_request(&call(n, &format!("[{n}]")))).collect();
    let mut poster = Client::connect(server.address());
    let mut writer = poster.clone_socket();
    thread::scope(|scope| {
        let _cut = writer.cut_on_panic();
        scope.spawn(|| writer.send(&posts));
        scope.spawn(|| {
            for n in 0..POSTS {
                assert_eq!(poster.response().status, 202, "{n}");
            }
        });
        wait_until("a post is held", || server.metrics().posts_held > 0);
        scope.spawn(|| {
            for n in 0..POSTS {
                let message = finish("a message", session.recv()).expect("a message");
                assert_eq!(message.text(), call(n, &format!("[{n}]")));
                let echo = handlers::echoed(&message).expect("a request");
                finish("room", session.send(echo)).expect("a stream");
            }
        });
        for n in 0..POSTS {
            assert_eq!(stream.message(), answer(n, &format!("[{n}]")));
        }
    });
    drop(session);
    stream.expect_end();
}

fn thousand_posts_on_hundred_connections_are_answered(on: &Adapter) {
    const CONNECTIONS: usize = 100;
    const POSTS: usize = 10;
    let server = RunningServer::start(on, Config::default(), handlers::echo());
    let mut other_session = Stream::open(server.address());
    let mut stream = Stream::open(server.address());
    let endpoint = stream.endpoint.clone();
    let mut posters: Vec<_> = (0..CONNECTIONS).map(|_| Client::connect(server.address())).collect();
    let answers = thread::scope(|scope| {
        let answers = scope.spawn(|| {
            let answers: Vec<_> = (0..CONNECTIONS * POSTS).map(|_| stream.message()).collect();
            answers
        });
        // One round after the other, so that all connections are busy at once.
        for round in 0..POSTS {
            for (n, poster) in posters.iter_mut().enumerate() {
                poster.send(post_request(&endpoint, &call(n * POSTS + round, "{}")));
            }
        }
        for (n, poster) in posters.iter_mut().enumerate() {
            for round in 0..POSTS {
                assert_eq!(poster.response().status, 202, "connection {n}, post {round}");
            }
        }
        answers.join().expect("a thousand answers")
    });
    let id = |text: &String| {
        let message: serde_json::Value = serde_json::from_str(text).expect("JSON");
        let id = message.get("id").and_then(serde_json::Value::as_u64).expect("an id");
        usize::try_from(id).expect("an index")
    };
    let mut answered = vec![0; CONNECTIONS];
    for id in answers.iter().map(id) {
        // Posts of one connection are answered in order; between connections any order is correct.
        let (n, round) = (id / POSTS, id % POSTS);
        assert_eq!(answered[n], round, "connection {n}");
        answered[n] += 1;
    }
    assert!(answered.iter().all(|&count| count == POSTS), "{answered:?}");
    stream.check_alive("after a thousand posts");
    other_session.check_alive("beside a thousand posts");
}

fn fifty_sessions_stay_separate(on: &Adapter) {
    let server = RunningServer::start(on, Config::default(), handlers::echo());
    let mut streams: Vec<_> = (0..50).map(|_| Stream::open(server.address())).collect();
    let mut tokens: Vec<_> = streams.iter().map(|stream| stream.token().to_owned()).collect();
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), streams.len(), "tokens are unique");
    let mut poster = Client::connect(server.address());
    for round in 0..10 {
        for (n, stream) in streams.iter().enumerate() {
            let post = stream.post_request(&call(n, &format!("[{round}]")));
            assert_eq!(poster.ask(post).status, 202);
        }
    }
    for (n, stream) in streams.iter_mut().enumerate() {
        for round in 0..10 {
            assert_eq!(stream.message(), answer(n, &format!("[{round}]")));
        }
        stream.check_alive("one of fifty");
    }
    // Half of the sessions end; the others go on.
    let gone = streams.split_off(25);
    drop(gone);
    wait_until("25 sessions end", || health(server.address()).sessions == 25);
    for stream in &mut streams {
        stream.check_alive("one of those that stayed");
    }
}
