//! Ends a process: the steps, and how long each may take.
//!
//! Knows: that a server exits at the end of its input, the signals to its process group, and the guard's
//! `KILL` (see `control`). Does not know: why the process has to end.
//!
//! ```text
//!  last words, stdin closed ──2 s──▶ SIGTERM to the group ──2 s──▶ the guard kills ──2 s──▶ SIGKILL
//!        ╰──────────── the leader exits ───────┴──────────────────────┴───▶ SIGKILL to the group, reaped
//! ```
//!
//! The leader of the group is the server's [guard]. Only the guard can find processes that have left the group, so it
//! is asked to kill them before it is killed itself.

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

/// How long a process may take to exit after the end of its input, and again after SIGTERM: 2 s.
pub const STEP: Duration = Duration::from_secs(2);
/// How long a guard may take to kill the processes that it guards: twice the time after which it gives up.
const GUARD_KILLS: Duration = Duration::from_secs(2);
const _: () = assert!(GUARD_KILLS.as_secs() == 2 * guard::KILLING.as_secs());
/// The most bytes of one read from a pipe: the capacity of a pipe on most systems.
const READ_BYTES: usize = 64 << 10;

/// The item type of channels on which nothing is ever sent: only their closing is a signal.
pub(super) enum Never {}

/// A process that has to end.
pub(super) struct EndingProcess<'a> {
    /// Its process group, whose leader is the guard.
    pub(super) group: Pid,
    /// The socket to the guard.
    pub(super) control: &'a Async<UnixStream>,
    /// Notices the exit of the leader.
    pub(super) watch: &'a ExitWatch,
    /// Closed when the process has to be killed without waiting for the steps.
    pub(super) hurried: &'a Receiver<Never>,
}

impl EndingProcess<'_> {
    /// Ends the process group, and the processes that have left it. Returns when the leader has exited or SIGKILL was
    /// sent.
    pub(super) async fn end(&self, LastPipes { mut stdin, mut stdout, last_words }: LastPipes) {
        // This runs beside the steps, because the process may never read or write.
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
            // The socket's buffer has room for one byte. If the guard has ended, the wait below notices it.
            let _ = self.control.get_ref().write(&[control::KILL]);
            if !self.exits_within(GUARD_KILLS).await {
                let _ = rustix::process::kill_process_group(self.group, Signal::KILL);
            }
        };
        future::or(steps, pipes).await;
    }

    /// Waits until the leader exits (true), or until the next step is due (false).
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
