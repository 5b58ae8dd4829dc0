//! This same program once more, as a process of its own: with other limits, or to be measured alone.

use core::fmt;
use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child as Process, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use crate::PATIENCE;

/// Set, to the part it is to play, in a child's environment.
const ROLE: &str = "MCP_SSE_TESTS_ROLE";
/// What starts a line that is for the parent.
const MARK: &str = "to parent: ";

/// What this process is here for, if it is a child.
#[must_use]
pub fn role() -> Option<String> {
    env::var(ROLE).ok()
}

/// Tells the parent something.
///
/// # Panics
///
/// If nobody listens.
pub fn tell_parent(line: impl fmt::Display) {
    let mut out = std::io::stdout().lock();
    // A line of its own, whatever the test harness has begun to print.
    writeln!(out, "\n{MARK}{line}").and_then(|()| out.flush()).expect("the parent listens");
}

/// Waits until the parent is gone or wants this process to end.
pub fn wait_for_parent() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// How many descriptors a child may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptors {
    /// So many.
    Few(u32),
    /// As many as the system allows.
    Most,
}

/// A child; it is told to end, and killed if need be, when this is dropped.
#[derive(Debug)]
pub struct Child {
    process: Process,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Child {
    /// Starts this program again in another role.
    ///
    /// # Panics
    ///
    /// If that fails.
    #[must_use]
    pub fn start(role: &str, arguments: &[&str], descriptors: Descriptors) -> Self {
        let program = env::current_exe().expect("this program has a name");
        let limit = match descriptors {
            Descriptors::Few(count) => count.to_string(),
            Descriptors::Most => "$(ulimit -Hn)".into(),
        };
        // The limit belongs to the process, and the standard library cannot set it.
        let mut process = Command::new("sh")
            .arg("-c")
            .arg(format!("ulimit -n {limit} && exec \"$0\" \"$@\""))
            .arg(program)
            .args(arguments)
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let stdin = process.stdin.take();
        let stdout = process.stdout.take().expect("a pipe");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(line) = line.strip_prefix(MARK)
                    && sender.send(line.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        Self { process, stdin, lines }
    }

    /// What it tells next.
    ///
    /// # Panics
    ///
    /// If it tells nothing.
    #[track_caller]
    #[must_use]
    pub fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line of the child")
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Passes on everything it tells, until it ends by itself.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn run_to_end(mut self) {
        for line in &self.lines {
            println!("{line}");
        }
        let status = self.process.wait().expect("a process");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // Its lines end when it does.
        while self.lines.recv_timeout(PATIENCE).is_ok() {}
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
