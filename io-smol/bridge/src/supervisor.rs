//! The task that supervises one process from its start until it has been reaped.
//!
//! Knows: the order of start, logging of stderr, end and reaping.
//! Does not know: stdin and stdout, which the [`Child`] has; the steps of the end (see `ending`).
//!
//! The process group is always signalled before its leader is reaped, because until then no other group can have its
//! number. The leader is the server's [guard](super::guard). The guard reports the server's exit status on the
//! `control` socket, before the processes that the server has left behind have ended.

use core::time::Duration;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{self, ChildStderr, ChildStdin, ExitStatus};
use std::sync::Arc;

use async_channel::{Receiver, Sender, bounded};
use rustix::process::{Pid, Signal};
use smol::io::AsyncReadExt;
use smol::{Async, Timer, future};

use super::child::{Child, Exit, LastPipes};
use super::control;
use super::ending::{EndingProcess, Never};
use super::exit_watch::ExitWatch;
use super::status::BridgeStatus;
use super::stderr::{LastLines, StderrLog, StderrRate};

/// How long the rest of stderr is read after the exit. The time is limited because another process may hold stderr
/// open.
const STDERR_REST: Duration = Duration::from_millis(500);

/// The state that all processes of a bridge share.
pub(super) struct Surroundings {
    pub(super) status: Arc<BridgeStatus>,
    pub(super) stderr: LastLines,
    pub(super) stderr_rate: StderrRate,
    /// Closed when processes have to be killed without waiting for the steps of their end.
    pub(super) hurried: Receiver<Never>,
}

/// A process under supervision.
pub(super) struct SupervisedProcess {
    process: process::Child,
    group: Pid,
    control: Async<UnixStream>,
    stderr: Async<ChildStderr>,
    ending: Receiver<LastPipes>,
    exit: Sender<Exit>,
}

impl SupervisedProcess {
    /// Starts a process. `command` must pipe stdout and stderr, and set a new process group.
    ///
    /// # Errors
    ///
    /// Returns the error of the operating system. No process is left behind.
    pub(super) fn start(
        mut command: process::Command,
        status: &BridgeStatus,
    ) -> io::Result<(Self, Child)> {
        let (input, stdin) = io::pipe()?;
        let (control, guard) = control::pair(input.into())?;
        command.stdin(OwnedFd::from(guard));
        let mut process = command.spawn()?;
        // The command has copies of descriptors that only the process may have open.
        drop(command);
        let group = Pid::from_child(&process);
        let pipes = (process.stdout.take(), process.stderr.take());
        let (Some(stdout), Some(stderr)) = pipes else { unreachable!("both are piped") };
        let pipes = || {
            // These fail if the operating system cannot watch more descriptors.
            let stdin = Async::new(ChildStdin::from(OwnedFd::from(stdin)))?;
            let stdout = Async::new(stdout)?;
            Ok::<_, io::Error>((stdin, stdout, Async::new(stderr)?, Async::new(control)?))
        };
        let (stdin, stdout, stderr, control) = match pipes() {
            Ok(pipes) => pipes,
            Err(error) => {
                let _ = rustix::process::kill_process_group(group, Signal::KILL);
                let _ = process.wait();
                return Err(error);
            }
        };
        status.process_started();
        let (end, ending) = bounded(1);
        let (exit, exited) = bounded(1);
        let child = Child::new(process.id(), stdin, stdout, exited, end);
        Ok((Self { process, group, control, stderr, ending, exit }, child))
    }

    /// Supervises the process until it has been reaped. `name` is its name in the log.
    pub(super) async fn supervise(self, name: &str, surroundings: &Surroundings) {
        let Self { mut process, group, control, mut stderr, ending, exit } = self;
        let Surroundings { status: counters, stderr: last_lines, stderr_rate, hurried } =
            surroundings;
        let watch = ExitWatch::new(group);
        let life = async {
            let end = async {
                // The `Child` sends the pipes when the end has to begin.
                if let Ok(pipes) = ending.recv().await {
                    EndingProcess { group, control: &control, watch: &watch, hurried }
                        .end(pipes)
                        .await;
                }
                watch.wait().await;
            };
            future::or(watch.wait(), end).await;
        };
        let mut reported = None;
        let report = async {
            reported = status_from_guard(&control).await;
            // The send fails if the session has ended.
            if let Some(status) = reported {
                let _ = exit.try_send(status);
            }
            future::pending().await
        };
        let mut log = StderrLog::new(name, last_lines, counters, *stderr_rate);
        future::or(life, future::or(report, log.follow(&mut stderr))).await;
        // Kills the rest of the group. Its number is still valid, because the leader is a zombie.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
        let rest = async {
            Timer::after(STDERR_REST).await;
        };
        future::or(log.read_to_end(&mut stderr), rest).await;
        log.finish();
        let status = process.wait();
        let reported = match reported {
            Some(reported) => Some(reported),
            None => future::poll_once(status_from_guard(&control)).await.flatten(),
        };
        // Without a report (the guard may have been killed), the guard's own exit status is used.
        let status = reported.map_or_else(|| status.map(Exit), Ok);
        counters.note_exit(status.as_ref().ok().copied());
        match status {
            Ok(status) => {
                log::debug!(
                    event = "process_ended",
                    owner = name,
                    status:% = status;
                    "{name}: the server process has ended: {status}"
                );
                // The send fails if the session has ended or has received the status before.
                let _ = exit.try_send(status);
            }
            Err(error) => {
                log::error!(
                    event = "process_lost",
                    owner = name,
                    error:% = error;
                    "{name}: another part of the program reaped the server process: {error}"
                );
            }
        }
    }
}

/// The server's exit status from the guard's report; `None` if the guard has ended without a report.
async fn status_from_guard(mut control: &Async<UnixStream>) -> Option<Exit> {
    let mut status = [0];
    match control.read(&mut status).await {
        Ok(1..) => status.first().map(|status| Exit(ExitStatus::from_raw(i32::from(*status) << 8))),
        Ok(0) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Stdio;
    use std::thread;
    use std::time::Instant;

    use super::*;
    use crate::exit_watch::has_ended;

    /// The pipe contains more than one read takes when the process is first polled.
    #[test]
    fn stderr_of_a_process_that_has_ended_is_read_to_its_end() {
        let (_hurry, hurried) = bounded(1);
        let surroundings = Surroundings {
            status: Arc::default(),
            stderr: LastLines::default(),
            stderr_rate: StderrRate::default(),
            hurried,
        };
        surroundings.stderr.begin();
        let mut command = process::Command::new("sh");
        command.args(["-c", "head -c 61440 /dev/zero | tr '\\0' '\\n' >&2; echo last >&2"]);
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (process, child) = SupervisedProcess::start(command, &surroundings.status).unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while !has_ended(process.group) {
            assert!(Instant::now() < until, "waited in vain");
            thread::sleep(Duration::from_millis(5));
        }
        smol::block_on(process.supervise("sh", &surroundings));
        assert_eq!(surroundings.stderr.last().last().map(String::as_str), Some("last"));
        drop(child);
    }
}
