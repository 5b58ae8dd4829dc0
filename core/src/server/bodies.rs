//! Whose request bytes are in memory, by address.
//!
//! Knows: what of a connection's bytes counts for the client's address, and when there is too much of it.
//! Does not know: the budget that all share, which counts the same bytes and others (`posts`, `input`).
//!
//! Chosen: bytes are counted when a verb ends and they are still there, so a post that comes whole and goes
//! to its session at once is looked up in no map. What has had to wait is counted until it is finished;
//! what is then on its way to another shard, until that shard has said what became of it. Messages that a
//! session's application has not taken count for the session (`inbound_bytes_max`), not for an address.

use alloc::vec::Vec;

use super::Server;
use crate::arena::Key;
use crate::error::Fault;
use crate::limits::within;

impl Server {
    /// Whether the budget of request bytes that all connections and sessions share takes so many more.
    pub(super) fn bodies_take(&self, more: u64) -> bool {
        let bytes = self.bodies_bytes.saturating_add(more);
        within(self.config.limits.bodies_bytes_max, bytes)
    }

    /// A verb, or a step of it, has left a connection with request bytes, or with others than before.
    /// Says whether its address may have them.
    fn count_bodies(&mut self, key: Key) -> bool {
        let conn = &mut self.conns[key];
        let bytes = conn.body_bytes().saturating_add(conn.forwarded);
        if bytes == 0 && conn.counted == 0 {
            return true;
        }
        let address = self.config.address_key(conn.client);
        if conn.counted > 0 {
            self.body_addresses.subtract_some(&conn.counted_for, conn.counted);
        }
        conn.counted = 0;
        let Some(address) = address.filter(|_| bytes > 0) else { return true };
        (conn.counted, conn.counted_for) = (bytes, address);
        self.body_addresses.add_some(address, bytes);
        within(self.config.limits.address_bodies_bytes_max(), self.body_addresses.count(&address))
    }

    /// Counts what a connection holds now, and refuses it if that is too much for its address.
    pub(super) fn charge_bodies(&mut self, key: Key) {
        if !self.count_bodies(key) {
            self.refuse_wherever(key, Fault::BodiesPerAddressFull);
            self.count_bodies(key);
        }
    }

    /// Counts what a connection holds now; it is less than before, or has been allowed.
    pub(super) fn recount_bodies(&mut self, key: Key) {
        self.count_bodies(key);
    }
}

/// Makes room in a body or a head of a declared or limited length for `more` bytes that have arrived:
/// for twice what there was, so that it is copied a few times at most, but never for more than the
/// `longest` that it may become.
pub(super) fn make_room(body: &mut Vec<u8>, more: usize, longest: usize) {
    let needed = body.len().saturating_add(more).min(longest);
    if needed > body.capacity() {
        let room = needed.max(body.capacity().saturating_mul(2)).min(longest);
        body.reserve_exact(room - body.len());
    }
}
