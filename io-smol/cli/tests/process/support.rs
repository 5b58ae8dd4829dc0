//! A running command, its banner and its log.

use core::net::SocketAddr;
use core::time::Duration;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Instant;

use mcp_sse_tests::PATIENCE;
use mcp_sse_tests::client::{Client, ServerAddress, Stream, post_request};
use rustix::process::{Pid, Signal, kill_process};

/// How often a condition is looked at that no event reports.
const LOOK: Duration = Duration::from_millis(5);

/// A command with these arguments, without the variables of the environment that influence it.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-sse"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("MCP_SSE_") || ["PORT", "NOTIFY_SOCKET"].contains(&&*text) {
            command.env_remove(&name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// A server that runs until this is dropped.
pub(crate) struct Program {
    process: Child,
    pub(crate) banner: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// Starts a server with these arguments, at a free port, and waits until it listens.
    #[track_caller]
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::launch(command(args).args(["--port", "0"]))
    }

    /// Starts this command, and waits until it listens.
    #[track_caller]
    pub(crate) fn launch(command: &mut Command) -> Self {
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let log = Arc::<Mutex<Vec<String>>>::default();
        let (stderr, lines) = (process.stderr.take().expect("piped"), log.clone());
        // These threads end with the process at the latest.
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().expect("a log").push(line);
            }
        });
        let stdout = BufReader::new(process.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // stdout is read to its end, so that the command never blocks on a full pipe.
                let _ = sender.send(line);
            }
        });
        let mut program = Self { process, banner: String::new(), log };
        while !program.banner.contains("Ctrl-C stops it") {
            let Ok(line) = lines.recv_timeout(PATIENCE) else {
                let _ = program.process.kill();
                panic!("{command:?} does not serve: {}{}", program.banner, program.log());
            };
            program.banner += &line;
            program.banner.push('\n');
        }
        program
    }

    /// The address in the first printed URL.
    #[track_caller]
    pub(crate) fn address(&self) -> SocketAddr {
        let url = self.banner.split_once("://").expect("a URL").1;
        url.split_once('/').expect("a path").0.parse().expect("an address")
    }

    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().cast_signed()).expect("a process id");
        kill_process(pid, signal).expect("it runs");
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("a log").join("\n")
    }

    /// Waits until the log contains `text` at least `times` times.
    #[track_caller]
    pub(crate) fn wait_for_log_times(&self, text: &str, times: usize) {
        let found = eventually(|| (self.log().matches(text).count() >= times).then_some(()));
        assert!(found.is_some(), "the log has no {text:?}: {}", self.log());
    }

    #[track_caller]
    pub(crate) fn wait_for_log(&self, text: &str) {
        self.wait_for_log_times(text, 1);
    }

    /// Waits until it ends.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let ended = eventually(|| self.process.try_wait().expect("it can be waited for"));
        ended.unwrap_or_else(|| panic!("it does not end: {}", self.log()))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a command that must end has printed on stderr, and its exit status.
#[track_caller]
pub(crate) fn failure(command: &mut Command) -> (Option<i32>, String) {
    let mut process =
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the command starts");
    // The whole output fits into the pipe.
    let status = eventually(|| process.try_wait().expect("it can be waited for"));
    if status.is_none() {
        let _ = process.kill();
    }
    let mut said = String::new();
    process.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    (status.unwrap_or_else(|| panic!("{command:?} does not end: {said}")).code(), said)
}

/// Opens a stream with a bearer token.
#[track_caller]
pub(crate) fn open_with_token(address: &ServerAddress, token: &str) -> Stream {
    let field = format!("Authorization: Bearer {token}");
    Stream::open_with(address, &format!("GET /sse HTTP/1.1\r\nHost: localhost\r\n{field}\r\n\r\n"))
}

/// Posts a ping with a bearer token, and returns the status of the response.
#[track_caller]
pub(crate) fn post_with_token(address: &ServerAddress, endpoint: &str, token: &str) -> u16 {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let request = String::from_utf8(post_request(endpoint, body)).expect("text");
    let (line, rest) = request.split_once("\r\n").expect("a request line");
    let request = format!("{line}\r\nAuthorization: Bearer {token}\r\n{rest}");
    Client::connect(address).ask(request).status
}

/// What `look` returns as soon as it is something, or `None` if that takes too long.
pub(crate) fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        match look() {
            Some(found) => return Some(found),
            None if Instant::now() > until => return None,
            None => thread::sleep(LOOK),
        }
    }
}
