//! Transfers through small socket buffers, so that every read and write is short.

use core::net::SocketAddr;
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;

use mcp_sse_core::Config;
use socket2::SockRef;

use crate::adapter::{Adapter, Handler, HandlerThread, Listen, RunningServer};
use crate::client::{Client, Stream, answer, call, post_request};
use crate::{PATIENCE, finish, handlers};

/// The requested size of the socket buffers; the system may round it up.
const SMALL: usize = 16 << 10;

const GET: &str = "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Starts a server with small socket buffers, which connections inherit from the listening socket.
fn server(on: &Adapter, handler_thread: HandlerThread, handler: Handler) -> RunningServer {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let socket = SockRef::from(&listener);
    socket.set_send_buffer_size(SMALL).expect("a socket");
    socket.set_recv_buffer_size(SMALL).expect("a socket");
    RunningServer::try_start(on, Listen::Tcp(listener), handler_thread, Config::default(), handler)
        .expect("a server")
}

fn stream(address: SocketAddr) -> Stream {
    Stream::open_on(Client::connect_with_receive_buffer(address, SMALL), address, GET)
}

/// A JSON text in which a lost, doubled or misplaced byte is noticed.
fn text(bytes: usize) -> String {
    let mut text: String = (0..bytes / 8).map(|n| format!("{n:07}.")).collect();
    text.insert(0, '"');
    text.push('"');
    text
}

/// A message of several MiB and many small ones behind it, on two streams at once.
pub fn large_messages_pass_small_send_buffers(on: &Adapter) {
    const NOTES: u32 = 500;
    for handler_thread in HandlerThread::ALL {
        let (sender, sessions) = mpsc::channel();
        let server = server(on, handler_thread, handlers::give(sender));
        let large = text(4 << 20);
        let text = &large;
        thread::scope(|scope| {
            for _ in 0..2 {
                let mut stream = stream(server.address());
                let session = sessions.recv_timeout(PATIENCE).expect("a session");
                scope.spawn(move || {
                    finish("room", session.send(handlers::response("0", text))).expect("a stream");
                    for n in 1..=NOTES {
                        let note = handlers::response(&n.to_string(), "[]");
                        finish("room", session.send(note)).expect("a stream");
                    }
                });
                scope.spawn(move || {
                    assert!(stream.message() == answer(0, text), "the large one is not intact");
                    for n in 1..=NOTES {
                        assert_eq!(stream.message(), answer(n, "[]"));
                    }
                    stream.expect_end();
                });
            }
        });
    }
}

/// A post of several MiB, pipelined with small ones, while its echo is sent back.
pub fn large_posts_pass_small_receive_buffers(on: &Adapter) {
    let server = server(on, HandlerThread::Local, handlers::echo());
    let mut stream = stream(server.address());
    let large = text(3 << 20);
    let posts: Vec<u8> = (0..3)
        .flat_map(|n| {
            let params = if n == 1 { &*large } else { "[]" };
            post_request(&stream.endpoint, &call(n, params))
        })
        .collect();
    let mut poster = Client::connect_with_receive_buffer(server.address(), SMALL);
    let mut writer = poster.clone_socket();
    thread::scope(|scope| {
        scope.spawn(|| writer.send(&posts));
        scope.spawn(|| (0..3).for_each(|n| assert_eq!(poster.response().status, 202, "{n}")));
        assert_eq!(stream.message(), answer(0, "[]"));
        assert!(stream.message() == answer(1, &large), "the large one is not intact");
        assert_eq!(stream.message(), answer(2, "[]"));
    });
    stream.check_alive("afterwards");
}
