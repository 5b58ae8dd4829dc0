//! What holds between the parts of a server after every verb.

use super::Server;
use crate::conn::Phase as ConnPhase;
use crate::event::ConnId;
use crate::session::Held;
use crate::timers::Role;

impl Server {
    /// Walks the whole state and asserts that it holds together. For tests and debug builds: it
    /// takes time in proportion to everything.
    ///
    /// # Panics
    ///
    /// If an invariant is broken, which is a bug in this crate.
    pub fn check(&self) {
        self.timers.check();
        let mut frames = 0;
        let (mut queues_cost, mut bodies_bytes) = (0, 0);
        for (key, conn) in self.conns.iter() {
            conn.outbox.check();
            frames += u64::from(conn.outbox.frames());
            queues_cost += conn.outbox.cost();
            bodies_bytes += conn.body_bytes();
            assert_eq!(conn.woken, self.wakes.contains(&ConnId(key)), "a wake bit is off");
            let stall = self.timers.is_armed(Role::Stall, key.index());
            let expected = !conn.outbox.is_empty() && self.config.timeouts.stall.is_some();
            assert_eq!(stall, expected, "queued bytes and the stall timer go together");
            if let ConnPhase::Streaming { session, .. } = &conn.phase {
                let session = self.sessions.get(*session).expect("a stream has a session");
                assert_eq!(session.conn, key, "the session points back");
            } else if let ConnPhase::Held { session, .. } = &conn.phase {
                let session = self.sessions.get(*session).expect("a held post has a session");
                let waits = session.is_waited_for_by(Held::Conn(key));
                assert!(waits, "the session knows who waits");
            }
        }
        for (key, session) in self.sessions.iter() {
            bodies_bytes += session.backlog_bytes();
            let conn = self.conns.get(session.conn).expect("a session has a stream");
            let streams =
                matches!(conn.phase, ConnPhase::Streaming { session, .. } if session == key);
            assert!(streams, "a session's connection streams it");
        }
        for event in &self.events {
            bodies_bytes += event.body_bytes();
        }
        bodies_bytes += self.check_guests();
        assert_eq!(self.queues_cost, queues_cost, "the budget of queues is the sum of its parts");
        assert_eq!(self.bodies_bytes, bodies_bytes, "the budget of bodies is the sum of its parts");
        assert!(self.conn_addresses.total() <= u64::from(self.conns.len()));
        assert!(self.session_addresses.total() <= u64::from(self.sessions.len()));
        assert!(self.tenants.check() <= u64::from(self.sessions.len()));
        let evicted = self.conns.iter().filter(|(_, conn)| conn.evicted).count();
        assert_eq!(evicted as u32, self.evicted, "connections that make room");
        let undone = self.resumable.len() + self.releasable.len();
        assert_eq!(undone, 0, "a verb returned with work undone");
        self.metrics.check(self.conns.len(), self.sessions.len(), frames);
    }
}
