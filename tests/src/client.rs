//! A strict client on blocking sockets that shows every byte.
//!
//! Knows: HTTP/1.1 responses and event streams, as strictly as the server must produce them. Does
//! not know: which response is right. Every read and write panics after [`PATIENCE`].

use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use mcp_sse_core::sse::{DecodedEvent, Decoder};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::SockRef;

use crate::PATIENCE;

/// The largest event that a test expects.
const EVENT_BYTES_MAX: usize = 128 << 20;

/// The address of a server, with the protocol.
#[derive(Clone, Debug)]
pub enum ServerAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// TLS, to a server whose certificate is for `localhost`.
    Tls(SocketAddr, Arc<ClientConfig>),
    /// A Unix socket.
    Unix(PathBuf),
}

impl From<SocketAddr> for ServerAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<&Self> for ServerAddress {
    fn from(address: &Self) -> Self {
        address.clone()
    }
}

/// A connected socket.
enum Socket {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Unix(UnixStream),
}

impl Socket {
    fn connect(address: ServerAddress) -> io::Result<Self> {
        let tcp = |address| with_timeouts(TcpStream::connect_timeout(&address, PATIENCE)?);
        Ok(match address {
            ServerAddress::Tcp(address) => Self::Tcp(tcp(address)?),
            ServerAddress::Tls(address, config) => {
                let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
                Self::Tls(Box::new(StreamOwned::new(connection, tcp(address)?)))
            }
            ServerAddress::Unix(path) => {
                let socket = UnixStream::connect(path)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.set_write_timeout(Some(PATIENCE))?;
                Self::Unix(socket)
            }
        })
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_nonblocking(nonblocking),
            Self::Tls(stream) => stream.sock.set_nonblocking(nonblocking),
            Self::Unix(socket) => socket.set_nonblocking(nonblocking),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Self::Tls(stream) => {
                stream.conn.send_close_notify();
                stream.flush()?;
                stream.sock.shutdown(Shutdown::Write)
            }
            Self::Unix(socket) => socket.shutdown(Shutdown::Write),
        }
    }

    #[track_caller]
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(socket) => socket,
            Self::Tls(_) | Self::Unix(_) => panic!("only TCP can do this"),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
            Self::Unix(socket) => socket.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
            Self::Unix(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
            Self::Unix(socket) => socket.flush(),
        }
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(socket) => socket.fmt(f),
            Self::Tls(stream) => write!(f, "TLS {:?}", stream.sock),
            Self::Unix(socket) => socket.fmt(f),
        }
    }
}

fn with_timeouts(socket: TcpStream) -> io::Result<TcpStream> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// A client's connection to a server.
pub struct Client {
    socket: Socket,
    /// Bytes that were read from the socket and not consumed.
    unread: Vec<u8>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({:?}, {:?})", self.socket, self.unread.escape_ascii().to_string())
    }
}

/// A complete response, or the head of an event stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status line.
    pub status_line: String,
    /// The status code.
    pub status: u16,
    /// The names, as they were received, and the values of all fields.
    pub fields: Vec<(String, String)>,
    /// The body; empty for an event stream.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of the only field with this name, in any case.
    ///
    /// # Panics
    ///
    /// If there are several such fields.
    #[track_caller]
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values =
            self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| &**v);
        let value = values.next();
        assert_eq!(values.next(), None, "{name} is there twice: {self:?}");
        value
    }

    /// The body as text.
    ///
    /// # Panics
    ///
    /// If the body is not UTF-8.
    #[track_caller]
    #[must_use]
    pub fn text(&self) -> &str {
        core::str::from_utf8(&self.body).expect("the body is text")
    }

    /// The response without its `Date`, for comparison.
    #[must_use]
    pub fn without_date(mut self) -> Self {
        self.fields.retain(|(name, _)| name != "Date");
        self
    }

    #[track_caller]
    fn parse_head(head: &str) -> Self {
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap_or_default().to_owned();
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|status| status.parse().ok())
            .unwrap_or_else(|| panic!("no status line: {status_line:?}"));
        let field = |line: &str| {
            let (name, value) =
                line.split_once(": ").unwrap_or_else(|| panic!("no field: {line:?} in {head:?}"));
            (name.to_owned(), value.to_owned())
        };
        Self { status_line, status, fields: lines.map(field).collect(), body: Vec::new() }
    }
}

impl From<StreamOwned<ClientConnection, TcpStream>> for Client {
    /// Wraps a TLS connection that a test has begun; its socket should have timeouts.
    fn from(stream: StreamOwned<ClientConnection, TcpStream>) -> Self {
        Self { socket: Socket::Tls(Box::new(stream)), unread: Vec::new() }
    }
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    ///
    /// If that fails.
    #[track_caller]
    #[must_use]
    pub fn connect(address: impl Into<ServerAddress>) -> Self {
        let socket = Socket::connect(address.into()).expect("a connection");
        Self { socket, unread: Vec::new() }
    }

    /// Connects by TCP with a receive buffer of about `receive_bytes` bytes.
    ///
    /// # Panics
    ///
    /// If that fails.
    #[track_caller]
    #[must_use]
    pub fn connect_with_receive_buffer(address: SocketAddr, receive_bytes: usize) -> Self {
        let connect = || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            // The buffer must be set before connecting, because the TCP window is negotiated then.
            socket.set_recv_buffer_size(receive_bytes)?;
            socket.connect_timeout(&address.into(), PATIENCE)?;
            with_timeouts(socket.into())
        };
        let socket = connect().expect("a connection");
        Self { socket: Socket::Tcp(socket), unread: Vec::new() }
    }

    /// The TLS state of this connection.
    ///
    /// # Panics
    ///
    /// If the connection has no TLS.
    #[track_caller]
    #[must_use]
    pub fn tls(&self) -> &ClientConnection {
        match &self.socket {
            Socket::Tls(stream) => &stream.conn,
            Socket::Tcp(_) | Socket::Unix(_) => panic!("TLS"),
        }
    }

    /// The same connection for another thread. Bytes that were read already stay here.
    #[must_use]
    pub fn clone_socket(&self) -> Self {
        let socket = self.socket.tcp().try_clone().expect("a descriptor");
        Self { socket: Socket::Tcp(socket), unread: Vec::new() }
    }

    /// Sets the time limit of reads and writes, in place of [`PATIENCE`].
    ///
    /// # Panics
    ///
    /// On a Unix socket.
    pub fn set_timeout(&mut self, patience: Duration) {
        let socket = self.socket.tcp();
        socket.set_read_timeout(Some(patience)).expect("a socket");
        socket.set_write_timeout(Some(patience)).expect("a socket");
    }

    /// Sends bytes.
    ///
    /// # Panics
    ///
    /// If the server does not read them.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the server reads");
    }

    /// Sends bytes to a server that may have closed the connection.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.socket.write_all(bytes.as_ref())?;
        self.socket.flush()
    }

    /// Shuts down the write side; with TLS, after `close_notify`.
    pub fn end(&mut self) {
        // The shutdown fails if the server has closed the connection already.
        let _ = self.socket.end();
    }

    /// Shuts down the write side of the TCP connection without a `close_notify`.
    pub fn end_tcp(&mut self) {
        if let Socket::Tls(stream) = &self.socket {
            let _ = stream.sock.shutdown(Shutdown::Write);
        }
    }

    /// Returns a guard that closes the connection if the test panics, so that threads which use the
    /// connection do not wait on.
    ///
    /// # Panics
    ///
    /// If the system has no descriptor left.
    #[must_use]
    pub fn cut_on_panic(&self) -> CutOnPanic {
        CutOnPanic(self.socket.tcp().try_clone().expect("a descriptor"))
    }

    /// Closes the connection by a reset.
    pub fn reset(self) {
        let socket = SockRef::from(self.socket.tcp());
        socket.set_linger(Some(Duration::ZERO)).expect("a socket");
    }

    /// Sends a byte of urgent data, which is not part of the stream.
    pub fn send_urgent(&self) {
        let socket = SockRef::from(self.socket.tcp());
        assert_eq!(socket.send_out_of_band(b"!").expect("the server is there"), 1);
    }

    /// Reads everything that has arrived into the buffer.
    ///
    /// # Panics
    ///
    /// If the connection has failed.
    #[track_caller]
    pub fn buffer_input(&mut self) {
        self.socket.set_nonblocking(true).expect("a socket");
        loop {
            match self.fill() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("taking in what is there: {error}"),
            }
        }
        self.socket.set_nonblocking(false).expect("a socket");
    }

    /// The result of one read of the socket, or the buffer if it is not empty; empty at the end.
    ///
    /// # Panics
    ///
    /// If nothing arrives in time.
    #[track_caller]
    pub fn read_once(&mut self) -> Vec<u8> {
        if !self.unread.is_empty() {
            return core::mem::take(&mut self.unread);
        }
        self.fill().expect("something to read");
        core::mem::take(&mut self.unread)
    }

    /// Whether bytes, or the end, can be read now.
    ///
    /// # Panics
    ///
    /// If the socket cannot be made non-blocking.
    #[must_use]
    pub fn has_input(&self) -> bool {
        self.socket.set_nonblocking(true).expect("a socket");
        let peeked = self.socket.tcp().peek(&mut [0]);
        self.socket.set_nonblocking(false).expect("a socket");
        !self.unread.is_empty() || !matches!(peeked, Err(e) if e.kind() == ErrorKind::WouldBlock)
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 64 << 10];
        let count = loop {
            match self.socket.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                done => break done?,
            }
        };
        self.unread.extend_from_slice(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }

    /// Reads `count` bytes; `None` if the connection ends before.
    #[track_caller]
    fn read_exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.unread.len() < count {
            match self.fill() {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if is_cut(&error) => return None,
                Err(error) => panic!("waiting for {count} bytes, {self:?}: {error}"),
            }
        }
        Some(self.unread.drain(..count).collect())
    }

    /// Reads up to the end of `mark`; `None` if the connection ends before.
    #[track_caller]
    fn read_through(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        let mut from = 0;
        loop {
            let rest = self.unread.get(from..).unwrap_or_default();
            if let Some(at) = rest.windows(mark.len()).position(|window| window == mark) {
                return Some(self.unread.drain(..from + at + mark.len()).collect());
            }
            from = self.unread.len().saturating_sub(mark.len() - 1);
            match self.fill() {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if is_cut(&error) => return None,
                Err(error) => panic!("waiting for {}, {self:?}: {error}", mark.escape_ascii()),
            }
        }
    }

    /// Reads the head of a response.
    ///
    /// # Panics
    ///
    /// If the connection ends instead.
    #[track_caller]
    pub fn head(&mut self) -> Response {
        self.try_head().unwrap_or_else(|| panic!("a response instead of the end: {self:?}"))
    }

    #[track_caller]
    fn try_head(&mut self) -> Option<Response> {
        let bytes = self.read_through(b"\r\n\r\n")?;
        let text = core::str::from_utf8(&bytes).expect("a head is text");
        Some(Response::parse_head(text.strip_suffix("\r\n\r\n").unwrap_or(text)))
    }

    /// Reads a response with its body.
    ///
    /// # Panics
    ///
    /// If the connection ends instead.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.try_response().unwrap_or_else(|| panic!("a response instead of the end: {self:?}"))
    }

    /// Reads a response with its body; `None` if the connection ends instead.
    ///
    /// # Panics
    ///
    /// If it ends in the middle.
    #[track_caller]
    pub fn try_response(&mut self) -> Option<Response> {
        let mut response = self.try_head()?;
        if response.status / 100 != 1 {
            response.body = self.body_of(&response);
        }
        Some(response)
    }

    #[track_caller]
    fn body_of(&mut self, head: &Response) -> Vec<u8> {
        let length = head.field("Content-Length").expect("a length");
        let length = length.parse().expect("a length in digits");
        self.read_exactly(length).expect("a whole body")
    }

    /// Sends a request and reads its response.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[track_caller]
    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Response {
        self.send(request);
        self.response()
    }

    /// Reads the end of the connection.
    ///
    /// # Panics
    ///
    /// If bytes or a reset come instead.
    #[track_caller]
    pub fn expect_end(&mut self) {
        let read = self.fill().expect("the end, and not an error");
        assert!(read == 0 && self.unread.is_empty(), "the end, and not {self:?}");
    }

    /// Discards input until the server has closed the connection, in order or by a reset.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[track_caller]
    pub fn wait_for_end(&mut self) {
        loop {
            self.unread.clear();
            match self.fill() {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if is_cut(&error) => return,
                Err(error) => panic!("waiting for the end: {error}"),
            }
        }
    }
}

/// See [`Client::cut_on_panic`].
#[derive(Debug)]
pub struct CutOnPanic(TcpStream);

impl Drop for CutOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.shutdown(Shutdown::Both);
        }
    }
}

/// Whether a connection was cut: by a reset, or with TLS by a TCP end without `close_notify`.
fn is_cut(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof)
}

/// The next item of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamItem {
    /// An event.
    Event(DecodedEvent),
    /// The terminating chunk.
    End,
    /// The end of the connection without the terminating chunk.
    Cut,
}

/// An event stream, and a connection for posts to its session.
#[derive(Debug)]
pub struct Stream {
    /// The connection of the stream.
    pub client: Client,
    /// The head of the response.
    pub head: Response,
    /// The URI to post to.
    pub endpoint: String,
    address: ServerAddress,
    decoder: Decoder,
    events: VecDeque<DecodedEvent>,
    poster: Option<Client>,
    calls: u64,
}

impl Stream {
    /// Opens a stream at `/sse`.
    ///
    /// # Panics
    ///
    /// If the server refuses it.
    #[track_caller]
    #[must_use]
    pub fn open(address: impl Into<ServerAddress>) -> Self {
        Self::open_with(address, "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n")
    }

    /// Opens a stream by the given request.
    ///
    /// # Panics
    ///
    /// If the server refuses it.
    #[track_caller]
    #[must_use]
    pub fn open_with(address: impl Into<ServerAddress>, request: &str) -> Self {
        let address = address.into();
        let client = Client::connect(&address);
        Self::open_on(client, address, request)
    }

    /// Opens a stream by the given request on an open connection. Posts are sent to `address`.
    ///
    /// # Panics
    ///
    /// If the server refuses it.
    #[track_caller]
    #[must_use]
    pub fn open_on(client: Client, address: impl Into<ServerAddress>, request: &str) -> Self {
        let opened = Self::try_open_on(client, address.into(), request);
        opened.unwrap_or_else(|refusal| panic!("{request:?}: {refusal:?}"))
    }

    /// Opens a stream at `/sse`, which the server may refuse.
    ///
    /// # Errors
    ///
    /// The complete response, if its status is not 200.
    ///
    /// # Panics
    ///
    /// If there is no response.
    #[track_caller]
    pub fn try_open(address: impl Into<ServerAddress>) -> Result<Self, Response> {
        let address = address.into();
        Self::try_open_on(
            Client::connect(&address),
            address,
            "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n",
        )
    }

    #[track_caller]
    fn try_open_on(
        mut client: Client,
        address: ServerAddress,
        request: &str,
    ) -> Result<Self, Response> {
        client.send(request);
        let mut head = client.head();
        if head.status != 200 {
            head.body = client.body_of(&head);
            return Err(head);
        }
        let decoder = Decoder::new(EVENT_BYTES_MAX);
        let mut stream = Self {
            client,
            head,
            endpoint: String::new(),
            address,
            decoder,
            events: VecDeque::new(),
            poster: None,
            calls: 0,
        };
        let first = stream.event();
        assert_eq!(first.name, "endpoint", "{first:?}");
        stream.endpoint = first.data;
        Ok(stream)
    }

    /// The text of the session's token.
    ///
    /// # Panics
    ///
    /// If the endpoint has no token.
    #[track_caller]
    #[must_use]
    pub fn token(&self) -> &str {
        self.endpoint.split_once('=').expect("an endpoint with a token").1
    }

    /// Reads one chunk; `None` if the connection ends before its end. The terminating chunk is
    /// empty.
    ///
    /// # Panics
    ///
    /// If it is malformed.
    #[track_caller]
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.client.read_through(b"\r\n")?;
        let size = line.strip_suffix(b"\r\n").and_then(|size| core::str::from_utf8(size).ok());
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.unwrap_or_else(|| panic!("no chunk size: {}", line.escape_ascii()));
        let mut chunk = self.client.read_exactly(size + 2)?;
        let end = chunk.split_off(size);
        assert_eq!(end, b"\r\n", "the end of a chunk");
        Some(chunk)
    }

    /// Reads the next item, and skips comments.
    ///
    /// # Panics
    ///
    /// If nothing arrives in time, or the stream is malformed.
    #[track_caller]
    pub fn next_item(&mut self) -> StreamItem {
        let chunked = self.head.field("Transfer-Encoding").is_some();
        loop {
            if let Some(event) = self.events.pop_front() {
                return StreamItem::Event(event);
            }
            let piece = if chunked {
                match self.chunk() {
                    None => return StreamItem::Cut,
                    Some(chunk) if chunk.is_empty() => return StreamItem::End,
                    Some(chunk) => chunk,
                }
            } else {
                match self.client.read_once() {
                    piece if piece.is_empty() => return StreamItem::End,
                    piece => piece,
                }
            };
            let events = &mut self.events;
            self.decoder.feed(&piece, &mut |event| events.push_back(event)).expect("a small event");
        }
    }

    /// The next event.
    ///
    /// # Panics
    ///
    /// If another item comes.
    #[track_caller]
    pub fn event(&mut self) -> DecodedEvent {
        match self.next_item() {
            StreamItem::Event(event) => event,
            other @ (StreamItem::End | StreamItem::Cut) => panic!("an event, and not {other:?}"),
        }
    }

    /// The text of the next message.
    ///
    /// # Panics
    ///
    /// If another item comes.
    #[track_caller]
    pub fn message(&mut self) -> String {
        let DecodedEvent { name, data, last_event_id } = self.event();
        assert_eq!((&*name, &*last_event_id), ("message", ""), "{data}");
        data
    }

    /// Expects the terminating chunk, and then the connection's end.
    ///
    /// # Panics
    ///
    /// If another item comes.
    #[track_caller]
    pub fn expect_end(&mut self) {
        assert_eq!(self.next_item(), StreamItem::End);
        self.client.expect_end();
    }

    /// A request that posts `body` to this session.
    #[must_use]
    pub fn post_request(&self, body: &str) -> Vec<u8> {
        post_request(&self.endpoint, body)
    }

    /// Posts on this value's connection for posts, and returns the response.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[track_caller]
    pub fn post(&mut self, body: &str) -> Response {
        let request = self.post_request(body);
        let poster = self.poster.get_or_insert_with(|| Client::connect(&self.address));
        let response = poster.ask(request);
        if response.field("Connection") == Some("close") {
            self.poster = None;
        }
        response
    }

    /// Makes one call to an echoing server. `case` is part of a failure's message.
    ///
    /// # Panics
    ///
    /// If the call is not answered correctly and in time.
    #[track_caller]
    pub fn check_alive(&mut self, case: &str) {
        self.calls += 1;
        let (id, call) = (format!("\"alive-{}\"", self.calls), self.calls);
        let request =
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"echo","params":{{"n":{call}}}}}"#);
        assert_eq!(self.post(&request).status, 202, "{case}: another session's post");
        let expected = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"n":{call}}}}}"#);
        assert_eq!(self.message(), expected, "{case}: another session's answer");
    }
}

/// A request that posts `body` to `endpoint`.
#[must_use]
pub fn post_request(endpoint: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {endpoint} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// A JSON-RPC request that an echoing server answers with `params`.
#[must_use]
pub fn call(id: impl fmt::Display, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"echo","params":{params}}}"#)
}

/// The response of an echoing server to [`call`].
#[must_use]
pub fn answer(id: impl fmt::Display, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{params}}}"#)
}

/// The counts in the response of `/health`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Open sessions.
    pub sessions: u64,
    /// Open connections, including that of this request.
    pub connections: u64,
}

/// Requests `/health` on a new connection.
///
/// # Panics
///
/// If the response is not valid.
#[track_caller]
#[must_use]
pub fn health(address: impl Into<ServerAddress>) -> Health {
    let response = Client::connect(address)
        .ask("GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(response.status, 200, "{response:?}");
    let body: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
    let count = |name| body.get(name).and_then(serde_json::Value::as_u64).expect("a count");
    Health { sessions: count("active_sessions"), connections: count("active_connections") }
}
