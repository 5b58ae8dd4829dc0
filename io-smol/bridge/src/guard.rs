//! The guard process between the bridge and an MCP server: it leads the server's process group, and ends it.
//!
//! Knows: its own group, its children, and the socket to the bridge (see `control`), which is its stdin.
//! Does not know: sessions, messages. Input and output of the server do not pass through the guard.
//!
//! The bridge starts its own executable as the guard, under another name. While the guard exists, no other process
//! group can have its number. When the bridge has ended, even by SIGKILL, the operating system closes the socket, and
//! the guard ends the group.
//!
//! Theory of operation. On Linux the guard is a subreaper: it becomes the parent of each descendant whose parent has
//! ended, also of one that left the group by `setsid`. So when the guard has no children, no process is left. It
//! gets there in one of these ways:
//!
//! ```text
//!  server exits ──▶ its status is sent ──▶ SIGTERM ──2 s──▶ SIGKILL, for 1 s ──▶ SIGKILL to the own group
//!  bridge gone ──1.5 s──▶ SIGTERM ──1.5 s──▶ SIGKILL, ..
//!  the bridge asks for it ─────────────────▶ SIGKILL, ..
//! ```
//!
//! SIGTERM is sent to the group, and to children outside of it when they are adopted. SIGKILL is sent to each child
//! by its process id. No other process can have that id, because only the guard reaps its children. Children of
//! killed processes become children of the guard in turn, until none is left. A program that leaves the group and
//! forks faster than it is found can escape; the guard then says so on stderr.
//!
//! Decision: children are found in `/proc/*/stat`, because not every kernel has `/proc/self/task/*/children`. A cgroup
//! would contain every descendant, but requires privileges that most operators do not have.
//!
//! Other systems have no subreaper: there the group is ended, and a process that has left it is not noticed.
//!
//! Decision: a process leads each group, and not `PR_SET_PDEATHSIG`. That signal concerns the thread that
//! forked, reaches the server and none of its children (under `npx` the server is a child), and cannot be
//! set without unsafe code between `fork` and `exec`. The guard costs half a megabyte, and about a
//! millisecond at the start. Its name differs from the command's, so that `killall -9 mcp-sse` spares it.
//! Exit statuses are those of shells: 127, 126, and 128 plus the signal.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use core::time::Duration;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;
use std::{env, io, thread};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use super::control;

use crate::descriptors;

/// The name (`argv[0]`) of a guard process. It differs from the program's own name, so that killing all processes of
/// that name leaves the guards to clean up.
pub const NAME: &str = "mcp-guard";

/// The environment variable with the soft limit on descriptors for the server, if the bridge has raised its own
/// limit. The guard removes it from the server's environment.
pub const DESCRIPTORS: &str = "MCP_GUARD_DESCRIPTORS";

/// The guard's exit status when the program does not exist, which is also that of shells.
pub const STATUS_NOT_FOUND: u8 = 127;
/// The guard's exit status when the program cannot be run.
pub const STATUS_NOT_RUN: u8 = 126;

/// After the end of the bridge: how long a server may take to exit at the end of its input, and again after SIGTERM.
const STEP: Duration = Duration::from_millis(1_500);
/// After the exit of the server: how long the processes that it left behind may take to react to SIGTERM.
const LEFTOVERS: Duration = Duration::from_secs(2);
/// How long children are searched for and killed. Then the group is killed, and the guard with it.
pub(super) const KILLING: Duration = Duration::from_secs(1);
/// How often they are searched for at least, however long that takes: on a busy machine the guard may not run for
/// longer than [`KILLING`], and the children of a killed process are found in the next search only.
const SEARCHES_MIN: u32 = 20;
/// The interval at which adopted children are searched for after SIGTERM.
const LOOK: Duration = Duration::from_millis(100);
/// The interval at which children are searched for while they are killed. It is short, because the exit of a child
/// wakes the guard, but the adoption of that child's children does not.
const LOOK_KILLING: Duration = Duration::from_millis(10);

/// Runs this process as a guard until its end, if it was started as one.
///
/// `main` must call this before anything else, because [`Children`](super::children::Children) starts guards by
/// running its own executable.
///
/// Returns the status with which `main` must exit, or `None` if this process is not a guard.
///
/// ```
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     if let Some(code) = mcp_sse_bridge::guard::run() {
///         return code;
///     }
///     // The application follows.
///     ExitCode::SUCCESS
/// }
/// ```
#[must_use]
pub fn run() -> Option<ExitCode> {
    let mut args = env::args_os();
    if args.next().as_deref() != Some(OsStr::new(NAME)) {
        return None;
    }
    let Some(program) = args.next() else {
        log_line(format_args!("{NAME}: this is an internal part of mcp-sse bridge"));
        return Some(ExitCode::from(STATUS_NOT_RUN));
    };
    Some(ExitCode::from(match GuardDescriptors::prepare() {
        Ok(ends) => guard(ends, &program, args.collect()),
        Err(error) => {
            log_line(format_args!("cannot guard a process: {error}"));
            STATUS_NOT_RUN
        }
    }))
}

/// Writes a line to stderr, which the bridge reads. Errors are ignored, because the bridge may have ended.
fn log_line(what: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{what}");
}

/// The descriptors of a guard.
struct GuardDescriptors {
    control: UnixStream,
    /// Readable after the exit of a child and after SIGTERM.
    woken: UnixStream,
    /// Whether SIGTERM was received.
    terminated: Arc<AtomicBool>,
    /// The server's stdin and stdout.
    input: OwnedFd,
    output: OwnedFd,
}

impl GuardDescriptors {
    fn prepare() -> io::Result<Self> {
        // `ps` and `killall` would otherwise use the name of the executable.
        rustix::thread::set_name(c"mcp-guard")?;
        let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let input = control::take_input(&control)?;
        control.set_nonblocking(true)?;
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        // Signals for the group also reach the guard, which must outlive the other processes. They are handled and
        // not ignored, because the server would inherit ignored signals.
        use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
        let terminated = Arc::<AtomicBool>::default();
        signal_hook::flag::register(SIGTERM, terminated.clone())?;
        for signal in [SIGINT, SIGHUP] {
            signal_hook::flag::register(signal, Arc::default())?;
        }
        let (woken, waking) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        for signal in [SIGTERM, SIGCHLD] {
            signal_hook::low_level::pipe::register(signal, waking.try_clone()?)?;
        }
        #[cfg(target_os = "linux")]
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(Self { control, woken, terminated, input, output })
    }
}

/// Starts the server, and waits until the server and all its descendants have ended. Returns the exit status.
fn guard(descriptors: GuardDescriptors, program: &OsStr, args: Vec<OsString>) -> u8 {
    let GuardDescriptors { control, woken, terminated, input, output } = descriptors;
    if let Some(before) = env::var(DESCRIPTORS).ok().and_then(|text| text.parse().ok()) {
        descriptors::restore(before);
    }
    // Only the server may have the pipes open, or the bridge would not notice when the server closes them. The copies
    // in this process are closed with the command at the end of the statement.
    let server = Command::new(program)
        .args(args)
        .env_remove(DESCRIPTORS)
        .stdin(input)
        .stdout(output)
        .spawn();
    let server = match server {
        Ok(server) => Pid::from_child(&server),
        Err(error) => {
            log_line(format_args!("cannot start {}: {error}", program.display()));
            let missing = error.kind() == io::ErrorKind::NotFound;
            return if missing { STATUS_NOT_FOUND } else { STATUS_NOT_RUN };
        }
    };
    let (stage, terminated_outsiders) = (GuardStage::Running, Vec::new());
    let bridge_gone = false;
    Guard {
        control,
        woken,
        terminated,
        server,
        status: None,
        stage,
        bridge_gone,
        terminated_outsiders,
    }
    .run()
}

/// The step that the guard has reached.
#[derive(Clone, Copy)]
enum GuardStage {
    /// Neither the server nor the bridge has ended.
    Running,
    /// The bridge has ended. SIGTERM is sent at this time.
    Orphaned(Instant),
    /// SIGTERM was sent. SIGKILL is sent at this time.
    Terminated(Instant),
    /// The remaining processes are killed.
    Killing(KillSearch),
}

/// How long children have been searched for, to kill them.
#[derive(Clone, Copy)]
struct KillSearch {
    until: Instant,
    searches: u32,
}

impl KillSearch {
    fn begin(now: Instant) -> Self {
        Self { until: now + KILLING, searches: 0 }
    }

    /// The state after one more search at `now`, or `None` if it is time to give up: both [`KILLING`] has passed and
    /// [`SEARCHES_MIN`] searches were made.
    fn next(self, now: Instant) -> Option<Self> {
        let searches = self.searches + 1;
        (now < self.until || self.searches < SEARCHES_MIN).then_some(Self { searches, ..self })
    }
}

struct Guard {
    control: UnixStream,
    woken: UnixStream,
    terminated: Arc<AtomicBool>,
    server: Pid,
    /// The server's exit status, once it has exited.
    status: Option<u8>,
    stage: GuardStage,
    bridge_gone: bool,
    /// Children outside of the group that were sent SIGTERM.
    terminated_outsiders: Vec<Pid>,
}

impl Guard {
    fn run(mut self) -> u8 {
        loop {
            let any = self.reap();
            self.read_control();
            // On Linux, no child means that no process is left. On other systems, processes of the group may be left:
            // the bridge kills them or, if it has ended, the guard does.
            if !any && (cfg!(target_os = "linux") || !self.bridge_gone) {
                return self.status.unwrap_or(STATUS_NOT_RUN);
            }
            self.handle_timeout();
            self.wait();
        }
    }

    /// Reaps children that have ended. Returns whether any are left.
    fn reap(&mut self) -> bool {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                // Only the first match is the server: once it is reaped, another process may get its id.
                Ok(Some((pid, ended))) if pid == self.server && self.status.is_none() => {
                    self.server_ended(ended);
                }
                Ok(Some((pid, _))) => self.terminated_outsiders.retain(|known| *known != pid),
                Ok(None) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    fn server_ended(&mut self, ended: WaitStatus) {
        let signal = ended.terminating_signal().map(|signal| signal | 0x80);
        let status = ended.exit_status().or(signal).and_then(|code| u8::try_from(code).ok());
        let status = status.unwrap_or(STATUS_NOT_RUN);
        self.status = Some(status);
        // The bridge may have ended.
        let _ = (&self.control).write(&[status]);
        match self.stage {
            // The processes that the server has left behind have to end.
            GuardStage::Running | GuardStage::Orphaned(_) => self.terminate(LEFTOVERS),
            GuardStage::Terminated(_) | GuardStage::Killing(_) => {}
        }
    }

    /// Sends SIGTERM to the group. SIGKILL follows after `time`.
    fn terminate(&mut self, time: Duration) {
        let _ = rustix::process::kill_current_process_group(Signal::TERM);
        self.stage = GuardStage::Terminated(Instant::now() + time);
    }

    /// Reads the requests of the bridge, and notices its end.
    fn read_control(&mut self) {
        let mut byte = [0];
        while !self.bridge_gone {
            match (&self.control).read(&mut byte) {
                Ok(1..) => match self.stage {
                    GuardStage::Killing(_) => {}
                    GuardStage::Running | GuardStage::Orphaned(_) | GuardStage::Terminated(_) => {
                        self.kill()
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => {
                    self.bridge_gone = true;
                    if let GuardStage::Running = self.stage {
                        self.stage = GuardStage::Orphaned(Instant::now() + STEP);
                    }
                }
            }
        }
    }

    fn kill(&mut self) {
        self.stage = GuardStage::Killing(KillSearch::begin(Instant::now()));
    }

    /// Takes the next step if its time has come, and sends the signals of the current step.
    fn handle_timeout(&mut self) {
        let now = Instant::now();
        match self.stage {
            GuardStage::Orphaned(until) if now >= until => self.terminate(STEP),
            GuardStage::Terminated(until) if now >= until => {
                if let Some(status) = self.status {
                    log_line(format_args!(
                        "exited with status {status}; the processes that it left behind are killed"
                    ));
                }
                self.kill();
            }
            GuardStage::Running
            | GuardStage::Orphaned(_)
            | GuardStage::Terminated(_)
            | GuardStage::Killing(_) => {}
        }
        let terminated = self.terminated.swap(false, Relaxed);
        match self.stage {
            GuardStage::Terminated(_) => self.terminate_outsiders(),
            GuardStage::Running | GuardStage::Orphaned(_) => {
                // The bridge has sent SIGTERM to the group.
                if terminated {
                    self.terminate_outsiders();
                }
            }
            GuardStage::Killing(search) => match (children(), search.next(now)) {
                (Ok(children), Some(next)) => {
                    for child in children {
                        let _ = rustix::process::kill_process(child, Signal::KILL);
                    }
                    self.stage = GuardStage::Killing(next);
                }
                (Ok(_) | Err(_), _) => {
                    if cfg!(target_os = "linux") {
                        log_line(format_args!(
                            "not all processes that it left behind can be killed"
                        ));
                    }
                    let _ = rustix::process::kill_current_process_group(Signal::KILL);
                }
            },
        }
    }

    /// Sends SIGTERM once to each child that is outside of the group.
    fn terminate_outsiders(&mut self) {
        let group = rustix::process::getpgrp();
        for child in children().unwrap_or_default() {
            let outside = rustix::process::getpgid(Some(child)).is_ok_and(|of| of != group);
            if outside && !self.terminated_outsiders.contains(&child) {
                let _ = rustix::process::kill_process(child, Signal::TERM);
                self.terminated_outsiders.push(child);
            }
        }
    }

    /// Waits until there may be something to do.
    fn wait(&self) {
        let now = Instant::now();
        let limit = match self.stage {
            GuardStage::Running => None,
            GuardStage::Orphaned(until) => Some(until.saturating_duration_since(now)),
            GuardStage::Terminated(until) => Some(LOOK.min(until.saturating_duration_since(now))),
            GuardStage::Killing(_) => Some(LOOK_KILLING),
        };
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut fds =
            [PollFd::new(&self.woken, PollFlags::IN), PollFd::new(&self.control, PollFlags::IN)];
        // After the end of the bridge the socket is always readable, so it is not polled.
        let watched = if self.bridge_gone { 1 } else { 2 };
        let fds = fds.get_mut(..watched).unwrap_or_default();
        match rustix::event::poll(fds, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // For example, the system is short of memory: try again later.
            Err(_) => thread::sleep(LOOK),
        }
        let mut wakes = [0; 64];
        while (&self.woken).read(&mut wakes).is_ok_and(|count| count > 0) {}
    }
}

/// The process ids of this process's children, adopted ones included. No other process gets the id of a child before
/// that child is reaped.
#[cfg(target_os = "linux")]
fn children() -> io::Result<Vec<Pid>> {
    let own = rustix::process::getpid().as_raw_pid();
    // `/proc` may belong to another PID namespace.
    if std::fs::read_link("/proc/self")?.to_str() != Some(&own.to_string()) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let entries = std::fs::read_dir("/proc")?.map_while(Result::ok);
    let child = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
        // The process may have ended meanwhile.
        let stat = std::fs::read(entry.path().join("stat")).ok()?;
        (parent(&stat)? == own).then_some(pid)
    };
    Ok(entries.filter_map(child).collect())
}

#[cfg(not(target_os = "linux"))]
fn children() -> io::Result<Vec<Pid>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The parent's id in the text of `/proc/[pid]/stat`: id, (name), state, parent. A name may contain any character.
#[cfg(target_os = "linux")]
fn parent(stat: &[u8]) -> Option<i32> {
    let behind = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let rest = core::str::from_utf8(stat.get(behind..)?).ok()?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn stat_line_with_any_name_has_its_parent_found() {
        let check = |stat: &str, found| assert_eq!(parent(stat.as_bytes()), found, "{stat}");
        check("7 (sh) S 5 7 7 0 -1", Some(5));
        check("7 (a) S 9 (b) R 6 7", Some(6));
        check("7 (sh) S", None);
        check("", None);
    }

    #[test]
    fn guard_that_was_held_up_searches_on_before_it_gives_up() {
        let begin = Instant::now();
        let late = begin + KILLING * 10;
        let mut search = Some(KillSearch::begin(begin));
        for made in 0..SEARCHES_MIN {
            search = search.unwrap_or_else(|| panic!("gave up after {made} searches")).next(late);
        }
        assert!(search.is_some_and(|search| search.next(late).is_none()));
    }

    #[test]
    fn guard_that_is_quick_searches_for_the_whole_time() {
        let begin = Instant::now();
        let early = begin + KILLING - Duration::from_millis(1);
        let mut search = KillSearch::begin(begin);
        for _ in 0..=SEARCHES_MIN {
            search = search.next(early).expect("the time has not passed");
        }
        assert!(search.next(begin + KILLING).is_none());
    }

    #[test]
    fn children_are_found_until_they_are_reaped() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_child(&child);
        assert!(children().unwrap().contains(&pid));
        child.kill().unwrap();
        assert!(children().unwrap().contains(&pid));
        child.wait().unwrap();
        assert!(!children().unwrap().contains(&pid));
    }
}
