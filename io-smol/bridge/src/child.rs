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
//!  last words, stdin closed ──2 s──▶ SIGTERM to the group ──2 s──▶ the guard kills ──2 s──▶ SIGKILL
//!        ╰──────────── the leader exits ───────┴──────────────────────┴───▶ SIGKILL to the group, reaped
//! ```
//!
//! The group is signalled before its leader is reaped, always: until then nobody else can have its
//! number. The leader is the server's [guard], which alone can find what has left the group; so it is
//! asked to kill before it is killed itself. It also says how the server has ended, on the `control`
//! socket, before what that left behind has ended.

use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{self, ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Instant;
use std::{env, thread};

use async_channel::{Receiver, Sender, bounded};
use mcp_sse_core::RequestHead;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::stream::Stream;
use smol::{Async, Executor, Timer, future};

use super::command::Command;
use super::status::Status;
use super::stderr::{Kept, Log, StderrRate};
use super::{control, guard};
use crate::descriptors;

/// What a process takes of the bridge's descriptors while it runs: its three pipes, the socket to its guard,
/// and one that tells its end.
pub const DESCRIPTORS: u32 = 5;
/// How long a process has to end after its input has, and again after SIGTERM.
pub const STEP: Duration = Duration::from_secs(2);
/// For how long a guard that was asked to kill what it guards is waited for. Twice what it takes at most.
const KILLED: Duration = Duration::from_secs(2);
const _: () = assert!(KILLED.as_secs() == 2 * guard::KILLING.as_secs());
/// For how long [`Children::finish`] waits at most: two steps, what a guard is given to kill, and some
/// time for a busy machine.
pub const FINISH: Duration = Duration::from_secs(8);
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
    stderr_rate: StderrRate,
    /// As many units as there may be processes; one that starts puts one in, and takes it out when it has
    /// been reaped.
    places: OnceLock<(Sender<()>, Receiver<()>)>,
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
    /// None yet, with the default [`StderrRate`].
    ///
    /// # Errors
    ///
    /// If the thread that looks after them cannot be started.
    pub fn new() -> io::Result<Self> {
        Self::with_stderr_rate(StderrRate::default())
    }

    /// None yet. What each prints on stderr is logged at this rate at most.
    ///
    /// # Errors
    ///
    /// If the thread that looks after them cannot be started.
    pub fn with_stderr_rate(stderr_rate: StderrRate) -> io::Result<Self> {
        let executor = Arc::new(Executor::new());
        let (running, stopped) = bounded::<Never>(1);
        let thread_executor = executor.clone();
        thread::Builder::new().name("children".into()).spawn(move || {
            // Ends with an error, when the last hold is gone.
            smol::block_on(thread_executor.run(stopped.recv())).ok();
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
            stderr_rate,
            places: OnceLock::new(),
            _thread: running,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Lets there be so many processes of sessions at once, those that are being ended among them: each
    /// has [`DESCRIPTORS`] until it has been reaped, which may be seconds after its session. Further
    /// sessions wait. The first limit that is set holds; there is none unless said.
    pub fn limit(&self, processes: usize) {
        let _ = self.shared.places.set(bounded(processes.max(1)));
    }

    /// Waits until there may be one more process. Cancel-safe.
    pub(super) async fn place(&self) -> Place {
        let Some((places, _)) = self.shared.places.get() else { return Place(None) };
        // Its other end is there as long as this is.
        let taken = places.send(()).await.is_ok();
        Place(taken.then(|| self.shared.clone()))
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
        self.spawn_in(Place(None), command, head, name).await
    }

    /// As [`spawn`](Self::spawn), in a place that it has as long as it is there.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub(super) async fn spawn_in(
        &self,
        place: Place,
        command: &Command,
        head: Option<&RequestHead>,
        name: impl Into<String>,
    ) -> io::Result<Child> {
        let mut command = command.prepare(own_program()?, head);
        command.arg0(guard::NAME);
        match descriptors::before_raise() {
            Some(before) => command.env(guard::DESCRIPTORS, before.to_string()),
            None => command.env_remove(guard::DESCRIPTORS),
        };
        self.start(place, command, name.into()).await
    }

    async fn start(
        &self,
        place: Place,
        mut command: process::Command,
        name: String,
    ) -> io::Result<Child> {
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
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
            drop(place);
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

/// The place of one process among those that there may be.
pub(super) struct Place(Option<Arc<Shared>>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((_, taken)) = self.0.as_ref().and_then(|shared| shared.places.get()) {
            let _ = taken.try_recv();
        }
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
        use smol::io::AsyncRead;
        match &mut self.pipes {
            Some((_, stdout)) => Pin::new(stdout).poll_read(cx, buffer),
            None => broken(),
        }
    }

    /// Waits until nobody has the other end of its stdin: it has closed that, or has ended. Noticed by
    /// a pipe that hangs up, on systems that tell; else the next write fails.
    pub fn poll_input_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((stdin, _)) = &self.pipes else { return Poll::Ready(()) };
        loop {
            if is_hung_up(stdin) {
                return Poll::Ready(());
            }
            match ready!(stdin.poll_readable(cx)) {
                // Or it only seems so.
                Ok(()) => {}
                // It is noticed by the next write then.
                Err(_) => return Poll::Pending,
            }
        }
    }

    /// How it ended, once it has. What it has left behind may still be there, and is being ended.
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

/// Whether nobody holds the reading end of this pipe.
fn is_hung_up(pipe: &Async<ChildStdin>) -> bool {
    const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
    let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
    let mut fds = [PollFd::new(pipe, PollFlags::empty())];
    // A call that fails has said nothing.
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

/// The task's side of a process.
struct Process {
    process: process::Child,
    group: Pid,
    control: Async<UnixStream>,
    stderr: Async<ChildStderr>,
    ending: Receiver<Ending>,
    exit: Sender<Exit>,
}

impl Process {
    fn start(mut command: process::Command, shared: &Shared) -> io::Result<(Self, Child)> {
        let (input, stdin) = io::pipe()?;
        let (control, guard) = control::pair(input.into())?;
        command.stdin(OwnedFd::from(guard));
        let mut process = command.spawn()?;
        // It has copies of what is the process's alone.
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
        Ok((Self { process, group, control, stderr, ending, exit }, child))
    }

    /// Everything that happens to the process.
    async fn tend(self, name: &str, shared: &Shared) {
        let Self { mut process, group, control, mut stderr, ending, exit } = self;
        let exited = Exited::of(group);
        let life = async {
            let end = async {
                // The other end is held until the end begins.
                if let Ok(ending) = ending.recv().await {
                    ending.run(group, &control, &exited, &shared.hurried).await;
                }
                exited.wait().await;
            };
            future::or(exited.wait(), end).await;
        };
        let mut told = None;
        let status = async {
            told = told_status(&control).await;
            // The session may be gone.
            if let Some(status) = told {
                let _ = exit.try_send(status);
            }
            future::pending().await
        };
        let mut log = Log::new(name, &shared.stderr, shared.stderr_rate);
        future::or(life, future::or(status, log.follow(&mut stderr))).await;
        // Whoever is left. The leader is still there, as a zombie.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
        let rest = async {
            Timer::after(STDERR_REST).await;
        };
        future::or(log.read_to_end(&mut stderr), rest).await;
        log.finish();
        let status = process.wait();
        let told = match told {
            Some(told) => Some(told),
            None => future::poll_once(told_status(&control)).await.flatten(),
        };
        // The guard may have been killed, which says little of the server; without its word it counts.
        match told.map_or_else(|| status.map(Exit), Ok) {
            Ok(status) => {
                log::debug!("{name}: the server has ended: {status}");
                // The session may be gone, or know.
                let _ = exit.try_send(status);
            }
            Err(error) => log::error!("{name}: a process was reaped by somebody else: {error}"),
        }
    }
}

/// What the guard says of how the server has ended; `None` if it is gone and has said nothing.
async fn told_status(mut control: &Async<UnixStream>) -> Option<Exit> {
    let mut status = [0];
    match control.read(&mut status).await {
        Ok(1..) => status.first().map(|status| Exit(ExitStatus::from_raw(i32::from(*status) << 8))),
        Ok(0) | Err(_) => None,
    }
}

impl Ending {
    /// Sees to it that the group ends, and whoever has left it. Returns when its leader has, or SIGKILL
    /// was sent.
    async fn run(
        self,
        group: Pid,
        control: &Async<UnixStream>,
        exited: &Exited,
        hurried: &Receiver<Never>,
    ) {
        let Self { mut stdin, mut stdout, last_words } = self;
        // Both in vain if it does not read or write; neither is waited for.
        let pipes = async {
            let _ = stdin.write_all(&last_words).await;
            drop(stdin);
            let mut buffer = vec![0; READ_BYTES];
            while stdout.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
            future::pending::<()>().await;
        };
        let exited_within = |time: Duration| {
            let exit = async {
                exited.wait().await;
                true
            };
            let late = async move {
                Timer::after(time).await;
                false
            };
            future::or(exit, late)
        };
        let exited_within_a_step = || {
            let now = async {
                let _closed = hurried.recv().await;
                false
            };
            future::or(exited_within(STEP), now)
        };
        let steps = async {
            if exited_within_a_step().await {
                return;
            }
            let _ = rustix::process::kill_process_group(group, Signal::TERM);
            if exited_within_a_step().await {
                return;
            }
            // One byte has room, and if the guard is gone, that is noticed.
            let _ = control.get_ref().write(&[control::KILL]);
            if !exited_within(KILLED).await {
                let _ = rustix::process::kill_process_group(group, Signal::KILL);
            }
        };
        future::or(steps, pipes).await;
    }
}

/// Notices that a process has ended, and does not reap it.
enum Exited {
    #[cfg(target_os = "linux")]
    Descriptor(Pid, Async<OwnedFd>),
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
        // Looked first, and waited then: an event from before may not be told.
        match self {
            #[cfg(target_os = "linux")]
            Self::Descriptor(pid, descriptor) => {
                if !has_ended(*pid)
                    && let Err(error) = descriptor.readable().await
                {
                    log::error!("cannot wait for a process: {error}");
                }
            }
            Self::Looking(pid) => {
                while !has_ended(*pid) {
                    Timer::after(Self::LOOK).await;
                }
            }
        }
    }
}

/// Whether a child has ended; it is not reaped.
fn has_ended(pid: Pid) -> bool {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::Pid(pid), options), Ok(None) | Err(rustix::io::Errno::INTR))
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
        let cat = process::Command::new("cat");
        let mut start = Box::pin(children.start(Place(None), cat, "cat".into()));
        assert!(start.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        // It was started and waits to be taken; then its session is gone.
        telling.recv_timeout(Duration::from_secs(30)).unwrap();
        drop(start);
        assert_eq!(children.finish(), 0);
    }

    /// More than is read at once, in the pipe of a process that had ended before anybody looked.
    #[test]
    fn stderr_of_a_process_that_has_ended_is_read_to_its_end() {
        let children = Children::new().unwrap();
        children.keep_stderr();
        let mut command = process::Command::new("sh");
        command.args(["-c", "head -c 61440 /dev/zero | tr '\\0' '\\n' >&2; echo last >&2"]);
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (process, child) = Process::start(command, &children.shared).unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while !has_ended(process.group) {
            assert!(Instant::now() < until, "waited in vain");
            thread::sleep(Duration::from_millis(5));
        }
        smol::block_on(process.tend("sh", &children.shared));
        assert_eq!(children.last_stderr().last().map(String::as_str), Some("last"));
        drop(child);
    }

    #[test]
    fn closed_input_is_noticed_without_a_write() {
        let (reader, writer) = io::pipe().unwrap();
        let (end, _ending) = bounded(1);
        let (_exit, exited) = bounded(1);
        let stdin = Async::new(ChildStdin::from(OwnedFd::from(writer))).unwrap();
        let (stdout, _) = io::pipe().unwrap();
        let stdout = Async::new(ChildStdout::from(OwnedFd::from(stdout))).unwrap();
        let pipes = Some((stdin, stdout));
        let exit = Box::pin(exited);
        let mut child = Child { pid: 0, pipes, exit, exited: None, ending: end };
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
    fn place_of_a_process_is_free_when_it_has_been_reaped() {
        let in_time = |what: &'static str| async move {
            Timer::after(Duration::from_secs(30)).await;
            panic!("waited in vain: {what}");
        };
        let children = Children::new().unwrap();
        children.limit(1);
        let cat = || process::Command::new("cat");
        smol::block_on(async {
            let place = future::or(children.place(), in_time("a place")).await;
            let first = children.start(place, cat(), "first".into()).await.unwrap();
            let mut second = Box::pin(children.place());
            assert!(future::poll_once(second.as_mut()).await.is_none(), "there is one process");
            drop(first);
            let place = future::or(second, in_time("the first one's end")).await;
            assert_eq!(children.status().running(), 0, "before it has been reaped");
            // A place that nobody uses is given back as well.
            drop(place);
            drop(future::or(children.place(), in_time("the place again")).await);
        });
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
