//! Handles and exchanges whose other side ends or is slow. The integration tests cover the rest, over
//! real sockets.

mod decisions;
mod forwarding;
mod sockets;
mod tokens;

use core::pin::{Pin, pin};
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::{Context, Poll, Waker};
use std::sync::Arc;
use std::task::Wake;

use mcp_sse_core::{
    CloseReason, Config, Event, Limits, Peer, SendError, Server, Time, jsonrpc::Message, sse::Frame,
};

use super::exchange::exchange_pair;
use super::handle::shard_control;
use super::session::Session;
use super::session_mailbox::MailboxLimits;
use super::session_slot::SessionSlot;
use super::{Socket, Stopped};
use crate::testing::Random;

const NOW: Time = Time::ZERO;

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// A waker that counts its wake-ups.
#[derive(Default)]
pub(super) struct Counted(pub(super) AtomicUsize);

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn metrics_of_ended_server_is_stopped() {
    let (handle, controls) = shard_control();
    let mut metrics = pin!(handle.metrics());
    assert!(poll(metrics.as_mut()).is_pending());
    drop(controls);
    assert_eq!(poll(metrics).map(|answer| answer.err()), Poll::Ready(Some(Stopped)));
    assert_eq!(poll(pin!(handle.metrics())).map(|answer| answer.err()), Poll::Ready(Some(Stopped)));
}

/// Makes a server with one session, and both sides of that session.
fn session() -> (Server, SessionSlot, Session) {
    let mut server = Server::new(Config::default(), Box::new(Random::seeded(1)), NOW);
    let conn = server.accept(Peer::local(), NOW).unwrap();
    server.handle_input(conn, b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n", NOW);
    let Some(Event::Opened { session, principal, head, .. }) = server.poll_event() else {
        panic!("a session")
    };
    let (server_handle, controls) = shard_control();
    let shard = controls.shard_set.own().clone();
    let limits = MailboxLimits::new(&Limits::default());
    let (slot, session) = SessionSlot::new(session, principal, head, server_handle, shard, limits);
    (server, slot, session)
}

fn frame() -> Frame {
    Frame::message(br#"{"jsonrpc":"2.0","method":"m"}"#).unwrap()
}

#[test]
fn dropped_send_leaves_no_waker_and_pending_send_is_woken() {
    let (mut server, mut slot, session) = session();
    while session.try_send(frame()).is_ok() {}
    let wakers: Vec<_> = (0..100).map(|_| Arc::new(Counted::default())).collect();
    for waker in &wakers {
        let mut send = pin!(session.send(frame()));
        let waker = Waker::from(waker.clone());
        assert!(send.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    assert!(wakers.iter().all(|waker| Arc::strong_count(waker) == 1), "a waker is still held");

    // A send that is not dropped is woken once, and then succeeds.
    let waker = Arc::new(Counted::default());
    let mut send = pin!(session.send(frame()));
    for _ in 0..2 {
        let waker = Waker::from(waker.clone());
        assert!(send.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    slot.serve_mailbox(&mut server, NOW);
    assert_eq!(waker.0.load(Ordering::Relaxed), 1);
    assert_eq!(poll(send), Poll::Ready(Ok(())));
}

#[test]
fn dropped_send_removes_its_own_waker_only() {
    const SENDS: usize = 4;
    for dropped in 0..SENDS {
        let (mut server, mut slot, session) = session();
        while session.try_send(frame()).is_ok() {}
        let wakers: Vec<_> = (0..SENDS).map(|_| Arc::new(Counted::default())).collect();
        let mut sends: Vec<_> = (0..SENDS).map(|_| Some(Box::pin(session.send(frame())))).collect();
        for (send, waker) in sends.iter_mut().flatten().zip(&wakers) {
            let waker = Waker::from(waker.clone());
            assert!(send.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        sends[dropped] = None;
        let held = wakers.iter().map(|waker| Arc::strong_count(waker) - 1);
        let held: Vec<_> = held.collect();
        let expected: Vec<_> = (0..SENDS).map(|n| usize::from(n != dropped)).collect();
        assert_eq!(held, expected, "number {dropped} was dropped");
        slot.serve_mailbox(&mut server, NOW);
        let woken = wakers.iter().map(|waker| waker.0.load(Ordering::Relaxed));
        assert_eq!(woken.collect::<Vec<_>>(), expected, "number {dropped} was dropped");
        for send in sends.iter_mut().flatten() {
            assert_eq!(poll(send.as_mut()), Poll::Ready(Ok(())));
        }
    }
}

#[test]
fn waiting_receiver_is_woken_by_message_and_by_end() {
    let (mut server, slot, mut session) = session();
    let woken = Arc::new(Counted::default());
    let waker = Waker::from(woken.clone());
    let cx = &mut Context::from_waker(&waker);
    let message = Message::read(br#"{"jsonrpc":"2.0","method":"m"}"#.to_vec(), None).unwrap();
    for times in 1..=3 {
        assert!(session.poll_recv(cx).is_pending());
        slot.message(message.clone(), &mut server, NOW);
        assert_eq!(woken.0.load(Ordering::Relaxed), times);
        assert!(matches!(session.poll_recv(cx), Poll::Ready(Some(read)) if read == message));
    }
    assert!(session.poll_recv(cx).is_pending());
    slot.close(CloseReason::Peer, 0);
    assert_eq!(woken.0.load(Ordering::Relaxed), 4);
    assert!(matches!(session.poll_recv(cx), Poll::Ready(None)));
}

#[test]
fn dropped_session_slot_ends_session() {
    let (server, slot, mut session) = session();
    while session.try_send(frame()).is_ok() {}
    let sender = session.sender();
    let mut send = pin!(sender.send(frame()));
    assert!(poll(send.as_mut()).is_pending());
    assert!(poll(pin!(session.recv())).is_pending());
    drop((server, slot));
    assert_eq!(poll(send), Poll::Ready(Err(SendError::Gone)));
    assert!(matches!(poll(pin!(session.recv())), Poll::Ready(None)));
}

#[test]
fn replaced_waker_is_dropped_outside_the_lock() {
    /// A waker whose drop takes the mailbox's lock: dropping it under that lock would deadlock.
    struct LocksOnDrop(super::SessionSender);
    impl Wake for LocksOnDrop {
        fn wake(self: Arc<Self>) {}
    }
    impl Drop for LocksOnDrop {
        fn drop(&mut self) {
            let _ = self.0.closed();
        }
    }
    let (_server, _slot, mut session) = session();
    let waker = Waker::from(Arc::new(LocksOnDrop(session.sender())));
    assert!(session.poll_recv(&mut Context::from_waker(&waker)).is_pending());
    drop(waker);
    assert!(session.poll_recv(&mut Context::from_waker(Waker::noop())).is_pending());
}

#[test]
fn exchange_side_dropped_is_seen_by_the_other() {
    let cx = &mut Context::from_waker(Waker::noop());
    let (mut client, socket) = exchange_pair();
    assert!(socket.poll_gone(cx).is_pending());
    assert!(client.poll_head(cx).is_pending());
    drop(socket);
    assert_eq!(client.poll_head(cx), Poll::Ready(None));
    assert_eq!(client.poll_output(cx), Poll::Ready(None));

    let (client, mut socket) = exchange_pair();
    drop(client);
    assert!(socket.poll_gone(cx).is_ready());
    let pieces = [std::io::IoSlice::new(b"x")];
    assert!(matches!(socket.poll_write(cx, &pieces), Poll::Ready(Err(_))));
}

#[test]
fn exchange_with_full_buffer_is_pending_in_both_directions() {
    let cx = &mut Context::from_waker(Waker::noop());
    let (mut client, mut socket) = exchange_pair();
    client.input(vec![7; 64 << 10]);
    assert!(client.poll_input(cx).is_pending());
    let mut buffer = [0; 1_000];
    assert!(matches!(socket.poll_read(cx, &mut buffer), Poll::Ready(Ok(1_000))));
    assert!(client.poll_input(cx).is_ready());

    let big = vec![7; 64 << 10];
    let pieces = [std::io::IoSlice::new(&big)];
    assert!(matches!(socket.poll_write(cx, &pieces), Poll::Ready(Ok(_))));
    assert!(socket.poll_write(cx, &pieces).is_pending());
    assert!(matches!(client.poll_output(cx), Poll::Ready(Some(bytes)) if bytes == big));
    assert!(socket.poll_write(cx, &pieces).is_ready());
}
