//! Notices that a child process has ended, without reaping it.
//!
//! Knows: Linux's process descriptors, and how to poll on systems without them.
//! Does not know: which process it is, or what follows its end.

use core::time::Duration;
#[cfg(target_os = "linux")]
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;

use rustix::process::Pid;
#[cfg(target_os = "linux")]
use smol::Async;
use smol::Timer;

/// A watch on one child process.
pub(super) enum ExitWatch {
    /// A descriptor that is readable once the process has ended.
    #[cfg(target_os = "linux")]
    Descriptor(Pid, Async<OwnedFd>),
    /// The process is polled every [`POLL_INTERVAL`](Self::POLL_INTERVAL).
    Polling(Pid),
}

impl ExitWatch {
    /// The interval between two polls.
    const POLL_INTERVAL: Duration = Duration::from_millis(50);

    /// Watches the child process `pid`, which must not have been reaped.
    pub(super) fn new(pid: Pid) -> Self {
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{PidfdFlags, pidfd_open};
            // Linux before 5.3 and some sandboxes have no process descriptors.
            let descriptor = pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from);
            if let Ok(descriptor) = descriptor.and_then(Async::new) {
                return Self::Descriptor(pid, descriptor);
            }
        }
        Self::Polling(pid)
    }

    /// Waits until the process has ended, without reaping it.
    pub(super) async fn wait(&self) {
        // An exit before this call may not be reported by the descriptor, so the process is checked first.
        match self {
            #[cfg(target_os = "linux")]
            Self::Descriptor(pid, descriptor) => {
                if !has_ended(*pid)
                    && let Err(error) = descriptor.readable().await
                {
                    log::error!(
                        event = "process_unwatched",
                        error:% = error;
                        "cannot wait for a server process: {error}"
                    );
                }
            }
            Self::Polling(pid) => {
                while !has_ended(*pid) {
                    Timer::after(Self::POLL_INTERVAL).await;
                }
            }
        }
    }
}

/// Whether a child process has ended. It is not reaped.
pub(super) fn has_ended(pid: Pid) -> bool {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::Pid(pid), options), Ok(None) | Err(rustix::io::Errno::INTR))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The exit is noticed twice, and the process can still be reaped.
    #[track_caller]
    fn check(watch: impl FnOnce(Pid) -> ExitWatch) {
        let mut process = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let watch = watch(Pid::from_child(&process));
        for _ in 0..2 {
            mcp_sse_tests::finish("its end", watch.wait());
        }
        assert_eq!(process.wait().unwrap().code(), Some(7));
    }

    #[test]
    fn exit_is_noticed_and_the_process_is_not_reaped() {
        check(ExitWatch::new);
        check(ExitWatch::Polling);
    }
}
