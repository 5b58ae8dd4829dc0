//! The threads of one server.
//!
//! Knows: how the threads are started and named, and how all of them end. Does not know: what a thread runs.

use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use async_channel::bounded;

use super::handle::Handle;

/// Shuts a server down when it is dropped.
pub(super) struct ShutdownOnDrop(pub(super) Handle);

impl Drop for ShutdownOnDrop {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}

/// Starts a thread for each of `jobs`, and shuts the server of `handle` down if one cannot be started, or
/// fails or panics later. A thread's name contains `address`. If there are several threads, a
/// number precedes it, because some operating systems cut long names.
///
/// The returned future waits until all threads have ended. It returns the first error of a thread, and panics if a
/// thread has panicked.
pub(super) fn run_each<J: Send + 'static>(
    address: &str,
    handle: &Handle,
    jobs: Vec<J>,
    run: impl Fn(J) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<impl Future<Output = io::Result<()>>> {
    let (sender, ends) = bounded(jobs.len().max(1));
    let run = Arc::new(run);
    let several = jobs.len() > 1;
    let mut joins = Vec::with_capacity(jobs.len());
    for (number, job) in jobs.into_iter().enumerate() {
        let number = if several { format!("{number} ") } else { String::new() };
        let name = format!("mcp-sse {number}{address}");
        let (run, sender) = (run.clone(), sender.clone());
        // This is dropped when the thread ends or cannot be started. A thread ends without an error or a panic only
        // after a shutdown, and a second shutdown has no effect.
        let stop = ShutdownOnDrop(handle.clone());
        let thread = thread::Builder::new().name(name).spawn(move || {
            let _stop = stop;
            // The receiver was dropped if the waiting future was dropped.
            let _ = sender.try_send(run(job));
        })?;
        joins.push(thread);
    }
    Ok(async move {
        let mut served = Ok(());
        // The channel is closed when the last thread has ended, also if it has panicked.
        while let Ok(end) = ends.recv().await {
            served = served.and(end);
        }
        for thread in joins {
            if let Err(panic) = thread.join() {
                resume_unwind(panic);
            }
        }
        served
    })
}

#[cfg(test)]
mod tests {
    use core::pin::pin;
    use core::task::{Context, Poll, Waker};
    use core::time::Duration;
    use std::task::Wake;
    use std::thread::Thread;

    use super::*;
    use crate::handle::{ShardControl, shard_control};
    use mcp_sse_core::Clock;

    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    /// Polls on this thread whenever it is woken, for at most a minute.
    fn block_on<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let clock = Clock::start();
        let until = clock.now().saturating_add(Duration::from_secs(60));
        while clock.now() < until {
            if let Poll::Ready(done) = poll(&mut Context::from_waker(&waker)) {
                return done;
            }
            thread::park_timeout(Duration::from_secs(60));
        }
        panic!("it never ends")
    }

    /// Waits until the server is shut down, as a shard does.
    fn until_shutdown(controls: &ShardControl) {
        block_on(|cx| match controls.shard_set.own().mailbox.take(cx).stop {
            None => Poll::Pending,
            Some(_) => Poll::Ready(()),
        });
    }

    #[test]
    fn error_of_one_thread_ends_all_and_is_returned() {
        for failing in 0..3 {
            let (handle, controls) = shard_control();
            let jobs = controls.split(3).into_iter().enumerate().collect();
            let threads = run_each("nowhere", &handle, jobs, move |(number, controls)| {
                if number == failing {
                    return Err(io::ErrorKind::AddrNotAvailable.into());
                }
                until_shutdown(&controls);
                Ok(())
            });
            let mut end = pin!(threads.unwrap());
            let error = block_on(|cx| end.as_mut().poll(cx)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        }
    }
}
