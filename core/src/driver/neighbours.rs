//! The shards of one server, as they see each other.
//!
//! Knows: how a post gets to the shard that has its session, how its answer gets back, and what each
//! shard has open. Does not know: threads, or what a session is.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use async_channel::Sender;

use super::attention::{Attention, Parcel};
use super::handle::Control;
use crate::config::Config;
use crate::event::{ForwardedPost, Outcome, PostTicket};
use crate::metrics::Metrics;
use crate::server::Server;
use crate::token::Shard;

/// What everybody who has to do with one shard of a server shares about it.
pub(super) struct Link {
    pub(super) attention: Attention,
    pub(super) controls: Sender<Control>,
    /// What the shard has open. The other shards read it before they answer whoever asks, so it is
    /// written before anybody can know of the change.
    sessions: AtomicU32,
    connections: AtomicU32,
    /// Whether it would take a connection.
    room: AtomicBool,
    /// The counters of a shard that has ended.
    last: Mutex<Option<Box<Metrics>>>,
}

impl Link {
    pub(super) fn new(attention: Attention, controls: Sender<Control>) -> Arc<Self> {
        Arc::new(Self {
            attention,
            controls,
            sessions: AtomicU32::new(0),
            connections: AtomicU32::new(0),
            room: AtomicBool::new(true),
            last: Mutex::default(),
        })
    }

    pub(super) fn has_room(&self) -> bool {
        self.room.load(Ordering::Acquire) && !self.controls.is_closed()
    }

    pub(super) fn last_metrics(&self) -> Option<Metrics> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).as_deref().cloned()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("ended", &self.controls.is_closed()).finish_non_exhaustive()
    }
}

/// One shard's place among the shards of its server. Dropping it ends that place: posts that wait in
/// it, and posts that come, are answered 503.
pub(super) struct Neighbours {
    links: Arc<[Arc<Link>]>,
    number: usize,
    own: Arc<Link>,
}

impl Neighbours {
    pub(super) fn new(links: Arc<[Arc<Link>]>, number: usize, own: Arc<Link>) -> Self {
        Self { links, number, own }
    }

    /// There are other shards beside this one, which has been the only one so far.
    pub(super) fn join(&mut self, links: Arc<[Arc<Link>]>) {
        self.links = links;
    }

    pub(super) const fn own(&self) -> &Arc<Link> {
        &self.own
    }

    pub(super) fn shards(&self) -> usize {
        self.links.len()
    }

    fn alone(&self) -> bool {
        self.links.len() == 1
    }

    /// The configuration of this shard of a server that is to have `config` as a whole.
    pub(super) fn configure(&self, mut config: Config) -> Config {
        if !self.alone() {
            let shards = u16::try_from(self.links.len()).expect("invariant: WORKERS_MAX");
            config.shard = Shard(self.number as u16);
            config.forwarding = true;
            config.limits = config.limits.share_of(shards);
        }
        config
    }

    /// Sends a post to the shard of its session.
    ///
    /// # Errors
    ///
    /// The ticket, and the answer that can be given at once.
    pub(super) fn forward(
        &self,
        post: ForwardedPost,
        ticket: PostTicket,
    ) -> Result<(), (PostTicket, Outcome)> {
        match self.links.get(usize::from(post.shard().0)) {
            None => Err((ticket, Outcome::UnknownSession)),
            Some(link) => {
                let parcel = Parcel { post, ticket, from: self.number };
                link.attention.post(parcel).map_err(|ticket| (ticket, Outcome::Busy))
            }
        }
    }

    /// Says what became of a post to the shard that sent it.
    pub(super) fn answer(&self, to: usize, ticket: PostTicket, outcome: Outcome) {
        if let Some(link) = self.links.get(to) {
            link.attention.outcome(ticket, outcome);
        }
    }

    /// Tells the others what this shard has open, and this shard's server what the others have.
    pub(super) fn compare(&self, server: &mut Server) {
        if self.alone() {
            return;
        }
        self.own.sessions.store(server.sessions_open(), Ordering::Release);
        self.own.connections.store(server.connections_open(), Ordering::Release);
        self.own.room.store(server.can_accept(), Ordering::Release);
        let (mut sessions, mut connections) = (0_u32, 0_u32);
        for (_, link) in self.links.iter().enumerate().filter(|(at, _)| *at != self.number) {
            sessions = sessions.saturating_add(link.sessions.load(Ordering::Acquire));
            connections = connections.saturating_add(link.connections.load(Ordering::Acquire));
        }
        server.handle_elsewhere(sessions, connections);
    }

    /// The shard ends with these counters.
    pub(super) fn leave(&self, metrics: &Metrics) {
        let mut last = self.own.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(Box::new(metrics.clone()));
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        for Parcel { ticket, from, .. } in self.own.attention.close() {
            self.answer(from, ticket, Outcome::Busy);
        }
        self.own.sessions.store(0, Ordering::Release);
        self.own.connections.store(0, Ordering::Release);
    }
}
