//! How a process is ended: the steps, and how long each takes.
//!
//! Knows: that a server ends when its input has ended, signals to its process group, and what its guard does
//! when it is asked. Does not know: why the process is to end, or who waits for it.
//!
//! ```text
//!  last words, stdin closed ──2 s──▶ SIGTERM to the group ──2 s──▶ the guard kills ──2 s──▶ SIGKILL
//!        ╰──────────── the leader exits ───────┴──────────────────────┴───▶ SIGKILL to the group, reaped
//! ```
//!
//! The leader of the group is the server's [guard], which alone can find what has left the group; so the guard
//! is asked to kill before it is killed itself.

use core::time::Duration;
use std::io::Write;
use std::os::unix::net::UnixStream;

use async_channel::Receiver;
use rustix::process::{Pid, Signal};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Async, Timer, future};

use super::child::LastPipes;
use super::exit_watch::ExitWatch;
use super::{control, guard};

/// How long a process has to end after its input has, and again after SIGTERM.
pub const STEP: Duration = Duration::from_secs(2);
/// How long a guard that was asked to kill what it guards is waited for: twice what it takes at most.
const GUARD_KILLS: Duration = Duration::from_secs(2);
const _: () = assert!(GUARD_KILLS.as_secs() == 2 * guard::KILLING.as_secs());
/// Bytes read from a pipe at once: as much as a pipe holds on most systems.
const READ_BYTES: usize = 64 << 10;

/// No value: what channels carry that say only that they were closed.
pub(super) enum Never {}

/// A process that is to end.
pub(super) struct EndingProcess<'a> {
    /// Its process group, whose leader is the guard.
    pub(super) group: Pid,
    /// The socket to the guard.
    pub(super) control: &'a Async<UnixStream>,
    /// Notices the end of the leader.
    pub(super) watch: &'a ExitWatch,
    /// Closed when no step is to be waited for any more.
    pub(super) hurried: &'a Receiver<Never>,
}

impl EndingProcess<'_> {
    /// Ends the process group, and whatever has left it. Returns when the leader has ended, or SIGKILL was sent.
    pub(super) async fn end(&self, LastPipes { mut stdin, mut stdout, last_words }: LastPipes) {
        // Neither is waited for: the process may not read or write.
        let pipes = async {
            let _ = stdin.write_all(&last_words).await;
            drop(stdin);
            let mut buffer = vec![0; READ_BYTES];
            while stdout.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
            future::pending::<()>().await;
        };
        let steps = async {
            if self.exits_in_a_step().await {
                return;
            }
            let _ = rustix::process::kill_process_group(self.group, Signal::TERM);
            if self.exits_in_a_step().await {
                return;
            }
            // One byte has room, and if the guard is gone, that is noticed.
            let _ = self.control.get_ref().write(&[control::KILL]);
            if !self.exits_within(GUARD_KILLS).await {
                let _ = rustix::process::kill_process_group(self.group, Signal::KILL);
            }
        };
        future::or(steps, pipes).await;
    }

    /// Whether the leader exits before the next step is due.
    async fn exits_in_a_step(&self) -> bool {
        let hurried = async {
            let _closed = self.hurried.recv().await;
            false
        };
        future::or(self.exits_within(STEP), hurried).await
    }

    async fn exits_within(&self, time: Duration) -> bool {
        let exit = async {
            self.watch.wait().await;
            true
        };
        let late = async {
            Timer::after(time).await;
            false
        };
        future::or(exit, late).await
    }
}
