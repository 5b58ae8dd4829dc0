//! The process between the bridge and an MCP server: it leads the server's process group, and sees to
//! it that everything that the server started ends when the server or the bridge does, however that ends.
//!
//! Knows: its own group, its children, and the socket to the bridge (see `control`), which is its stdin.
//! Does not know: sessions, messages. Input and output of the server never pass through it.
//!
//! The bridge runs its own program once more, under another name. While this process exists, no other process group
//! can have its number. When the bridge has ended, even by SIGKILL, the system closes the socket, and the group is
//! ended.
//!
//! Theory of operation. On Linux the guard is a subreaper: it becomes the parent of each descendant whose
//! own parent has ended, also of one that left the group by `setsid`. So "no children" means that nothing
//! is left, and the ways to that are these:
//!
//! ```text
//!  server exits ──▶ its status is sent ──▶ SIGTERM ──2 s──▶ SIGKILL, for 1 s ──▶ SIGKILL to the own group
//!  bridge gone ──1.5 s──▶ SIGTERM ──1.5 s──▶ SIGKILL, ..
//!  the bridge asks for it ─────────────────▶ SIGKILL, ..
//! ```
//!
//! SIGTERM goes to the group, and to children outside of it as they are adopted. SIGKILL goes to each child
//! by its number, which no other process can have: a child is reaped here and nowhere else. Children of killed
//! processes become children of the guard in turn, and are looked for until there is none. A program that leaves the
//! group and forks faster than it is found can escape; then stderr says that something was left.
//!
//! Decision: children are found in `/proc/*/stat`, because `/proc/self/task/*/children` is not there on every
//! kernel. A cgroup would hold every descendant for certain, and takes privileges that few have.
//!
//! On other systems nothing is adopted: the group is ended, and a helper that left it is not noticed.
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

/// The name of the process when it is a guard. It is not the program's own name: if all processes of that name are
/// killed, the guards are left to clean up.
pub const NAME: &str = "mcp-guard";

/// The variable with the soft limit on descriptors for the server, if the bridge has raised its own. The server does
/// not get it.
pub const DESCRIPTORS: &str = "MCP_GUARD_DESCRIPTORS";

/// The exit status where there is no such program, as shells have it.
pub const STATUS_NOT_FOUND: u8 = 127;
/// The exit status where a program cannot be run.
pub const STATUS_NOT_RUN: u8 = 126;

/// When the bridge has ended: how long a server may take to notice that its input has ended, and again to heed SIGTERM.
const STEP: Duration = Duration::from_millis(1_500);
/// How long the processes that a server leaves behind may take to heed SIGTERM.
const LEFTOVERS: Duration = Duration::from_secs(2);
/// How long children are looked for and killed; then the group is killed, and the guard with it.
pub(super) const KILLING: Duration = Duration::from_secs(1);
/// How often to look for children that were adopted meanwhile.
const LOOK: Duration = Duration::from_millis(100);
/// The same while they are killed: an exit is noticed at once, and the adoption of its children is not.
const LOOK_KILLING: Duration = Duration::from_millis(10);

/// Runs a guard to its end, if this process was started as one.
///
/// Call it first thing in `main`: [`Children`](super::children::Children) runs the program that it is in
/// as a guard.
#[must_use]
pub fn run() -> Option<ExitCode> {
    let mut args = env::args_os();
    if args.next().as_deref() != Some(OsStr::new(NAME)) {
        return None;
    }
    let Some(program) = args.next() else {
        log_line(format_args!("{NAME}: this is a part of mcp-sse bridge and of no use alone"));
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

/// Writes a line to stderr, which the bridge reads. It may have ended; that is no reason to stop.
fn log_line(what: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{what}");
}

/// The descriptors of a guard.
struct GuardDescriptors {
    control: UnixStream,
    /// Readable when a child has ended or SIGTERM has come.
    woken: UnixStream,
    /// SIGTERM has come.
    terminated: Arc<AtomicBool>,
    /// The server's stdin and stdout.
    input: OwnedFd,
    output: OwnedFd,
}

impl GuardDescriptors {
    fn prepare() -> io::Result<Self> {
        // For `ps` and `killall`, which would otherwise show the name of the file.
        rustix::thread::set_name(c"mcp-guard")?;
        let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let input = control::take_input(&control)?;
        control.set_nonblocking(true)?;
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        // Signals for the group reach this process too; it ends when the others have. A handler, because
        // the server would inherit it if they were ignored.
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

/// Starts the server and waits until it and all that it leaves behind have ended.
fn guard(descriptors: GuardDescriptors, program: &OsStr, args: Vec<OsString>) -> u8 {
    let GuardDescriptors { control, woken, terminated, input, output } = descriptors;
    if let Some(before) = env::var(DESCRIPTORS).ok().and_then(|text| text.parse().ok()) {
        descriptors::restore(before);
    }
    // The pipes must be the server's alone, or the bridge could not notice that it closes them: the copies here go
    // with the command, behind this statement.
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

/// How far the end has come.
#[derive(Clone, Copy)]
enum GuardStage {
    /// The server runs, or may run.
    Running,
    /// The bridge has ended; at this time comes SIGTERM.
    Orphaned(Instant),
    /// SIGTERM was sent; at this time comes SIGKILL.
    Terminated(Instant),
    /// What is left is killed; at this time the guard gives up.
    Killing(Instant),
}

struct Guard {
    control: UnixStream,
    woken: UnixStream,
    terminated: Arc<AtomicBool>,
    server: Pid,
    /// How the server ended.
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
            // Nothing is left. On systems other than Linux nothing is left that is known: the bridge kills the rest of
            // the group, and if it has ended, the guard does.
            if !any && (cfg!(target_os = "linux") || !self.bridge_gone) {
                return self.status.unwrap_or(STATUS_NOT_RUN);
            }
            self.do_what_is_due();
            self.wait();
        }
    }

    /// Reaps children that have ended. Returns whether any are left.
    fn reap(&mut self) -> bool {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                // Once it has been reaped, another process may have its number.
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
            // What is left cannot be of use any more.
            GuardStage::Running | GuardStage::Orphaned(_) => self.terminate(LEFTOVERS),
            GuardStage::Terminated(_) | GuardStage::Killing(_) => {}
        }
    }

    /// Sends SIGTERM; SIGKILL follows after so long.
    fn terminate(&mut self, until: Duration) {
        let _ = rustix::process::kill_current_process_group(Signal::TERM);
        self.stage = GuardStage::Terminated(Instant::now() + until);
    }

    /// Takes in what the bridge asks for, and its end.
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
        self.stage = GuardStage::Killing(Instant::now() + KILLING);
    }

    /// Does what is due.
    fn do_what_is_due(&mut self) {
        let now = Instant::now();
        match self.stage {
            GuardStage::Orphaned(until) if now >= until => self.terminate(STEP),
            GuardStage::Terminated(until) if now >= until => {
                if let Some(status) = self.status {
                    log_line(format_args!(
                        "exited with status {status}; what it left behind is killed"
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
                // The bridge has sent it to the group.
                if terminated {
                    self.terminate_outsiders();
                }
            }
            GuardStage::Killing(until) => match children() {
                Ok(children) if now < until => {
                    for child in children {
                        let _ = rustix::process::kill_process(child, Signal::KILL);
                    }
                }
                Ok(_) | Err(_) => {
                    if cfg!(target_os = "linux") {
                        log_line(format_args!("not all that it left behind can be killed"));
                    }
                    let _ = rustix::process::kill_current_process_group(Signal::KILL);
                }
            },
        }
    }

    /// Sends SIGTERM, once, to children that it did not reach through the group.
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
        // A socket whose other end is closed would always be readable.
        let watched = if self.bridge_gone { 1 } else { 2 };
        let fds = fds.get_mut(..watched).unwrap_or_default();
        match rustix::event::poll(fds, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // For example, the system is short of memory. It is tried again later.
            Err(_) => thread::sleep(LOOK),
        }
        let mut wakes = [0; 64];
        while (&self.woken).read(&mut wakes).is_ok_and(|count| count > 0) {}
    }
}

/// The children of this process, those that it has adopted among them. Until a child is reaped, no other process has
/// its number.
#[cfg(target_os = "linux")]
fn children() -> io::Result<Vec<Pid>> {
    let own = rustix::process::getpid().as_raw_pid();
    // `/proc` may be that of another namespace.
    if std::fs::read_link("/proc/self")?.to_str() != Some(&own.to_string()) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let entries = std::fs::read_dir("/proc")?.map_while(Result::ok);
    let child = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
        // It may have ended.
        let stat = std::fs::read(entry.path().join("stat")).ok()?;
        (parent(&stat)? == own).then_some(pid)
    };
    Ok(entries.filter_map(child).collect())
}

#[cfg(not(target_os = "linux"))]
fn children() -> io::Result<Vec<Pid>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The parent in a line as `/proc/[pid]/stat` has it: number, (name), state, parent. A name may have
/// anything in it.
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
