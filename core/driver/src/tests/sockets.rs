//! A shard with scripted sockets that do what real ones rarely do: take a byte at a time, wake without
//! need, or fail in the middle.

use core::cell::RefCell;
use core::pin::pin;
use core::sync::atomic::Ordering;
use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use mcp_sse_core::{Clock, CloseReason, Config, ConnId, Limits, Peer, sse::Frame};

use super::{Counted, poll};
use crate::handle::{ShardControl, shard_control};
use crate::shard::Shard;
use crate::testing::{Random, lines_in};
use crate::turn::Turn;
use crate::{Handle, Session, SessionSender, Socket, Timer};

/// The bytes of one socket in both directions, and how the socket behaves.
#[derive(Default)]
pub(super) struct SocketScript {
    /// The results of the next reads.
    pub(super) input: VecDeque<Vec<u8>>,
    /// The peer has shut down its side, behind `input`.
    pub(super) closed: bool,
    /// The bytes that were written.
    pub(super) output: Vec<u8>,
    /// How many bytes writes may take; with zero, the socket is full.
    room: usize,
    /// Reads and writes fail.
    pub(super) broken: bool,
    shut: bool,
    writes: usize,
    /// A session, and the number of writes each of which makes it send one more frame, as an
    /// application on another thread may.
    sends: Option<(SessionSender, usize)>,
}

#[derive(Clone, Default)]
pub(super) struct ScriptedSocket(pub(super) Rc<RefCell<SocketScript>>);

impl Socket for ScriptedSocket {
    fn poll_read(&mut self, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut script = self.0.borrow_mut();
        if script.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        match script.input.pop_front() {
            Some(bytes) => {
                buffer[..bytes.len()].copy_from_slice(&bytes);
                Poll::Ready(Ok(bytes.len()))
            }
            None if script.closed => Poll::Ready(Ok(0)),
            None => Poll::Pending,
        }
    }

    fn poll_write(
        &mut self,
        _: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut script = self.0.borrow_mut();
        if script.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if script.room == 0 {
            return Poll::Pending;
        }
        let offered: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        let taken = offered.len().min(script.room);
        script.room -= taken;
        script.output.extend_from_slice(&offered[..taken]);
        script.writes += 1;
        if let Some((session, writes)) = &script.sends
            && script.writes < *writes
        {
            session.try_send(note(script.writes)).unwrap();
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().shut = true;
        Poll::Ready(Ok(()))
    }
}

/// A timer that never fires.
struct NeverTimer;

impl Timer for NeverTimer {
    fn set(&mut self, _: Instant) {}

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// A shard with its connection tasks, run without an executor.
pub(super) struct ShardHarness {
    shard: Shard<ScriptedSocket>,
    handle: Handle,
    conns: Vec<ConnId>,
    pub(super) sessions: Vec<Session>,
}

impl ShardHarness {
    fn new() -> Self {
        let (handle, controls) = shard_control();
        Self::with(Config::default(), Box::new(Random::seeded(5)), handle, controls)
    }

    pub(super) fn with(
        config: Config,
        entropy: Box<Random>,
        handle: Handle,
        controls: ShardControl,
    ) -> Self {
        let shard = Shard::new(config, entropy, controls);
        Self { shard, handle, conns: Vec::new(), sessions: Vec::new() }
    }

    pub(super) fn connect(&mut self, room: usize, input: &str) -> ScriptedSocket {
        let socket = ScriptedSocket::default();
        socket.0.borrow_mut().room = room;
        // An empty read would be the end of the input.
        socket.0.borrow_mut().input.extend((!input.is_empty()).then(|| input.into()));
        self.shard.accept(socket.clone(), Peer::local());
        self.run();
        socket
    }

    /// Polls every task twenty times, whether it was woken or not: enough for any test here. Returns
    /// whether the server has ended.
    pub(super) fn run(&mut self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        for _ in 0..20 {
            while let Poll::Ready(turn) = self.shard.poll_turn(cx, &mut NeverTimer) {
                match turn {
                    Turn::Opened(session) => self.sessions.push(session),
                    Turn::Accepted(conn) => self.conns.push(conn),
                    Turn::Drained => return true,
                }
            }
            self.conns.retain(|&conn| self.shard.poll_connection(conn, cx).is_pending());
        }
        false
    }
}

const GET: &str = "GET /sse HTTP/1.0\r\nHost: localhost\r\n\r\n";

fn note(n: usize) -> Frame {
    let json = format!(r#"{{"jsonrpc":"2.0","method":"note","params":[{n}]}}"#);
    Frame::message(json.as_bytes()).unwrap()
}

#[test]
fn socket_taking_one_byte_at_a_time_gets_every_byte_once() {
    let mut harness = ShardHarness::new();
    let socket = harness.connect(0, GET);
    let session = harness.sessions.pop().expect("a session");
    let expected: Vec<u8> = (0..10).flat_map(|n| note(n).bare().to_vec()).collect();
    for n in 0..10 {
        session.try_send(note(n)).unwrap();
    }
    for _ in 0..3_000 {
        socket.0.borrow_mut().room = 1;
        harness.run();
    }
    let output = socket.0.borrow().output.clone();
    let at = output.windows(2).position(|end| end == b"\n\n").expect("the endpoint event") + 2;
    assert_eq!(String::from_utf8(output[at..].to_vec()), String::from_utf8(expected));
    assert_eq!(session.closed(), None);
}

#[test]
fn endless_sends_are_limited_per_turn() {
    let mut harness = ShardHarness::new();
    let socket = harness.connect(usize::MAX, GET);
    let session = harness.sessions[0].sender();
    socket.0.borrow_mut().sends = Some((session.clone(), 5_000));
    socket.0.borrow_mut().writes = 0;
    session.try_send(note(0)).unwrap();
    let turns = Arc::new(Counted::default());
    let waker = Waker::from(turns.clone());
    let cx = &mut Context::from_waker(&waker);
    assert!(harness.shard.poll_turn(cx, &mut NeverTimer).is_pending());
    let writes = socket.0.borrow().writes;
    assert!((1..2_000).contains(&writes), "{writes} in one turn");
    assert!(turns.0.load(Ordering::Relaxed) > 0, "the shard wakes its own task");
    while socket.0.borrow().writes < 5_000 {
        assert!(harness.shard.poll_turn(cx, &mut NeverTimer).is_pending());
    }
}

#[test]
fn spurious_polls_change_nothing() {
    let mut harness = ShardHarness::new();
    let socket = harness.connect(usize::MAX, GET);
    let output = socket.0.borrow().output.len();
    for _ in 0..10 {
        harness.run();
    }
    assert_eq!(socket.0.borrow().output.len(), output);
    assert_eq!((harness.conns.len(), harness.sessions.len()), (1, 1));
    assert_eq!(harness.sessions[0].closed(), None);
}

#[test]
fn broken_socket_ends_only_its_session() {
    for blocked in [false, true] {
        let mut harness = ShardHarness::new();
        let (broken, fine) = (harness.connect(usize::MAX, GET), harness.connect(usize::MAX, GET));
        if blocked {
            broken.0.borrow_mut().room = 0;
            harness.sessions[0].try_send(note(1)).unwrap();
            harness.run();
        }
        broken.0.borrow_mut().broken = true;
        harness.run();
        let closed = harness.sessions[0].closed().expect("an end");
        assert_eq!(
            (closed.reason, closed.frames_undelivered),
            (CloseReason::Peer, u32::from(blocked))
        );
        harness.sessions[1].try_send(note(2)).unwrap();
        harness.run();
        assert!(fine.0.borrow().output.ends_with(note(2).bare()));
        assert_eq!(harness.conns.len(), 1);
    }
}

#[test]
fn end_of_input_at_any_byte_ends_the_connection() {
    let whole = "POST /messages?session_id=x HTTP/1.1\r\nHost: localhost\r\n\
                 Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    for input in (0..=whole.len()).map(|at| &whole[..at]) {
        let mut harness = ShardHarness::new();
        let socket = harness.connect(usize::MAX, input);
        socket.0.borrow_mut().closed = true;
        harness.run();
        assert!(harness.conns.is_empty(), "{input:?}: the connection is over");
        let output = String::from_utf8(socket.0.borrow().output.clone()).unwrap();
        let answered = output.starts_with("HTTP/1.1 404 ");
        assert!(answered || output.is_empty(), "{input:?}: {output}");
        assert_eq!(answered, input.contains("\r\n\r\n"), "{input:?}: {output}");
    }
}

#[test]
fn broadcast_in_the_turn_that_opens_a_session_reaches_it() {
    let cx = &mut Context::from_waker(Waker::noop());
    let mut harness = ShardHarness::new();
    let before = harness.connect(usize::MAX, GET);
    // The second GET is read, and no turn has been taken since.
    let socket = harness.connect(usize::MAX, "");
    socket.0.borrow_mut().input.push_back(GET.into());
    let conn = harness.conns[1];
    assert!(harness.shard.poll_connection(conn, cx).is_pending());
    assert!(socket.0.borrow().input.is_empty(), "it is read");
    assert_eq!(harness.sessions.len(), 1, "no turn has returned its session");
    let handle = harness.handle.clone();
    let mut reach = pin!(handle.broadcast(note(7)));
    assert!(poll(reach.as_mut()).is_pending());
    let Poll::Ready(Turn::Opened(session)) = harness.shard.poll_turn(cx, &mut NeverTimer) else {
        panic!("one turn opens the session and serves the handle")
    };
    let Poll::Ready(Ok(reach)) = poll(reach) else { panic!("the broadcast is done") };
    assert_eq!((reach.queued, reach.full), (2, 0));
    harness.run();
    for socket in [before, socket] {
        let output = String::from_utf8(socket.0.borrow().output.clone()).unwrap();
        let (head, event) = output.split_once("event: endpoint").expect("an endpoint event");
        assert!(head.starts_with("HTTP/1.1 200 "), "{output}");
        assert_eq!(event.matches(r#""params":[7]"#).count(), 1, "{output}");
    }
    assert_eq!(session.closed(), None);
}

#[test]
fn shutdown_waits_for_stalled_sockets_and_abort_does_not() {
    let mut harness = ShardHarness::new();
    let stalled = harness.connect(0, GET);
    for _ in 0..3 {
        harness.handle.shutdown();
        assert!(!harness.run(), "shutdown waits for queued bytes, however often it is called");
    }
    harness.handle.abort();
    harness.handle.shutdown();
    assert!(harness.run(), "a shutdown does not weaken an abort");
    assert!(stalled.0.borrow().output.is_empty());
    assert_eq!(harness.sessions[0].closed().map(|c| c.reason), Some(CloseReason::Shutdown));
}

#[test]
fn abort_without_shutdown_ends_server_with_stalled_socket() {
    let mut harness = ShardHarness::new();
    let stalled = harness.connect(0, GET);
    assert!(!harness.run());
    harness.handle.abort();
    assert!(harness.run());
    assert!(stalled.0.borrow().output.is_empty());
    assert_eq!(harness.sessions[0].closed().map(|c| c.reason), Some(CloseReason::Shutdown));
}

#[test]
fn repeated_refused_connections_log_one_line_a_second() {
    let limits = Limits { connections_per_address_max: Some(0), ..Limits::default() };
    let config = Config::builder().limits(limits).build().unwrap();
    let (handle, controls) = shard_control();
    let harness = ShardHarness::with(config, Box::new(Random::seeded(5)), handle, controls);
    let peer = Peer::tcp("192.0.2.7:5".parse().unwrap(), "192.0.2.1:80".parse().unwrap());
    let clock = Clock::start();
    let lines =
        lines_in(|| (0..1_000).for_each(|_| harness.shard.accept(ScriptedSocket::default(), peer)));
    let seconds = clock.now().as_micros() / 1_000_000;
    assert!((1..=1 + seconds).contains(&(lines.len() as u64)), "{}: {:?}", lines.len(), lines[0]);
    assert!(
        lines[0].starts_with("INFO refused a connection from 192.0.2.7:5: too many connections"),
        "{lines:?}"
    );
}
