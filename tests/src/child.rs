//! Runs this test program again as a child process, with another descriptor limit or to measure it
//! alone.

use core::fmt;
use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child as Process, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use crate::PATIENCE;

/// The environment variable with a child's role.
const ROLE: &str = "MCP_SSE_TESTS_ROLE";
/// The prefix of lines for the parent process.
const MARK: &str = "to parent: ";

/// The role of this process; `None` if it is not a child.
#[must_use]
pub fn role() -> Option<String> {
    env::var(ROLE).ok()
}

/// Sends a line to the parent process.
///
/// # Panics
///
/// If the parent has gone.
pub fn send_to_parent(line: impl fmt::Display) {
    let mut out = std::io::stdout().lock();
    // The line break ends what the test harness may have begun to print.
    writeln!(out, "\n{MARK}{line}").and_then(|()| out.flush()).expect("the parent listens");
}

/// Waits until the parent has gone or closes this process's input.
pub fn wait_for_parent() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// How many file descriptors a child may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DescriptorLimit {
    /// This number.
    Few(u32),
    /// The system's hard limit.
    Most,
}

/// A child process. Dropping this value ends it, and kills it if it does not end in time.
#[derive(Debug)]
pub struct ChildProcess {
    process: Process,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl ChildProcess {
    /// Starts this program again in the given role.
    ///
    /// # Panics
    ///
    /// If that fails.
    #[must_use]
    pub fn start(role: &str, arguments: &[&str], descriptors: DescriptorLimit) -> Self {
        let program = env::current_exe().expect("this program has a name");
        let limit = match descriptors {
            DescriptorLimit::Few(count) => count.to_string(),
            DescriptorLimit::Most => "$(ulimit -Hn)".into(),
        };
        // The limit is a property of the process, and the standard library cannot set it.
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

    /// Receives the child's next line.
    ///
    /// # Panics
    ///
    /// If no line comes in time.
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

    /// Waits until the child has exited, and returns its status.
    ///
    /// # Panics
    ///
    /// If it does not exit in time.
    #[track_caller]
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        // The thread that reads the child's output ends with it.
        let ended = loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(ended, mpsc::RecvTimeoutError::Disconnected, "the child's exit");
        self.process.wait().expect("a process")
    }

    /// Prints the child's lines until it ends.
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

impl Drop for ChildProcess {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // The channel closes when the child ends.
        while self.lines.recv_timeout(PATIENCE).is_ok() {}
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
