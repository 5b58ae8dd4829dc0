//! Serves all sessions with one process.
//!
//! Knows: the task that owns the process, and the queues between that task and the sessions on other threads.
//! Does not know: how sessions share the server's protocol state (see [`mux`](super::mux)).
//!
//! Theory of operation. One task, the *owner*, has the process; it runs on the thread that supervises processes. It
//! receives the messages of all sessions from one bounded queue. While the process does not read, that queue fills,
//! sessions wait, and the server holds their clients' posts. Messages of the process go into a queue of frames for
//! each session, which the session's own task empties. While one of these queues is full, the process is not read, so
//! all sessions wait. A session may cause this for [`SLOW_MAX`] in each [`SLOW_PERIOD`], and is closed then. So no
//! message is dropped without an error, and no session waits long for another.

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

/// The capacity of the queue from all sessions to the owner, in messages. Sessions wait while it is full.
const INPUT_MAX: usize = 256;

/// Serves all sessions with one process.
///
/// The process is started at the first message of the first session, and again while there are sessions after it has
/// ended: after 1 s, then after pauses that double up to 30 s. Cheap to clone; the process ends when the last clone
/// has been dropped and the last session has ended.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use mcp_sse_bridge::children::Children;
/// use mcp_sse_bridge::command::ServerCommand;
/// use mcp_sse_bridge::{SharedProcess, guard};
/// use mcp_sse_smol::{Config, Listener};
///
/// fn main() -> std::io::Result<ExitCode> {
///     if let Some(code) = guard::run() {
///         return Ok(code);
///     }
///     let children = Children::new()?;
///     let server = ServerCommand::new("my-server", ["--stdio"]);
///     let sessions = SharedProcess::new(children.clone(), server, "my-server");
///     let listener = Listener::bind("127.0.0.1:8000", Config::default())?;
///     smol::block_on(listener.serve_local(move |session| {
///         let sessions = sessions.clone();
///         async move { sessions.serve(session).await }
///     }))?;
///     let left = children.finish();
///     Ok(ExitCode::from(u8::from(left > 0)))
/// }
/// ```
#[derive(Clone)]
pub struct SharedProcess {
    command: Arc<ServerCommand>,
    children: Children,
    owner: OwnerHandle,
}

/// The senders by which sessions reach the owner.
#[derive(Clone)]
struct OwnerHandle {
    input: Sender<SessionInput>,
    /// The keys of sessions that have ended. The channel is unbounded, because a key is sent when the session's
    /// future is dropped, where it is not possible to wait for room. Each session sends one key, so the channel never
    /// contains more keys than there are sessions.
    departures: Sender<SessionKey>,
    /// The key of the next session.
    keys_given: Arc<AtomicU64>,
}

/// What sessions send to the owner.
enum SessionInput {
    Join { key: SessionKey, name: String, frames: FrameSender },
    Message(SessionKey, Message),
}

impl SharedProcess {
    /// Creates a handler that runs `command` once for all sessions. `name` is the name of the process in the log. The
    /// process is not started yet.
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

    /// The command of the process.
    #[must_use]
    pub fn command(&self) -> &ServerCommand {
        &self.command
    }

    /// The processes of the bridge, including those of other commands.
    #[must_use]
    pub const fn children(&self) -> &Children {
        &self.children
    }

    /// Serves one session until its client leaves, or until the client has kept other sessions waiting for too long.
    pub async fn serve(&self, mut session: Session) {
        // A session joins with its first message, because clients open streams that they never use.
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

/// Tells the owner that a session has ended when this is dropped.
struct LeaveOnDrop(SessionKey, Sender<SessionKey>);

impl Drop for LeaveOnDrop {
    fn drop(&mut self) {
        // The send fails if the owner has ended.
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

    /// Passes the messages of a session's client on to the owner until the client leaves.
    async fn pass_on(&self, key: SessionKey, session: &mut Session, first: Message) {
        let mut message = first;
        loop {
            let say = async { self.input.send(SessionInput::Message(key, message)).await.is_ok() };
            // The end of the session must be noticed also while the queue is full.
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

/// Sends the frames in a session's queue to its client until the queue is closed.
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

/// The error that replaces a frame that is too large for the client's queue.
fn too_large(sender: &SessionSender, frame: &Frame) -> Frame {
    let len = frame.wire_len();
    static TOO_LARGE: LogThrottle = LogThrottle::new();
    if let Some(unsaid) = TOO_LARGE.tell() {
        let what = "is too large for the client's queue";
        log::error!(
            event = "message_too_large",
            session = sender.id(),
            bytes = len,
            suppressed = unsaid;
            "session {}: a message of {len} bytes {what}{unsaid}",
            sender.id()
        );
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
