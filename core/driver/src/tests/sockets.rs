//! A shard with sockets that do what real ones rarely do: take a byte at a time, are ready for
//! nothing, break in the middle.

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

/// What the peer of one socket has said and heard, and how the socket behaves.
#[derive(Default)]
pub(super) struct Wire {
    pub(super) said: VecDeque<Vec<u8>>,
    pub(super) closed: bool,
    pub(super) heard: Vec<u8>,
    /// Bytes that a write may take; none is as if the socket were full.
    room: usize,
    pub(super) broken: bool,
    shut: bool,
    writes: usize,
    /// Answers each of so many writes with one more frame, as an application on another thread may.
    chatter: Option<(SessionSender, usize)>,
}

#[derive(Clone, Default)]
pub(super) struct Scripted(pub(super) Rc<RefCell<Wire>>);

impl Socket for Scripted {
    fn poll_read(&mut self, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut wire = self.0.borrow_mut();
        if wire.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        match wire.said.pop_front() {
            Some(bytes) => {
                buffer[..bytes.len()].copy_from_slice(&bytes);
                Poll::Ready(Ok(bytes.len()))
            }
            None if wire.closed => Poll::Ready(Ok(0)),
            None => Poll::Pending,
        }
    }

    fn poll_write(
        &mut self,
        _: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.0.borrow_mut();
        if wire.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if wire.room == 0 {
            return Poll::Pending;
        }
        let offered: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        let taken = offered.len().min(wire.room);
        wire.room -= taken;
        wire.heard.extend_from_slice(&offered[..taken]);
        wire.writes += 1;
        if let Some((session, writes)) = &wire.chatter
            && wire.writes < *writes
        {
            session.try_send(note(wire.writes)).unwrap();
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().shut = true;
        Poll::Ready(Ok(()))
    }
}

struct Never;

impl Timer for Never {
    fn set(&mut self, _: Instant) {}

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// A shard, and the connections whose tasks it wants spawned.
pub(super) struct Bench {
    shard: Shard<Scripted>,
    handle: Handle,
    conns: Vec<ConnId>,
    pub(super) sessions: Vec<Session>,
}

impl Bench {
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

    pub(super) fn connect(&mut self, room: usize, said: &str) -> Scripted {
        let socket = Scripted::default();
        socket.0.borrow_mut().room = room;
        // An empty read would be the end.
        socket.0.borrow_mut().said.extend((!said.is_empty()).then(|| said.into()));
        self.shard.accept(socket.clone(), Peer::local());
        self.run();
        socket
    }

    /// Polls everything, whether it was woken or not, as often as something may come of it. Returns
    /// whether the server has ended.
    pub(super) fn run(&mut self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        for _ in 0..20 {
            while let Poll::Ready(turn) = self.shard.poll_turn(cx, &mut Never) {
                match turn {
                    Turn::Opened(session) => self.sessions.push(session),
                    Turn::Accepted(conn) => self.conns.push(conn),
                    Turn::Drained => return true,
                }
            }
            let shard = self.shard.clone();
            self.conns.retain(|&conn| poll(pin!(shard.clone().connection(conn))).is_pending());
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
fn a_socket_that_takes_a_byte_at_a_time_is_told_everything_once() {
    let mut bench = Bench::new();
    let socket = bench.connect(0, GET);
    let session = bench.sessions.pop().expect("a session");
    let expected: Vec<u8> = (0..10).flat_map(|n| note(n).bare().to_vec()).collect();
    for n in 0..10 {
        session.try_send(note(n)).unwrap();
    }
    for _ in 0..3_000 {
        socket.0.borrow_mut().room = 1;
        bench.run();
    }
    let heard = socket.0.borrow().heard.clone();
    let at = heard.windows(2).position(|end| end == b"\n\n").expect("the endpoint event") + 2;
    assert_eq!(String::from_utf8(heard[at..].to_vec()), String::from_utf8(expected));
    assert_eq!(session.closed(), None);
}

#[test]
fn whoever_sends_without_end_keeps_nobody_from_reading() {
    let mut bench = Bench::new();
    let socket = bench.connect(usize::MAX, GET);
    let session = bench.sessions[0].sender();
    socket.0.borrow_mut().chatter = Some((session.clone(), 5_000));
    socket.0.borrow_mut().writes = 0;
    session.try_send(note(0)).unwrap();
    let turns = Arc::new(Counted::default());
    let waker = Waker::from(turns.clone());
    let cx = &mut Context::from_waker(&waker);
    assert!(bench.shard.poll_turn(cx, &mut Never).is_pending());
    let writes = socket.0.borrow().writes;
    assert!((1..2_000).contains(&writes), "{writes} in one turn");
    assert!(turns.0.load(Ordering::Relaxed) > 0, "it goes on by itself");
    while socket.0.borrow().writes < 5_000 {
        assert!(bench.shard.poll_turn(cx, &mut Never).is_pending());
    }
}

#[test]
fn readiness_for_nothing_changes_nothing() {
    let mut bench = Bench::new();
    let socket = bench.connect(usize::MAX, GET);
    let heard = socket.0.borrow().heard.len();
    for _ in 0..10 {
        bench.run();
    }
    assert_eq!(socket.0.borrow().heard.len(), heard);
    assert_eq!((bench.conns.len(), bench.sessions.len()), (1, 1));
    assert_eq!(bench.sessions[0].closed(), None);
}

#[test]
fn a_socket_that_breaks_ends_its_session_and_no_other() {
    for blocked in [false, true] {
        let mut bench = Bench::new();
        let (broken, fine) = (bench.connect(usize::MAX, GET), bench.connect(usize::MAX, GET));
        if blocked {
            broken.0.borrow_mut().room = 0;
            bench.sessions[0].try_send(note(1)).unwrap();
            bench.run();
        }
        broken.0.borrow_mut().broken = true;
        bench.run();
        let closed = bench.sessions[0].closed().expect("an end");
        assert_eq!(
            (closed.reason, closed.frames_undelivered),
            (CloseReason::Peer, u32::from(blocked))
        );
        bench.sessions[1].try_send(note(2)).unwrap();
        bench.run();
        assert!(fine.0.borrow().heard.ends_with(note(2).bare()));
        assert_eq!(bench.conns.len(), 1);
    }
}

#[test]
fn every_phase_survives_the_end_of_input() {
    let whole = "POST /messages?session_id=x HTTP/1.1\r\nHost: localhost\r\n\
                 Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    for said in (0..=whole.len()).map(|at| &whole[..at]) {
        let mut bench = Bench::new();
        let socket = bench.connect(usize::MAX, said);
        socket.0.borrow_mut().closed = true;
        bench.run();
        assert!(bench.conns.is_empty(), "{said:?}: the connection is over");
        let heard = String::from_utf8(socket.0.borrow().heard.clone()).unwrap();
        let answered = heard.starts_with("HTTP/1.1 404 ");
        assert!(answered || heard.is_empty(), "{said:?}: {heard}");
        assert_eq!(answered, said.contains("\r\n\r\n"), "{said:?}: {heard}");
    }
}

#[test]
fn broadcast_in_the_turn_of_a_get_reaches_its_session() {
    let cx = &mut Context::from_waker(Waker::noop());
    let mut bench = Bench::new();
    let before = bench.connect(usize::MAX, GET);
    // The second GET is read, and there has been no turn since.
    let socket = bench.connect(usize::MAX, "");
    socket.0.borrow_mut().said.push_back(GET.into());
    let conn = bench.conns[1];
    assert!(poll(pin!(bench.shard.clone().connection(conn))).is_pending());
    assert!(socket.0.borrow().said.is_empty(), "it is read");
    assert_eq!(bench.sessions.len(), 1, "it is not handed out");
    let handle = bench.handle.clone();
    let mut reach = pin!(handle.broadcast(note(7)));
    assert!(poll(reach.as_mut()).is_pending());
    let Poll::Ready(Turn::Opened(session)) = bench.shard.poll_turn(cx, &mut Never) else {
        panic!("one turn opens the session and serves the handle")
    };
    let Poll::Ready(Ok(reach)) = poll(reach) else { panic!("the broadcast is done") };
    assert_eq!((reach.queued, reach.full), (2, 0));
    bench.run();
    for socket in [before, socket] {
        let heard = String::from_utf8(socket.0.borrow().heard.clone()).unwrap();
        let (greeting, event) = heard.split_once("event: endpoint").expect("a greeting");
        assert!(greeting.starts_with("HTTP/1.1 200 "), "{heard}");
        assert_eq!(event.matches(r#""params":[7]"#).count(), 1, "{heard}");
    }
    assert_eq!(session.closed(), None);
}

#[test]
fn shutdown_waits_for_sockets_that_take_nothing_and_abort_does_not() {
    let mut bench = Bench::new();
    let stalled = bench.connect(0, GET);
    for _ in 0..3 {
        bench.handle.shutdown();
        assert!(!bench.run(), "its bytes are waited for, however often it is asked");
    }
    bench.handle.abort();
    bench.handle.shutdown();
    assert!(bench.run(), "and then they are not: an abort holds, whatever is asked behind it");
    assert!(stalled.0.borrow().heard.is_empty());
    assert_eq!(bench.sessions[0].closed().map(|c| c.reason), Some(CloseReason::Shutdown));
}

#[test]
fn abort_alone_ends_a_server_with_sockets_that_take_nothing() {
    let mut bench = Bench::new();
    let stalled = bench.connect(0, GET);
    assert!(!bench.run());
    bench.handle.abort();
    assert!(bench.run());
    assert!(stalled.0.borrow().heard.is_empty());
    assert_eq!(bench.sessions[0].closed().map(|c| c.reason), Some(CloseReason::Shutdown));
}

#[test]
fn sockets_that_are_refused_a_thousand_times_are_a_line_a_second() {
    let limits = Limits { connections_per_address_max: Some(0), ..Limits::default() };
    let config = Config::builder().limits(limits).build().unwrap();
    let (handle, controls) = shard_control();
    let bench = Bench::with(config, Box::new(Random::seeded(5)), handle, controls);
    let peer = Peer::tcp("192.0.2.7:5".parse().unwrap(), "192.0.2.1:80".parse().unwrap());
    let clock = Clock::start();
    let lines = lines_in(|| (0..1_000).for_each(|_| bench.shard.accept(Scripted::default(), peer)));
    let seconds = clock.now().as_micros() / 1_000_000;
    assert!((1..=1 + seconds).contains(&(lines.len() as u64)), "{}: {:?}", lines.len(), lines[0]);
    assert!(lines[0].starts_with("INFO ConnectionsPerAddressFull from 192.0.2.7:5: "), "{lines:?}");
}
