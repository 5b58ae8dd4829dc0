//! All processes of a bridge: how one is started, how many there may be, and that every one ends.
//!
//! Knows: the thread that looks after processes, and slots.
//! Does not know: messages, sessions; what one process goes through (see `supervisor` and `ending`).
//!
//! Theory of operation. Each process has a task of its own, on one thread for all, from before it is started until
//! it has been reaped. A [`Child`] is a hold on its pipes. Whatever becomes of the session (the client leaves or
//! stalls, the process ends, the server stops, the future is dropped), the `Child` is dropped in the end, and
//! that is the one way in which an ending begins.
//!
//! Decision: there are at most as many processes as there may be sessions, those that are ending included.
//! A process keeps its descriptors until it has been reaped, which may be seconds after its session has
//! ended. A new session waits for a short time for one to end; otherwise clients that come and go would use
//! up the descriptors that posts need.
//!
//! Decision: the command waits for this thread before it ends, for [`FINISH`]: two steps of 2 s, 2 s in
//! which guards kill, and some slack. A second signal shortens that.

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

/// How many descriptors of the bridge a process takes while it runs: its three pipes, the socket to its guard, and
/// one that is readable at its end.
pub const DESCRIPTORS: u32 = 5;
/// How long [`Children::finish`] waits at most: two steps, the time that a guard has to kill, and some time for a busy
/// machine.
pub const FINISH: Duration = Duration::from_secs(8);

/// All processes of a bridge. Cheap to clone.
#[derive(Clone)]
pub struct Children {
    shared: Arc<ChildrenShared>,
}

struct ChildrenShared {
    executor: Arc<Executor<'static>>,
    surroundings: Surroundings,
    /// Closed when no step of an ending is to be waited for any more.
    hurry: Sender<Never>,
    /// Tasks that are not done.
    supervised: Mutex<usize>,
    done: Condvar,
    /// As many units as there may be processes; one that starts puts one in, and takes it out when it has
    /// been reaped.
    slots: OnceLock<(Sender<()>, Receiver<()>)>,
    /// The thread ends when this is dropped.
    _thread: Sender<Never>,
}

impl Children {
    /// No processes yet. What they print on stderr is logged at the default [`StderrRate`].
    ///
    /// # Errors
    ///
    /// If the thread that looks after them cannot be started.
    pub fn new() -> io::Result<Self> {
        Self::with_stderr_rate(StderrRate::default())
    }

    /// No processes yet. What each of them prints on stderr is logged at this rate at most.
    ///
    /// # Errors
    ///
    /// If the thread that looks after them cannot be started.
    pub fn with_stderr_rate(stderr_rate: StderrRate) -> io::Result<Self> {
        let executor = Arc::new(Executor::new());
        let (running, stopped) = bounded::<Never>(1);
        let thread_executor = executor.clone();
        thread::Builder::new().name("children".into()).spawn(move || {
            // It ends with an error, when the last clone is gone.
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

    /// Limits the number of processes of sessions at once, those that are being ended among them: each has
    /// [`DESCRIPTORS`] until it has been reaped, which may be seconds after its session. Further sessions wait. The
    /// first limit that is set holds; by default there is none.
    pub fn limit(&self, processes: usize) {
        let _ = self.shared.slots.set(bounded(processes.max(1)));
    }

    /// Waits until there may be one more process. Cancel-safe.
    pub(super) async fn slot(&self) -> ProcessSlot {
        let Some((slots, _)) = self.shared.slots.get() else { return ProcessSlot(None) };
        // Both ends are held here.
        let taken = slots.send(()).await.is_ok();
        ProcessSlot(taken.then(|| self.shared.clone()))
    }

    /// Counts of the processes.
    #[must_use]
    pub fn status(&self) -> &Arc<BridgeStatus> {
        &self.shared.surroundings.status
    }

    /// Starts a process. `head` is the request whose header fields the command may take, and `name` is the name in the
    /// log. The program itself is started by the [guard], so a missing program is known from the
    /// [exit](super::child::Exit::was_not_run) only.
    ///
    /// A future that is dropped leaves no process behind.
    ///
    /// # Errors
    ///
    /// Those of the system: too many processes or descriptors, no such directory.
    pub async fn spawn(
        &self,
        command: &ServerCommand,
        head: Option<&RequestHead>,
        name: impl Into<String>,
    ) -> io::Result<Child> {
        self.spawn_in(ProcessSlot(None), command, head, name).await
    }

    /// As [`spawn`](Self::spawn); the process has the slot until it has been reaped.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
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
                    // If the receiver is gone, the child is dropped here; if it goes later, the child is
                    // dropped with the channel, whose sender must therefore be dropped here.
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

    /// Keeps the last lines of stderr from now on, for [`last_stderr`](Self::last_stderr), instead of
    /// only logging them.
    pub fn keep_stderr(&self) {
        self.shared.surroundings.stderr.begin();
    }

    /// The last ten lines of stderr of all processes together.
    #[must_use]
    pub fn last_stderr(&self) -> Vec<String> {
        self.shared.surroundings.stderr.last()
    }

    /// Runs a task beside the processes. It should end when the bridge does.
    pub(super) fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.shared.executor.spawn(task).detach();
    }

    /// Skips the waiting of endings: every process that is being ended, or will be, is killed at once.
    pub fn hurry(&self) {
        self.shared.hurry.close();
    }

    /// Waits until every process has ended; every [`Child`] should have been dropped. Returns how many processes are left
    /// after [`FINISH`]: 0, if the system can kill them.
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

/// The right of one process to be there, if their number is limited. It is given back when this is dropped.
pub(super) struct ProcessSlot(Option<Arc<ChildrenShared>>);

impl Drop for ProcessSlot {
    fn drop(&mut self) {
        if let Some((_, taken)) = self.0.as_ref().and_then(|shared| shared.slots.get()) {
            let _ = taken.try_recv();
        }
    }
}

/// Counts a task as done when this is dropped, whatever way it went.
struct TaskDone<'s>(&'s ChildrenShared);

impl Drop for TaskDone<'_> {
    fn drop(&mut self) {
        *self.0.supervised() -= 1;
        self.0.done.notify_all();
    }
}

/// The file of the running program. It may have been replaced since the start; Linux can run it all the same.
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
        // It was started and waits to be taken; then its session is gone.
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
            let slot = future::or(children.slot(), in_time("a place")).await;
            let first = children.start(slot, cat(), "first".into()).await.unwrap();
            let mut second = Box::pin(children.slot());
            assert!(future::poll_once(second.as_mut()).await.is_none(), "there is one process");
            drop(first);
            let slot = future::or(second, in_time("the first one's end")).await;
            assert_eq!(children.status().running(), 0, "before it has been reaped");
            // A place that nobody uses is given back as well.
            drop(slot);
            drop(future::or(children.slot(), in_time("the place again")).await);
        });
        assert_eq!(children.finish(), 0);
    }
}
