//! The application's handle of a whole server ([`Handle`]) and the shards' end of it
//! ([`ShardControl`]): stop, broadcast, counters, exchanges.
//!
//! Knows: the shards of a server, and how to reach each. Does not know: threads, or what a shard does
//! with a [`Control`].

use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use core::{fmt, iter};
use std::io;
use std::sync::Arc;

use async_channel::{Receiver, Sender, bounded};

use mcp_sse_core::{
    Authorization, Config, ConfigError, HealthExtras, Metrics, NoStaticTokens, Peer, Reach,
    StaticTokens, sse::Frame,
};

use super::control::Control;
use super::decisions::Authorizer;
use super::exchange::{ExchangeClient, ExchangeRequest, exchange_pair};
use super::published::Wanted;
use super::shard_mailbox::{ShardMailbox, StopKind};
use super::shard_set::{ShardHandle, ShardSet};
use super::shared::Shared;
use super::verdicts::VerdictCache;

/// How many controls may wait for a shard. While that many wait, the calls that send one wait too.
const CONTROLS_MAX: usize = 64;

/// A handle of a running server: it stops the server, broadcasts, and reads the counters.
///
/// It is `Send` and cheap to clone, belongs to no runtime, and reaches every shard of the server.
/// [`Listener::handle`](crate::Listener::handle) and [`Session::server`](crate::Session::server) return
/// one.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
/// use mcp_sse_driver::Handle;
///
/// async fn status(server: &Handle) -> String {
///     match server.metrics().await {
///         Ok(metrics) => format!("{} sessions", metrics.sessions_open()),
///         Err(stopped) => stopped.to_string(),
///     }
/// }
/// # fn main() -> std::io::Result<()> {
/// # serve_client(&[], async |session| {
/// #     assert_eq!(status(session.server()).await, "1 sessions");
/// # })?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Handle {
    shards: Arc<ShardHandles>,
}

/// The shards of a server.
struct ShardHandles {
    handles: Shared<Arc<[Arc<ShardHandle>]>>,
    /// The shard that gets the next exchange.
    next: AtomicUsize,
    /// What the shards have to publish: a [`Wanted`].
    wanted: AtomicU8,
    /// The static tokens that replace those of the configuration. They are kept here, and not sent to each
    /// shard, so that they also reach a shard that is made later, and so that all shards end with the same
    /// tokens if two callers replace them at the same time.
    tokens: Shared<Option<StaticTokens>>,
}

/// A shard's end of a [`Handle`]: what a [`Shard`](super::shard::Shard) is made with.
pub(super) struct ShardControl {
    pub(super) handle: Handle,
    pub(super) receiver: ControlReceiver,
    pub(super) shard_set: ShardSet,
    pub(super) authorizer: Option<Authorizer>,
    pub(super) cache: VerdictCache,
}

/// The controls that wait for a shard.
pub(super) struct ControlReceiver(Receiver<Control>);

impl ControlReceiver {
    pub(super) fn take(&self) -> Option<Control> {
        self.0.try_recv().ok()
    }
}

impl Drop for ControlReceiver {
    /// A closed channel keeps its items, and with them the senders of replies that callers wait for.
    /// Taking the items drops those senders, so each caller learns that the server has ended.
    fn drop(&mut self) {
        self.0.close();
        while self.0.try_recv().is_ok() {}
    }
}

fn new_shard(mailbox: ShardMailbox) -> (Arc<ShardHandle>, ControlReceiver) {
    let (sender, receiver) = bounded(CONTROLS_MAX);
    (ShardHandle::new(mailbox, sender), ControlReceiver(receiver))
}

/// Makes the [`Handle`] of a server of one shard, and the [`ShardControl`] of that shard.
pub(super) fn shard_control() -> (Handle, ShardControl) {
    let (shard, receiver) = new_shard(ShardMailbox::default());
    let handles: Arc<[_]> = Arc::from([shard.clone()]);
    let shards = ShardHandles {
        handles: Shared::new(handles.clone()),
        next: AtomicUsize::new(0),
        wanted: AtomicU8::new(Wanted::Nothing as u8),
        tokens: Shared::new(None),
    };
    let handle = Handle { shards: Arc::new(shards) };
    let shard_set = ShardSet::new(handles, 0, shard);
    let controls = ShardControl {
        handle: handle.clone(),
        receiver,
        shard_set,
        authorizer: None,
        cache: VerdictCache::new(),
    };
    (handle, controls)
}

impl ShardControl {
    /// Makes `authorizer` decide about each request to a shard with `config`, and `cache` say for how
    /// long its verdicts are reused.
    ///
    /// `config` is changed to [`Authorization::Deferred`]. Fails with [`ConfigError::TwoAuthorizers`] if
    /// it has static tokens.
    pub(super) fn authorize(
        &mut self,
        config: &mut Config,
        authorizer: Authorizer,
    ) -> io::Result<()> {
        config.defer_authorization().map_err(invalid)?;
        self.authorizer = Some(authorizer);
        Ok(())
    }

    /// Fails with [`ConfigError::NoAuthorizer`] if `config` has [`Authorization::Deferred`] and there is
    /// no authorizer.
    pub(super) fn check(&self, config: &Config) -> io::Result<()> {
        match config.authorization() {
            Authorization::Deferred if self.authorizer.is_none() => {
                Err(invalid(ConfigError::NoAuthorizer))
            }
            Authorization::None | Authorization::Static(_) | Authorization::Deferred | _ => Ok(()),
        }
    }

    /// Splits the control of one shard into the controls of `count` shards with the same handle.
    ///
    /// It may be called once, with a number that [`worker_count`](super::worker_count) has checked.
    pub(super) fn split(mut self, count: usize) -> Vec<Self> {
        let shards = self.handle.shards.clone();
        let mut handles = shards.handles.lock();
        debug_assert_eq!(handles.len(), 1, "split once");
        let first = self.shard_set.own().clone();
        // A stop that was requested before the split reaches every shard.
        let further = (1..count).map(|_| new_shard(first.mailbox.clone_pending()));
        let (others, receivers): (Vec<_>, Vec<_>) = further.unzip();
        *handles = iter::once(first.clone()).chain(others).collect();
        self.shard_set.join(handles.clone());
        let others = receivers.into_iter().zip(handles.iter().enumerate().skip(1));
        let others: Vec<_> = others
            .map(|(receiver, (number, shard))| Self {
                handle: self.handle.clone(),
                receiver,
                shard_set: ShardSet::new(handles.clone(), number, shard.clone()),
                authorizer: self.authorizer.clone(),
                cache: self.cache.clone(),
            })
            .collect();
        iter::once(self).chain(others).collect()
    }
}

/// A mistake of the application's, as a listener reports it.
fn invalid(error: ConfigError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

impl Handle {
    /// Shuts the server down in order.
    ///
    /// Idle connections and sessions without a request in flight end at once. Requests in flight can still be
    /// answered, and new requests get 503. Connections that are left after
    /// [`Timeouts::shutdown_grace`](mcp_sse_core::Timeouts::shutdown_grace) are cut;
    /// [`abort`](Self::abort) cuts them earlier.
    ///
    /// With [`Timeouts::drain_delay`](mcp_sse_core::Timeouts::drain_delay) the server first goes on as before for
    /// that time, and only `/ready` is answered 503. With
    /// [`Timeouts::drain_spread`](mcp_sse_core::Timeouts::drain_spread) sessions without a request in flight end
    /// one by one over that time.
    ///
    /// Returns immediately; the listener's `serve` returns when every connection has ended. Calling it
    /// again, on any clone of the handle, changes nothing.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_driver::Handle;
    /// async fn stop_on(signal: impl Future<Output = ()>, server: Handle) {
    ///     signal.await;
    ///     server.shutdown();
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # serve_client(&[], async |session| {
    /// #     stop_on(core::future::ready(()), session.server().clone()).await;
    /// # })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn shutdown(&self) {
        self.stop(StopKind::Shutdown);
    }

    /// Stops the server at once: every connection is cut, requests in progress get no response, and
    /// queued frames are lost.
    ///
    /// It may follow a [`shutdown`](Self::shutdown) that takes too long, or be called alone. Returns
    /// immediately; the listener's `serve` returns when every connection has ended. Calling it again
    /// changes nothing.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_driver::Handle;
    /// /// The first interrupt shuts down in order, the second at once.
    /// fn interrupted(server: &Handle, times: u32) {
    ///     if times == 1 { server.shutdown() } else { server.abort() }
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # serve_client(&[], async |session| {
    /// #     interrupted(session.server(), 1);
    /// #     interrupted(session.server(), 2);
    /// # })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn abort(&self) {
        self.stop(StopKind::Abort);
    }

    fn stop(&self, how: StopKind) {
        // The lock is held so that a concurrent `split` cannot add a shard that is not stopped.
        self.shards.handles.lock().iter().for_each(|shard| shard.mailbox.stop(how));
    }

    /// Sends one frame to every open session, and returns how many sessions queued it.
    ///
    /// The frame is encoded once and shared. A session whose queue is full does not get it and is
    /// counted in [`Reach::full`]. If the server does not serve yet, this waits until it does.
    ///
    /// # Errors
    ///
    /// [`Stopped`] once the server has ended.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_core::sse::Frame;
    /// # use mcp_sse_driver::{Handle, Stopped};
    /// async fn announce_tools(server: &Handle) -> Result<u32, Stopped> {
    ///     let json = br#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
    ///     let reach = server.broadcast(Frame::message(json).expect("valid JSON")).await?;
    ///     Ok(reach.queued)
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # let received = serve_client(&[], async |session| {
    /// #     assert_eq!(announce_tools(session.server()).await, Ok(1));
    /// # })?;
    /// # assert!(received.contains("list_changed"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn broadcast(&self, frame: Frame) -> Result<Reach, Stopped> {
        let replies = self.request(|reply| Control::Broadcast(frame.clone(), reply)).await;
        let reached = replies.into_iter().filter_map(|(_, reach)| reach);
        reached.reduce(|sum, reach| sum + reach).ok_or(Stopped)
    }

    /// Sets what the application adds to the responses of `/health` and `/ready`, in place of what it
    /// added before. The default is nothing. Returns immediately.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_core::HealthExtras;
    /// # use mcp_sse_driver::Handle;
    /// fn database_lost(server: &Handle) {
    ///     server.set_health_extras(HealthExtras::new().not_ready("no database"));
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # serve_client(&[], async |session| database_lost(session.server()))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_health_extras(&self, extras: HealthExtras) {
        self.shards
            .handles
            .lock()
            .iter()
            .for_each(|shard| shard.mailbox.set_health_extras(extras.clone()));
    }

    /// Returns a copy of the counters, summed over all shards. If the server does not serve yet, this waits until it
    /// does.
    ///
    /// # Errors
    ///
    /// [`Stopped`] once the server has ended.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_driver::{Handle, Stopped};
    /// async fn sessions_open(server: &Handle) -> Result<u64, Stopped> {
    ///     Ok(server.metrics().await?.sessions_open())
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # serve_client(&[], async |session| {
    /// #     assert_eq!(sessions_open(session.server()).await, Ok(1));
    /// # })?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn metrics(&self) -> Result<Metrics, Stopped> {
        let replies = self.request(Control::Metrics).await;
        if replies.iter().all(|(_, reply)| reply.is_none()) {
            return Err(Stopped);
        }
        let mut sum = Metrics::default();
        // Shards end one after the other; the last counters of an ended shard still count.
        let counted = replies
            .into_iter()
            .filter_map(|(shard, now)| now.or_else(|| shard.last_metrics().cloned()));
        counted.for_each(|metrics| sum += &metrics);
        Ok(sum)
    }

    /// Replaces the static tokens of every shard, for example after a change of the file that they are from.
    ///
    /// From here on, requests are accepted with the new tokens only. Sessions that were opened with a token that is
    /// not among them end, with the reason [`CloseReason::TokenRemoved`](mcp_sse_core::CloseReason::TokenRemoved);
    /// [`Server::replace_tokens`](mcp_sse_core::Server::replace_tokens) describes which. If the server does not serve
    /// yet, this waits until it does. If the future is dropped before it is ready, some shards may have the new tokens
    /// and others not, until the next call.
    ///
    /// # Errors
    ///
    /// [`ReplaceTokensError::NoStaticTokens`] if the configuration has no
    /// [static tokens](mcp_sse_core::Authorization::Static), and [`ReplaceTokensError::Stopped`] once the server has
    /// ended.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_core::StaticTokens;
    /// # use mcp_sse_driver::{Handle, ReplaceTokensError};
    /// async fn admit_only_bob(server: &Handle) -> Result<(), ReplaceTokensError> {
    ///     let tokens = StaticTokens::builder().token("bob", "s3cr3t-for-bob").build();
    ///     server.replace_tokens(tokens.expect("a valid token")).await
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # serve_client(&[], async |session| {
    /// #     assert_eq!(admit_only_bob(session.server()).await, Ok(()));
    /// # })?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn replace_tokens(&self, tokens: StaticTokens) -> Result<(), ReplaceTokensError> {
        *self.shards.tokens.lock() = Some(tokens);
        let replies = self.request(Control::ReplaceTokens).await;
        let replies = replies.into_iter().filter_map(|(_, replaced)| replaced);
        // All shards have the same configuration, so all of them give the same reply.
        match replies.reduce(Result::and) {
            Some(Ok(())) => Ok(()),
            Some(Err(NoStaticTokens)) => Err(ReplaceTokensError::NoStaticTokens),
            None => Err(ReplaceTokensError::Stopped),
        }
    }

    /// Gives the server a request that the caller's own HTTP server has read, from the client `peer`.
    ///
    /// The caller then passes the body to the returned [`ExchangeClient`] and writes the response that
    /// it yields. Requests are given to the shards in turn; a shard without room for a connection is
    /// skipped. If the server does not serve yet, the request is only queued, and is handled when the server serves.
    ///
    /// # Errors
    ///
    /// [`Stopped`] once the server has ended. A server without room returns no error: the response
    /// head is then `None` (see [`ExchangeClient::poll_head`]).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use core::future::poll_fn;
    /// # use mcp_sse_core::Peer;
    /// # use mcp_sse_driver::{ExchangeRequest, Handle, Stopped};
    /// async fn health_status(server: &Handle) -> Result<Option<u16>, Stopped> {
    ///     let request = ExchangeRequest {
    ///         method: "GET".into(),
    ///         target: "/health".into(),
    ///         fields: vec![("host".into(), b"localhost".to_vec())],
    ///         mount: String::new(),
    ///     };
    ///     let mut client = server.exchange(request, Peer::local()).await?;
    ///     client.end_input();
    ///     let head = poll_fn(|cx| client.poll_head(cx)).await;
    ///     Ok(head.map(|head| head.status()))
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # serve_client(&[], async |session| {
    /// #     assert_eq!(health_status(session.server()).await, Ok(Some(200)));
    /// # })?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn exchange(
        &self,
        request: ExchangeRequest,
        peer: Peer,
    ) -> Result<ExchangeClient, Stopped> {
        let (client, socket) = exchange_pair();
        let control = Control::Exchange(request, peer, socket);
        let shard = self.next_shard().ok_or(Stopped)?;
        shard.controls.send(control).await.map_err(|_| Stopped)?;
        shard.mailbox.wake();
        Ok(client)
    }

    /// Makes every shard publish this from now on.
    pub(super) fn want(&self, wanted: Wanted) {
        self.shards.wanted.fetch_max(wanted as u8, Ordering::Relaxed);
        self.shards().iter().for_each(|shard| shard.mailbox.wake());
    }

    /// The static tokens of the last [`replace_tokens`](Self::replace_tokens), if there was one.
    pub(super) fn replaced_tokens(&self) -> Option<StaticTokens> {
        self.shards.tokens.lock().clone()
    }

    /// What every shard has to publish.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted::numbered(self.shards.wanted.load(Ordering::Relaxed))
    }

    /// The shards of the server.
    pub(super) fn shards(&self) -> Arc<[Arc<ShardHandle>]> {
        self.shards.handles.lock().clone()
    }

    /// The next shard in turn that has room; if none has, the next that has not ended.
    fn next_shard(&self) -> Option<Arc<ShardHandle>> {
        let shards = self.shards();
        let first = self.shards.next.fetch_add(1, Ordering::Relaxed) % shards.len();
        let turns = || shards.iter().cycle().skip(first).take(shards.len());
        let found = turns().find(|shard| shard.has_room());
        // A shard without room refuses the request itself, and counts the refusal.
        found.or_else(|| turns().find(|shard| !shard.controls.is_closed())).cloned()
    }

    /// Sends a control to every shard and waits for the replies. A shard that has ended has none.
    async fn request<T>(
        &self,
        control: impl Fn(Sender<T>) -> Control,
    ) -> Vec<(Arc<ShardHandle>, Option<T>)> {
        let shards = self.shards();
        let mut pending = Vec::with_capacity(shards.len());
        for shard in shards.iter() {
            let (reply, replied) = bounded(1);
            // If the shard has ended, the control is dropped with the sender of its reply.
            if shard.controls.send(control(reply)).await.is_ok() {
                shard.mailbox.wake();
            }
            pending.push((shard, replied));
        }
        let mut replies = Vec::with_capacity(pending.len());
        for (shard, replied) in pending {
            replies.push((shard.clone(), replied.recv().await.ok()));
        }
        replies
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards = self.shards();
        let stopped = shards.iter().all(|shard| shard.controls.is_closed());
        f.debug_struct("Handle").field("shards", &shards.len()).field("stopped", &stopped).finish()
    }
}

/// The error of [`Handle::replace_tokens`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplaceTokensError {
    /// The server does not authorize requests by static tokens.
    NoStaticTokens,
    /// The server has ended.
    Stopped,
}

impl fmt::Display for ReplaceTokensError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStaticTokens => NoStaticTokens.fmt(f),
            Self::Stopped => Stopped.fmt(f),
        }
    }
}

impl core::error::Error for ReplaceTokensError {}

/// The error of a call to a server that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server has ended")
    }
}

impl core::error::Error for Stopped {}
