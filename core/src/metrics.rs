//! The counters of a server.
//!
//! Knows: which counters there are, and which sums must be equal. Does not know: any exposition
//! format.

use core::ops::AddAssign;

use crate::error::Fault;

macro_rules! counters {
    ($( $(#[doc = $doc:literal])+ $name:ident; )+) => {
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
            $( $(#[doc = $doc])+ pub $name: u64, )+
            faults: [u64; Fault::ALL.len()],
        }

        impl Default for Metrics {
            fn default() -> Self {
                Self { $( $name: 0, )+ faults: [0; Fault::ALL.len()] }
            }
        }

        impl AddAssign<&Self> for Metrics {
            /// Adds the counters of another server.
            fn add_assign(&mut self, other: &Self) {
                $( self.$name += other.$name; )+
                self.faults.iter_mut().zip(other.faults).for_each(|(sum, count)| *sum += count);
            }
        }
    };
}

counters! {
    /// Connections accepted.
    connections_accepted;
    /// Accepted connections that have ended.
    connections_ended;
    /// Connections that were not accepted, because of a limit or because the server is shutting
    /// down.
    connections_refused;
    /// Sessions opened.
    sessions_opened;
    /// Opened sessions that have ended.
    sessions_closed;
    /// Messages that were queued for the application.
    messages_received;
    /// Authorization questions ([`Event::Asked`](crate::Event::Asked)).
    questions_asked;
    /// Authorization questions that a driver answered from a cache.
    verdicts_remembered;
    /// Answers to authorization questions that came too late: the request had been refused, or its
    /// connection had ended.
    verdicts_late;
    /// Posts that were held because their session had no room.
    posts_held;
    /// Requests that the client cancelled while their post was held. The application never receives
    /// them.
    requests_withdrawn;
    /// Frames that were queued for a stream.
    frames_queued;
    /// Frames that were written completely.
    frames_sent;
    /// Frames that were still queued when their stream ended.
    frames_undelivered;
    /// Heartbeats that were queued.
    heartbeats;
    /// Bytes received.
    bytes_received;
    /// Bytes written.
    bytes_sent;
    /// How many times the driver passed a time earlier than the previous one.
    clock_backsteps;
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
