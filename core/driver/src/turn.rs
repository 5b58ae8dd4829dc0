//! One turn of a shard: it serves the handles, the clock, the application and the sockets, in that order.

use core::task::{Context, Poll};
use core::time::Duration;

use mcp_sse_core::{ConnId, Event, SessionId, sse::Frame};

use super::control::Control;
use super::runtime::Timer;
use super::session::{Session, SessionSlot};
use super::shard::{Shard, ShardState};
use super::shard_mailbox::StopKind;
use super::slots::put;
use super::socket::Socket;

/// Connections that are written to before the other tasks of the thread run. Without this bound, a turn
/// would not end while an application on other threads sends as fast as the turn writes.
const WAKES_BATCH: usize = 1_024;

/// Requests of handles that are served in one turn.
const CONTROLS_BATCH: usize = 16;

/// If a deadline is noticed this late, the thread was delayed, and sockets may hold bytes that came in
/// time.
const HELD_UP: Duration = Duration::from_millis(50);

/// How long sockets are read in that case before timeouts fire.
const LOOK: Duration = Duration::from_millis(10);

/// Why [`Shard::poll_turn`] is ready.
#[derive(Debug)]
pub(super) enum Turn {
    /// A session has begun, and needs a handler.
    Opened(Session),
    /// A connection has begun, and needs a task: [`connection`](Shard::connection).
    Accepted(ConnId),
    /// The server has been shut down and every connection has ended.
    Drained,
}

impl<S: Socket> Shard<S> {
    /// Does all that there is to do now, and is pending until there is more: fires timeouts, moves
    /// messages and frames between the core and the handles, and writes to sockets.
    pub(super) fn poll_turn(&self, cx: &mut Context<'_>, timer: &mut impl Timer) -> Poll<Turn> {
        let state = &mut *self.state.borrow_mut();
        state.turn_begins(cx);
        let mut served = 0;
        loop {
            if let Some(session) = state.opened.pop_front() {
                // The caller polls again at once, which continues this turn.
                return Poll::Ready(Turn::Opened(session));
            }
            if let Some(conn) = state.accepted.pop_front() {
                return Poll::Ready(Turn::Accepted(conn));
            }
            state.shard_set.sync_counts(&mut state.server);
            // Before the clock, so that an outcome that has come in time is not too late.
            state.serve_handles(cx);
            state.serve_decisions();
            state.tick();
            let drained = state.serve_application();
            let before = served;
            served += state.serve_sockets(WAKES_BATCH - before);
            state.shard_set.sync_counts(&mut state.server);
            state.wake_acceptor();
            if drained {
                return Poll::Ready(Turn::Drained);
            }
            if served == WAKES_BATCH {
                state.want_turn();
                return Poll::Pending;
            }
            let handed_out = state.opened.is_empty() && state.accepted.is_empty();
            if handed_out && served == before && state.wait(cx, timer).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl<S: Socket> ShardState<S> {
    fn tick(&mut self) {
        let now = self.clock.now();
        self.server.handle_wall_clock(self.clock.unix_seconds());
        let Some(due) = self.server.poll_timeout().filter(|deadline| deadline.at <= now) else {
            self.look_until = None;
            return;
        };
        match self.look_until {
            // If this thread was delayed, drain sockets before firing timeouts.
            None if now.saturating_since(due.at) >= HELD_UP => {
                self.look_until = Some(now.saturating_add(LOOK));
            }
            Some(until) if now < until => {}
            None | Some(_) => self.server.handle_timeout(now),
        }
    }

    fn serve_handles(&mut self, cx: &Context<'_>) {
        let now = self.clock.now();
        let wanted = self.shard_set.own().mailbox.take(cx);
        for id in wanted.sessions {
            if let Some(slot) = slot(&mut self.sessions, id) {
                slot.attend(&mut self.server, now);
            }
        }
        if let Some(report) = wanted.report {
            self.server.set_health_extras(report);
        }
        match wanted.stop {
            Some(StopKind::Shutdown) => self.server.shutdown(now),
            Some(StopKind::Abort) => self.server.abort(now),
            None => {}
        }
        for request in wanted.posts {
            let now = self.clock.now();
            self.shard_set.take_in(request, &mut self.server, &self.clock, now);
        }
        for inquiry in wanted.lookups {
            self.shard_set.look_up(inquiry, &self.server);
        }
        for (ticket, answer) in wanted.lookup_answers {
            // Its deadline may have passed meanwhile, or its client have left.
            let _ = self.server.answer_lookup(ticket, answer, now);
        }
        for (ticket, outcome) in wanted.outcomes {
            // Its deadline may have passed meanwhile, or its client have left.
            let _ = self.server.acknowledge(ticket, outcome, now);
        }
        for _ in 0..CONTROLS_BATCH {
            let Some(control) = self.receiver.take() else { return };
            match control {
                // An answer for which no caller waits any more is dropped.
                Control::Broadcast(frame, answer) => drop(answer.try_send(self.broadcast(&frame))),
                Control::Exchange(request, peer, channel) => self.exchange(&request, peer, channel),
                Control::Metrics(answer) => {
                    drop(answer.try_send(self.server.metrics().clone()));
                }
            }
        }
        // There may be more, which the next turn serves.
        self.want_turn();
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

    /// Polls the authorizer's decisions. They bring about events.
    fn serve_decisions(&mut self) {
        let now = self.clock.now();
        if self.decisions.poll(&mut self.server, now) {
            self.want_turn();
        }
    }

    /// Takes the core's events to the handles. Returns true after the last event.
    fn serve_application(&mut self) -> bool {
        let now = self.clock.now();
        while let Some(event) = self.server.poll_event() {
            match event {
                Event::Opened { session, principal, head, .. } => {
                    let (server, shard) = (self.handle.clone(), self.shard_set.own().clone());
                    let (slot, handle) =
                        SessionSlot::new(session, principal, head, server, shard, self.mail);
                    put(&mut self.sessions, session.slot(), slot);
                    self.opened.push_back(handle);
                }
                Event::Message { session, message, ticket } => {
                    if let Some(slot) = slot(&mut self.sessions, session) {
                        slot.message(message, &mut self.server, now);
                    }
                    if let Some(ticket) = ticket {
                        // A message in the session's mailbox counts as accepted. The post's client may have
                        // left.
                        let _ =
                            self.server.acknowledge(ticket, mcp_sse_core::Outcome::Accepted, now);
                    }
                }
                Event::Settled { post, outcome } => self.shard_set.settle(post, outcome),
                Event::Unblocked { session } => {
                    if let Some(slot) = slot(&mut self.sessions, session) {
                        slot.pump(&mut self.server, now);
                    }
                }
                Event::Closed { session, reason, frames_undelivered } => {
                    let place = self.sessions.get_mut(session.slot());
                    if let Some(slot) = place.and_then(|p| p.take_if(|s| s.id() == session)) {
                        slot.close(reason, frames_undelivered);
                    }
                }
                Event::Drained => return true,
                Event::Asked { ticket, head } => {
                    self.decisions.ask(ticket, head, &mut self.server, now);
                }
                Event::LookedFor { shard, lookup, ticket } => {
                    if let Err((ticket, answer)) = self.shard_set.ask(shard, lookup, ticket) {
                        let _ = self.server.answer_lookup(ticket, answer, now);
                    }
                }
                Event::Foreign { post, ticket, .. } => {
                    let sent = self.clock.instant(now);
                    if let Err((ticket, outcome)) = self.shard_set.forward(post, ticket, sent) {
                        // Its deadline may have passed meanwhile, with the same outcome.
                        let _ = self.server.acknowledge(ticket, outcome, now);
                    }
                }
                // Core and driver are released together.
                unknown => unreachable!("an event that this driver does not know: {unknown:?}"),
            }
        }
        false
    }

    /// Writes to at most `batch` sockets for which output is queued. Returns their number.
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

    /// Pending until the next deadline; a wake-up of the task begins the next turn earlier.
    fn wait(&mut self, cx: &mut Context<'_>, timer: &mut impl Timer) -> Poll<()> {
        let deadline = self.server.poll_timeout().map(|deadline| deadline.at);
        let deadline = deadline.map(|at| self.look_until.map_or(at, |until| at.max(until)));
        let deadline = [deadline, self.decisions.deadline()].into_iter().flatten().min();
        let deadline = deadline.and_then(|at| self.clock.instant(at));
        let Some(deadline) = deadline else { return Poll::Pending };
        // Most deadlines are extended before they come. So a timer that would fire too early is not set
        // again until it has fired.
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
