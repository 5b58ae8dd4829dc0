//! Bytes from peers: heads, bodies, and what is thrown away; and the other direction's completions.

use super::Server;
use super::posts::make_room;
use crate::answer::Reply;
use crate::arena::Key;
use crate::client_info::ClientInfo;
use crate::conn::{Conn, ConnPhase};
use crate::error::Fault;
use crate::event::{CloseReason, Event, ServerPhase};
use crate::exchange::Exchange;
use crate::http1::{FieldStorage, Head, Persistence, Scan};
use crate::limits::within;
use crate::policy::cors::CorsOrigin;
use crate::request::{Asked, Unread, reply_to, route_of, route_request};
use crate::timers::{Role, TimerKind};

impl Server {
    /// Uses input, or stashes it behind what is stashed already.
    pub(super) fn take_input(&mut self, key: Key, input: &[u8]) {
        let Some(conn) = self.conns.get(key) else { return };
        let used = if conn.stashed().is_empty() { self.run(key, input) } else { 0 };
        let rest = input.get(used..).unwrap_or_default();
        if !rest.is_empty() {
            self.pending_input(key, rest);
        }
        self.charge_bodies(key);
    }

    fn pending_input(&mut self, key: Key, rest: &[u8]) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let before = conn.pending_input.capacity();
        let needed = conn.pending_input.len().saturating_add(rest.len());
        let grown = if needed > before { needed.max(before.saturating_mul(2)) } else { 0 };
        // The old one and the new one are there together for a moment.
        let bytes = self.bodies_bytes.saturating_add(grown as u64);
        if !within(self.config.limits.bodies_bytes_max, bytes) {
            return self.refuse_wherever(key, Fault::BodiesFull);
        }
        make_room(&mut conn.pending_input, rest.len(), usize::MAX);
        conn.pending_input.extend_from_slice(rest);
        self.bodies_bytes =
            self.bodies_bytes - before as u64 + conn.pending_input.capacity() as u64;
    }

    /// Refuses a connection that may be in the middle of waiting for something. A request that has
    /// its answer, or whose message has been delivered, is not refused: what is behind it is.
    pub(super) fn refuse_wherever(&mut self, key: Key, fault: Fault) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        match conn.phase {
            ConnPhase::Awaiting => {
                conn.reply.persistence = Persistence::Close;
                self.note(Some(key), fault);
                self.drop_input(key);
            }
            ConnPhase::Discarding { .. } => {
                self.note(Some(key), fault);
                self.close_after_flush(key);
            }
            ConnPhase::Head
            | ConnPhase::Deciding(_)
            | ConnPhase::Locating(_)
            | ConnPhase::Body { .. }
            | ConnPhase::Held { .. }
            | ConnPhase::Streaming { .. }
            | ConnPhase::Closing { .. }
            | ConnPhase::Lingering { .. }
            | ConnPhase::Ended => {
                self.abandon_post(key);
                self.refuse(key, fault, Unread::Unknown);
            }
        }
    }

    /// Goes on with stashed input, as far as the connection can use it now; then, if the peer has
    /// ended its side and nothing is left, ends ours.
    pub(super) fn resume(&mut self, key: Key) {
        let full = self.queues_full();
        let Some(conn) = self.conns.get_mut(key) else { return };
        if !conn.takes_input(&self.config.limits, full) {
            return;
        }
        if !conn.stashed().is_empty() {
            let (pending_input, at) =
                (core::mem::take(&mut conn.pending_input), conn.pending_input_at);
            self.bodies_bytes -= pending_input.capacity() as u64;
            conn.pending_input_at = 0;
            let used = self.run(key, pending_input.get(at..).unwrap_or_default());
            let Some(conn) = self.conns.get_mut(key) else { return };
            if at + used < pending_input.len() && !matches!(conn.phase, ConnPhase::Ended) {
                self.bodies_bytes += pending_input.capacity() as u64;
                (conn.pending_input, conn.pending_input_at) = (pending_input, at + used);
            }
        }
        // Of a post's body nothing has come: its shard is asked meanwhile. Of an exchange's it will at
        // once, and maybe all of it.
        let more = |conn: &Conn| !conn.eof && conn.exchange.is_none();
        if self.conns.get(key).is_some_and(more) {
            self.locate_unread(key);
        }
        self.charge_bodies(key);
        self.end_of_input(key);
    }

    /// Feeds input to the connection until it is used up or has to wait. Returns how much was used.
    fn run(&mut self, key: Key, input: &[u8]) -> usize {
        let mut used = 0;
        while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty()) {
            let full = self.queues_full();
            let Some(conn) = self.conns.get_mut(key) else { return input.len() };
            if !conn.takes_input(&self.config.limits, full) {
                break;
            }
            used += match &mut conn.phase {
                ConnPhase::Head => self.run_head(key, rest),
                ConnPhase::Body { .. } => self.run_body(key, rest),
                ConnPhase::Discarding { left } => {
                    let take = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= take as u64;
                    if *left == 0 {
                        self.await_request(key);
                    }
                    take
                }
                ConnPhase::Streaming { session, input, ending, .. } => {
                    *input = input.saturating_add(u32::try_from(rest.len()).unwrap_or(u32::MAX));
                    if *input > self.config.limits.stream_input_bytes_max && !*ending {
                        let session = *session;
                        self.note(Some(key), Fault::StreamInput);
                        // In order: what was queued before must not depend on how this was cut.
                        self.begin_end(session, CloseReason::Fault(Fault::StreamInput));
                    }
                    rest.len()
                }
                ConnPhase::Closing { discarded } => {
                    *discarded =
                        discarded.saturating_add(u32::try_from(rest.len()).unwrap_or(u32::MAX));
                    self.wake(key);
                    rest.len()
                }
                ConnPhase::Lingering { discarded } => {
                    *discarded =
                        discarded.saturating_add(u32::try_from(rest.len()).unwrap_or(u32::MAX));
                    if *discarded > self.config.limits.linger_bytes_max {
                        self.end_quietly(key);
                    }
                    rest.len()
                }
                ConnPhase::Ended => rest.len(),
                ConnPhase::Deciding(_)
                | ConnPhase::Locating(_)
                | ConnPhase::Held { .. }
                | ConnPhase::Awaiting => break,
            };
        }
        used
    }

    fn run_head(&mut self, key: Key, input: &[u8]) -> usize {
        let Some(conn) = self.conns.get_mut(key) else { return input.len() };
        let fresh = conn.scanner.is_idle();
        match conn.scanner.scan(input, &self.head_limits) {
            Err(fault) => {
                self.reject_head(key, fault);
                input.len()
            }
            Ok(Scan::Partial) => {
                // What the last request said does not hold for this one.
                conn.cors_origin = CorsOrigin::Off;
                make_room(&mut conn.partial, input.len(), self.head_limits.head_bytes_max);
                conn.partial.extend_from_slice(input);
                // The first head is timed from accept, a later one from its first byte.
                if fresh && !conn.scanner.is_idle() && conn.served {
                    self.arm(TimerKind::Head, key);
                }
                input.len()
            }
            Ok(Scan::Complete { consumed }) => {
                let here = input.get(..consumed).unwrap_or_default();
                if conn.partial.is_empty() {
                    self.request(key, here, None);
                } else {
                    let mut whole = core::mem::take(&mut conn.partial);
                    make_room(&mut whole, here.len(), self.head_limits.head_bytes_max);
                    whole.extend_from_slice(here);
                    self.request(key, &whole, None);
                }
                consumed
            }
        }
    }

    /// A head that cannot be understood: nothing behind it can be either.
    fn reject_head(&mut self, key: Key, fault: impl Into<Fault>) {
        if let Some(conn) = self.conns.get_mut(key) {
            conn.reply = Reply::CLOSE;
            conn.cors_origin = CorsOrigin::Off;
        }
        self.refuse(key, fault.into(), Unread::Unknown);
    }

    /// A request has come whose HTTP is spoken elsewhere.
    pub(super) fn take_exchange(&mut self, key: Key, request: Exchange<'_>) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let scanned = request.head().and_then(|head| {
            let scan = conn.scanner.scan(&head, &self.head_limits)?;
            // More or less than one head: something in it broke out of its place.
            let whole = scan == Scan::Complete { consumed: head.len() };
            if whole { Ok(head) } else { Err(Fault::MalformedRequestLine) }
        });
        match scanned {
            Ok(head) => self.request(key, &head, Some(request.mount)),
            Err(fault) => self.reject_head(key, fault),
        }
    }

    /// A whole head has come; in an exchange, to a server mounted at `exchange`.
    fn request(&mut self, key: Key, bytes: &[u8], exchange: Option<&str>) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let mut storage = FieldStorage::new();
        let head = match Head::parse(bytes, &mut storage) {
            Ok(head) => head,
            Err(fault) => return self.reject_head(key, fault),
        };
        conn.served = true;
        conn.reply = reply_to(&head);
        if self.phase != ServerPhase::Running || exchange.is_some() {
            conn.reply.persistence = Persistence::Close;
        }
        let room = core::mem::take(&mut conn.cors_origin);
        conn.cors_origin = self.config.cors.evaluate(head.fields_named("origin"), room);
        self.config.warn_of_ignored_fields(&head, &conn.peer);
        let client_info = ClientInfo::of(&head, &conn.peer, &self.config);
        conn.client = client_info.map_or(conn.peer.ip(), |client_info| client_info.client);
        conn.route = Some(route_of(&head, &self.config));
        conn.session = None;
        let asked = route_request(&head, &client_info, &conn.peer, exchange, &self.config);
        self.disarm(Role::Phase, key);
        let unread = Unread::of(&head);
        let asked = match asked {
            Ok(Asked::Action(plan)) => return self.authenticate(key, plan, &head),
            Err(refused) => return self.refuse(key, refused, unread),
            Ok(asked) => asked,
        };
        let bytes = self.answering(key, unread, |server, to| match asked {
            Asked::Ready => server.answers.ready(server.readiness(), to),
            Asked::Metadata => server.answers.metadata(to),
            Asked::Options { allow, preflight } => server.answers.options(allow, preflight, to),
            Asked::Health | Asked::Action(_) => server.answers.health(&server.snapshot(), to),
        });
        if let Some(bytes) = bytes {
            self.answer(key, bytes, unread);
        }
    }

    fn readiness(&self) -> Result<(), &str> {
        let limits = &self.config.limits;
        if self.phase != ServerPhase::Running {
            Err("draining")
        } else if !within(limits.sessions_max, self.sessions.len().saturating_add(1))
            || !self.has_place_for_stream()
        {
            Err("full")
        } else if let Some(why) = self.report.unready() {
            Err(why)
        } else {
            Ok(())
        }
    }

    pub(super) fn take_eof(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.eof {
            return;
        }
        conn.eof = true;
        self.wake(key);
        self.end_of_input(key);
    }

    /// If the peer has ended its side and everything it said has been used, draws the consequence.
    fn end_of_input(&mut self, key: Key) {
        let Some(conn) = self.conns.get(key) else { return };
        if !conn.eof || !conn.stashed().is_empty() {
            return;
        }
        match &conn.phase {
            ConnPhase::Head if conn.scanner.is_idle() => self.end_quietly(key),
            ConnPhase::Body { decoder, .. } if decoder.ends_with_input() => self.finish_body(key),
            // Cut short: nothing of it is executed.
            ConnPhase::Head | ConnPhase::Body { .. } | ConnPhase::Discarding { .. } => {
                self.refuse(key, Fault::Truncated, Unread::Unknown);
            }
            // The request was whole, so its answer will come; then there is nothing to read.
            ConnPhase::Deciding(_)
            | ConnPhase::Locating(_)
            | ConnPhase::Held { .. }
            | ConnPhase::Awaiting => {}
            ConnPhase::Streaming { session, .. } => {
                // The end of an exchange's request says nothing about its client.
                if !self.config.allow_half_close && conn.exchange.is_none() {
                    let session = *session;
                    self.end_session(session, CloseReason::Peer);
                }
            }
            ConnPhase::Closing { .. } => self.after_flush(key),
            ConnPhase::Lingering { .. } => self.end_quietly(key),
            ConnPhase::Ended => {}
        }
    }

    pub(super) fn take_written(&mut self, key: Key, count: usize) {
        let full = self.queues_full();
        let Some(conn) = self.conns.get_mut(key) else { return };
        let was_read = conn.takes_input(&self.config.limits, full);
        // What was queued may have been thrown away while a write of shares in it was under way.
        let thrown_away = matches!(conn.phase, ConnPhase::Ended) && conn.outbox.is_empty();
        if count == 0 || thrown_away {
            return;
        }
        let before = conn.queue_shared(&self.config.limits);
        let frames = conn.outbox.advance(count);
        self.queues_cost -= before - conn.queue_shared(&self.config.limits);
        self.metrics.frames_sent += u64::from(frames);
        self.metrics.bytes_sent += count as u64;
        conn.taken = conn.taken.saturating_add(count as u64);
        let enough = self.config.limits.stall_bytes_min;
        let progress = conn.taken >= enough || conn.outbox.cost() <= enough;
        let empty = conn.outbox.is_empty();
        if progress {
            conn.taken = 0;
        }
        let stream = if let ConnPhase::Streaming { session, ending, .. } = conn.phase {
            Some((session, ending))
        } else {
            None
        };
        if empty {
            self.disarm(Role::Stall, key);
        } else if progress {
            self.arm(TimerKind::Stall, key);
        }
        match stream {
            Some((session, false)) => {
                self.arm(TimerKind::Heartbeat, key);
                self.unblock(session);
            }
            Some((_, true)) => {}
            None => {
                self.resumable.push_back(key);
                if !was_read {
                    self.read_again(key);
                }
            }
        }
        self.wake(key);
        self.after_flush(key);
    }

    /// A connection that was not read may be read now: the deadline for what comes starts anew.
    fn read_again(&mut self, key: Key) {
        let Some(conn) = self.conns.get(key) else { return };
        let armed = self.timers.armed(Role::Phase, key.index());
        if let Some(kind) = armed.filter(|kind| kind.is_for_input())
            && conn.takes_input(&self.config.limits, self.queues_full())
        {
            self.arm(kind, key);
        }
    }

    /// Hands out the session that has waited for room in all queues together for longest, if there is
    /// room for its frame now. The others are not asked before it is their turn.
    pub(super) fn poll_unblocked(&mut self) -> Option<Event> {
        while let Some(&key) = self.waiting_for_budget.front() {
            #[cfg(test)]
            crate::testing::step();
            if self.wants_queue_room() {
                return None;
            }
            self.waiting_for_budget.pop_front();
            if let Some(session) = self.sessions.get_mut(key) {
                session.waiting_for_budget = false;
            }
            if self.unblock(key) {
                return self.events.pop_front();
            }
        }
        None
    }
}
