//! Request bytes in memory: the budget that all share, and the part of it that one address may have.
//!
//! Knows: which of a connection's bytes count for the client's address, and when they are too many.
//! Does not know: what the bytes are.
//!
//! Chosen: the bytes of a connection count for an address if they are still in memory when a verb ends, so a
//! post that arrives whole and goes to its session at once is looked up in no map. The bytes of a post that
//! had to wait count until it is answered, those of a forwarded post until the other shard has said what
//! became of it. Messages that the application has not taken count for their session (`inbound_bytes_max`),
//! not for an address.

use alloc::vec::Vec;

use super::Server;
use crate::arena::Key;
use crate::error::Fault;
use crate::limits::within;

impl Server {
    /// Whether `more` request bytes fit into the budget that all connections and sessions share.
    pub(super) fn bodies_take(&self, more: u64) -> bool {
        let bytes = self.bodies_bytes.saturating_add(more);
        within(self.config.limits.bodies_bytes_max, bytes)
    }

    /// Counts the request bytes that a connection holds now for its client's address, in place of those
    /// that were counted before. Says whether the address may have so many.
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
