//! Processes: how one is started, how one ends, and that every one does.
//!
//! Knows: process groups, signals, pipes, and in which order an end is brought about.
//! Does not know: messages, sessions; what is said on the pipes is others' business.
//!
//! Theory of operation. Each process has a task of its own, on a thread of their own, from before it is
//! started until it has been reaped. A [`Child`] is a hold on its pipes. Whatever becomes of the
//! session (the client leaves or stalls, the process ends, the server stops, the future is dropped),
//! the `Child` is dropped in the end, and that is the one way in which an ending begins:
//!
//! ```text
//!  last words, stdin closed ──2 s──▶ SIGTERM to the group ──2 s──▶ SIGKILL to the group
//!        ╰──────────── the leader exits ───────┴──────▶ SIGKILL to the group ──▶ reaped
//! ```
//!
//! The group is signalled before its leader is reaped, always: until then nobody else can have its
//! number. The leader is the server's [guard].

use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{self, ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;
use std::{env, thread};

use async_channel::{Receiver, Sender, bounded};
use async_executor::Executor;
use async_io::{Async, Timer};
use futures_lite::{AsyncReadExt, AsyncWriteExt, Stream, future};
use mcp_sse_core::RequestHead;
use rustix::process::{Pid, Signal};

use super::command::Command;
use super::guard;
use super::status::Status;
use super::stderr::{Kept, Log};

/// How long a process has to end after its input has, and again after SIGTERM.
pub const STEP: Duration = Duration::from_secs(2);
/// For how long [`Children::finish`] waits at most: two steps, and some time for a busy machine.
pub const FINISH: Duration = Duration::from_secs(6);
/// What is left in stderr when a process has ended is read for so long, in case somebody else holds it.
const STDERR_REST: Duration = Duration::from_millis(500);
/// Bytes read from a pipe at once: as much as a pipe holds on most systems.
const READ_BYTES: usize = 64 << 10;

/// All processes of a bridge. Cheap to clone.
#[derive(Clone)]
pub struct Children {
    shared: Arc<Shared>,
}

struct Shared {
    executor: Arc<Executor<'static>>,
    status: Arc<Status>,
    /// Closed when there is no more patience with endings.
    hurry: Sender<Never>,
    hurried: Receiver<Never>,
    /// Tasks that are not done.
    tended: Mutex<usize>,
    done: Condvar,
    stderr: Kept,
    /// Dropped last: lets the thread end.
    _thread: Sender<Never>,
}

enum Never {}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(ExitStatus);

impl Exit {
    /// Whether it is how shells and the guard say that there was nothing to run.
    #[must_use]
    pub fn was_not_run(self) -> bool {
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

/// A process that was started. Dropping it, or [`end`](Self::end), brings its end about.
pub struct Child {
    pid: u32,
    pipes: Option<(Async<ChildStdin>, Async<ChildStdout>)>,
    exit: Pin<Box<Receiver<Exit>>>,
    exited: Option<Exit>,
    ending: Sender<Ending>,
}

/// What is left to do with the pipes of a process.
struct Ending {
    stdin: Async<ChildStdin>,
    stdout: Async<ChildStdout>,
    last_words: Vec<u8>,
}

impl Children {
    /// None yet.
    ///
    /// # Errors
    ///
    /// If the thread that looks after them cannot be started.
    pub fn new() -> io::Result<Self> {
        let executor = Arc::new(Executor::new());
        let (running, stopped) = bounded::<Never>(1);
        let thread_executor = executor.clone();
        thread::Builder::new().name("children".into()).spawn(move || {
            // Ends with an error, when the last hold is gone.
            async_io::block_on(thread_executor.run(stopped.recv())).ok();
        })?;
        let (hurry, hurried) = bounded(1);
        let shared = Shared {
            executor,
            status: Arc::default(),
            hurry,
            hurried,
            tended: Mutex::default(),
            done: Condvar::new(),
            stderr: Kept::default(),
            _thread: running,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What is counted about them.
    #[must_use]
    pub fn status(&self) -> &Arc<Status> {
        &self.shared.status
    }

    /// Starts a process; `head` is the request whose header fields the command may want, and `name`
    /// what its stderr is logged under. The program itself is started by the [guard], so
    /// that there is no such program is known from its [exit](Exit::was_not_run).
    ///
    /// A future that is dropped leaves no process behind.
    ///
    /// # Errors
    ///
    /// Those of the system: too many processes or descriptors, no such directory.
    pub async fn spawn(
        &self,
        command: &Command,
        head: Option<&RequestHead>,
        name: impl Into<String>,
    ) -> io::Result<Child> {
        let mut command = command.prepare(own_program()?, head);
        command.arg0(guard::NAME);
        self.start(command, name.into()).await
    }

    async fn start(&self, mut command: process::Command, name: String) -> io::Result<Child> {
        command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (started, start) = bounded(1);
        let shared = self.shared.clone();
        *shared.tended() += 1;
        let task = async move {
            let done = Done(&shared);
            match Process::start(command, &shared) {
                Ok((process, child)) => {
                    // Nobody may be waiting any more; then the child is dropped here. Or nobody takes
                    // it out of the channel: then it goes with that, which must not wait for us.
                    drop(started.try_send(Ok(child)));
                    drop(started);
                    process.tend(&name, &shared).await;
                    shared.status.process_ended();
                }
                Err(error) => drop(started.try_send(Err(error))),
            }
            drop(done);
        };
        self.shared.executor.spawn(task).detach();
        start.recv().await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
    }

    /// Keeps the last lines of stderr from now on, for [`last_stderr`](Self::last_stderr), instead of
    /// only logging them.
    pub fn keep_stderr(&self) {
        self.shared.stderr.begin();
    }

    /// The last ten lines of stderr of all processes together.
    #[must_use]
    pub fn last_stderr(&self) -> Vec<String> {
        self.shared.stderr.last()
    }

    /// Runs a task beside the processes. It should end when the bridge does.
    pub(super) fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.shared.executor.spawn(task).detach();
    }

    /// Has no more patience: every process that is being ended, or will be, is killed at once.
    pub fn hurry(&self) {
        self.shared.hurry.close();
    }

    /// Waits until every process has ended; all holds on them should have been dropped. Returns how
    /// many are left after [`FINISH`], which are none unless the system cannot kill them.
    #[must_use]
    pub fn finish(&self) -> usize {
        let until = Instant::now() + FINISH;
        let mut tended = self.shared.tended();
        while *tended > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.shared.done.wait_timeout(tended, left);
            tended = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *tended
    }
}

impl fmt::Debug for Children {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Children").field("status", &self.shared.status).finish_non_exhaustive()
    }
}

impl Shared {
    fn tended(&self) -> std::sync::MutexGuard<'_, usize> {
        self.tended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that a task is done, whatever way it went.
struct Done<'s>(&'s Shared);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        *self.0.tended() -= 1;
        self.0.done.notify_all();
    }
}

/// The file of the program that this is. It may have been replaced since it was started; Linux can run
/// it all the same.
fn own_program() -> io::Result<std::path::PathBuf> {
    if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { env::current_exe() }
}

impl Child {
    /// Its number, which is that of its group too.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Writes to its stdin.
    ///
    /// # Errors
    ///
    /// That it does not read any more, as a broken pipe.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
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

    /// Reads from its stdout; 0 at the end.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        use futures_lite::AsyncRead;
        match &mut self.pipes {
            Some((_, stdout)) => Pin::new(stdout).poll_read(cx, buffer),
            None => broken(),
        }
    }

    /// How it ended, once it has, with all that it had left behind.
    pub fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        if self.exited.is_none() {
            self.exited = ready!(self.exit.as_mut().poll_next(cx));
        }
        match self.exited {
            Some(exit) => Poll::Ready(exit),
            // Its task always tells, unless it panicked.
            None => Poll::Ready(Exit(ExitStatus::from_raw(0x7f00))),
        }
    }

    /// Feeds `last_words` to its stdin, closes that, and sees to its end. What it still prints is
    /// discarded. Returns at once.
    pub fn end(mut self, last_words: Vec<u8>) {
        self.begin_end(last_words);
    }

    fn begin_end(&mut self, last_words: Vec<u8>) {
        if let Some((stdin, stdout)) = self.pipes.take() {
            // It fails if the process has ended before; there is nothing left to do then.
            let _ = self.ending.try_send(Ending { stdin, stdout, last_words });
        }
    }
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

/// The task's side of a process.
struct Process {
    process: process::Child,
    group: Pid,
    stderr: Async<ChildStderr>,
    ending: Receiver<Ending>,
    exit: Sender<Exit>,
}

impl Process {
    fn start(mut command: process::Command, shared: &Shared) -> io::Result<(Self, Child)> {
        let mut process = command.spawn()?;
        let group = Pid::from_child(&process);
        let pipes = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            unreachable!("all three were asked for");
        };
        let pipes = || {
            // These fail where the system has no more room for watching descriptors.
            Ok::<_, io::Error>((Async::new(stdin)?, Async::new(stdout)?, Async::new(stderr)?))
        };
        let (stdin, stdout, stderr) = match pipes() {
            Ok(pipes) => pipes,
            Err(error) => {
                let _ = rustix::process::kill_process_group(group, Signal::KILL);
                let _ = process.wait();
                return Err(error);
            }
        };
        shared.status.process_started();
        let (end, ending) = bounded(1);
        let (exit, exited) = bounded(1);
        let child = Child {
            pid: process.id(),
            pipes: Some((stdin, stdout)),
            exit: Box::pin(exited),
            exited: None,
            ending: end,
        };
        Ok((Self { process, group, stderr, ending, exit }, child))
    }

    /// Everything that happens to the process.
    async fn tend(mut self, name: &str, shared: &Shared) {
        let life = async {
            let exited = Exited::of(self.group);
            let end = async {
                // The other end is held until the end begins.
                if let Ok(ending) = self.ending.recv().await {
                    ending.run(self.group, &exited, &shared.hurried).await;
                }
                exited.wait().await;
            };
            future::or(exited.wait(), end).await;
        };
        let mut log = Log::new(name, &shared.stderr);
        future::or(life, log.follow(&mut self.stderr)).await;
        // Whoever is left. The leader is still there, as a zombie.
        let _ = rustix::process::kill_process_group(self.group, Signal::KILL);
        let rest = async {
            Timer::after(STDERR_REST).await;
        };
        future::or(log.read_to_end(&mut self.stderr), rest).await;
        log.finish();
        match self.process.wait() {
            Ok(status) => {
                log::debug!("{name}: the server has ended: {}", Exit(status));
                // The session may be gone.
                let _ = self.exit.try_send(Exit(status));
            }
            Err(error) => log::error!("{name}: a process was reaped by somebody else: {error}"),
        }
    }
}

impl Ending {
    /// Sees to it that the group ends. Returns when its leader has, or SIGKILL was sent.
    async fn run(self, group: Pid, exited: &Exited, hurried: &Receiver<Never>) {
        let Self { mut stdin, mut stdout, last_words } = self;
        // Both in vain if it does not read or write; neither is waited for.
        let pipes = async {
            let _ = stdin.write_all(&last_words).await;
            drop(stdin);
            let mut buffer = vec![0; READ_BYTES];
            while stdout.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
            future::pending::<()>().await;
        };
        let steps = async {
            let exited_within_a_step = || {
                let late = async {
                    Timer::after(STEP).await;
                    false
                };
                let now = async {
                    let _closed = hurried.recv().await;
                    false
                };
                let exit = async {
                    exited.wait().await;
                    true
                };
                future::or(exit, future::or(now, late))
            };
            for signal in [Signal::TERM, Signal::KILL] {
                if exited_within_a_step().await {
                    return;
                }
                let _ = rustix::process::kill_process_group(group, signal);
            }
        };
        future::or(steps, pipes).await;
    }
}

/// Notices that a process has ended, and does not reap it.
enum Exited {
    #[cfg(target_os = "linux")]
    Descriptor(Pid, Async<std::os::fd::OwnedFd>),
    Looking(Pid),
}

impl Exited {
    /// How often to look where the system does not tell.
    const LOOK: Duration = Duration::from_millis(50);

    fn of(pid: Pid) -> Self {
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{PidfdFlags, pidfd_open};
            // Linux before 5.3 has none, and some sandboxes.
            let descriptor = pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from);
            if let Ok(descriptor) = descriptor.and_then(Async::new) {
                return Self::Descriptor(pid, descriptor);
            }
        }
        Self::Looking(pid)
    }

    async fn wait(&self) {
        // Looked at before it is waited for, as everything is that the reactor tells of.
        while !self.has_come() {
            match self {
                #[cfg(target_os = "linux")]
                Self::Descriptor(_, descriptor) => {
                    if let Err(error) = descriptor.readable().await {
                        log::error!("cannot wait for a process: {error}");
                        return;
                    }
                }
                Self::Looking(_) => drop(Timer::after(Self::LOOK).await),
            }
        }
    }

    fn has_come(&self) -> bool {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let pid = match self {
            #[cfg(target_os = "linux")]
            Self::Descriptor(pid, _) => *pid,
            Self::Looking(pid) => *pid,
        };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(pid), options), Ok(None) | Err(rustix::io::Errno::INTR))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However an exit is noticed, there is still somebody to be reaped.
    #[track_caller]
    fn check(exited: impl FnOnce(Pid) -> Exited) {
        let mut process = process::Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let exited = exited(Pid::from_child(&process));
        for _ in 0..2 {
            mcp_sse_tests::finish("its end", exited.wait());
        }
        assert_eq!(Exit(process.wait().unwrap()).to_string(), "status 7");
    }

    #[test]
    fn an_exit_is_noticed_and_the_process_not_reaped() {
        check(Exited::of);
        check(Exited::Looking);
    }

    #[test]
    fn a_process_that_nobody_takes_over_is_ended() {
        struct Told(std::sync::mpsc::Sender<()>);
        impl std::task::Wake for Told {
            fn wake(self: Arc<Self>) {
                let _ = self.0.send(());
            }
        }
        let children = Children::new().unwrap();
        let (told, telling) = std::sync::mpsc::channel();
        let waker = Arc::new(Told(told)).into();
        let mut start = Box::pin(children.start(process::Command::new("cat"), "cat".into()));
        assert!(start.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        // It was started and waits to be taken; then its session is gone.
        telling.recv_timeout(Duration::from_secs(30)).unwrap();
        drop(start);
        assert_eq!(children.finish(), 0);
    }

    #[test]
    fn exits_are_told_like_this() {
        let exit = |raw| Exit(ExitStatus::from_raw(raw));
        assert_eq!(exit(9).to_string(), "signal 9");
        assert_eq!(exit(137 << 8).to_string(), "status 137");
        assert!(exit(127 << 8).was_not_run() && exit(126 << 8).was_not_run());
        assert!(!exit(0).was_not_run() && !exit(9).was_not_run());
    }
}
