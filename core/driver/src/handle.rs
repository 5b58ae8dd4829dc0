//! The application's handle to a server: shutdown, broadcast, counters.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_channel::{Receiver, Sender, bounded};

use mcp_sse_core::{
    Authorization, Config, ConfigError, HealthExtras, Metrics, Peer, Reach, sse::Frame,
};

use super::control::Control;
use super::decisions::Authorizer;
use super::exchange::{ExchangeClient, ExchangeRequest, exchange_pair};
use super::shard_mailbox::{ShardMailbox, StopKind};
use super::shard_set::{ShardHandle, ShardSet};
use super::verdicts::VerdictCache;

/// The number of requests that may wait for a shard; senders of further ones wait.
const CONTROLS_MAX: usize = 64;

/// A handle to a running server. It is `Send` and cheap to clone, and reaches every shard of the server.
///
/// [`Listener::handle`](crate::Listener::handle) and [`Session::server`](crate::Session::server) return
/// one.
#[derive(Clone)]
pub struct Handle {
    whole: Arc<ShardHandles>,
}

/// The shards of a server.
struct ShardHandles {
    links: Mutex<Arc<[Arc<ShardHandle>]>>,
    /// The shard that gets the next exchange.
    next: AtomicUsize,
}

impl ShardHandles {
    fn links(&self) -> MutexGuard<'_, Arc<[Arc<ShardHandle>]>> {
        // Nothing panics while it holds the lock with a change half done.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A shard's end of a [`Handle`].
pub(super) struct ShardControl {
    pub(super) handle: Handle,
    pub(super) receiver: ControlReceiver,
    pub(super) shard_set: ShardSet,
    pub(super) authorizer: Option<Authorizer>,
    pub(super) cache: VerdictCache,
}

/// Requests of handles that wait for the shard.
pub(super) struct ControlReceiver(Receiver<Control>);

impl ControlReceiver {
    pub(super) fn take(&self) -> Option<Control> {
        self.0.try_recv().ok()
    }
}

impl Drop for ControlReceiver {
    /// A closed channel keeps the requests in it, and with them the senders of answers for which callers
    /// wait. So they are taken out and dropped, and the callers get [`Stopped`].
    fn drop(&mut self) {
        self.0.close();
        while self.0.try_recv().is_ok() {}
    }
}

/// A handle, and the end of its only shard.
pub(super) fn shard_control() -> (Handle, ShardControl) {
    let (sender, receiver) = bounded(CONTROLS_MAX);
    let link = ShardHandle::new(ShardMailbox::default(), sender);
    let links: Arc<[_]> = Arc::from([link.clone()]);
    let whole = ShardHandles { links: Mutex::new(links.clone()), next: AtomicUsize::new(0) };
    let handle = Handle { whole: Arc::new(whole) };
    let shard_set = ShardSet::new(links, 0, link);
    let controls = ShardControl {
        handle: handle.clone(),
        receiver: ControlReceiver(receiver),
        shard_set,
        authorizer: None,
        cache: VerdictCache::new(),
    };
    (handle, controls)
}

impl ShardControl {
    /// Has `authorizer` decide about each request to a shard with `config`. Fails with
    /// [`ConfigError::TwoAuthorizers`] if `config` has static tokens.
    pub(super) fn authorize(
        &mut self,
        config: &mut Config,
        authorizer: Authorizer,
    ) -> Result<(), ConfigError> {
        config.defer_authorization()?;
        self.authorizer = Some(authorizer);
        Ok(())
    }

    /// Fails with [`ConfigError::NoAuthorizer`] if `config` leaves decisions to an authorizer and there is
    /// none.
    pub(super) fn check(&self, config: &Config) -> Result<(), ConfigError> {
        match config.authorization() {
            Authorization::Deferred if self.authorizer.is_none() => Err(ConfigError::NoAuthorizer),
            Authorization::None | Authorization::Static(_) | Authorization::Deferred | _ => Ok(()),
        }
    }

    /// Makes the ends of `shards` shards out of that of one, for the same handle. It may be called
    /// once, with a number that [`worker_count`](super::worker_count) has checked.
    pub(super) fn split(mut self, shards: usize) -> Vec<Self> {
        let whole = self.handle.whole.clone();
        let mut links = whole.links();
        debug_assert_eq!(links.len(), 1, "split once");
        let first = self.shard_set.own().clone();
        let mut all = vec![first.clone()];
        let mut receivers = Vec::new();
        for _ in 1..shards {
            let (sender, receiver) = bounded(CONTROLS_MAX);
            // A shutdown that was requested before holds for the new shards as well.
            all.push(ShardHandle::new(first.mailbox.clone_pending(), sender));
            receivers.push(ControlReceiver(receiver));
        }
        *links = all.into();
        self.shard_set.join(links.clone());
        let others = receivers.into_iter().zip(links.iter().enumerate().skip(1));
        let others: Vec<_> = others
            .map(|(receiver, (number, link))| Self {
                handle: self.handle.clone(),
                receiver,
                shard_set: ShardSet::new(links.clone(), number, link.clone()),
                authorizer: self.authorizer.clone(),
                cache: self.cache.clone(),
            })
            .collect();
        core::iter::once(self).chain(others).collect()
    }
}

impl Handle {
    /// Shuts the server down: idle connections and sessions end at once, requests under way are
    /// answered, and connections that remain when
    /// [`Timeouts::shutdown_grace`](mcp_sse_core::Timeouts::shutdown_grace) is over are closed. To
    /// close them earlier, call [`abort`](Self::abort).
    ///
    /// Returns immediately; the listener's `serve` returns when the server has ended. Another call, by any
    /// clone of the handle, changes nothing.
    pub fn shutdown(&self) {
        self.stop(StopKind::Shutdown);
    }

    /// Ends the server at once: every connection is closed, requests under way get no answer, and what is
    /// queued for clients is lost. It may follow a [`shutdown`](Self::shutdown) that takes too long, or be
    /// the first call.
    ///
    /// Returns immediately; the listener's `serve` returns when the server has ended. Another call changes
    /// nothing.
    pub fn abort(&self) {
        self.stop(StopKind::Abort);
    }

    fn stop(&self, how: StopKind) {
        // Under the lock: a server that is being split into shards is stopped before or after that.
        self.whole.links().iter().for_each(|link| link.mailbox.stop(how));
    }

    /// Sends one frame to every session. The frame is encoded once and shared. A session whose queue is
    /// full does not get it, and is counted in the result.
    ///
    /// # Errors
    ///
    /// [`Stopped`] once the server has ended.
    pub async fn broadcast(&self, frame: Frame) -> Result<Reach, Stopped> {
        let reached = self.ask(|answer| Control::Broadcast(frame.clone(), answer)).await;
        let reached = reached.into_iter().filter_map(|(_, reach)| reach);
        reached.reduce(|sum, reach| sum + reach).ok_or(Stopped)
    }

    /// Sets what else `/health` and `/ready` report, in place of what was set before. Returns immediately.
    pub fn set_health_extras(&self, report: HealthExtras) {
        self.whole.links().iter().for_each(|link| link.mailbox.set_health_extras(report.clone()));
    }

    /// The counters of all shards together.
    ///
    /// # Errors
    ///
    /// [`Stopped`] once the server has ended.
    pub async fn metrics(&self) -> Result<Metrics, Stopped> {
        let answers = self.ask(Control::Metrics).await;
        if answers.iter().all(|(_, answer)| answer.is_none()) {
            return Err(Stopped);
        }
        let mut sum = Metrics::default();
        // A shard that has ended has left its last counters.
        let counted =
            answers.into_iter().filter_map(|(link, now)| now.or_else(|| link.last_metrics()));
        counted.for_each(|metrics| sum += &metrics);
        Ok(sum)
    }

    /// Passes a request on that another HTTP server has received. Each shard in turn gets one; a shard
    /// without room for a connection is passed over.
    ///
    /// # Errors
    ///
    /// [`Stopped`] once the server has ended.
    pub async fn exchange(
        &self,
        request: ExchangeRequest,
        peer: Peer,
    ) -> Result<ExchangeClient, Stopped> {
        let (exchange_pair, channel) = exchange_pair();
        let control = Control::Exchange(request, peer, channel);
        let link = self.next_shard().ok_or(Stopped)?;
        link.controls.send(control).await.map_err(|_| Stopped)?;
        link.mailbox.wake();
        Ok(exchange_pair)
    }

    /// The next shard that has room; without one, the next that has not ended.
    fn next_shard(&self) -> Option<Arc<ShardHandle>> {
        let links = self.whole.links().clone();
        let first = self.whole.next.fetch_add(1, Ordering::Relaxed) % links.len();
        let turns = || links.iter().cycle().skip(first).take(links.len());
        let found = turns().find(|link| link.has_room());
        // If none has room, the shard refuses the request.
        found.or_else(|| turns().find(|link| !link.controls.is_closed())).cloned()
    }

    /// Asks every shard. The answer of a shard that has ended is `None`.
    async fn ask<T>(
        &self,
        control: impl Fn(Sender<T>) -> Control,
    ) -> Vec<(Arc<ShardHandle>, Option<T>)> {
        let links = self.whole.links().clone();
        let mut asked = Vec::with_capacity(links.len());
        for link in links.iter() {
            let (answer, answered) = bounded(1);
            // A shard that has ended drops the question, and with it the sender of the answer.
            if link.controls.send(control(answer)).await.is_ok() {
                link.mailbox.wake();
            }
            asked.push((link, answered));
        }
        let mut answers = Vec::with_capacity(asked.len());
        for (link, answered) in asked {
            answers.push((link.clone(), answered.recv().await.ok()));
        }
        answers
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let links = self.whole.links().clone();
        let stopped = links.iter().all(|link| link.controls.is_closed());
        f.debug_struct("Handle").field("shards", &links.len()).field("stopped", &stopped).finish()
    }
}

/// The server has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server has ended")
    }
}

impl core::error::Error for Stopped {}
