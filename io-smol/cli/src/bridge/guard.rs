//! The process between the bridge and an MCP server: it leads the server's process group, and sees to
//! it that the group ends when the bridge does, however that ends.
//!
//! Knows: its own group, and that its stderr is a pipe whose other end only the bridge holds.
//! Does not know: sessions, messages. Input and output of the server never pass through it.
//!
//! The bridge runs this same program under another name. As long as this process is there, the number
//! of the group cannot become another one's. When the bridge is gone, be it by SIGKILL, the system says
//! so on the pipe, and the group is told to end. On Linux the guard also adopts what the server leaves
//! behind, and so knows when the last of it has ended.

use core::fmt;
use core::time::Duration;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::process::{Command, ExitCode};
use std::{env, io, thread};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal, WaitOptions};

use crate::descriptors;

/// What this program is called when it is a guard. Not the command's own name, so that whoever kills
/// all processes of that name leaves the guards to clean up.
pub const NAME: &str = "mcp-guard";

/// The variable that tells a guard the soft limit on descriptors with which its server is to run, where
/// the bridge has raised its own. The server does not get to see it.
pub const DESCRIPTORS: &str = "MCP_GUARD_DESCRIPTORS";

/// The exit status where there is no such program, as shells have it.
pub const STATUS_NOT_FOUND: u8 = 127;
/// The exit status where a program cannot be run.
pub const STATUS_NOT_RUN: u8 = 126;

/// When the bridge is gone, a server has so long to notice that its input has ended, and then so long
/// again to heed SIGTERM.
const STEP: Duration = Duration::from_millis(1_500);
/// What the server leaves behind when it exits has so long to heed SIGTERM.
const LEFTOVERS: Duration = Duration::from_secs(2);

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Runs a guard to its end, if this process was started as one.
///
/// Call it first thing in `main`: [`Children`](super::child::Children) runs the program that it is in
/// as a guard.
#[must_use]
pub fn run() -> Option<ExitCode> {
    let mut args = env::args_os();
    if args.next().as_deref() != Some(OsStr::new(NAME)) {
        return None;
    }
    let Some(program) = args.next() else {
        say(format_args!("{NAME}: this is a part of mcp-sse bridge and of no use alone"));
        return Some(ExitCode::from(STATUS_NOT_RUN));
    };
    Some(ExitCode::from(match prepare() {
        Ok(()) => guard(&program, args.collect()),
        Err(error) => {
            say(format_args!("cannot guard a process: {error}"));
            STATUS_NOT_RUN
        }
    }))
}

fn prepare() -> io::Result<()> {
    // For `ps` and `killall`, which would otherwise show the name of the file.
    rustix::thread::set_name(c"mcp-guard")?;
    // Signals for the group reach this process too; it ends when the others have. A handler, because
    // the server would inherit it if they were ignored.
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, std::sync::Arc::default())?;
    }
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    thread::Builder::new().name("lifeline".into()).spawn(end_with_the_bridge)?;
    Ok(())
}

/// Says something to the bridge, which may be gone; that must keep nobody from what comes next.
fn say(what: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{what}");
}

/// Starts the server and waits until it and all that it leaves behind have ended.
fn guard(program: &OsStr, args: Vec<OsString>) -> u8 {
    if let Some(before) = env::var(DESCRIPTORS).ok().and_then(|text| text.parse().ok()) {
        descriptors::restore(before);
    }
    let server = match Command::new(program).args(args).env_remove(DESCRIPTORS).spawn() {
        Ok(server) => server,
        Err(error) => {
            say(format_args!("cannot start {}: {error}", program.display()));
            let missing = error.kind() == io::ErrorKind::NotFound;
            return if missing { STATUS_NOT_FOUND } else { STATUS_NOT_RUN };
        }
    };
    // They are the server's alone, or the ends of it could not be noticed.
    let let_go = File::options().read(true).write(true).open("/dev/null").and_then(|null| {
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        Ok(())
    });
    if let Err(error) = let_go {
        say(format_args!("cannot guard a process: {error}"));
        let _ = rustix::process::kill_current_process_group(Signal::KILL);
    }
    let server = Pid::from_child(&server);
    let mut status = STATUS_NOT_RUN;
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, ended))) if pid == server => {
                let signal = ended.terminating_signal().map(|signal| signal | 0x80);
                status = ended.exit_status().or(signal).map_or(status, |code| code as u8);
                // Nobody can talk to what is left. It is told, and does not keep us long.
                let _ = rustix::process::kill_current_process_group(Signal::TERM);
                thread::spawn(move || {
                    thread::sleep(LEFTOVERS);
                    say(format_args!("exited with status {status}; what it left behind is killed"));
                    let _ = rustix::process::kill_current_process_group(Signal::KILL);
                });
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // Nothing is left; elsewhere than on Linux, nothing that is known. Then the bridge kills
            // what there may be, and if it is gone, the other thread does.
            Err(_) if cfg!(target_os = "linux") || !is_bridge_gone(Some(&NOW)) => return status,
            Err(_) => thread::park(),
        }
    }
}

/// Waits until the bridge is gone, and then ends the group, this process with it.
fn end_with_the_bridge() {
    while !is_bridge_gone(None) {}
    for signal in [Signal::TERM, Signal::KILL] {
        thread::sleep(STEP);
        let _ = rustix::process::kill_current_process_group(signal);
    }
}

/// Whether nobody holds the other end of stderr; waits for that, unless there is a limit.
fn is_bridge_gone(limit: Option<&Timespec>) -> bool {
    let stderr = io::stderr();
    let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
    let mut fds = [PollFd::new(&stderr, PollFlags::empty())];
    match rustix::event::poll(&mut fds, limit) {
        Ok(_) => fds.iter().any(|fd| fd.revents().intersects(gone)),
        Err(rustix::io::Errno::INTR) => false,
        Err(_) => {
            // The system is short of memory, say. Not in a hurry, then.
            thread::sleep(STEP);
            false
        }
    }
}
