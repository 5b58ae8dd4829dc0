//! The application's hold on a whole server: stopping it, reaching everyone, looking at counters.

use alloc::sync::Arc;
use core::fmt;

use async_channel::{Receiver, Sender, bounded};

use super::attention::Attention;
use super::exchange::{Channel, Conversation, ExchangeRequest, conversation};
use crate::event::Reach;
use crate::metrics::Metrics;
use crate::peer::Peer;
use crate::report::Report;
use crate::sse::Frame;

/// Controls that wait for a shard; senders of further ones wait.
const CONTROLS_MAX: usize = 64;

pub(super) enum Control {
    Broadcast(Frame, Sender<Reach>),
    Metrics(Sender<Metrics>),
    Exchange(ExchangeRequest, Peer, Channel),
}

/// A hold on a running server, `Send` and cheap to clone.
#[derive(Clone)]
pub struct Handle {
    attention: Arc<Attention>,
    controls: Sender<Control>,
}

/// The other end of a [`Handle`], for the shard that it is to control.
pub struct Controls {
    pub(super) handle: Handle,
    pub(super) inbox: Inbox,
}

/// Controls that wait for the shard.
pub(super) struct Inbox(Receiver<Control>);

impl Inbox {
    pub(super) fn take(&self) -> Option<Control> {
        self.0.try_recv().ok()
    }
}

impl Drop for Inbox {
    /// Closing a channel leaves in it what nobody took, and with that the senders of answers that
    /// somebody waits for: so they are taken out.
    fn drop(&mut self) {
        self.0.close();
        while self.0.try_recv().is_ok() {}
    }
}

/// A handle and its other end.
#[must_use]
pub fn controls() -> (Handle, Controls) {
    let attention = Arc::new(Attention::default());
    let (sender, receiver) = bounded(CONTROLS_MAX);
    let handle = Handle { attention, controls: sender };
    (handle.clone(), Controls { handle, inbox: Inbox(receiver) })
}

impl Handle {
    /// Stops the server: idle connections and sessions end at once, requests under way are answered,
    /// and what is left when the grace is over is cut. Called again, everything is cut at once.
    ///
    /// Returns immediately; the adapter's `serve` returns when it is done.
    pub fn shutdown(&self) {
        self.attention.shutdown();
    }

    /// Sends one frame to every session. It is encoded once and shared; a session whose queue is
    /// full is left out, and counted.
    ///
    /// # Errors
    ///
    /// [`Stopped`] once the server has ended.
    pub async fn broadcast(&self, frame: Frame) -> Result<Reach, Stopped> {
        self.ask(|answer| Control::Broadcast(frame, answer)).await
    }

    /// Says what else `/health` and `/ready` are to tell, in place of what was said before. Returns
    /// immediately.
    pub fn report(&self, report: Report) {
        self.attention.report(report);
    }

    /// A copy of the counters.
    ///
    /// # Errors
    ///
    /// [`Stopped`] once the server has ended.
    pub async fn metrics(&self) -> Result<Metrics, Stopped> {
        self.ask(Control::Metrics).await
    }

    /// Puts a request to the server whose HTTP is spoken by the caller.
    ///
    /// # Errors
    ///
    /// [`Stopped`] once the server has ended.
    pub async fn exchange(
        &self,
        request: ExchangeRequest,
        peer: Peer,
    ) -> Result<Conversation, Stopped> {
        let (conversation, channel) = conversation();
        let control = Control::Exchange(request, peer, channel);
        self.controls.send(control).await.map_err(|_| Stopped)?;
        self.attention.wake();
        Ok(conversation)
    }

    pub(super) fn attention(&self) -> &Attention {
        &self.attention
    }

    async fn ask<T>(&self, control: impl FnOnce(Sender<T>) -> Control) -> Result<T, Stopped> {
        let (answer, answered) = bounded(1);
        self.controls.send(control(answer)).await.map_err(|_| Stopped)?;
        self.attention.wake();
        answered.recv().await.map_err(|_| Stopped)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("stopped", &self.controls.is_closed()).finish()
    }
}

impl fmt::Debug for Controls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controls").field("waiting", &self.inbox.0.len()).finish()
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
