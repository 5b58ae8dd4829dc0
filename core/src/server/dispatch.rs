//! Dispatch: from a peer's bytes to a request head, and from the head to what it asks for.
//!
//! Knows: what each phase of a connection does with input, how input waits while it cannot be used, and
//! what the end of input means. Does not know: authorization, bodies, or sessions.

use super::Server;
use super::bodies::reserve;
use crate::answer::{HealthSnapshot, Reply};
use crate::arena::Key;
use crate::client_info::ClientInfo;
use crate::conn::{ConnPhase, RequestInfo};
use crate::error::Fault;
use crate::event::{CloseReason, ServerPhase};
use crate::exchange::Exchange;
use crate::http1::{FieldStorage, Head, Persistence, Scan};
use crate::policy::cors::CorsOrigin;
use crate::request::{RoutedRequest, Unread, reply_to, route_of, route_request};
use crate::timers::{Role, TimerKind};
use crate::trace_context::{self, TraceParent};

impl Server {
    /// Uses input, or keeps it behind input that is pending already.
    pub(super) fn take_input(&mut self, key: Key, input: &[u8]) {
        let Some(conn) = self.conns.find(key) else { return };
        let used = if conn.pending().is_empty() { self.run(key, input) } else { 0 };
        let rest = input.get(used..).unwrap_or_default();
        if !rest.is_empty() {
            self.keep_input(key, rest);
        }
        self.charge_bodies(key);
    }

    /// Keeps input that the connection cannot use yet.
    fn keep_input(&mut self, key: Key, rest: &[u8]) {
        let conn = &self.conns[key];
        let before = conn.pending_input.capacity();
        let needed = conn.pending_input.len().saturating_add(rest.len());
        let grown = if needed > before { needed.max(before.saturating_mul(2)) } else { 0 };
        // The old buffer and the new one are in memory together for a moment.
        if !self.bodies_have_room_for(grown as u64) {
            return self.refuse_wherever(key, Fault::BodiesFull);
        }
        let conn = &mut self.conns[key];
        reserve(&mut conn.pending_input, rest.len(), usize::MAX);
        conn.pending_input.extend_from_slice(rest);
        self.bodies_bytes =
            self.bodies_bytes - before as u64 + conn.pending_input.capacity() as u64;
    }

    /// Uses pending input, as far as the connection can use it now; then, if the peer has ended its side
    /// and no input is left, acts on that end.
    pub(super) fn resume(&mut self, key: Key) {
        let full = self.queues_full();
        let Some(conn) = self.conns.find_mut(key) else { return };
        if !conn.takes_input(&self.config.limits, full) {
            return;
        }
        if !conn.pending().is_empty() {
            let (pending_input, at) =
                (core::mem::take(&mut conn.pending_input), conn.pending_input_at);
            self.bodies_bytes -= pending_input.capacity() as u64;
            conn.pending_input_at = 0;
            let used = self.run(key, pending_input.get(at..).unwrap_or_default());
            let conn = &mut self.conns[key];
            if at + used < pending_input.len() && !matches!(conn.phase, ConnPhase::Ended) {
                self.bodies_bytes += pending_input.capacity() as u64;
                (conn.pending_input, conn.pending_input_at) = (pending_input, at + used);
            }
        }
        // If nothing of a post's body has arrived, its shard is asked meanwhile. An exchange's body is
        // handed over at once, and often whole.
        let conn = &self.conns[key];
        if !conn.eof && conn.exchange.is_none() {
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
            let conn = &mut self.conns[key];
            if !conn.takes_input(&self.config.limits, full) {
                break;
            }
            let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
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
                    *input = input.saturating_add(len);
                    if *input > self.config.limits.stream_input_bytes_max && !*ending {
                        let session = *session;
                        self.note(key, Fault::StreamInput);
                        // Queued frames still leave: how many had left must not depend on how the
                        // input was cut.
                        self.begin_end(session, CloseReason::Fault(Fault::StreamInput));
                    }
                    rest.len()
                }
                ConnPhase::Closing { discarded } => {
                    *discarded = discarded.saturating_add(len);
                    self.wake(key);
                    rest.len()
                }
                ConnPhase::Lingering { discarded } => {
                    *discarded = discarded.saturating_add(len);
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

    /// Uses input that continues a request head. Returns how much was used.
    fn run_head(&mut self, key: Key, input: &[u8]) -> usize {
        let conn = &mut self.conns[key];
        let fresh = conn.scanner.is_idle();
        match conn.scanner.scan(input, &self.head_limits) {
            Err(fault) => {
                self.reject_head(key, fault);
                input.len()
            }
            Ok(Scan::Partial) => {
                // The origin of the last request is not that of this one.
                conn.cors_origin = CorsOrigin::Off;
                reserve(&mut conn.partial, input.len(), self.head_limits.head_bytes_max);
                conn.partial.extend_from_slice(input);
                // The deadline of the first head runs from accept, that of a later one from its first byte.
                if fresh && !conn.scanner.is_idle() && conn.served {
                    self.arm(TimerKind::Head, key);
                }
                input.len()
            }
            Ok(Scan::Complete { consumed }) => {
                let here = input.get(..consumed).unwrap_or_default();
                let mut whole = core::mem::take(&mut conn.partial);
                let bytes = if whole.is_empty() {
                    here
                } else {
                    reserve(&mut whole, here.len(), self.head_limits.head_bytes_max);
                    whole.extend_from_slice(here);
                    &whole
                };
                match Head::parse(bytes, &mut FieldStorage::new()) {
                    Ok(head) => self.request(key, &head, None),
                    Err(fault) => self.reject_head(key, fault),
                }
                consumed
            }
        }
    }

    /// Takes in a request whose HTTP is spoken elsewhere.
    pub(super) fn take_exchange(&mut self, key: Key, request: Exchange<'_>) {
        match request.head(&self.head_limits, &mut FieldStorage::new()) {
            Ok(head) => self.request(key, &head, Some(request.mount)),
            Err(fault) => self.reject_head(key, fault),
        }
    }

    /// Acts on a whole request head. `exchange` is where the server is mounted, for a request whose HTTP is
    /// spoken elsewhere.
    fn request(&mut self, key: Key, head: &Head<'_>, exchange: Option<&str>) {
        let conn = &mut self.conns[key];
        conn.served = true;
        conn.reply = reply_to(head);
        if self.phase != ServerPhase::Running || exchange.is_some() {
            conn.reply.persistence = Persistence::Close;
        }
        let reused = core::mem::take(&mut conn.cors_origin);
        conn.cors_origin = self.config.cors.evaluate(head.fields_named("origin"), reused);
        self.config.warn_of_ignored_fields(head, &conn.peer);
        let client_info = ClientInfo::of(head, &conn.peer, &self.config);
        conn.client = client_info.map_or(conn.peer.ip(), |client_info| client_info.client);
        let route = route_of(head, &self.config);
        conn.waiting_since = self.now;
        conn.request = RequestInfo {
            method: Some(head.method()),
            route: Some(route),
            traceparent: TraceParent::of_fields(head.fields_named(trace_context::FIELD)),
            unanswered: true,
            ..RequestInfo::default()
        };
        let asked = route_request(route, head, &client_info, &conn.peer, exchange, &self.config);
        self.disarm(Role::Phase, key);
        let unread = Unread::of(head);
        let asked = match asked {
            Ok(RoutedRequest::Action(action)) => return self.authenticate(key, action, head),
            Err(refused) => return self.refuse(key, refused, unread),
            Ok(asked) => asked,
        };
        let retry_after = self.draw_retry_after();
        let answer = self.answering(key, unread, |server, to| match asked {
            RoutedRequest::Ready => server.answers.ready(server.readiness(), retry_after, to),
            RoutedRequest::Metadata => server.answers.metadata(to),
            RoutedRequest::Options { allow, preflight } => {
                server.answers.options(allow, preflight, to)
            }
            RoutedRequest::Health | RoutedRequest::Action(_) => {
                server.answers.health(&server.snapshot(), to)
            }
        });
        self.answer(key, answer, unread);
    }

    /// What `/health` reports.
    fn snapshot(&self) -> HealthSnapshot<'_> {
        HealthSnapshot {
            sessions: self.sessions.len().saturating_add(self.elsewhere.0),
            connections: self.conns.len().saturating_add(self.elsewhere.1),
            uptime_seconds: self.now.saturating_since(self.started).as_secs(),
            draining: self.is_stopping(),
            extras: &self.health_extras,
        }
    }

    /// Refuses a head that cannot be understood, so that nothing behind it can be either.
    fn reject_head(&mut self, key: Key, fault: impl Into<Fault>) {
        let conn = &mut self.conns[key];
        (conn.reply, conn.cors_origin) = (Reply::CLOSE, CorsOrigin::Off);
        self.refuse(key, fault.into(), Unread::Unknown);
    }

    /// Notes that the peer has ended its side.
    pub(super) fn take_eof(&mut self, key: Key) {
        let Some(conn) = self.conns.find_mut(key) else { return };
        if conn.eof {
            return;
        }
        conn.eof = true;
        self.wake(key);
        self.end_of_input(key);
    }

    /// Acts on the end of the peer's side, once all input before it has been used.
    fn end_of_input(&mut self, key: Key) {
        let conn = &self.conns[key];
        if !conn.eof || !conn.pending().is_empty() {
            return;
        }
        match &conn.phase {
            ConnPhase::Head if conn.scanner.is_idle() => self.end_quietly(key),
            ConnPhase::Body { decoder, .. } if decoder.ends_with_input() => self.finish_body(key),
            // A request that was cut short is not executed.
            ConnPhase::Head | ConnPhase::Body { .. } | ConnPhase::Discarding { .. } => {
                self.refuse(key, Fault::Truncated, Unread::Unknown);
            }
            // The request was whole: it is answered, and then there is no further one.
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
}
