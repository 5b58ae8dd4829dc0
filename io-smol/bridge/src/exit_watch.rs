//! Notices that a child process has ended, without reaping it.
//!
//! Knows: process descriptors of Linux, and what to do where there are none.
//! Does not know: what the process is, or what follows its end.

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
    /// The process is looked at again and again.
    Polling(Pid),
}

impl ExitWatch {
    /// How often to look where the system does not tell.
    const POLL_INTERVAL: Duration = Duration::from_millis(50);

    /// A watch on the child with this number, which must not have been reaped.
    pub(super) fn new(pid: Pid) -> Self {
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{PidfdFlags, pidfd_open};
            // Linux before 5.3 has none, and some sandboxes.
            let descriptor = pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from);
            if let Ok(descriptor) = descriptor.and_then(Async::new) {
                return Self::Descriptor(pid, descriptor);
            }
        }
        Self::Polling(pid)
    }

    /// Waits until the process has ended. It is not reaped.
    pub(super) async fn wait(&self) {
        // The process is looked at first, and waited for then: an event from before may not be told.
        match self {
            #[cfg(target_os = "linux")]
            Self::Descriptor(pid, descriptor) => {
                if !has_ended(*pid)
                    && let Err(error) = descriptor.readable().await
                {
                    log::error!("cannot wait for a process: {error}");
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

/// Whether a child has ended; it is not reaped.
pub(super) fn has_ended(pid: Pid) -> bool {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::Pid(pid), options), Ok(None) | Err(rustix::io::Errno::INTR))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// However an exit is noticed, there is still a process to be reaped.
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
