//! Request bytes in memory: the budget of this shard, and the part of it that one address may have.
//!
//! Knows: which of a connection's bytes count for the client's address, and when they are too many.
//! Does not know: what the bytes are.
//!
//! Decision: the bytes of a connection count for its client's address if they are still in memory when a
//! method returns. So a post that arrives whole and goes to its session at once is looked up in no map. The
//! bytes of a post that had to wait count until it is answered. If a post is forwarded to another shard, its
//! bytes count until its outcome is known, but only if some of them were counted before the body was complete.
//! Messages that the application has not taken count for their session
//! (`inbound_bytes_max`), and not for an address.

use alloc::vec::Vec;

use super::Server;
use crate::arena::Key;
use crate::error::Fault;
use crate::limits::within;

impl Server {
    /// Whether `more` request bytes fit into the budget that all connections and sessions share.
    pub(super) fn bodies_have_room_for(&self, more: u64) -> bool {
        let bytes = self.bodies_bytes.saturating_add(more);
        within(self.config.limits.bodies_bytes_max, bytes)
    }

    /// Replaces what this connection contributes to its address's count by the request bytes that it holds
    /// now. Returns whether the address is within its limit.
    pub(super) fn count_bodies(&mut self, key: Key) -> bool {
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

    /// Counts the request bytes that a connection holds now, and refuses it if its address has too many.
    pub(super) fn charge_bodies(&mut self, key: Key) {
        if !self.count_bodies(key) {
            self.refuse_wherever(key, Fault::BodiesPerAddressFull);
            // The refusal has freed bytes.
            self.count_bodies(key);
        }
    }
}

/// Makes room in a body or a head for `more` bytes that have arrived. The capacity doubles, so that the bytes
/// are copied a few times at most, but never exceeds `longest`, the declared or allowed length.
pub(super) fn reserve(body: &mut Vec<u8>, more: usize, longest: usize) {
    let needed = body.len().saturating_add(more).min(longest);
    if needed > body.capacity() {
        let room = needed.max(body.capacity().saturating_mul(2)).min(longest);
        body.reserve_exact(room - body.len());
    }
}
