//! One process for all sessions.
//!
//! Knows: the task that owns the process, and the way from each session to it and back, over threads.
//! Does not know: the rules by which sessions share (see [`mux`](super::mux)).
//!
//! Theory of operation. One task owns the process; it runs beside the processes. It takes the messages of sessions
//! from one bounded queue: while the process does not read, that fills, sessions wait, and their clients' posts
//! are held. What the process prints goes into a queue of frames for each session, which that session's own task
//! empties. A full one stops the reading of the process, and so all sessions: a session may do so for
//! [`SLOW_MAX`] in all, and is closed when that is spent. So no message is left out without an error, and no
//! session waits for long for another one.

mod frame_queue;
mod joined_session;
mod owner;
mod restart_backoff;

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use async_channel::{Sender, bounded, unbounded};
use core::future::poll_fn;
use mcp_sse_core::jsonrpc::{Message, code, error_body};
use mcp_sse_core::{Frame, SendError};
use mcp_sse_driver::{LogThrottle, Session, SessionSender};
use smol::future;

use super::children::Children;
use super::command::ServerCommand;
use super::mux::SessionKey;
use frame_queue::{FrameReceiver, FrameSender, frame_queue};
use owner::ProcessOwner;

pub use frame_queue::{BYTES_MAX as QUEUE_BYTES_MAX, FRAMES_MAX as QUEUE_FRAMES_MAX};
pub use joined_session::{SLOW_MAX, SLOW_PERIOD};
pub use restart_backoff::{PAUSE_FIRST, PAUSE_MAX, STABLE_AFTER};

/// How many messages of all sessions may wait for the owner. Sessions that find no room wait.
const INPUT_MAX: usize = 256;

/// Serves sessions with one process for all, which is started at the first message of the first session, and
/// again whenever it has ended. Cheap to clone; the process ends with the last clone.
#[derive(Clone)]
pub struct SharedProcess {
    command: Arc<ServerCommand>,
    children: Children,
    owner: OwnerHandle,
}

/// The way from sessions to the owner.
#[derive(Clone)]
struct OwnerHandle {
    input: Sender<SessionInput>,
    /// Sessions that have left. Unbounded, because a session leaves when its future is dropped, where nothing can
    /// wait for room; each session leaves once, so it holds no more than there are sessions.
    departures: Sender<SessionKey>,
    /// The next session's key.
    keys_given: Arc<AtomicU64>,
}

/// What sessions send to the owner.
enum SessionInput {
    Join { key: SessionKey, name: String, frames: FrameSender },
    Message(SessionKey, Message),
}

impl SharedProcess {
    /// Serves sessions with this command; `name` is what the process is called in the log. Nothing is started yet.
    #[must_use]
    pub fn new(children: Children, command: ServerCommand, name: impl Into<String>) -> Self {
        let (sender, input) = bounded(INPUT_MAX);
        let (departures, departed) = unbounded();
        let command = Arc::new(command);
        let owner =
            ProcessOwner::new(children.clone(), command.clone(), name.into(), input, departed);
        children.run(owner.run());
        let owner = OwnerHandle { input: sender, departures, keys_given: Arc::default() };
        Self { command, children, owner }
    }

    /// What is run.
    #[must_use]
    pub fn command(&self) -> &ServerCommand {
        &self.command
    }

    /// All processes; one of them is this one's.
    #[must_use]
    pub const fn children(&self) -> &Children {
        &self.children
    }

    /// Serves one session until its client leaves, or it was slow for too long.
    pub async fn serve(&self, mut session: Session) {
        // Clients open streams that they never use: those do not join.
        let Some(first) = session.recv().await else { return };
        let Some((key, frames)) = self.owner.join(session.id().to_string()).await else { return };
        let sender = session.sender();
        let up = self.owner.pass_on(key.0, &mut session, first);
        future::or(up, deliver(&frames, &sender)).await;
    }
}

impl fmt::Debug for SharedProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedProcess")
            .field("command", &self.command)
            .field("waiting", &self.owner.input.len())
            .finish_non_exhaustive()
    }
}

/// Tells the owner that a session has left, when this is dropped.
struct LeaveOnDrop(SessionKey, Sender<SessionKey>);

impl Drop for LeaveOnDrop {
    fn drop(&mut self) {
        // The owner may have ended.
        let _ = self.1.try_send(self.0);
    }
}

impl OwnerHandle {
    async fn join(&self, name: String) -> Option<(LeaveOnDrop, FrameReceiver)> {
        let key = SessionKey(self.keys_given.fetch_add(1, Relaxed));
        let leaves = LeaveOnDrop(key, self.departures.clone());
        let (frames, receiver) = frame_queue();
        self.input.send(SessionInput::Join { key, name, frames }).await.ok()?;
        Some((leaves, receiver))
    }

    /// Passes on the messages of a session's client, until it leaves.
    async fn pass_on(&self, key: SessionKey, session: &mut Session, first: Message) {
        let mut message = first;
        loop {
            let say = async { self.input.send(SessionInput::Message(key, message)).await.is_ok() };
            // While it waits for room, it must not miss the end of the session.
            let gone = async {
                poll_fn(|cx| session.poll_closed(cx)).await;
                false
            };
            if !future::or(say, gone).await {
                return;
            }
            match session.recv().await {
                Some(next) => message = next,
                None => return,
            }
        }
    }
}

/// Sends a session the frames in its queue, until that is closed.
async fn deliver(frames: &FrameReceiver, sender: &SessionSender) {
    while let Some(frame) = frames.next().await {
        let sent = match sender.send(frame.clone()).await {
            Err(SendError::TooLarge) => sender.send(too_large(sender, &frame)).await,
            sent => sent,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// What is sent instead of a frame that no queue can hold.
fn too_large(sender: &SessionSender, frame: &Frame) -> Frame {
    let len = frame.wire_len();
    static TOO_LARGE: LogThrottle = LogThrottle::new();
    if let Some(unsaid) = TOO_LARGE.tell() {
        log::error!("{}: {len} bytes are too many for the client{unsaid}", sender.id());
    }
    let why = format!("a message of {len} bytes is larger than any queue");
    let body = match frame.answered_id() {
        Some(id) => error_body(Some(id), code::INTERNAL_ERROR, &why),
        None => serde_json::json!({
            "jsonrpc": "2.0",
            "method": "notifications/message",
            "params": {"level": "error", "logger": "mcp-sse", "data": why},
        })
        .to_string()
        .into_bytes(),
    };
    Frame::message(&body).expect("invariant: an object")
}
