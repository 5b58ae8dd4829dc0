//! One thread's server with its sockets: what the tasks of an adapter share.
//!
//! Knows: which socket belongs to which connection and which task waits for it.
//! Does not know: how a socket is made, or who polls.

use core::cell::RefCell;
use core::fmt;
use core::future::poll_fn;
use core::mem;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::time::Instant;

use mcp_sse_core::{
    Clock, Config, ConnId, Entropy, Exchange, Interest, Peer, Server, ServerPhase, Time,
};

use super::decisions::Decisions;
use super::exchange::{ExchangeRequest, ExchangeSocket};
use super::handle::{ControlReceiver, Handle, ShardControl};
use super::session::{MailLimits, Session, SessionSlot};
use super::shard_set::ShardSet;
use super::slots::put;
use super::socket::Socket;

/// Bytes read at once, into a buffer that all connections of a thread share.
const READ_BYTES: usize = 64 << 10;
/// Pieces offered to one write: what one call of the operating system takes on most of them is
/// more, but few queues are ever longer.
const SLICES: usize = 64;
/// Reads or writes for one connection before others get their turn.
const IO_BATCH: usize = 16;

/// A server and the sockets of its connections, shared by the tasks of one thread.
pub struct Shard<S> {
    pub(super) state: Rc<RefCell<ShardState<S>>>,
}

impl<S> Clone for Shard<S> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone() }
    }
}

impl<S> fmt::Debug for Shard<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shard = f.debug_struct("Shard");
        match self.state.try_borrow() {
            Ok(state) => shard.field("server", &state.server).finish(),
            Err(_) => shard.finish_non_exhaustive(),
        }
    }
}

pub(super) struct ShardState<S> {
    pub(super) server: Server,
    pub(super) clock: Clock,
    /// What sessions lend their applications, and where they ask for attention.
    pub(super) handle: Handle,
    pub(super) receiver: ControlReceiver,
    pub(super) shard_set: ShardSet,
    pub(super) mail: MailLimits,
    pub(super) decisions: Decisions,
    /// By the connection's slot.
    conns: Vec<Option<Conn<S>>>,
    /// By the session's slot.
    pub(super) sessions: Vec<Option<SessionSlot>>,
    /// Sessions that were opened and not handed out yet.
    pub(super) opened: VecDeque<Session>,
    /// Connections that have no task yet.
    pub(super) accepted: VecDeque<ConnId>,
    buffer: Box<[u8]>,
    /// A turn is wanted, and the task that takes turns has been woken.
    turn_wanted: bool,
    pub(super) turn_waker: Option<Waker>,
    /// The task that accepts.
    accept_waker: Option<Waker>,
    /// What it was told last.
    accept_told: Poll<bool>,
    /// When the adapter's timer will fire.
    pub(super) timer_at: Option<Instant>,
    /// Until when what is due waits for what sockets may hold.
    pub(super) look_until: Option<Time>,
}

struct Conn<S> {
    id: ConnId,
    socket: Io<S>,
    /// The connection's own task, once it has been polled.
    waker: Option<Waker>,
    /// The socket took no more bytes; the connection's task is woken when it does.
    blocked: bool,
    /// The write side has been shut down.
    shut: bool,
    /// The socket failed: the connection's task is to end.
    failed: bool,
    /// What the task is waiting for at the moment.
    waits_for: Option<Interest>,
}

impl<S> Conn<S> {
    const fn new(id: ConnId, socket: Io<S>) -> Self {
        Self {
            id,
            socket,
            waker: None,
            // The task's first poll looks for output that was queued before it.
            blocked: true,
            shut: false,
            failed: false,
            waits_for: None,
        }
    }
}

/// What carries a connection.
enum Io<S> {
    Socket(S),
    Exchange {
        channel: ExchangeSocket,
        /// The head of the answer has been handed over.
        answered: bool,
    },
}

impl<S: Socket> Socket for Io<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Socket(socket) => socket.poll_read(cx, buffer),
            Self::Exchange { channel, .. } => channel.poll_read(cx, buffer),
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Socket(socket) => socket.poll_write(cx, pieces),
            Self::Exchange { channel, .. } => channel.poll_write(cx, pieces),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Socket(socket) => socket.poll_shutdown(cx),
            Self::Exchange { channel, .. } => channel.poll_shutdown(cx),
        }
    }
}

impl<S: Socket> Shard<S> {
    /// A shard without connections. If the controls are those of one shard among several, the
    /// configuration is that of the whole: this one gets its number and its share of the limits.
    #[must_use]
    pub fn new(config: Config, entropy: Box<dyn Entropy + Send>, controls: ShardControl) -> Self {
        let ShardControl { handle, receiver, shard_set, authorizer, cache } = controls;
        let cache = cache.share_of(shard_set.shards());
        let decisions = Decisions::new(authorizer, cache, shard_set.own().clone());
        let config = shard_set.configure(config);
        let clock = Clock::start();
        let mail = MailLimits::new(config.limits());
        let mut server = Server::new(config, entropy, clock.now());
        server.handle_wall_clock(clock.unix_seconds());
        Self {
            state: Rc::new(RefCell::new(ShardState {
                server,
                clock,
                handle,
                receiver,
                shard_set,
                mail,
                decisions,
                conns: Vec::new(),
                sessions: Vec::new(),
                opened: VecDeque::new(),
                accepted: VecDeque::new(),
                buffer: vec![0; READ_BYTES].into_boxed_slice(),
                turn_wanted: false,
                turn_waker: None,
                accept_waker: None,
                accept_told: Poll::Pending,
                timer_at: None,
                look_until: None,
            })),
        }
    }

    /// Whether to accept now: pending while the table of connections is full, and no more once the
    /// server is stopping. The task is woken whenever the answer may have changed.
    pub fn poll_accepting(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut state = self.state.borrow_mut();
        set_waker(&mut state.accept_waker, cx);
        state.accept_told = state.accepting();
        state.accept_told
    }

    /// For how many connections there is room.
    #[must_use]
    pub fn room(&self) -> u32 {
        let state = self.state.borrow();
        let max = state.server.config().limits().connections_max;
        max.map_or(u32::MAX, |max| max.saturating_sub(state.server.connections_open()))
    }

    /// Takes in an accepted socket; if there is no room for it, it is closed. The next turn hands it
    /// out as [`Turn::Accepted`](super::Turn::Accepted).
    pub fn accept(&self, socket: S, peer: Peer) {
        let state = &mut *self.state.borrow_mut();
        let id = match state.server.accept(peer, state.clock.now()) {
            Ok(id) => id,
            Err(error) => {
                // The core has said it, if it was not said too often.
                return log::debug!("a connection from {peer} was closed at once: {error}");
            }
        };
        put(&mut state.conns, id.slot(), Conn::new(id, Io::Socket(socket)));
        state.accepted.push_back(id);
        state.shard_set.sync_counts(&mut state.server);
        state.want_turn();
    }

    /// Serves one connection: reads what comes and waits in between. Ends when it has ended and its
    /// socket is closed.
    pub async fn connection(self, id: ConnId) {
        poll_fn(|cx| self.poll_connection(id, cx)).await;
    }

    fn poll_connection(&self, id: ConnId, cx: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.state.borrow_mut();
        for _ in 0..IO_BATCH {
            if state.poll_once(id, cx).is_pending() {
                return Poll::Pending;
            }
            let over = state.conn(id).is_none();
            if over {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: Socket> ShardState<S> {
    fn conn(&mut self, id: ConnId) -> Option<&mut Conn<S>> {
        self.conns.get_mut(id.slot())?.as_mut().filter(|conn| conn.id == id)
    }

    /// One step of a connection's task: pending if it waits for something.
    fn poll_once(&mut self, id: ConnId, cx: &mut Context<'_>) -> Poll<()> {
        let Some(conn) = self.conn(id) else { return Poll::Ready(()) };
        set_waker(&mut conn.waker, cx);
        if let Io::Exchange { channel, .. } = &conn.socket
            && channel.poll_gone(cx).is_ready()
        {
            conn.failed = true;
        }
        self.hand_over_head(id);
        let Some(conn) = self.conn(id) else { return Poll::Ready(()) };
        if mem::take(&mut conn.blocked) {
            self.flush(id);
            // What has left may have made room that somebody waits for.
            self.want_turn();
        }
        let interest = self.server.interest(id);
        let now = self.clock.now();
        let Self { server, conns, buffer, shard_set, .. } = self;
        let conn = conns.get_mut(id.slot()).and_then(Option::as_mut);
        let Some(conn) = conn.filter(|conn| conn.id == id) else { return Poll::Ready(()) };
        conn.waits_for = Some(interest);
        let read = match interest {
            _ if conn.failed => Err(None),
            Interest::Close => Err(None),
            Interest::Io { read: false, .. } => return Poll::Pending,
            Interest::Io { read: true, .. } => Ok(()),
            Interest::Linger if conn.shut => Ok(()),
            Interest::Linger => match conn.socket.poll_shutdown(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {
                    conn.shut = true;
                    Ok(())
                }
                Poll::Ready(Err(error)) => Err(Some(error)),
            },
        };
        let read = match read {
            Ok(()) => match conn.socket.poll_read(cx, buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(count)) => Ok(count),
                Poll::Ready(Err(error)) => Err(Some(error)),
            },
            Err(error) => Err(error),
        };
        // What is read may ask for it ..
        shard_set.sync_counts(server);
        match read {
            Ok(0) => server.handle_eof(id, now),
            Ok(count) => server.handle_input(id, buffer.get(..count).unwrap_or_default(), now),
            Err(error) => {
                if let Some(error) = error {
                    log::debug!("{id}: {error}");
                }
                // The socket is closed before the core is told, as it asks.
                if let Some(slot) = conns.get_mut(id.slot()) {
                    *slot = None;
                }
                server.handle_disconnect(id, now);
            }
        }
        // .. and change it.
        shard_set.sync_counts(server);
        self.want_turn();
        Poll::Ready(())
    }

    /// Takes in a request whose HTTP is spoken elsewhere.
    pub(super) fn exchange(
        &mut self,
        request: &ExchangeRequest,
        peer: Peer,
        channel: ExchangeSocket,
    ) {
        let fields: Vec<_> =
            request.fields.iter().map(|(name, value)| (&**name, &**value)).collect();
        let exchange = Exchange {
            method: &request.method,
            target: &request.target,
            fields: &fields,
            mount: &request.mount,
        };
        match self.server.exchange(exchange, peer, self.clock.now()) {
            Ok(id) => {
                let socket = Io::Exchange { channel, answered: false };
                put(&mut self.conns, id.slot(), Conn::new(id, socket));
                self.accepted.push_back(id);
            }
            // Dropping the channel says so, and the core has said it to the log.
            Err(error) => log::debug!("a request from {peer} was not taken: {error}"),
        }
    }

    /// In an exchange the head of the answer goes ahead of it, and apart.
    fn hand_over_head(&mut self, id: ConnId) {
        let Self { server, conns, .. } = self;
        let conn = conns.get_mut(id.slot()).and_then(Option::as_mut);
        if let Some(conn) = conn.filter(|conn| conn.id == id)
            && let Io::Exchange { channel, answered: answered @ false } = &mut conn.socket
            && let Some(head) = server.response(id)
        {
            channel.respond(head.clone());
            *answered = true;
        }
    }

    /// Writes what waits for a connection's peer, as far as the socket takes it, and sees to it that
    /// the connection's task learns what it has to know.
    pub(super) fn flush(&mut self, id: ConnId) {
        self.hand_over_head(id);
        for _ in 0..IO_BATCH {
            let now = self.clock.now();
            let Self { server, conns, .. } = self;
            let conn = conns.get_mut(id.slot()).and_then(Option::as_mut);
            let Some(conn) = conn.filter(|conn| conn.id == id) else { return };
            // Before its first poll a task is about to run anyway.
            let Some(waker) = &conn.waker else { return };
            let transmit = server.transmit(id);
            if conn.blocked || conn.failed || transmit.is_empty() {
                break;
            }
            let mut pieces = [IoSlice::new(&[]); SLICES];
            let filled = transmit.fill(&mut pieces);
            let pieces = pieces.get(..filled).unwrap_or_default();
            match conn.socket.poll_write(&mut Context::from_waker(waker), pieces) {
                Poll::Ready(Ok(0)) => conn.failed = true,
                Poll::Ready(Ok(count)) => server.handle_written(id, count, now),
                Poll::Pending => conn.blocked = true,
                Poll::Ready(Err(error)) => {
                    log::debug!("{id}: {error}");
                    conn.failed = true;
                }
            }
        }
        let interest = self.server.interest(id);
        let Some(conn) = self.conn(id) else { return };
        // Whether there is something to write is not the task's concern, unless it is stuck.
        let same = match (conn.waits_for, interest) {
            (Some(Interest::Io { read: a, .. }), Interest::Io { read: b, .. }) => a == b,
            (before, after) => before == Some(after),
        };
        if (!same || conn.failed)
            && let Some(waker) = &conn.waker
        {
            waker.wake_by_ref();
        }
    }

    /// Sees to a turn soon: there may be something to write, to tell, or to wait for.
    pub(super) fn want_turn(&mut self) {
        if !mem::replace(&mut self.turn_wanted, true)
            && let Some(waker) = &self.turn_waker
        {
            waker.wake_by_ref();
        }
    }

    pub(super) fn turn_begins(&mut self, cx: &Context<'_>) {
        self.turn_wanted = false;
        set_waker(&mut self.turn_waker, cx);
    }

    fn accepting(&self) -> Poll<bool> {
        if self.server.phase() != ServerPhase::Running {
            Poll::Ready(false)
        } else if self.server.can_accept() {
            Poll::Ready(true)
        } else {
            Poll::Pending
        }
    }

    /// Wakes the task that accepts if it would be told something new.
    pub(super) fn wake_acceptor(&mut self) {
        if self.accepting() != self.accept_told
            && let Some(waker) = self.accept_waker.take()
        {
            waker.wake();
        }
    }
}

impl<S> Drop for ShardState<S> {
    fn drop(&mut self) {
        self.shard_set.leave(self.server.metrics());
    }
}

fn set_waker(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *waker = Some(cx.waker().clone()),
    }
}

/// What to do when accepting fails, as it does when the process has no descriptors left.
#[derive(Debug, Default)]
pub struct AcceptTrouble {
    warned: Option<Instant>,
    unsaid: u32,
}

impl AcceptTrouble {
    /// For how long to leave the listener alone after `error`. Warns about it, at most once a second.
    #[must_use]
    pub fn pause(&mut self, error: &io::Error, clock: &Clock) -> Duration {
        // The connection was gone before it was accepted: that says nothing about the next one.
        let theirs =
            matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted);
        let now = clock.instant(clock.now());
        let quiet = match (self.warned, now) {
            (Some(warned), Some(now)) => now.duration_since(warned) < Duration::from_secs(1),
            _ => false,
        };
        if quiet {
            self.unsaid += 1;
        } else {
            log::warn!("cannot accept a connection: {error} ({} times before)", self.unsaid);
            (self.warned, self.unsaid) = (now, 0);
        }
        if theirs { Duration::ZERO } else { Duration::from_millis(100) }
    }
}
