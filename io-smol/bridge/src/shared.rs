//! One process for all sessions.
//!
//! Knows: the task that owns the process, and the way from each session to it and back, over threads.
//! Does not know: the rules by which sessions share (see [`mux`](super::mux)).
//!
//! Theory of operation. The owner runs beside the processes. It takes what sessions say from one
//! bounded queue: when the process does not read, that fills, sessions wait, and their clients' posts
//! are held. What the process says goes into an outbox for each session, which that session's own task
//! empties. A full one stops the reading of the process, and so everybody: a session has [`SLOW_MAX`]
//! of that to spend, and is closed when it is spent. Nothing is left out without a word, and nobody
//! waits for long for somebody else.

mod backoff;
mod outbox;
mod owner;

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use async_channel::{Sender, bounded, unbounded};
use core::future::poll_fn;
use mcp_sse_core::jsonrpc::{Message, code, error_body};
use mcp_sse_core::{Frame, SendError};
use mcp_sse_driver::{LogThrottle, Session, SessionSender};
use smol::future;

use super::child::Children;
use super::command::Command;
use super::mux::Member;
use outbox::{Frames, Outbox, outbox};
use owner::Owner;

pub use backoff::{FIRST, LONGEST, STABLE};
pub use outbox::{BYTES_MAX as OUTBOX_BYTES_MAX, FRAMES_MAX as OUTBOX_FRAMES_MAX};
pub use owner::{SLOW_MAX, SLOW_PERIOD};

/// Messages of all sessions that wait for the owner. Sessions that find no room wait.
const INBOX_MAX: usize = 256;

/// Serves sessions with one process for all, which is started at the first message of the first and
/// again whenever it has ended. Cheap to clone; the process ends with the last clone.
#[derive(Clone)]
pub struct Shared {
    command: Arc<Command>,
    children: Children,
    desk: Desk,
}

/// Where sessions meet the owner.
#[derive(Clone)]
struct Desk {
    inbox: Sender<Input>,
    /// Each session says so once, so this holds no more than there are sessions; and it is said when a
    /// future is dropped, where nobody could wait for room.
    departures: Sender<Member>,
    members: Arc<AtomicU64>,
}

/// What sessions tell the owner.
enum Input {
    Join { member: Member, name: String, outbox: Outbox },
    Says(Member, Message),
}

impl Shared {
    /// With this command; `name` is what the process is called in the log. Nothing is started yet.
    #[must_use]
    pub fn new(children: Children, command: Command, name: impl Into<String>) -> Self {
        let (inbox, input) = bounded(INBOX_MAX);
        let (departures, departed) = unbounded();
        let command = Arc::new(command);
        let owner = Owner::new(children.clone(), command.clone(), name.into(), input, departed);
        children.run(owner.run());
        let desk = Desk { inbox, departures, members: Arc::default() };
        Self { command, children, desk }
    }

    /// What is run.
    #[must_use]
    pub fn command(&self) -> &Command {
        &self.command
    }

    /// The processes, of which this has one.
    #[must_use]
    pub const fn children(&self) -> &Children {
        &self.children
    }

    /// Serves one session until its client leaves, or it was slow for too long.
    pub async fn serve(&self, mut session: Session) {
        // Clients open streams that they never use: those are no members.
        let Some(first) = session.recv().await else { return };
        let Some((member, frames)) = self.desk.join(session.id().to_string()).await else { return };
        let sender = session.sender();
        let up = self.desk.pass_on(member.0, &mut session, first);
        future::or(up, deliver(&frames, &sender)).await;
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("command", &self.command)
            .field("waiting", &self.desk.inbox.len())
            .finish_non_exhaustive()
    }
}

/// A session's membership, which ends when this is dropped.
struct Membership(Member, Sender<Member>);

impl Drop for Membership {
    fn drop(&mut self) {
        // The owner may have ended.
        let _ = self.1.try_send(self.0);
    }
}

impl Desk {
    async fn join(&self, name: String) -> Option<(Membership, Frames)> {
        let member = Member(self.members.fetch_add(1, Relaxed));
        let membership = Membership(member, self.departures.clone());
        let (outbox, frames) = outbox();
        self.inbox.send(Input::Join { member, name, outbox }).await.ok()?;
        Some((membership, frames))
    }

    /// Passes on what a session's client says, until it leaves.
    async fn pass_on(&self, member: Member, session: &mut Session, first: Message) {
        let mut message = first;
        loop {
            let say = async { self.inbox.send(Input::Says(member, message)).await.is_ok() };
            // Whoever waits for room must not miss the end.
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

/// Sends a session what is in its outbox, until that is closed.
async fn deliver(frames: &Frames, sender: &SessionSender) {
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
