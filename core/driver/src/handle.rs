//! The application's hold on a whole server: stopping it, reaching everyone, looking at counters.

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

/// Controls that wait for a shard; senders of further ones wait.
const CONTROLS_MAX: usize = 64;

/// A hold on a running server, `Send` and cheap to clone. It reaches every shard that the server has.
#[derive(Clone)]
pub struct Handle {
    whole: Arc<ShardHandles>,
}

/// A server, by its shards.
struct ShardHandles {
    links: Mutex<Arc<[Arc<ShardHandle>]>>,
    /// The shard that is to have the next exchange.
    next: AtomicUsize,
}

impl ShardHandles {
    fn links(&self) -> MutexGuard<'_, Arc<[Arc<ShardHandle>]>> {
        // Nothing in here panics half-way.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The other end of a [`Handle`], for the shard that it is to control.
pub struct ShardControl {
    pub(super) handle: Handle,
    pub(super) receiver: ControlReceiver,
    pub(super) shard_set: ShardSet,
    pub(super) authorizer: Option<Authorizer>,
    pub(super) cache: VerdictCache,
}

/// Controls that wait for the shard.
pub(super) struct ControlReceiver(Receiver<Control>);

impl ControlReceiver {
    pub(super) fn take(&self) -> Option<Control> {
        self.0.try_recv().ok()
    }
}

impl Drop for ControlReceiver {
    /// Closing a channel leaves in it what nobody took, and with that the senders of answers that
    /// somebody waits for: so they are taken out.
    fn drop(&mut self) {
        self.0.close();
        while self.0.try_recv().is_ok() {}
    }
}

/// A handle and its other end.
#[must_use]
pub fn shard_control() -> (Handle, ShardControl) {
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
    /// Has `authorizer` decide about each request to a shard with `config`, and remembers what it
    /// says as `cache` has it. For whoever has a shard without a [`Bound`](super::Bound).
    ///
    /// # Errors
    ///
    /// [`ConfigError::TwoAuthorizers`] if there are static tokens.
    pub fn authorize(
        &mut self,
        config: &mut Config,
        authorizer: Authorizer,
        cache: VerdictCache,
    ) -> Result<(), ConfigError> {
        config.defer_authorization()?;
        self.authorizer = Some(authorizer);
        self.cache = cache;
        Ok(())
    }

    /// Whether somebody decides, if that configuration has somebody decide.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoAuthorizer`] if nobody does.
    pub fn check(&self, config: &Config) -> Result<(), ConfigError> {
        match config.authorization() {
            Authorization::Deferred if self.authorizer.is_none() => Err(ConfigError::NoAuthorizer),
            Authorization::None | Authorization::Static(_) | Authorization::Deferred | _ => Ok(()),
        }
    }

    /// Makes the controls of one shard into those of `shards` of them, for the same handle. Once, and
    /// of a number that has been checked.
    pub(super) fn split(mut self, shards: usize) -> Vec<Self> {
        let whole = self.handle.whole.clone();
        let mut links = whole.links();
        debug_assert_eq!(links.len(), 1, "split once");
        let first = self.shard_set.own().clone();
        let mut all = vec![first.clone()];
        let mut receivers = Vec::new();
        for _ in 1..shards {
            let (sender, receiver) = bounded(CONTROLS_MAX);
            // Whoever has stopped the server already has stopped all of it.
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
    /// Stops the server in order: idle connections and sessions end at once, requests under way are
    /// answered, and what is left when
    /// [`Timeouts::shutdown_grace`](mcp_sse_core::Timeouts::shutdown_grace) is over is cut. To cut it
    /// earlier, call [`abort`](Self::abort).
    ///
    /// Returns immediately; the adapter's `serve` returns when it is done. Calling this again, from
    /// whatever clone of the handle, changes nothing.
    pub fn shutdown(&self) {
        self.stop(StopKind::Shutdown);
    }

    /// Stops the server at once: every connection is cut, requests under way get no answer, and what
    /// is queued for clients is lost. It may follow a [`shutdown`](Self::shutdown) that takes too
    /// long, or come alone.
    ///
    /// Returns immediately; the adapter's `serve` returns when it is done. Calling this again changes
    /// nothing.
    pub fn abort(&self) {
        self.stop(StopKind::Abort);
    }

    fn stop(&self, how: StopKind) {
        // Under the lock: a server that is about to begin with more shards stops with all of them.
        self.whole.links().iter().for_each(|link| link.mailbox.stop(how));
    }

    /// Sends one frame to every session. It is encoded once and shared; a session whose queue is
    /// full is left out, and counted.
    ///
    /// # Errors
    ///
    /// [`Stopped`] once the server has ended.
    pub async fn broadcast(&self, frame: Frame) -> Result<Reach, Stopped> {
        let reached = self.ask(|answer| Control::Broadcast(frame.clone(), answer)).await;
        let reached = reached.into_iter().filter_map(|(_, reach)| reach);
        reached.reduce(|sum, reach| sum + reach).ok_or(Stopped)
    }

    /// Says what else `/health` and `/ready` are to tell, in place of what was said before. Returns
    /// immediately.
    pub fn set_health_extras(&self, report: HealthExtras) {
        self.whole.links().iter().for_each(|link| link.mailbox.set_health_extras(report.clone()));
    }

    /// A copy of the counters, of all shards together.
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
        // Shards end one after the other, and what they have counted does not.
        let counted =
            answers.into_iter().filter_map(|(link, now)| now.or_else(|| link.last_metrics()));
        counted.for_each(|metrics| sum += &metrics);
        Ok(sum)
    }

    /// Puts a request to the server whose HTTP is spoken by the caller. The shards take turns at
    /// them; one without room for a connection is passed over.
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

    /// The shard whose turn it is, if it or any other takes something.
    fn next_shard(&self) -> Option<Arc<ShardHandle>> {
        let links = self.whole.links().clone();
        let first = self.whole.next.fetch_add(1, Ordering::Relaxed) % links.len();
        let turns = || links.iter().cycle().skip(first).take(links.len());
        let found = turns().find(|link| link.has_room());
        // If none has room it is for one of them to say so.
        found.or_else(|| turns().find(|link| !link.controls.is_closed())).cloned()
    }

    /// Asks every shard. A shard that has ended answers nothing.
    async fn ask<T>(
        &self,
        control: impl Fn(Sender<T>) -> Control,
    ) -> Vec<(Arc<ShardHandle>, Option<T>)> {
        let links = self.whole.links().clone();
        let mut asked = Vec::with_capacity(links.len());
        for link in links.iter() {
            let (answer, answered) = bounded(1);
            // One that has ended drops the other end of the answer with the question.
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

impl fmt::Debug for ShardControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardControl").field("waiting", &self.receiver.0.len()).finish()
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
