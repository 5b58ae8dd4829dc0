//! One turn of a shard: its mailbox, decisions, timers, events and sockets, in that order.
//!
//! Knows: the order of a turn, its limits, and when the next one is needed.
//! Does not know: what an event does to a session or a socket.
//!
//! Decision: only a turn writes to sockets. A task that reads requests a turn; the turn passes
//! the events to the handles and then writes to every socket with output once, so that answers
//! and events for one socket leave together. If a socket accepts no more, its own task waits
//! for it.
//!
//! Decision: if this thread was delayed, sockets are drained before timeouts fire. When a
//! deadline is noticed more than [`DELAYED`] too late, because a handler or the machine has
//! held the thread up, bytes that arrived in time may wait in sockets. The turn then reads for
//! [`DRAIN`] longer before it fires the timeouts.

use core::task::{Context, Poll};
use core::time::Duration;

use mcp_sse_core::{ConnId, Event, NoStaticTokens, SessionId, Time, sse::Frame};

use super::control::Control;
use super::published::Wanted;
use super::runtime::Timer;
use super::session::Session;
use super::session_slot::SessionSlot;
use super::shard::{Shard, ShardState};
use super::shard_mailbox::StopKind;
use super::slots::put;
use super::socket::Socket;

/// How many connections are written to in one turn before the thread's other tasks run. Without this
/// limit a turn might never end: an application on other threads may send as fast as the turn writes.
const WAKES_BATCH: usize = 1_024;

/// How many controls are served in one turn.
const CONTROLS_BATCH: usize = 16;

/// If a deadline is noticed this much too late, the thread was delayed, and its sockets may hold input
/// that arrived in time.
const DELAYED: Duration = Duration::from_millis(50);

/// How long a delayed thread drains its sockets before timers fire.
const DRAIN: Duration = Duration::from_millis(10);

/// Why [`Shard::poll_turn`] is ready.
#[derive(Debug)]
pub(super) enum Turn {
    /// A session has begun, and needs a handler.
    Opened(Session),
    /// A connection has begun, and needs a task: [`poll_connection`](Shard::poll_connection).
    Accepted(ConnId),
    /// The server has been shut down and every connection has ended.
    Drained,
}

impl<S: Socket> Shard<S> {
    /// Does all that there is to do now, and is pending until there is more: fires timeouts, moves
    /// messages and frames between the core and the handles, and writes to sockets.
    pub(super) fn poll_turn(&self, cx: &mut Context<'_>, timer: &mut impl Timer) -> Poll<Turn> {
        let state = &mut *self.state.borrow_mut();
        state.begin_turn(cx);
        let mut served = 0;
        loop {
            if let Some(session) = state.opened.pop_front() {
                // The adapter polls again at once, and the turn goes on then.
                return Poll::Ready(Turn::Opened(session));
            }
            if let Some(conn) = state.accepted.pop_front() {
                return Poll::Ready(Turn::Accepted(conn));
            }
            state.shard_set.sync_counts(&mut state.server);
            // Before timers, because an outcome in the mailbox has arrived in time.
            state.serve_mailbox(cx);
            state.serve_decisions();
            let now = state.tick();
            let drained = state.serve_events();
            let before = served;
            served += state.serve_sockets(WAKES_BATCH - before);
            state.shard_set.sync_counts(&mut state.server);
            state.wake_acceptor();
            state.publish(now);
            if drained {
                return Poll::Ready(Turn::Drained);
            }
            if served == WAKES_BATCH {
                state.want_turn();
                return Poll::Pending;
            }
            let none_new = state.opened.is_empty() && state.accepted.is_empty();
            if none_new && served == before && state.wait(cx, timer).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl<S: Socket> ShardState<S> {
    /// Fires the timers that are due. Returns the time.
    fn tick(&mut self) -> Time {
        let now = self.clock.now();
        self.server.handle_wall_clock(self.clock.unix_seconds());
        let Some(due) = self.server.poll_timeout().filter(|deadline| deadline.at <= now) else {
            self.drain_until = None;
            return now;
        };
        match self.drain_until {
            // If this thread was delayed, sockets are drained before timers fire, so that no peer is
            // refused as late because the server was.
            None if now.saturating_since(due.at) >= DELAYED => {
                self.drain_until = Some(now.saturating_add(DRAIN));
            }
            Some(until) if now < until => {}
            None | Some(_) => self.server.handle_timeout(now),
        }
        now
    }

    /// Serves the shard's mailbox and the controls: what handles and other shards have sent.
    fn serve_mailbox(&mut self, cx: &Context<'_>) {
        let now = self.clock.now();
        let pending = self.shard_set.own().mailbox.take(cx);
        for id in pending.sessions {
            if let Some(slot) = slot(&mut self.sessions, id) {
                slot.serve_mailbox(&mut self.server, now);
            }
        }
        if let Some(extras) = pending.health_extras {
            self.server.set_health_extras(extras);
        }
        match pending.stop {
            Some(StopKind::Shutdown) => self.server.shutdown(now),
            Some(StopKind::Abort) => self.server.abort(now),
            None => {}
        }
        for request in pending.posts {
            let now = self.clock.now();
            self.shard_set.deliver(request, &mut self.server, &self.clock, now);
        }
        for request in pending.lookups {
            self.shard_set.answer_lookup(request, &self.server);
        }
        for (ticket, answer) in pending.lookup_answers {
            // An error means that the deadline has passed or the client has left: nothing is left to do.
            let _ = self.server.answer_lookup(ticket, answer, now);
        }
        for (ticket, outcome) in pending.outcomes {
            // An error means that the deadline has passed or the client has left: nothing is left to do.
            let _ = self.server.acknowledge(ticket, outcome, now);
        }
        for _ in 0..CONTROLS_BATCH {
            let Some(control) = self.receiver.take() else { return };
            match control {
                // The send fails if the caller no longer waits for the reply.
                Control::Broadcast(frame, reply) => drop(reply.try_send(self.broadcast(&frame))),
                Control::Exchange(request, peer, socket) => self.exchange(&request, peer, socket),
                Control::ReplaceTokens(reply) => drop(reply.try_send(self.take_tokens())),
                Control::Metrics(reply) => {
                    drop(reply.try_send(self.server.metrics().clone()));
                }
            }
        }
        // More controls may wait; they are served in the next turn.
        self.want_turn();
    }

    /// Takes the tokens that the handle has now.
    fn take_tokens(&mut self) -> Result<(), NoStaticTokens> {
        let Some(tokens) = self.handle.replaced_tokens() else { return Ok(()) };
        self.server.replace_tokens(tokens, self.clock.now())
    }

    fn broadcast(&mut self, frame: &Frame) -> mcp_sse_core::Reach {
        let all: Vec<SessionId> = self
            .server
            .sessions()
            .filter(|session| !session.is_ending())
            .map(|session| session.id())
            .collect();
        self.server.broadcast(all, frame, self.clock.now())
    }

    /// Polls the authorizer's futures. Decisions that are ready bring about events.
    fn serve_decisions(&mut self) {
        let now = self.clock.now();
        if self.decisions.poll(&mut self.server, now) {
            self.want_turn();
        }
    }

    /// Delivers the core's events. Returns whether the server is drained, which is the last event.
    fn serve_events(&mut self) -> bool {
        let now = self.clock.now();
        while let Some(event) = self.server.poll_event() {
            match event {
                Event::Opened { session, principal, head, .. } => {
                    let (server, shard) = (self.handle.clone(), self.shard_set.own().clone());
                    let limits = self.mailbox_limits;
                    let (slot, opened) =
                        SessionSlot::new(session, principal, head, server, shard, limits);
                    put(&mut self.sessions, session.slot(), slot);
                    self.opened.push_back(opened);
                }
                Event::Message { session, message } => {
                    if let Some(slot) = slot(&mut self.sessions, session) {
                        slot.message(message, &mut self.server, now);
                    }
                }
                Event::Settled { post, outcome } => self.shard_set.settle(post, outcome),
                Event::Unblocked { session } => {
                    if let Some(slot) = slot(&mut self.sessions, session) {
                        slot.queue_frames(&mut self.server, now);
                    }
                }
                Event::Closed { session, reason, frames_undelivered } => {
                    let entry = self.sessions.get_mut(session.slot());
                    if let Some(slot) = entry.and_then(|entry| entry.take_if(|s| s.id() == session))
                    {
                        slot.close(reason, frames_undelivered);
                    }
                }
                Event::Drained => return true,
                Event::Asked { ticket, head } => {
                    self.decisions.ask(ticket, head, &mut self.server, now);
                }
                Event::LookedFor { shard, lookup, ticket } => {
                    if let Err((ticket, answer)) = self.shard_set.send_lookup(shard, lookup, ticket)
                    {
                        let _ = self.server.answer_lookup(ticket, answer, now);
                    }
                }
                Event::Foreign { post, ticket, .. } => {
                    let sent = self.clock.instant(now);
                    if let Err((ticket, outcome)) = self.shard_set.forward(post, ticket, sent) {
                        // An error means that the deadline has passed, with the same outcome.
                        let _ = self.server.acknowledge(ticket, outcome, now);
                    }
                }
                // Core and driver have the same version, so every event is known here.
                unknown => unreachable!("an event that this driver does not know: {unknown:?}"),
            }
        }
        false
    }

    /// Writes to up to `batch` connections that have output. Returns how many there were.
    fn serve_sockets(&mut self, batch: usize) -> usize {
        let mut served = 0;
        while served < batch
            && let Some(conn) = self.server.poll_wake()
        {
            self.flush(conn);
            served += 1;
        }
        served
    }

    /// Publishes the counters for other threads, if somebody reads them and it is time. `now` is the time at which
    /// the turn began, because this is done in every turn.
    fn publish(&mut self, now: Time) {
        let wanted = self.handle.wanted();
        if wanted > Wanted::Nothing {
            let published = &self.shard_set.own().published;
            self.publisher.publish(wanted, published, &self.server, now);
        }
    }

    /// Pending until the next deadline, or until a turn is requested.
    fn wait(&mut self, cx: &mut Context<'_>, timer: &mut impl Timer) -> Poll<()> {
        let deadline = self.server.poll_timeout().map(|deadline| deadline.at);
        let deadline = deadline.map(|at| self.drain_until.map_or(at, |until| at.max(until)));
        let others = [self.decisions.deadline(), self.publisher.deadline()];
        let deadline = others.into_iter().chain([deadline]).flatten().min();
        let deadline = deadline.and_then(|at| self.clock.instant(at));
        let Some(deadline) = deadline else { return Poll::Pending };
        // Most deadlines are extended before they pass. So a timer that will fire too early is left as
        // it is, and set again once it has fired.
        if self.timer_at.is_none_or(|at| deadline < at) {
            timer.set(deadline);
            self.timer_at = Some(deadline);
        }
        let fired = timer.poll(cx);
        if fired.is_ready() {
            self.timer_at = None;
        }
        fired
    }
}

fn slot(sessions: &mut [Option<SessionSlot>], id: SessionId) -> Option<&mut SessionSlot> {
    sessions.get_mut(id.slot())?.as_mut().filter(|slot| slot.id() == id)
}
