//! A process, as the task has it that looks after it: from its start until it has been reaped.
//!
//! Knows: in which order a start, the log of stderr, an end and the reaping come.
//! Does not know: what is said on the pipes, which the [`Child`] has; the steps of an ending (see `ending`).
//!
//! The process group is signalled before its leader is reaped, always: until then no other process can have its
//! number. The leader is the server's [guard](super::guard), which also says how the server has ended, on the
//! `control` socket, before what the server left behind has ended.

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

/// How long the rest of stderr is read when a process has ended, in case another process holds it.
const STDERR_REST: Duration = Duration::from_millis(500);

/// What all processes of a bridge have in common.
pub(super) struct Surroundings {
    pub(super) status: Arc<BridgeStatus>,
    pub(super) stderr: LastLines,
    pub(super) stderr_rate: StderrRate,
    /// Closed when no step of an ending is to be waited for any more.
    pub(super) hurried: Receiver<Never>,
}

/// A process that is looked after.
pub(super) struct SupervisedProcess {
    process: process::Child,
    group: Pid,
    control: Async<UnixStream>,
    stderr: Async<ChildStderr>,
    ending: Receiver<LastPipes>,
    exit: Sender<Exit>,
}

impl SupervisedProcess {
    /// Starts a process, whose stdout and stderr are piped and whose group is its own.
    ///
    /// # Errors
    ///
    /// Those of the system; no process is left behind.
    pub(super) fn start(
        mut command: process::Command,
        status: &BridgeStatus,
    ) -> io::Result<(Self, Child)> {
        let (input, stdin) = io::pipe()?;
        let (control, guard) = control::pair(input.into())?;
        command.stdin(OwnedFd::from(guard));
        let mut process = command.spawn()?;
        // The command has copies of what is to be the process's alone.
        drop(command);
        let group = Pid::from_child(&process);
        let pipes = (process.stdout.take(), process.stderr.take());
        let (Some(stdout), Some(stderr)) = pipes else { unreachable!("both were asked for") };
        let pipes = || {
            // These fail where the system has no more room for watching descriptors.
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

    /// Looks after the process until it has been reaped.
    pub(super) async fn supervise(self, name: &str, surroundings: &Surroundings) {
        let Self { mut process, group, control, mut stderr, ending, exit } = self;
        let Surroundings { stderr: last_lines, stderr_rate, hurried, .. } = surroundings;
        let watch = ExitWatch::new(group);
        let life = async {
            let end = async {
                // The other end is held until the end begins.
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
            // The session may be gone.
            if let Some(status) = reported {
                let _ = exit.try_send(status);
            }
            future::pending().await
        };
        let mut log = StderrLog::new(name, last_lines, *stderr_rate);
        future::or(life, future::or(report, log.follow(&mut stderr))).await;
        // Kills what is left of the group. The leader is still there, as a zombie.
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
        // The guard may have been killed, which says little of the server; without its report it counts.
        match reported.map_or_else(|| status.map(Exit), Ok) {
            Ok(status) => {
                log::debug!("{name}: the server has ended: {status}");
                // The session may be gone, or know.
                let _ = exit.try_send(status);
            }
            Err(error) => log::error!("{name}: a process was reaped by somebody else: {error}"),
        }
    }
}

/// What the guard reports of how the server has ended; `None` if it is gone and has reported nothing.
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

    /// More than is read at once, in the pipe of a process that had ended before it was looked at.
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
