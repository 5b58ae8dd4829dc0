//! All processes of a bridge: starts them, limits their number, and waits for their end.
//!
//! Knows: the thread that supervises processes, and the slots that limit their number.
//! Does not know: messages, sessions, or the life of one process (see `supervisor` and `ending`).
//!
//! Theory of operation. Each process has a task of its own, from before its start until it has been reaped. All of
//! these tasks run on one thread. A session, or the owner of a shared process, owns a `Child`, which has the process's
//! pipes. The end of a process begins when its `Child` is dropped or `Child::end` is called. However a session ends
//! (the client leaves or stalls, the process exits, the server stops, the future is dropped), one of the two happens.
//!
//! Decision: the processes of sessions are limited by slots, and a process that is being ended keeps its slot. It
//! keeps its descriptors until it has been reaped, which may be seconds after its session has ended. A new session
//! waits until a process has ended, or its client leaves; otherwise clients that come and go would use up the
//! descriptors that posts need. The command sets as many slots as it has sessions and workers, and no limit for more
//! than 65,536 sessions. A shared process takes no slot.
//!
//! Decision: the command `mcp-sse` waits for these tasks before it exits, for at most [`FINISH`]: two steps of 2 s,
//! 2 s in which guards kill, and 2 s for a busy machine. A second signal skips the waits after the end of stdin and
//! after SIGTERM.

use core::fmt;
use core::time::Duration;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;
use std::{env, io, thread};

use async_channel::{Receiver, Sender, bounded};
use mcp_sse_core::RequestHead;
use smol::Executor;

use super::child::Child;
use super::command::ServerCommand;
use super::ending::Never;
use super::status::BridgeStatus;
use super::stderr::{LastLines, StderrRate};
use super::supervisor::{SupervisedProcess, Surroundings};
use super::{descriptors, guard};

/// The number of the bridge's file descriptors that one running process takes: three pipes, the socket to its guard,
/// and a process descriptor.
pub const DESCRIPTORS: u32 = 5;
/// The longest time that [`Children::finish`] waits: 8 s. That is 2 s after the end of stdin, 2 s after SIGTERM, 2 s
/// for the guard to kill, and 2 s for a busy machine.
pub const FINISH: Duration = Duration::from_secs(8);

/// All processes of a bridge, and the thread that supervises them. Cheap to clone: clones share the processes.
///
/// `main` must call [`guard::run`] before anything else, because processes are started through the executable that
/// is running.
///
/// ```no_run
/// use mcp_sse_bridge::children::Children;
/// use mcp_sse_bridge::guard;
///
/// fn main() -> std::io::Result<()> {
///     if guard::run().is_some() {
///         return Ok(());
///     }
///     let children = Children::new()?;
///     // Serve sessions, and then wait until every process has ended.
///     assert_eq!(children.finish(), 0);
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Children {
    shared: Arc<ChildrenShared>,
}

struct ChildrenShared {
    executor: Arc<Executor<'static>>,
    surroundings: Surroundings,
    /// Closed when processes have to be killed without waiting for the steps of their end.
    hurry: Sender<Never>,
    /// The number of tasks that are not done.
    supervised: Mutex<usize>,
    done: Condvar,
    /// A semaphore made of a bounded channel, whose capacity is the number of processes that there may be. A process
    /// puts a unit in before it starts, and takes one out when it has been reaped.
    slots: OnceLock<(Sender<()>, Receiver<()>)>,
    /// Dropping this ends the thread.
    _thread: Sender<Never>,
}

impl Children {
    /// Starts the supervising thread, without any processes. Processes' stderr is logged at the default
    /// [`StderrRate`].
    ///
    /// # Errors
    ///
    /// Returns an error if the thread cannot be started.
    pub fn new() -> io::Result<Self> {
        Self::with_stderr_rate(StderrRate::default())
    }

    /// Starts the supervising thread, without any processes. `stderr_rate` limits how much of each process's stderr
    /// is logged.
    ///
    /// # Errors
    ///
    /// Returns an error if the thread cannot be started.
    pub fn with_stderr_rate(stderr_rate: StderrRate) -> io::Result<Self> {
        let executor = Arc::new(Executor::new());
        let (running, stopped) = bounded::<Never>(1);
        let thread_executor = executor.clone();
        thread::Builder::new().name("children".into()).spawn(move || {
            // `recv` returns an error when the last clone of `Children` has been dropped.
            smol::block_on(thread_executor.run(stopped.recv())).ok();
        })?;
        let (hurry, hurried) = bounded(1);
        let surroundings = Surroundings {
            status: Arc::default(),
            stderr: LastLines::default(),
            stderr_rate,
            hurried,
        };
        let shared = ChildrenShared {
            executor,
            surroundings,
            hurry,
            supervised: Mutex::default(),
            done: Condvar::new(),
            slots: OnceLock::new(),
            _thread: running,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Limits the number of concurrent processes of sessions, at least 1. Unlimited by default.
    ///
    /// Processes that are being ended count, because each keeps [`DESCRIPTORS`] until it has been reaped, which may
    /// be seconds after the end of its session. Further sessions wait. Only the first call has an effect.
    pub fn limit(&self, processes: usize) {
        let _ = self.shared.slots.set(bounded(processes.max(1)));
    }

    /// Waits until there may be one more process. Cancel-safe.
    pub(super) async fn slot(&self) -> ProcessSlot {
        let Some((slots, _)) = self.shared.slots.get() else { return ProcessSlot(None) };
        // `send` cannot fail: `shared` owns the receiver.
        let taken = slots.send(()).await.is_ok();
        ProcessSlot(taken.then(|| self.shared.clone()))
    }

    /// The counters of all processes.
    #[must_use]
    pub fn status(&self) -> &Arc<BridgeStatus> {
        &self.shared.surroundings.status
    }

    /// Starts a process.
    ///
    /// `head` is the request whose header fields may become variables ([`ServerCommand::header_to_env`]). `name` is
    /// the name of the process in the log. The program is started by the [guard], so a missing program is not an
    /// error here: the process then [exits with status 127](super::child::Exit::was_not_run).
    ///
    /// If the returned future is dropped, a process that it has started is ended.
    ///
    /// # Errors
    ///
    /// Returns the error of the operating system: there are too many processes or descriptors, or the directory does
    /// not exist.
    pub(super) async fn spawn(
        &self,
        command: &ServerCommand,
        head: Option<&RequestHead>,
        name: impl Into<String>,
    ) -> io::Result<Child> {
        self.spawn_in(ProcessSlot(None), command, head, name).await
    }

    /// Starts a process like [`spawn`](Self::spawn). The process keeps `slot` until it has been reaped.
    pub(super) async fn spawn_in(
        &self,
        slot: ProcessSlot,
        command: &ServerCommand,
        head: Option<&RequestHead>,
        name: impl Into<String>,
    ) -> io::Result<Child> {
        let mut command = command.prepare(own_program()?, head);
        command.arg0(guard::NAME);
        match descriptors::before_raise() {
            Some(before) => command.env(guard::DESCRIPTORS, before.to_string()),
            None => command.env_remove(guard::DESCRIPTORS),
        };
        self.start(slot, command, name.into()).await
    }

    async fn start(
        &self,
        slot: ProcessSlot,
        mut command: process::Command,
        name: String,
    ) -> io::Result<Child> {
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (started, start) = bounded(1);
        let shared = self.shared.clone();
        *shared.supervised() += 1;
        let task = async move {
            let done = TaskDone(&shared);
            match SupervisedProcess::start(command, &shared.surroundings.status) {
                Ok((process, child)) => {
                    // If the receiver has been dropped, the child is dropped here. If the receiver is dropped later,
                    // the child is dropped with the channel, so drop the sender before `supervise`.
                    drop(started.try_send(Ok(child)));
                    drop(started);
                    process.supervise(&name, &shared.surroundings).await;
                    shared.surroundings.status.process_ended();
                }
                Err(error) => drop(started.try_send(Err(error))),
            }
            drop(slot);
            drop(done);
        };
        self.shared.executor.spawn(task).detach();
        start.recv().await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
    }

    /// Keeps the last ten lines of stderr from now on, for [`last_stderr`](Self::last_stderr). They are logged as
    /// well.
    pub fn keep_stderr(&self) {
        self.shared.surroundings.stderr.begin();
    }

    /// The last ten lines that all processes together have printed on stderr, oldest first. Empty unless
    /// [`keep_stderr`](Self::keep_stderr) was called.
    #[must_use]
    pub fn last_stderr(&self) -> Vec<String> {
        self.shared.surroundings.stderr.last()
    }

    /// Runs a task on the supervising thread.
    pub(super) fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.shared.executor.spawn(task).detach();
    }

    /// Kills every process that is being ended, now and later: the waits after the end of its stdin and after SIGTERM
    /// are skipped.
    pub fn hurry(&self) {
        self.shared.hurry.close();
    }

    /// Blocks until every process has ended, for at most [`FINISH`]. Call this when the sessions have
    /// ended and every [`PerSession`](crate::PerSession) and [`SharedProcess`](crate::SharedProcess) has been dropped.
    ///
    /// Returns the number of processes that still run; this is 0 if the operating system could kill all of them.
    #[must_use]
    pub fn finish(&self) -> usize {
        let until = Instant::now() + FINISH;
        let mut supervised = self.shared.supervised();
        while *supervised > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.shared.done.wait_timeout(supervised, left);
            supervised = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *supervised
    }
}

impl fmt::Debug for Children {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Children")
            .field("status", &self.shared.surroundings.status)
            .finish_non_exhaustive()
    }
}

impl ChildrenShared {
    fn supervised(&self) -> MutexGuard<'_, usize> {
        self.supervised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One unit of the limit on the number of processes, if there is a limit. Dropping this frees the unit.
pub(super) struct ProcessSlot(Option<Arc<ChildrenShared>>);

impl Drop for ProcessSlot {
    fn drop(&mut self) {
        if let Some((_, taken)) = self.0.as_ref().and_then(|shared| shared.slots.get()) {
            let _ = taken.try_recv();
        }
    }
}

/// Counts a task as done when this is dropped, also if the task has panicked.
struct TaskDone<'s>(&'s ChildrenShared);

impl Drop for TaskDone<'_> {
    fn drop(&mut self) {
        *self.0.supervised() -= 1;
        self.0.done.notify_all();
    }
}

/// The running program's executable. On Linux this also works if the file was replaced since the start.
fn own_program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { env::current_exe() }
}

#[cfg(test)]
mod tests {
    use core::task::Context;

    use smol::{Timer, future};

    use super::*;

    #[test]
    fn process_whose_spawn_is_dropped_is_ended() {
        struct Told(std::sync::mpsc::Sender<()>);
        impl std::task::Wake for Told {
            fn wake(self: Arc<Self>) {
                let _ = self.0.send(());
            }
        }
        let children = Children::new().unwrap();
        let (told, telling) = std::sync::mpsc::channel();
        let waker = Arc::new(Told(told)).into();
        let cat = process::Command::new("cat");
        let mut start = Box::pin(children.start(ProcessSlot(None), cat, "cat".into()));
        assert!(start.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        // The process was started, and its child waits in the channel when the session ends.
        telling.recv_timeout(Duration::from_secs(30)).unwrap();
        drop(start);
        assert_eq!(children.finish(), 0);
    }

    #[test]
    fn slot_is_free_when_its_process_has_been_reaped() {
        let in_time = |what: &'static str| async move {
            Timer::after(Duration::from_secs(30)).await;
            panic!("waited in vain: {what}");
        };
        let children = Children::new().unwrap();
        children.limit(1);
        let cat = || process::Command::new("cat");
        smol::block_on(async {
            let slot = future::or(children.slot(), in_time("a slot")).await;
            let first = children.start(slot, cat(), "first".into()).await.unwrap();
            let mut second = Box::pin(children.slot());
            assert!(future::poll_once(second.as_mut()).await.is_none(), "there is one process");
            drop(first);
            let slot = future::or(second, in_time("the first one's end")).await;
            assert_eq!(children.status().running(), 0, "before it has been reaped");
            // Dropping an unused slot frees it as well.
            drop(slot);
            drop(future::or(children.slot(), in_time("the slot again")).await);
        });
        assert_eq!(children.finish(), 0);
    }
}
