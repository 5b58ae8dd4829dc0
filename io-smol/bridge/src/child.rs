//! The session's side of a running process: its stdin, its stdout and its exit status.
//!
//! Knows: pipes, and that the end of a process begins when its [`Child`] is dropped.
//! Does not know: how a process is started (see `supervisor`) or ended (see `ending`).
//!
//! Decision: an exit is noticed by a process descriptor of Linux, or by a check every 50 ms
//! where there is none (`exit_watch`). `async-process` was considered: it reaps a process as it
//! reports its end, but the group must be signalled before its leader is reaped.

use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStdin, ChildStdout, ExitStatus};

use async_channel::{Receiver, Sender};
use rustix::event::{PollFd, PollFlags, Timespec};
use smol::Async;
use smol::io::AsyncRead;
use smol::stream::Stream;

use super::guard;

/// The exit status of a process, or the signal that ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(pub(super) ExitStatus);

impl Exit {
    /// The exit status; `None` if the process was ended by a signal.
    pub(crate) fn code(self) -> Option<i32> {
        self.0.code()
    }

    /// Whether this is status 126 or 127, by which shells and the [guard] report that a program could not be run.
    #[must_use]
    pub(crate) fn was_not_run(self) -> bool {
        let codes = [guard::STATUS_NOT_FOUND, guard::STATUS_NOT_RUN];
        self.0.code().is_some_and(|code| codes.iter().any(|known| code == i32::from(*known)))
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.code(), self.0.signal()) {
            (Some(code), _) => write!(f, "status {code}"),
            (None, Some(signal)) => write!(f, "signal {signal}"),
            (None, None) => f.write_str("status unknown"),
        }
    }
}

/// A process that was started by [`Children::spawn`](super::children::Children::spawn).
///
/// The process is ended when this value is dropped or passed to [`end`](Self::end): its stdin is closed, then its
/// process group gets SIGTERM, then SIGKILL, two seconds apart.
pub(crate) struct Child {
    pid: u32,
    pipes: Option<(Async<ChildStdin>, Async<ChildStdout>)>,
    exit: Pin<Box<Receiver<Exit>>>,
    exited: Option<Exit>,
    ending: Sender<LastPipes>,
}

/// The pipes of a process that has to end, and the last bytes to write to it.
pub(super) struct LastPipes {
    pub(super) stdin: Async<ChildStdin>,
    pub(super) stdout: Async<ChildStdout>,
    pub(super) last_words: Vec<u8>,
}

impl Child {
    /// Creates a child with these pipes. It receives its exit status from `exit`, and sends its pipes to `ending`
    /// when the process has to end.
    pub(super) fn new(
        pid: u32,
        stdin: Async<ChildStdin>,
        stdout: Async<ChildStdout>,
        exit: Receiver<Exit>,
        ending: Sender<LastPipes>,
    ) -> Self {
        Self { pid, pipes: Some((stdin, stdout)), exit: Box::pin(exit), exited: None, ending }
    }

    /// The process id of the [guard], which is also the id of the process group.
    #[must_use]
    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Writes to the process's stdin, and returns how many bytes were written.
    ///
    /// # Errors
    ///
    /// Returns [`io::ErrorKind::BrokenPipe`] if the process has closed its stdin.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some((stdin, _)) = &self.pipes else { return broken() };
        loop {
            match (&mut stdin.get_ref()).write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                written => return Poll::Ready(written),
            }
            ready!(stdin.poll_writable(cx))?;
        }
    }

    /// Reads from the process's stdout into `buffer`, and returns how many bytes were read: 0 at the end.
    ///
    /// # Errors
    ///
    /// Returns the error of the read.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.pipes {
            Some((_, stdout)) => Pin::new(stdout).poll_read(cx, buffer),
            None => broken(),
        }
    }

    /// Waits until the process has closed its stdin or has ended. Some operating systems do not report this; there,
    /// the next write fails instead.
    pub(crate) fn poll_input_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((stdin, _)) = &self.pipes else { return Poll::Ready(()) };
        loop {
            if is_hung_up(stdin) {
                return Poll::Ready(());
            }
            match ready!(stdin.poll_readable(cx)) {
                // A spurious wake-up: poll once more.
                Ok(()) => {}
                // The next write will fail, and report it.
                Err(_) => return Poll::Pending,
            }
        }
    }

    /// Waits until the server has exited. Processes that the server has left behind may still run; they are being
    /// ended.
    pub(crate) fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        if self.exited.is_none() {
            self.exited = ready!(self.exit.as_mut().poll_next(cx));
        }
        match self.exited {
            Some(exit) => Poll::Ready(exit),
            // The supervising task always sends an exit status, unless it has panicked.
            None => Poll::Ready(Exit(ExitStatus::from_raw(0x7f00))),
        }
    }

    /// Writes `last_words` to the process's stdin, closes it, and begins to end the process. Further output of the
    /// process is discarded. Returns immediately.
    pub(crate) fn end(mut self, last_words: Vec<u8>) {
        self.begin_end(last_words);
    }

    fn begin_end(&mut self, last_words: Vec<u8>) {
        if let Some((stdin, stdout)) = self.pipes.take() {
            // This fails if the process has ended already.
            let _ = self.ending.try_send(LastPipes { stdin, stdout, last_words });
        }
    }
}

/// Whether the reading end of this pipe is closed.
fn is_hung_up(pipe: &Async<ChildStdin>) -> bool {
    const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
    let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
    let mut fds = [PollFd::new(pipe, PollFlags::empty())];
    // If the call fails, assume that the pipe is open.
    rustix::event::poll(&mut fds, Some(&NOW)).is_ok()
        && fds.iter().any(|fd| fd.revents().intersects(gone))
}

fn broken<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
}

impl Drop for Child {
    fn drop(&mut self) {
        self.begin_end(Vec::new());
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child").field("pid", &self.pid).field("exited", &self.exited).finish()
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use std::os::fd::OwnedFd;
    use std::thread;

    use async_channel::bounded;
    use smol::{Timer, future};

    use super::*;

    #[test]
    fn input_closed_by_the_process_is_noticed_without_a_write() {
        let (reader, writer) = io::pipe().unwrap();
        let (end, _ending) = bounded(1);
        let (_exit, exited) = bounded(1);
        let stdin = Async::new(ChildStdin::from(OwnedFd::from(writer))).unwrap();
        let (stdout, _) = io::pipe().unwrap();
        let stdout = Async::new(ChildStdout::from(OwnedFd::from(stdout))).unwrap();
        let child = Child::new(0, stdin, stdout, exited, end);
        let late = async {
            Timer::after(Duration::from_secs(30)).await;
            panic!("waited in vain");
        };
        smol::block_on(async {
            let closed = core::future::poll_fn(|cx| child.poll_input_closed(cx));
            let mut closed = Box::pin(closed);
            assert!(future::poll_once(closed.as_mut()).await.is_none());
            thread::spawn(move || drop(reader));
            future::or(closed, late).await;
        });
    }

    #[test]
    fn exit_displays_status_or_signal() {
        let exit = |raw| Exit(ExitStatus::from_raw(raw));
        assert_eq!(exit(9).to_string(), "signal 9");
        assert_eq!(exit(137 << 8).to_string(), "status 137");
        assert!(exit(127 << 8).was_not_run() && exit(126 << 8).was_not_run());
        assert!(!exit(0).was_not_run() && !exit(9).was_not_run());
    }
}
