//! Tries out a server: starts it, does the handshake, and reports what the server is or what is wrong with it.
//!
//! Knows: `initialize`, `ping` and `tools/list`. Does not know: sessions, because no client is served.
//!
//! Decision: what is wrong or right is printed first, and the last lines of stderr once the process
//! has ended. Up to eight servers of a file are tried at once, and reported in the file's order.

use core::cell::Cell;
use core::fmt;
use core::future::poll_fn;
use core::task::Poll;
use core::time::Duration;
use std::io;
use std::time::Instant;

use mcp_sse_core::jsonrpc::{Kind, Message, code, error_body};
use serde::Deserialize;
use serde_json::{Value, json};
use smol::{Timer, future};

use super::child::Child;
use super::children::Children;
use super::command::ServerCommand;
use super::handshakes::PROTOCOL_VERSION;
use super::ids;
use super::output::ServerOutput;
use super::printed::Printed;
use super::stderr::printable;

pub use super::child::Exit;

/// Default time in which a server must answer all requests of a check: 60 s, because `npx` or `uvx` may have to
/// download a package first.
pub const TIMEOUT: Duration = Duration::from_secs(60);
/// Interval between two reports that a server has not answered yet: 5 s, or half of the timeout if that is shorter.
pub const PROGRESS: Duration = Duration::from_secs(5);
/// How long the exit status is waited for when the server has closed its stdin or stdout.
const EXIT: Duration = Duration::from_secs(1);
/// The shortest interval between two reports.
const PROGRESS_MIN: Duration = Duration::from_millis(100);
/// The method of the first request.
const FIRST_ASKED: &str = "initialize";
/// The most pages of `tools/list` that are requested.
const PAGES_MAX: u32 = 100;
/// The most bytes of one read from the process.
const READ_BYTES: usize = 64 << 10;

/// What [`check`] has found out about a working server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// The server's name and version.
    pub server: String,
    /// The protocol revision in the server's answer to `initialize`.
    pub protocol_version: String,
    /// The number of the server's tools; `None` if the server does not have the capability `tools`.
    pub tools: Option<usize>,
    /// The number of lines on the server's stdout that were not messages. The bridge ignores such lines.
    pub lines_refused: u64,
    /// The time that the check took.
    pub took: Duration,
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, protocol version {}, ", self.server, self.protocol_version)?;
        match self.tools {
            None => f.write_str("no tools")?,
            Some(1) => f.write_str("1 tool")?,
            Some(tools) => write!(f, "{tools} tools")?,
        }
        write!(f, ", within {:.1} s", self.took.as_secs_f64())?;
        if self.lines_refused > 0 {
            write!(f, "; lines on its stdout that were no messages: {}", self.lines_refused)?;
        }
        Ok(())
    }
}

/// Why a server cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckError {
    /// There is no program of this name.
    NotFound(String),
    /// The operating system could not start the process, for this reason.
    NotStarted(String),
    /// The process exited before it had answered.
    Exited(Exit),
    /// The process closed its stdout without exiting.
    ClosedOutput,
    /// The process closed its stdin without exiting.
    ClosedInput,
    /// The server did not answer in time.
    Silent {
        /// The method of the unanswered request.
        asked: &'static str,
        /// The time that the server had for all requests.
        timeout: Duration,
        /// The number of lines on the server's stdout that were not messages.
        lines_refused: u64,
    },
    /// The server answered a request of this method with this error.
    Refused(&'static str, String),
    /// The server answered a request of this method, and the answer is not a result of that method.
    Unexpected(&'static str),
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(program) if program.contains('/') => {
                write!(f, "there is no program {program}")
            }
            Self::NotFound(program) => write!(f, "{program}: not found in PATH"),
            Self::NotStarted(why) => write!(f, "cannot be started: {why}"),
            Self::Exited(exit) => write!(f, "exited with {exit} before it had answered"),
            Self::ClosedOutput => f.write_str("closed its stdout"),
            Self::ClosedInput => f.write_str("closed its stdin"),
            Self::Silent { asked, timeout, lines_refused } => {
                write!(f, "no answer to {asked} within {timeout:?} (--check-timeout)")?;
                if *lines_refused > 0 {
                    write!(f, "; lines on its stdout that were no messages: {lines_refused}")?;
                }
                Ok(())
            }
            Self::Refused(what, error) => write!(f, "answered {what} with an error: {error}"),
            Self::Unexpected(what) => write!(f, "answered {what} with an invalid result"),
        }
    }
}

impl core::error::Error for CheckError {}

/// A report that a server has not answered yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StillWaiting {
    /// The method of the unanswered request.
    pub asked: &'static str,
    /// The time since the process was started.
    pub waited: Duration,
    /// The time that the server has for all requests; `None` is unlimited.
    pub timeout: Option<Duration>,
    /// The last line that the process printed on stderr, if stderr is [kept](Children::keep_stderr).
    pub last_stderr: Option<String>,
}

impl fmt::Display for StillWaiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, waited, timeout, last_stderr } = self;
        write!(f, "no answer to {asked} yet after {} s", waited.as_secs_f64())?;
        if *asked == FIRST_ASKED {
            f.write_str(" (it may be downloading a package)")?;
        }
        match timeout {
            Some(timeout) => write!(f, ", waiting for up to {timeout:?} (--check-timeout)")?,
            None => f.write_str(", waiting without a limit")?,
        }
        match last_stderr {
            Some(line) => write!(f, "; its last line on stderr: {line}"),
            None => f.write_str("; it has printed nothing on stderr"),
        }
    }
}

/// Tries out a server: starts `command`, sends `initialize`, `ping` and `tools/list`, and ends the process.
///
/// `name` is the server's name in the log. `timeout` limits the whole check; `None` is unlimited, and [`TIMEOUT`]
/// is a good default. `progress` is called every [`PROGRESS`] while the server has not answered. When this
/// returns, the end of the process has begun; [`Children::finish`] waits until it has ended.
///
/// # Errors
///
/// Returns a [`CheckError`] if the program is missing, exits, answers with an error or does not answer in time.
///
/// ```
/// use mcp_sse_bridge::check::{CheckError, TIMEOUT, check};
/// use mcp_sse_bridge::children::Children;
/// use mcp_sse_bridge::command::ServerCommand;
///
/// let children = Children::new()?;
/// let command = ServerCommand::new("no-such-program", ["--stdio"]);
/// let checked = check(&children, &command, "files", Some(TIMEOUT), |waiting| eprintln!("{waiting}"));
/// assert_eq!(smol::block_on(checked), Err(CheckError::NotFound("no-such-program".into())));
/// # Ok::<(), std::io::Error>(())
/// ```
pub async fn check(
    children: &Children,
    command: &ServerCommand,
    name: &str,
    timeout: Option<Duration>,
    mut progress: impl FnMut(StillWaiting),
) -> Result<Findings, CheckError> {
    if !command.is_there() {
        return Err(CheckError::NotFound(command.program().to_string_lossy().into_owned()));
    }
    let start = Instant::now();
    let child = children
        .spawn(command, None, name)
        .await
        .map_err(|error: io::Error| CheckError::NotStarted(error.to_string()))?;
    let output =
        ServerOutput::new(name, children.status().clone()).line_bytes_max(command.longest_line());
    let buffer = vec![0; READ_BYTES].into_boxed_slice();
    let waits_for = Cell::new(FIRST_ASKED);
    let mut server =
        CheckedServer { child, output, buffer, asked: 0, waits_for: &waits_for, ends_until: None };
    let late = async {
        match timeout {
            Some(timeout) => Timer::after(timeout).await,
            None => future::pending().await,
        };
        None
    };
    let reporting = async {
        let often = timeout.map_or(PROGRESS, |timeout| PROGRESS.min(timeout / 2));
        let mut waited = Duration::ZERO;
        loop {
            waited += often.max(PROGRESS_MIN);
            if timeout.is_some_and(|timeout| waited >= timeout) {
                // The timeout itself is reported by the result.
                return future::pending().await;
            }
            Timer::at(start + waited).await;
            let (asked, last_stderr) = (waits_for.get(), children.last_stderr().pop());
            progress(StillWaiting { asked, waited, timeout, last_stderr });
        }
    };
    let finding = async { Some(server.find_out().await) };
    let found = future::or(finding, future::or(late, reporting)).await;
    let lines_refused = children.status().lines_refused();
    match found {
        Some(found) => {
            found.map(|findings| Findings { lines_refused, took: start.elapsed(), ..findings })
        }
        None => {
            let timeout = timeout.unwrap_or(Duration::MAX);
            Err(CheckError::Silent { asked: waits_for.get(), timeout, lines_refused })
        }
    }
}

/// A server under check.
struct CheckedServer<'w> {
    child: Child,
    output: ServerOutput,
    buffer: Box<[u8]>,
    asked: u32,
    waits_for: &'w Cell<&'static str>,
    /// Set when the server has closed its input: its output is read until this instant.
    ends_until: Option<Instant>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Initialized {
    protocol_version: String,
    #[serde(default)]
    capabilities: Capabilities,
    server_info: Info,
}

#[derive(Default, Deserialize)]
struct Capabilities {
    tools: Option<Value>,
}

#[derive(Deserialize)]
struct Info {
    name: String,
    version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tools {
    tools: Vec<Value>,
    next_cursor: Option<String>,
}

impl CheckedServer<'_> {
    async fn find_out(&mut self) -> Result<Findings, CheckError> {
        let params = json!({
            "protocolVersion": PROTOCOL_VERSION,
            "capabilities": {},
            "clientInfo": {"name": "mcp-sse-check", "version": env!("CARGO_PKG_VERSION")},
        });
        let Initialized { protocol_version, capabilities, server_info } =
            self.ask(FIRST_ASKED, &params).await?;
        self.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await?;
        let _: Value = self.ask("ping", &json!({})).await?;
        let tools = match capabilities.tools {
            Some(_) => Some(self.count_tools().await?),
            None => None,
        };
        // These texts of the server will be printed on a terminal.
        let said = |text: &str| printable(text.as_bytes());
        let server = format!("{} {}", said(&server_info.name), said(&server_info.version));
        let protocol_version = said(&protocol_version);
        let (lines_refused, took) = (0, Duration::ZERO);
        Ok(Findings { server, protocol_version, tools, lines_refused, took })
    }

    async fn count_tools(&mut self) -> Result<usize, CheckError> {
        let mut count = 0;
        let mut params = json!({});
        for _ in 0..PAGES_MAX {
            let page: Tools = self.ask("tools/list", &params).await?;
            count += page.tools.len();
            match page.next_cursor {
                Some(cursor) => params = json!({"cursor": cursor}),
                None => break,
            }
        }
        Ok(count)
    }

    /// Sends a request and waits for the answer. Meanwhile, the server's pings are answered, and its other requests
    /// are refused.
    async fn ask<T: for<'a> Deserialize<'a>>(
        &mut self,
        method: &'static str,
        params: &Value,
    ) -> Result<T, CheckError> {
        #[derive(Deserialize)]
        struct CheckResponse {
            result: Option<Value>,
            error: Option<Error>,
        }
        #[derive(Deserialize)]
        struct Error {
            code: i64,
            message: String,
        }
        self.waits_for.set(method);
        self.asked += 1;
        let id = self.asked;
        self.say(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await?;
        let id = id.to_string();
        loop {
            let message = self.next().await?;
            match (message.kind(), message.id()) {
                (Kind::Response, Some(answered))
                    if ids::find([&*id].into_iter(), answered).is_some() =>
                {
                    let unexpected = |_| CheckError::Unexpected(method);
                    let answer: CheckResponse =
                        serde_json::from_str(message.text()).map_err(unexpected)?;
                    return match answer {
                        CheckResponse { error: Some(Error { code, message }), .. } => {
                            let message = printable(message.as_bytes());
                            Err(CheckError::Refused(method, format!("{message} ({code})")))
                        }
                        CheckResponse { result, error: None } => {
                            serde_json::from_value(result.unwrap_or_default()).map_err(unexpected)
                        }
                    };
                }
                (Kind::Request, Some(id)) => self.answer(id, &message).await?,
                _ => {}
            }
        }
    }

    async fn answer(&mut self, id: &str, message: &Message) -> Result<(), CheckError> {
        let body = if message.method() == Some("ping") {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#).into_bytes()
        } else {
            error_body(
                Some(id),
                code::METHOD_NOT_FOUND,
                "this server is only being checked: there is no client",
            )
        };
        self.write(body).await
    }

    async fn say(&mut self, message: &Value) -> Result<(), CheckError> {
        self.write(message.to_string().into_bytes()).await
    }

    async fn write(&mut self, mut line: Vec<u8>) -> Result<(), CheckError> {
        line.push(b'\n');
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            match poll_fn(|cx| self.child.poll_write(cx, rest)).await {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(_) => return Err(self.end(CheckError::ClosedInput).await),
            }
        }
        Ok(())
    }

    /// The next message in what was read already. An answer that cannot be read is the answer to the current request,
    /// because there is only one request at a time.
    async fn said(&mut self) -> Option<Result<Message, CheckError>> {
        loop {
            return Some(match self.output.next_printed()? {
                Printed::Message(message) => Ok(message),
                Printed::LostAnswer(_) => Err(CheckError::Unexpected(self.waits_for.get())),
                Printed::UnreadableRequest(unread) => match self.write(unread.answer()).await {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
            });
        }
    }

    /// The next message.
    async fn next(&mut self) -> Result<Message, CheckError> {
        loop {
            if let Some(said) = self.said().await {
                return said;
            }
            let (child, buffer, ends_until) = (&mut self.child, &mut self.buffer, self.ends_until);
            let read = poll_fn(|cx| {
                // The exit is polled before the output, so that everything printed before the exit is read.
                let exit = child.poll_exit(cx);
                match child.poll_read(cx, buffer) {
                    Poll::Ready(read) => Poll::Ready(Some(read.unwrap_or(0))),
                    // Other processes may hold the stdout of an exited server open.
                    Poll::Pending if exit.is_ready() => Poll::Ready(Some(0)),
                    Poll::Pending if ends_until.is_some() => Poll::Pending,
                    Poll::Pending => child.poll_input_closed(cx).map(|()| None),
                }
            });
            let late = async {
                match ends_until {
                    Some(until) => Timer::at(until).await,
                    None => future::pending().await,
                };
                None
            };
            match future::or(read, late).await {
                // An exiting server closes its pipes one after the other, stdin first. Its last output is still to be
                // read.
                None if ends_until.is_none() => self.ends_until = Some(Instant::now() + EXIT),
                None => return Err(self.end(CheckError::ClosedInput).await),
                Some(0) => {
                    // The last line may have no line feed.
                    self.output.end();
                    return match self.said().await {
                        Some(said) => said,
                        None => Err(self.end(CheckError::ClosedOutput).await),
                    };
                }
                Some(count) => self.output.feed(self.buffer.get(..count).unwrap_or_default()),
            }
        }
    }

    /// The reason why the server does not answer any more: its exit, or `otherwise` if it does not exit within
    /// [`EXIT`].
    async fn end(&mut self, otherwise: CheckError) -> CheckError {
        let exit = async { Some(poll_fn(|cx| self.child.poll_exit(cx)).await) };
        let late = async {
            Timer::after(EXIT).await;
            None
        };
        future::or(exit, late).await.map_or(otherwise, CheckError::Exited)
    }
}
