//! One shard: a core [`Server`] with its sockets, on one thread, shared by the tasks of an adapter.
//!
//! Knows: which socket belongs to which connection, which task waits for it, and how bytes are read
//! and written. Does not know: how a socket is made, or which executor runs the tasks.

use core::cell::RefCell;
use core::mem;
use core::task::{Context, Poll, Waker, ready};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Instant;

use mcp_sse_core::{
    Clock, Config, ConnId, Entropy, Exchange, Interest, Peer, Server, ServerPhase, Time,
};

use super::decisions::Decisions;
use super::exchange::{ExchangeRequest, ExchangeSocket};
use super::handle::{ControlReceiver, Handle, ShardControl};
use super::published::Publisher;
use super::session::Session;
use super::session_mailbox::MailboxLimits;
use super::session_slot::SessionSlot;
use super::shard_set::ShardSet;
use super::slots::put;
use super::socket::Socket;

/// How many bytes one read may return, into a buffer that all connections of a thread share.
const READ_BYTES: usize = 64 << 10;
/// How many slices are offered to one vectored write. Most systems take more (`IOV_MAX` is 1,024 on
/// Linux), but queues are rarely longer.
const SLICES: usize = 64;
/// How many reads, or writes, one connection may do before other tasks run.
const IO_BATCH: usize = 16;

/// A core [`Server`] with the sockets of its connections, shared by the tasks of one thread.
///
/// Three kinds of tasks run it: one that accepts sockets ([`accept`](Self::accept)), one for each
/// connection ([`poll_connection`](Self::poll_connection)), which reads, and one that polls the turns,
/// which writes.
pub(super) struct Shard<S> {
    pub(super) state: RefCell<ShardState<S>>,
}

pub(super) struct ShardState<S> {
    pub(super) server: Server,
    pub(super) clock: Clock,
    /// The server's handle, of which each session gets a clone.
    pub(super) handle: Handle,
    pub(super) receiver: ControlReceiver,
    pub(super) shard_set: ShardSet,
    pub(super) mailbox_limits: MailboxLimits,
    pub(super) decisions: Decisions,
    /// Connections by their slots.
    conns: Vec<Option<Conn<S>>>,
    /// Sessions by their slots.
    pub(super) sessions: Vec<Option<SessionSlot>>,
    /// Sessions that were opened and that the next turns return.
    pub(super) opened: VecDeque<Session>,
    /// Connections that were accepted and that the next turns return.
    pub(super) accepted: VecDeque<ConnId>,
    /// The read buffer of all connections.
    buffer: Box<[u8]>,
    /// A turn was requested, and the task that takes turns has been woken.
    turn_wanted: bool,
    /// The task that takes turns.
    pub(super) turn_waker: Option<Waker>,
    /// The task that accepts.
    accept_waker: Option<Waker>,
    /// What the last `poll_accepting` returned.
    accept_reported: Poll<bool>,
    /// When the adapter's timer will fire.
    pub(super) timer_at: Option<Instant>,
    /// Until this time, timers that are due wait while sockets are drained; see `tick`.
    pub(super) drain_until: Option<Time>,
    pub(super) publisher: Publisher,
}

struct Conn<S> {
    id: ConnId,
    socket: Io<S>,
    /// The connection's task, once it has been polled.
    waker: Option<Waker>,
    /// The socket took no more bytes; the connection's task is woken when it takes some again.
    blocked: bool,
    /// The write side has been shut down.
    shut: bool,
    /// The socket failed, so the connection's task must end.
    failed: bool,
    /// The interest that the task's last poll saw.
    waits_for: Option<Interest>,
}

impl<S> Conn<S> {
    const fn new(id: ConnId, socket: Io<S>) -> Self {
        Self {
            id,
            socket,
            waker: None,
            // So that the task's first poll writes output that was queued before it.
            blocked: true,
            shut: false,
            failed: false,
            waits_for: None,
        }
    }
}

impl<S: Socket> Conn<S> {
    /// Shuts the write side down and reads, as far as the core is interested. Returns `None` if the
    /// socket is to be closed.
    fn poll_read(
        &mut self,
        interest: Interest,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<Option<usize>>> {
        match interest {
            _ if self.failed => return Poll::Ready(Ok(None)),
            Interest::Close => return Poll::Ready(Ok(None)),
            Interest::Io { read: false, .. } => return Poll::Pending,
            Interest::Linger if !self.shut => {
                ready!(self.socket.stream().poll_shutdown(cx))?;
                self.shut = true;
            }
            Interest::Io { read: true, .. } | Interest::Linger => {}
        }
        self.socket.stream().poll_read(cx, buffer).map_ok(Some)
    }
}

/// The byte stream of a connection: a socket of the adapter, or an exchange.
enum Io<S> {
    Socket(S),
    Exchange {
        socket: ExchangeSocket,
        /// The head of the response has been handed over.
        responded: bool,
    },
}

impl<S: Socket> Io<S> {
    fn stream(&mut self) -> &mut dyn Socket {
        match self {
            Self::Socket(socket) => socket,
            Self::Exchange { socket, .. } => socket,
        }
    }
}

impl<S: Socket> Shard<S> {
    /// Makes a shard without connections.
    ///
    /// `config` is the configuration of the whole server: if `control` belongs to one shard among
    /// several, this shard gets its number and its share of the limits. `entropy` makes the session
    /// ids, so it must be unpredictable.
    #[must_use]
    pub(super) fn new(
        config: Config,
        entropy: Box<dyn Entropy + Send>,
        control: ShardControl,
    ) -> Self {
        let ShardControl { handle, receiver, shard_set, authorizer, cache } = control;
        let cache = cache.share_of(shard_set.shards());
        let decisions = Decisions::new(authorizer, cache, shard_set.own().clone());
        let config = shard_set.configure(config);
        let clock = Clock::start();
        let mailbox_limits = MailboxLimits::new(config.limits());
        let mut server = Server::new(config, entropy, clock.now());
        server.handle_wall_clock(clock.unix_seconds());
        // Tokens that were replaced before this shard was made. Without static tokens nothing changes; the
        // caller learns that from the reply.
        if let Some(tokens) = handle.replaced_tokens() {
            let _ = server.replace_tokens(tokens, clock.now());
        }
        Self {
            state: RefCell::new(ShardState {
                server,
                clock,
                handle,
                receiver,
                shard_set,
                mailbox_limits,
                decisions,
                conns: Vec::new(),
                sessions: Vec::new(),
                opened: VecDeque::new(),
                accepted: VecDeque::new(),
                buffer: vec![0; READ_BYTES].into_boxed_slice(),
                turn_wanted: false,
                turn_waker: None,
                accept_waker: None,
                accept_reported: Poll::Pending,
                timer_at: None,
                drain_until: None,
                publisher: Publisher::default(),
            }),
        }
    }

    /// Waits until a socket may be accepted: `true` if there is room for a connection, `false` once
    /// the server is stopping, and pending while all connections are in use.
    ///
    /// The task of `cx` is woken when the result may have changed.
    pub(super) fn poll_accepting(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut state = self.state.borrow_mut();
        set_waker(&mut state.accept_waker, cx);
        state.accept_reported = state.accepting();
        state.accept_reported
    }

    /// How many more connections the shard has room for; `u32::MAX` if they are not limited.
    #[must_use]
    pub(super) fn room(&self) -> u32 {
        let state = self.state.borrow();
        let max = state.server.config().limits().connections_max;
        max.map_or(u32::MAX, |max| max.saturating_sub(state.server.connections_open()))
    }

    /// Adds a connection with an accepted socket, whose other end is `peer`.
    ///
    /// The next turn returns it as [`Turn::Accepted`](super::turn::Turn::Accepted). If a limit leaves no
    /// room for it, the socket is dropped, and the refusal is counted and logged.
    pub(super) fn accept(&self, socket: S, peer: Peer) {
        let state = &mut *self.state.borrow_mut();
        let id = match state.server.accept(peer, state.clock.now()) {
            Ok(id) => id,
            Err(error) => {
                // The core has logged it at a higher level, at a limited rate.
                return log::debug!(
                    event = "connection_closed_at_once",
                    peer = peer,
                    error:% = error;
                    "a connection from {peer} was closed at once: {error}"
                );
            }
        };
        put(&mut state.conns, id.slot(), Conn::new(id, Io::Socket(socket)));
        state.accepted.push_back(id);
        state.shard_set.sync_counts(&mut state.server);
        state.want_turn();
    }

    /// Serves one connection: reads its socket until the connection has ended, and closes the socket.
    ///
    /// A task for it is spawned for each [`Turn::Accepted`](super::turn::Turn::Accepted), on the thread of
    /// the shard. If the task is dropped earlier, the connection stays open and is not read.
    pub(super) fn poll_connection(&self, id: ConnId, cx: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.state.borrow_mut();
        for _ in 0..IO_BATCH {
            if state.poll_once(id, cx).is_pending() {
                return Poll::Pending;
            }
            if find(&mut state.conns, id).is_none() {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn log_socket_error(id: ConnId, error: &io::Error) {
    log::debug!(
        event = "socket_failed",
        connection = id,
        error:% = error;
        "the socket of connection {id} failed: {error}"
    );
}

impl<S: Socket> ShardState<S> {
    /// One step of a connection's task: a read, a shutdown or the end. Pending if it has to wait.
    fn poll_once(&mut self, id: ConnId, cx: &mut Context<'_>) -> Poll<()> {
        let Some(conn) = find(&mut self.conns, id) else { return Poll::Ready(()) };
        set_waker(&mut conn.waker, cx);
        if let Io::Exchange { socket, .. } = &conn.socket
            && socket.poll_gone(cx).is_ready()
        {
            conn.failed = true;
        }
        self.hand_over_head(id);
        let Some(conn) = find(&mut self.conns, id) else { return Poll::Ready(()) };
        if mem::take(&mut conn.blocked) {
            self.flush(id);
            // Written bytes make room in queues, for which senders may be waiting.
            self.want_turn();
        }
        let interest = self.server.interest(id);
        let now = self.clock.now();
        let Self { server, conns, buffer, shard_set, .. } = self;
        let Some(conn) = find(conns, id) else { return Poll::Ready(()) };
        conn.waits_for = Some(interest);
        let Poll::Ready(read) = conn.poll_read(interest, cx, buffer) else { return Poll::Pending };
        // Before: the input may be a request for the counts of all shards.
        shard_set.sync_counts(server);
        match read {
            Ok(Some(0)) => server.handle_eof(id, now),
            Ok(Some(count)) => {
                server.handle_input(id, buffer.get(..count).unwrap_or_default(), now)
            }
            ended => {
                if let Err(error) = ended {
                    log_socket_error(id, &error);
                }
                // `handle_disconnect` requires that the socket is closed already.
                if let Some(slot) = conns.get_mut(id.slot()) {
                    *slot = None;
                }
                server.handle_disconnect(id, now);
            }
        }
        // After: the input may have opened or closed something.
        shard_set.sync_counts(server);
        self.want_turn();
        Poll::Ready(())
    }

    /// Adds a connection for a request that another HTTP server has read.
    pub(super) fn exchange(
        &mut self,
        request: &ExchangeRequest,
        peer: Peer,
        socket: ExchangeSocket,
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
                let socket = Io::Exchange { socket, responded: false };
                put(&mut self.conns, id.slot(), Conn::new(id, socket));
                self.accepted.push_back(id);
            }
            // Dropping `socket` tells the HTTP side; the core has logged it at a higher level.
            Err(error) => log::debug!(
                event = "exchange_not_taken",
                peer = peer,
                error:% = error;
                "a request from {peer} was not taken: {error}"
            ),
        }
    }

    /// Passes the head of a response to the HTTP side of an exchange, which gets it apart from the body.
    fn hand_over_head(&mut self, id: ConnId) {
        let Self { server, conns, .. } = self;
        if let Some(conn) = find(conns, id)
            && let Io::Exchange { socket, responded: responded @ false } = &mut conn.socket
            && let Some(head) = server.response(id)
        {
            socket.respond(head.clone());
            *responded = true;
        }
    }

    /// Writes a connection's output until the socket takes no more, and wakes the connection's task if
    /// it has to act: the interest has changed, or the socket has failed.
    pub(super) fn flush(&mut self, id: ConnId) {
        self.hand_over_head(id);
        for _ in 0..IO_BATCH {
            let now = self.clock.now();
            let Self { server, conns, .. } = self;
            let Some(conn) = find(conns, id) else { return };
            // A task without a waker has not been polled yet; its first poll writes.
            let Some(waker) = &conn.waker else { return };
            let transmit = server.transmit(id);
            if conn.blocked || conn.failed || transmit.is_empty() {
                break;
            }
            let mut pieces = [IoSlice::new(&[]); SLICES];
            let filled = transmit.fill(&mut pieces);
            let pieces = pieces.get(..filled).unwrap_or_default();
            match conn.socket.stream().poll_write(&mut Context::from_waker(waker), pieces) {
                Poll::Ready(Ok(0)) => conn.failed = true,
                Poll::Ready(Ok(count)) => server.handle_written(id, count, now),
                Poll::Pending => conn.blocked = true,
                Poll::Ready(Err(error)) => {
                    log_socket_error(id, &error);
                    conn.failed = true;
                }
            }
        }
        let interest = self.server.interest(id);
        let Some(conn) = find(&mut self.conns, id) else { return };
        // The task reads; turns write. So a change of `write` alone does not concern it.
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

    /// Requests a turn: there may be output to write, an event to deliver or a deadline to wait for.
    pub(super) fn want_turn(&mut self) {
        if !mem::replace(&mut self.turn_wanted, true)
            && let Some(waker) = &self.turn_waker
        {
            waker.wake_by_ref();
        }
    }

    pub(super) fn begin_turn(&mut self, cx: &Context<'_>) {
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

    /// Wakes the task that accepts if `poll_accepting` would return something new.
    pub(super) fn wake_acceptor(&mut self) {
        if self.accepting() != self.accept_reported
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

fn find<S>(conns: &mut [Option<Conn<S>>], id: ConnId) -> Option<&mut Conn<S>> {
    conns.get_mut(id.slot())?.as_mut().filter(|conn| conn.id == id)
}

fn set_waker(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *waker = Some(cx.waker().clone()),
    }
}
