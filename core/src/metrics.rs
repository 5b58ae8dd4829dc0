//! The counters of a server.
//!
//! Knows: which counters there are, and which sums must be equal. Does not know: any exposition
//! format.

use core::ops::AddAssign;

use crate::error::Fault;

/// Counters of what has happened since a server was made. They only grow.
/// [`Server::metrics`](crate::Server::metrics) returns them; add those of several shards with `+=`.
///
/// ```
/// use mcp_sse_core::{Config, Fault, Peer, Server, Time};
///
/// # let entropy = Box::new(|dest: &mut [u8]| { dest.fill(1); Ok(()) });
/// let mut server = Server::new(Config::default(), entropy, Time::ZERO);
/// let conn = server.accept(Peer::local(), Time::ZERO)?;
/// server.handle_input(conn, b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n", Time::ZERO);
/// let mut sum = server.metrics().clone();
/// assert_eq!((sum.connections_open(), sum.fault(Fault::NotFound)), (1, 1));
/// sum += server.metrics(); // of another shard
/// assert_eq!(sum.connections_accepted, 2);
/// # Ok::<(), mcp_sse_core::AcceptError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Connections accepted.
    pub connections_accepted: u64,
    /// Accepted connections that have ended.
    pub connections_ended: u64,
    /// Connections that were not accepted, because of a limit or because the server is shutting
    /// down.
    pub connections_refused: u64,
    /// Sessions opened.
    pub sessions_opened: u64,
    /// Opened sessions that have ended.
    pub sessions_closed: u64,
    /// Messages that were queued for the application.
    pub messages_received: u64,
    /// Authorization questions ([`Event::Asked`](crate::Event::Asked)).
    pub questions_asked: u64,
    /// Authorization questions that a driver answered from a cache.
    pub verdicts_remembered: u64,
    /// Answers to authorization questions that came too late: the request had been refused, or its
    /// connection had ended.
    pub verdicts_late: u64,
    /// Posts that were held because their session had no room.
    pub posts_held: u64,
    /// Requests that the client cancelled while their post was held. The application never receives
    /// them.
    pub requests_withdrawn: u64,
    /// Frames that were queued for a stream.
    pub frames_queued: u64,
    /// Frames that were written completely.
    pub frames_sent: u64,
    /// Frames that were still queued when their stream ended.
    pub frames_undelivered: u64,
    /// Heartbeats that were queued.
    pub heartbeats: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes written.
    pub bytes_sent: u64,
    /// How many times the driver passed a time earlier than the previous one.
    pub clock_backsteps: u64,
    faults: [u64; Fault::ALL.len()],
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            connections_accepted: 0,
            connections_ended: 0,
            connections_refused: 0,
            sessions_opened: 0,
            sessions_closed: 0,
            messages_received: 0,
            questions_asked: 0,
            verdicts_remembered: 0,
            verdicts_late: 0,
            posts_held: 0,
            requests_withdrawn: 0,
            frames_queued: 0,
            frames_sent: 0,
            frames_undelivered: 0,
            heartbeats: 0,
            bytes_received: 0,
            bytes_sent: 0,
            clock_backsteps: 0,
            faults: [0; Fault::ALL.len()],
        }
    }
}

impl Metrics {
    /// How many times `fault` has occurred.
    #[must_use]
    pub fn fault(&self, fault: Fault) -> u64 {
        self.faults.get(fault as usize).copied().unwrap_or(0)
    }

    /// The number of open connections.
    #[must_use]
    pub const fn connections_open(&self) -> u64 {
        self.connections_accepted - self.connections_ended
    }

    /// The number of open sessions.
    #[must_use]
    pub const fn sessions_open(&self) -> u64 {
        self.sessions_opened - self.sessions_closed
    }

    pub(crate) fn count_fault(&mut self, fault: Fault) {
        if let Some(count) = self.faults.get_mut(fault as usize) {
            *count += 1;
        }
    }

    /// Asserts that the counters balance with what is open and waiting now.
    pub(crate) fn check(&self, connections: u32, sessions: u32, frames_waiting: u64) {
        assert_eq!(self.connections_open(), u64::from(connections));
        assert_eq!(self.sessions_open(), u64::from(sessions));
        assert_eq!(self.frames_queued, self.frames_sent + self.frames_undelivered + frames_waiting);
    }
}

impl AddAssign<&Self> for Metrics {
    /// Adds the counters of another server.
    fn add_assign(&mut self, other: &Self) {
        // A destructuring without `..`, so that a new counter cannot be forgotten here.
        let Self {
            connections_accepted,
            connections_ended,
            connections_refused,
            sessions_opened,
            sessions_closed,
            messages_received,
            questions_asked,
            verdicts_remembered,
            verdicts_late,
            posts_held,
            requests_withdrawn,
            frames_queued,
            frames_sent,
            frames_undelivered,
            heartbeats,
            bytes_received,
            bytes_sent,
            clock_backsteps,
            faults,
        } = other;
        self.connections_accepted += connections_accepted;
        self.connections_ended += connections_ended;
        self.connections_refused += connections_refused;
        self.sessions_opened += sessions_opened;
        self.sessions_closed += sessions_closed;
        self.messages_received += messages_received;
        self.questions_asked += questions_asked;
        self.verdicts_remembered += verdicts_remembered;
        self.verdicts_late += verdicts_late;
        self.posts_held += posts_held;
        self.requests_withdrawn += requests_withdrawn;
        self.frames_queued += frames_queued;
        self.frames_sent += frames_sent;
        self.frames_undelivered += frames_undelivered;
        self.heartbeats += heartbeats;
        self.bytes_received += bytes_received;
        self.bytes_sent += bytes_sent;
        self.clock_backsteps += clock_backsteps;
        self.faults.iter_mut().zip(faults).for_each(|(sum, count)| *sum += count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn add_assign_adds_every_counter() {
        let mut one =
            Metrics { sessions_opened: 3, sessions_closed: 2, bytes_sent: 5, ..Metrics::default() };
        one.count_fault(Fault::Busy);
        let mut two = Metrics { sessions_opened: 4, sessions_closed: 1, ..Metrics::default() };
        two.count_fault(Fault::Busy);
        two.count_fault(Fault::NotFound);
        two += &one;
        assert_eq!((two.sessions_opened, two.sessions_closed, two.bytes_sent), (7, 3, 5));
        assert_eq!((two.fault(Fault::Busy), two.fault(Fault::NotFound)), (2, 1));
    }

    #[test]
    fn every_fault_has_a_counter_of_its_own() {
        let mut metrics = Metrics::default();
        for (at, &fault) in Fault::ALL.iter().enumerate() {
            assert_eq!(fault as usize, at);
            metrics.count_fault(fault);
            assert_eq!(metrics.fault(fault), 1);
        }
        assert!(metrics.faults.iter().all(|&count| count == 1));
    }
}
