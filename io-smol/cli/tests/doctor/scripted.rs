//! A server that does what a script says, one request a connection.
//!
//! The default script is a good server. A test changes one thing.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

use crate::support::PATIENCE;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// The head of a good stream.
pub(crate) const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
/// The endpoint event of a good stream.
pub(crate) const ENDPOINT: &str = "event: endpoint\ndata: /messages?session_id=s3cr3t-session\n\n";
/// The answer to a good post.
pub(crate) const ACCEPTED: &str = "HTTP/1.1 202 Accepted\r\nContent-Length: 8\r\n\r\nAccepted";
pub(crate) const NO_METHOD: &str =
    "HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\nContent-Length: 0\r\n\r\n";
const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot found";

/// What is done with the connection of a GET of the stream.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    Say(&'static str),
    /// Says nothing for this many seconds.
    Wait(u64),
    /// Waits for requests, this many or all there are, and sends for each what the function makes of it.
    Answer(usize, fn(&Value) -> String),
    /// Waits for two requests, and answers them in one write.
    AnswerTwoTogether,
    /// Says this again and again until the client leaves.
    Flood(&'static str),
    /// Waits until the client leaves.
    Hold,
}

pub(crate) const FOR_EVER: usize = usize::MAX;

/// A script. The connection is closed after the last step.
#[derive(Clone, Copy)]
pub(crate) struct Script {
    /// The path of the stream.
    pub(crate) path: &'static str,
    pub(crate) get: &'static [Step],
    /// The answer to a post to `/messages`.
    pub(crate) post: &'static str,
    /// The answer to posts from this one on, if it is another one.
    pub(crate) later_posts: Option<(usize, &'static str)>,
    /// The answer to a POST of the stream's path.
    pub(crate) post_to_stream: &'static str,
    /// How many seconds pass before a post is answered.
    pub(crate) post_wait: u64,
    /// The answers to OPTIONS of the stream and of `/messages`.
    pub(crate) options: [&'static str; 2],
    /// Other answers, each by the beginning of its request.
    pub(crate) other: &'static [(&'static str, &'static str)],
}

impl Script {
    pub(crate) const GOOD: Self = Self {
        path: "/sse",
        get: &[Step::Say(HEAD), Step::Say(ENDPOINT), Step::Answer(FOR_EVER, well)],
        post: ACCEPTED,
        later_posts: None,
        post_to_stream: NO_METHOD,
        post_wait: 0,
        options: [NO_METHOD; 2],
        other: &[],
    };

    /// A server that answers every GET of the stream like this.
    pub(crate) const fn getting(get: &'static [Step]) -> Self {
        Self { get, ..Self::GOOD }
    }

    /// A server that answers every post like this.
    pub(crate) const fn posting(post: &'static str) -> Self {
        Self { post, ..Self::GOOD }
    }
}

/// A message event.
pub(crate) fn event(message: &Value) -> String {
    format!("event: message\ndata: {message}\n\n")
}

/// The result of a good server.
pub(crate) fn result(request: &Value) -> Value {
    match request["method"].as_str() {
        Some("initialize") => json!({
            "protocolVersion": "2024-11-05",
            "capabilities": {},
            "serverInfo": {"name": "scripted", "version": "1"},
        }),
        _ => json!({}),
    }
}

/// The event with the answer of a good server.
pub(crate) fn well(request: &Value) -> String {
    event(&json!({"jsonrpc": "2.0", "id": request["id"], "result": result(request)}))
}

/// The running server. Dropping it stops it.
pub(crate) struct Scripted {
    port: u16,
    stopped: Arc<AtomicBool>,
}

impl Scripted {
    pub(crate) fn start(script: Script) -> Self {
        Self::start_with(script, None)
    }

    /// Starts a server that speaks TLS.
    #[cfg(feature = "tls")]
    pub(crate) fn start_tls(script: Script, config: Arc<ServerConfig>) -> Self {
        Self::start_with(script, Some(config))
    }

    fn start_with(script: Script, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = stopped.clone();
        thread::spawn(move || {
            let posts = Arc::new(Posts::default());
            while let Ok((socket, _)) = listener.accept() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (posts, tls) = (posts.clone(), tls.clone());
                // A client that leaves is an error here, and ends the connection.
                thread::spawn(move || serve(&script, socket, tls, &posts));
            }
        });
        Self { port, stopped }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/sse", self.port)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// The requests that were posted, and how many of them a stream has taken.
#[derive(Default)]
struct Posts {
    state: Mutex<PostsState>,
    changed: Condvar,
}

#[derive(Default)]
struct PostsState {
    count: usize,
    requests: Vec<Value>,
    taken: usize,
}

impl Posts {
    /// Adds what was posted, and returns how many posts there were before.
    fn add(&self, body: &[u8]) -> usize {
        let mut state = self.state.lock().expect("no panic");
        if let Ok(message) = serde_json::from_slice::<Value>(body)
            && message.get("id").is_some()
        {
            state.requests.push(message);
        }
        state.count += 1;
        self.changed.notify_all();
        state.count - 1
    }

    /// Takes `count` requests that no stream has taken.
    fn take(&self, count: usize) -> io::Result<Vec<Value>> {
        let state = self.state.lock().expect("no panic");
        let few = |state: &mut PostsState| state.requests.len() < state.taken + count;
        let (mut state, waited) =
            self.changed.wait_timeout_while(state, PATIENCE, few).expect("no panic");
        if waited.timed_out() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let from = state.taken;
        state.taken += count;
        Ok(state.requests[from..from + count].to_vec())
    }
}

trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

fn serve(
    script: &Script,
    socket: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    posts: &Posts,
) -> io::Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_nodelay(true)?;
    let raw = socket.try_clone()?;
    let mut wire: Box<dyn Wire> = match tls {
        None => Box::new(socket),
        Some(config) => {
            let connection = ServerConnection::new(config).map_err(io::Error::other)?;
            Box::new(StreamOwned::new(connection, socket))
        }
    };
    let (line, body) = read_request(&mut *wire)?;
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let say = |wire: &mut dyn Wire, text: &str| {
        wire.write_all(text.as_bytes())?;
        wire.flush()
    };
    let other = script.other.iter().find(|(start, _)| line.starts_with(start));
    match (method, path) {
        _ if other.is_some() => say(&mut *wire, other.map_or("", |(_, answer)| answer))?,
        ("GET", _) if path == script.path => {
            for step in script.get {
                match step {
                    Step::Say(text) => say(&mut *wire, text)?,
                    Step::Wait(seconds) => wait(&raw, Duration::from_secs(*seconds))?,
                    Step::Answer(FOR_EVER, answer) => loop {
                        let request = posts.take(1)?;
                        say(&mut *wire, &answer(&request[0]))?;
                    },
                    Step::Answer(count, answer) => {
                        for _ in 0..*count {
                            let request = posts.take(1)?;
                            say(&mut *wire, &answer(&request[0]))?;
                        }
                    }
                    Step::AnswerTwoTogether => {
                        let two: String = posts.take(2)?.iter().map(well).collect();
                        say(&mut *wire, &two)?;
                    }
                    Step::Flood(text) => {
                        let text = text.repeat(1 << 10);
                        loop {
                            say(&mut *wire, &text)?;
                        }
                    }
                    Step::Hold => wait(&raw, PATIENCE)?,
                }
            }
        }
        ("POST", _) if path == script.path => say(&mut *wire, script.post_to_stream)?,
        ("POST", _) if path.starts_with("/messages") => {
            let before = posts.add(&body);
            wait(&raw, Duration::from_secs(script.post_wait))?;
            let later = script.later_posts.filter(|(from, _)| before >= *from);
            say(&mut *wire, later.map_or(script.post, |(_, answer)| answer))?;
            if script.post.is_empty() {
                wait(&raw, PATIENCE)?;
            }
        }
        ("OPTIONS", _) if path == script.path => say(&mut *wire, script.options[0])?,
        ("OPTIONS", _) if path.starts_with("/messages") => say(&mut *wire, script.options[1])?,
        _ => say(&mut *wire, NOT_FOUND)?,
    }
    Ok(())
}

/// The request line and the body.
fn read_request(wire: &mut dyn Wire) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            let length = length.map_or(0, |length| length.parse().expect("a length"));
            if body.len() >= length {
                let line = head.lines().next().unwrap_or_default().to_owned();
                return Ok((line, body.as_bytes().to_vec()));
            }
        }
        match wire.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            // A TLS handshake, which a server of HTTP does not understand.
            _ if bytes.is_empty() && piece[0] == 0x16 => {
                return Err(io::ErrorKind::InvalidData.into());
            }
            count => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

/// Waits for this time. Fails if the client leaves before.
fn wait(mut socket: &TcpStream, time: Duration) -> io::Result<()> {
    let until = Instant::now() + time;
    let mut piece = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return socket.set_read_timeout(Some(PATIENCE));
        }
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut piece) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
}
