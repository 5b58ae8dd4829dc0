//! The server of one thread with its sockets, which the tasks of that thread share.
//!
//! Knows: which socket belongs to which connection, and which task waits for it.
//! Does not know: how a socket is made, or what polls.

use core::cell::RefCell;
use core::future::poll_fn;
use core::mem;
use core::task::{Context, Poll, Waker};
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

/// The size of a thread's read buffer, which all of its connections share.
const READ_BYTES: usize = 64 << 10;
/// Slices that are offered to one write. Most operating systems take more at once, but few queues are
/// longer.
const SLICES: usize = 64;
/// Reads or writes for one connection before the others are served.
const IO_BATCH: usize = 16;

/// A server and the sockets of its connections, shared by the tasks of one thread.
pub(super) struct Shard<S> {
    pub(super) state: Rc<RefCell<ShardState<S>>>,
}

impl<S> Clone for Shard<S> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone() }
    }
}

pub(super) struct ShardState<S> {
    pub(super) server: Server,
    pub(super) clock: Clock,
    /// The server's handle, which each session has.
    pub(super) handle: Handle,
    pub(super) receiver: ControlReceiver,
    pub(super) shard_set: ShardSet,
    pub(super) mail: MailLimits,
    pub(super) decisions: Decisions,
    /// Connections by their slots.
    conns: Vec<Option<Conn<S>>>,
    /// Sessions by their slots.
    pub(super) sessions: Vec<Option<SessionSlot>>,
    /// Sessions that [`Turn::Opened`](super::turn::Turn::Opened) has not returned yet.
    pub(super) opened: VecDeque<Session>,
    /// Connections that [`Turn::Accepted`](super::turn::Turn::Accepted) has not returned yet.
    pub(super) accepted: VecDeque<ConnId>,
    buffer: Box<[u8]>,
    /// A turn is wanted, and the task that takes turns has been woken.
    turn_wanted: bool,
    pub(super) turn_waker: Option<Waker>,
    /// The task that accepts.
    accept_waker: Option<Waker>,
    /// The last result of [`Shard::poll_accepting`].
    accept_told: Poll<bool>,
    /// When the thread's timer will fire.
    pub(super) timer_at: Option<Instant>,
    /// After a delay of this thread: until when sockets are read before timeouts fire.
    pub(super) look_until: Option<Time>,
}

struct Conn<S> {
    id: ConnId,
    socket: Io<S>,
    /// The waker of the connection's task, once that has been polled.
    waker: Option<Waker>,
    /// The socket took no more bytes; the connection's task is woken when it does.
    blocked: bool,
    /// The write side has been shut down.
    shut: bool,
    /// The socket has failed, and the connection's task is to end.
    failed: bool,
    /// What the task waits for.
    waits_for: Option<Interest>,
}

impl<S> Conn<S> {
    const fn new(id: ConnId, socket: Io<S>) -> Self {
        Self {
            id,
            socket,
            waker: None,
            // So the task's first poll writes output that was queued before it.
            blocked: true,
            shut: false,
            failed: false,
            waits_for: None,
        }
    }
}

/// The stream of a connection: a socket, or an exchange with another HTTP server.
enum Io<S> {
    Socket(S),
    Exchange {
        channel: ExchangeSocket,
        /// The head of the response has been handed over.
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
    /// Makes a shard without connections. `config` is that of the whole server: one shard among several
    /// takes its share of the limits.
    #[must_use]
    pub(super) fn new(
        config: Config,
        entropy: Box<dyn Entropy + Send>,
        controls: ShardControl,
    ) -> Self {
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

    /// Whether to accept now: pending while the table of connections is full, and false once the server is
    /// stopping. The task of `cx` is woken when the answer may have changed.
    pub(super) fn poll_accepting(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut state = self.state.borrow_mut();
        set_waker(&mut state.accept_waker, cx);
        state.accept_told = state.accepting();
        state.accept_told
    }

    /// The number of connections that there is room for.
    #[must_use]
    pub(super) fn room(&self) -> u32 {
        let state = self.state.borrow();
        let max = state.server.config().limits().connections_max;
        max.map_or(u32::MAX, |max| max.saturating_sub(state.server.connections_open()))
    }

    /// Takes an accepted socket, and closes it if there is no room. The next turn returns the connection as
    /// [`Turn::Accepted`](super::turn::Turn::Accepted).
    pub(super) fn accept(&self, socket: S, peer: Peer) {
        let state = &mut *self.state.borrow_mut();
        let id = match state.server.accept(peer, state.clock.now()) {
            Ok(id) => id,
            Err(error) => {
                // The core has logged the reason, at most once a second.
                return log::debug!("a connection from {peer} was closed at once: {error}");
            }
        };
        put(&mut state.conns, id.slot(), Conn::new(id, Io::Socket(socket)));
        state.accepted.push_back(id);
        state.shard_set.sync_counts(&mut state.server);
        state.want_turn();
    }

    /// Reads from one connection until it has ended and its socket is closed.
    pub(super) async fn connection(self, id: ConnId) {
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
            // Bytes that were written may have made room for which a sender waits.
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
        // A request that is read may ask for the counts ...
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
        // ... and change them.
        shard_set.sync_counts(server);
        self.want_turn();
        Poll::Ready(())
    }

    /// Takes a request that another HTTP server has received.
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
            // The exchange's client learns it when the socket is dropped, and the core has logged it.
            Err(error) => log::debug!("a request from {peer} was not taken: {error}"),
        }
    }

    /// In an exchange the response's head is handed over before its body, and separately.
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

    /// Writes queued output of a connection as far as the socket takes it, and wakes the connection's
    /// task if what it has to wait for has changed.
    pub(super) fn flush(&mut self, id: ConnId) {
        self.hand_over_head(id);
        for _ in 0..IO_BATCH {
            let now = self.clock.now();
            let Self { server, conns, .. } = self;
            let conn = conns.get_mut(id.slot()).and_then(Option::as_mut);
            let Some(conn) = conn.filter(|conn| conn.id == id) else { return };
            // A task that has not been polled yet is about to run and to write.
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
        // The task does not wait to write, unless the socket has blocked.
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

    /// Wakes the task that takes turns: there may be output, an event or another deadline.
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

    /// Wakes the task that accepts if [`Shard::poll_accepting`] has another result for it.
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
