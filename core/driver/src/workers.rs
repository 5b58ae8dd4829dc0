//! Several shards of one server, on a thread each.
//!
//! Knows: how a server is split, how its threads are started, and how they end together.
//! Does not know: what a thread runs.

use core::iter;
use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use async_channel::{Receiver, Sender, bounded};

use mcp_sse_core::Config;

use super::bound::{Bound, Door, invalid};
use super::descriptors;
use super::handle::{Handle, ShardControl, shard_control};
use super::lobby::{Seat, Usher, lobby};
#[cfg(feature = "tls")]
use super::tls::Tls;
use super::worker_count;

/// One shard before it runs: what its thread is given.
#[derive(Debug)]
pub struct Worker {
    /// Where its connections come in.
    pub entrance: Entrance,
    /// What has to run on this worker's thread for all of them.
    pub usher: Option<(Door, Usher)>,
    /// The TLS to be spoken.
    #[cfg(feature = "tls")]
    pub tls: Option<Tls>,
    /// The configuration of the whole server.
    pub config: Config,
    /// What the shard is given.
    pub controls: ShardControl,
}

/// Where a shard's connections come in.
#[derive(Debug)]
pub enum Entrance {
    /// By a listening socket of its own.
    Door(Door),
    /// From the usher, who is on the thread of one of the shards.
    Seat(Seat),
}

/// A handle, and its other ends for so many shards.
///
/// # Errors
///
/// [`InvalidInput`](io::ErrorKind::InvalidInput) for none, and for more than [`WORKERS_MAX`](super::WORKERS_MAX).
pub fn shard_control_of(workers: usize) -> io::Result<(Handle, Vec<ShardControl>)> {
    let workers = worker_count::check(workers)?;
    let (handle, controls) = shard_control();
    Ok((handle, controls.split(workers)))
}

impl Bound {
    /// The only worker, which an adapter serves on the present thread.
    ///
    /// # Errors
    ///
    /// If there are to be more of them, or if TLS is to be spoken on a Unix socket.
    pub fn into_worker(self) -> io::Result<Worker> {
        if self.workers > 1 {
            let text = format!("one thread cannot serve with {} workers", self.workers);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.into_workers()?.pop().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// The workers, with a listening socket each or with one for all of them.
    fn into_workers(self) -> io::Result<Vec<Worker>> {
        #[cfg(feature = "tls")]
        let tls = self.tls()?;
        self.warn_of_impossible_https();
        let Self { door, config, controls, workers, bound_here, .. } = self;
        controls.check(&config).map_err(invalid)?;
        let limits = descriptors::fit(config.limits(), workers);
        let config = config.with_limits(limits);
        let (doors, ushered) = door.multiply(workers, bound_here);
        let mut usher = None;
        let entrances: Vec<Entrance> = match ushered {
            None => doors.into_iter().map(Entrance::Door).collect(),
            Some(door) => {
                let (all, seats) = lobby(workers);
                usher = Some((door, all));
                seats.into_iter().map(Entrance::Seat).collect()
            }
        };
        let controls = controls.split(workers);
        let ushers = iter::once(usher).chain(iter::repeat_with(|| None));
        let parts = entrances.into_iter().zip(ushers).zip(controls);
        let worker = |((entrance, usher), controls)| Worker {
            entrance,
            usher,
            #[cfg(feature = "tls")]
            tls: tls.clone(),
            config: config.clone(),
            controls,
        };
        Ok(parts.map(worker).collect())
    }

    /// Runs `serve` for each worker, on a thread of its own, and waits for the end of all. If one
    /// fails or panics, the others are shut down. If the future is dropped, all are, and the threads
    /// end when they have.
    ///
    /// # Errors
    ///
    /// If a thread cannot be started, and the first error that `serve` returns.
    ///
    /// # Panics
    ///
    /// If `serve` does; after all threads have ended.
    pub async fn on_threads(
        self,
        serve: impl Fn(Worker) -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<()> {
        let place = self.local_addr().map_or("unix".into(), |address| format!("{address}"));
        // Shuts the server down if this is dropped, or if a thread cannot be started.
        let stop = Stop { handle: self.handle.clone(), only_if_panicking: false };
        let threads = run_each(&place, self.into_workers()?, serve)?;
        threads.wait().await?;
        drop(stop);
        Ok(())
    }
}

/// Shuts a server down when it is dropped.
struct Stop {
    handle: Handle,
    only_if_panicking: bool,
}

impl Drop for Stop {
    fn drop(&mut self) {
        if !self.only_if_panicking || thread::panicking() {
            self.handle.shutdown();
        }
    }
}

/// Threads that run the shards of one server.
#[derive(Debug)]
pub struct Threads {
    joins: Vec<JoinHandle<()>>,
    ends: Receiver<io::Result<()>>,
}

/// Starts a thread for each of `jobs`, named after the `place` that is served; if there are several,
/// with a number in front, since systems cut long names off. If what one of them runs fails or
/// panics, the server is shut down.
///
/// # Errors
///
/// If a thread cannot be started; the server is shut down then.
pub fn run_each<J: Serves + Send + 'static>(
    place: &str,
    jobs: Vec<J>,
    run: impl Fn(J) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<Threads> {
    let (sender, ends) = bounded(jobs.len().max(1));
    let run = Arc::new(run);
    let several = jobs.len() > 1;
    let mut joins = Vec::with_capacity(jobs.len());
    for (number, job) in jobs.into_iter().enumerate() {
        let number = if several { format!("{number} ") } else { String::new() };
        let name = format!("mcp-sse {number}{place}");
        let handle = job.handle().clone();
        let spawned = thread::Builder::new().name(name).spawn({
            let (handle, run, sender): (_, _, Sender<_>) =
                (handle.clone(), run.clone(), sender.clone());
            move || {
                let guard = Stop { handle, only_if_panicking: true };
                let end = run(job);
                if end.is_err() {
                    guard.handle.shutdown();
                }
                // Nobody may be waiting any more.
                let _ = sender.try_send(end);
            }
        });
        match spawned {
            Ok(thread) => joins.push(thread),
            Err(error) => {
                handle.shutdown();
                return Err(error);
            }
        }
    }
    Ok(Threads { joins, ends })
}

/// What serves one shard, and whose shard that is.
pub trait Serves {
    /// The server's.
    fn handle(&self) -> &Handle;
}

impl Serves for Worker {
    fn handle(&self) -> &Handle {
        &self.controls.handle
    }
}

impl Serves for ShardControl {
    fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Threads {
    /// Waits for the end of all.
    ///
    /// # Errors
    ///
    /// The first that one of them has returned.
    ///
    /// # Panics
    ///
    /// If one of them did.
    pub async fn wait(self) -> io::Result<()> {
        let mut served = Ok(());
        // Ends when the last thread has let go of its end, however it came to that.
        while let Ok(end) = self.ends.recv().await {
            served = served.and(end);
        }
        for thread in self.joins {
            if let Err(panic) = thread.join() {
                resume_unwind(panic);
            }
        }
        served
    }
}

#[cfg(test)]
mod tests {
    use core::pin::pin;
    use core::task::{Context, Poll, Waker};
    use core::time::Duration;
    use std::task::Wake;
    use std::thread::Thread;

    use super::*;
    use mcp_sse_core::Clock;

    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    /// Polls on this thread whenever it is woken, for a while.
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

    /// As a shard does, waits for the end of the server.
    fn until_shutdown(controls: &ShardControl) {
        block_on(|cx| match controls.shard_set.own().mailbox.take(cx).stop {
            None => Poll::Pending,
            Some(_) => Poll::Ready(()),
        });
    }

    #[test]
    fn the_error_of_one_ends_all_and_is_told() {
        for failing in 0..3 {
            let (_, controls) = shard_control_of(3).unwrap();
            let jobs = controls.into_iter().enumerate().map(Job).collect();
            let threads = run_each("nowhere", jobs, move |Job((number, controls))| {
                if number == failing {
                    return Err(io::ErrorKind::AddrNotAvailable.into());
                }
                until_shutdown(&controls);
                Ok(())
            });
            let mut end = pin!(threads.unwrap().wait());
            let error = block_on(|cx| end.as_mut().poll(cx)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        }
    }

    struct Job((usize, ShardControl));

    impl Serves for Job {
        fn handle(&self) -> &Handle {
            &self.0.1.handle
        }
    }
}
