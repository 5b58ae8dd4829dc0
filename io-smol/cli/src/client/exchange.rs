//! One request and its response.
//!
//! Knows: how a request is written, and the head and body of a response as they arrive. Does not know: how the
//! connection was opened, or what the body means.

use core::fmt;
use core::time::Duration;
use std::time::Instant;

use smol::io::{AsyncReadExt, AsyncWriteExt};

use super::connection::{Connection, until};
use super::framing::{Framing, Malformed, Taken};
use super::target::Target;

/// The largest accepted head of a response, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The most fields of a response.
const FIELDS_MAX: usize = 128;
/// The most interim (1xx) responses before a response.
const INTERIM_MAX: usize = 8;
/// The size of one read, in bytes.
const READ_BYTES: usize = 16 << 10;
/// The most bytes of a text body that are read.
pub(crate) const TEXT_BYTES_MAX: usize = 64 << 10;

/// Fields that say how the message is framed, which only this file decides.
pub(crate) const FRAMING_FIELDS: [&str; 4] =
    ["connection", "content-length", "transfer-encoding", "upgrade"];

/// A request.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a Target,
    /// Fields besides `Host`, `Connection` and `Content-Length`. `Host` replaces the one of the target.
    pub(crate) fields: &'a [(String, String)],
    pub(crate) body: Option<&'a str>,
    /// The connection is used for nothing else after the response.
    pub(crate) closes: bool,
}

impl Request<'_> {
    fn encode(&self) -> String {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target.path_and_query());
        if !self.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            text += &format!("Host: {}\r\n", self.target.authority());
        }
        for (name, value) in self.fields {
            text += &format!("{name}: {value}\r\n");
        }
        if self.closes {
            text += "Connection: close\r\n";
        }
        if let Some(body) = self.body {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        text += "\r\n";
        text += self.body.unwrap_or_default();
        text
    }

    /// Sends the request, and waits for the head of its response until `timeout` has passed.
    pub(crate) async fn send(
        &self,
        mut connection: Connection,
        timeout: Duration,
    ) -> Result<Response, AnswerFault> {
        let sent = Instant::now();
        let deadline = sent + timeout;
        let bytes = self.encode();
        // A server may answer and close before it has read everything, so a failed write is no verdict yet.
        let write = async {
            connection.write_all(bytes.as_bytes()).await?;
            connection.flush().await
        };
        until(deadline, write).await.ok_or(AnswerFault::TimedOut)?.ok();
        let mut reader = Reader::new(connection);
        let mut first_byte = None;
        for _ in 0..INTERIM_MAX {
            let head = loop {
                if let Some(head) = Head::take(&mut reader.buffer)? {
                    break head;
                }
                match until(deadline, reader.read()).await {
                    None => return Err(AnswerFault::TimedOut),
                    Some(0) if reader.buffer.is_empty() => return Err(AnswerFault::Closed),
                    Some(0) => return Err(AnswerFault::NotHttp(reader.buffer)),
                    Some(_) => first_byte = first_byte.or_else(|| Some(sent.elapsed())),
                }
            };
            if (100..200).contains(&head.status) {
                continue;
            }
            let empty = self.method == "HEAD" || matches!(head.status, 204 | 304);
            let framing =
                Framing::of(empty, head.field("content-length"), head.field("transfer-encoding"))?;
            let took = sent.elapsed();
            let first_byte = first_byte.unwrap_or(took);
            return Ok(Response { head, first_byte, took, body: Body { reader, framing } });
        }
        Err(AnswerFault::Malformed)
    }
}

/// Why there is no complete response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AnswerFault {
    /// It did not arrive in time.
    TimedOut,
    /// The connection ended before it was complete.
    Closed,
    /// These bytes are not the beginning of an HTTP/1 response.
    NotHttp(Vec<u8>),
    /// The head or the framing of the body is invalid or over a limit.
    Malformed,
}

impl From<Malformed> for AnswerFault {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl fmt::Display for AnswerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TimedOut => "no response arrived in time",
            Self::Closed => "the connection was closed before a response",
            Self::NotHttp(_) | Self::Malformed => "the response is not valid HTTP/1",
        })
    }
}

/// The status and the fields of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
}

impl Head {
    /// Takes a head out of `buffer`, if it is complete.
    fn take(buffer: &mut Vec<u8>) -> Result<Option<Self>, AnswerFault> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        let parsed = match response.parse(buffer) {
            Ok(httparse::Status::Complete(length)) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let field = |field: &httparse::Header<'_>| (field.name.into(), text(field.value));
                let fields = response.headers.iter().map(field).collect();
                Some((length, Self { status: response.code.unwrap_or_default(), fields }))
            }
            Ok(httparse::Status::Partial) if buffer.len() > HEAD_BYTES_MAX => {
                return Err(AnswerFault::Malformed);
            }
            Ok(httparse::Status::Partial) => None,
            Err(httparse::Error::TooManyHeaders) => return Err(AnswerFault::Malformed),
            Err(_) => return Err(AnswerFault::NotHttp(core::mem::take(buffer))),
        };
        Ok(parsed.map(|(length, head)| {
            buffer.drain(..length);
            head
        }))
    }

    /// The value of the first field with this name, in any case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        fields.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// The media type in lower case, without parameters.
    pub(crate) fn media_type(&self) -> String {
        let value = self.field("content-type").unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }
}

/// A response whose head has arrived.
pub(crate) struct Response {
    pub(crate) head: Head,
    /// The time from the request to the first byte.
    pub(crate) first_byte: Duration,
    /// The time from the request to the end of the head.
    pub(crate) took: Duration,
    pub(crate) body: Body,
}

/// A body that is still arriving. Dropping it closes the connection.
pub(crate) struct Body {
    reader: Reader,
    framing: Framing,
}

impl Body {
    /// The next part of the body, or `None` at its end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, AnswerFault> {
        loop {
            match self.framing.take(&mut self.reader.buffer)? {
                Taken::Piece(piece) => return Ok(Some(piece)),
                Taken::End => return Ok(None),
                Taken::NeedsMore => {}
            }
            if self.reader.read().await == 0 {
                return if self.framing.may_end() { Ok(None) } else { Err(AnswerFault::Closed) };
            }
        }
    }

    /// The number of reads from the connection so far. Parts with the same number arrived together.
    pub(crate) fn reads(&self) -> u64 {
        self.reader.reads
    }

    /// The body as text: what arrives until `deadline`, at most [`TEXT_BYTES_MAX`].
    pub(crate) async fn text(mut self, deadline: Instant) -> String {
        let mut text = Vec::new();
        while text.len() < TEXT_BYTES_MAX
            && let Some(Ok(Some(piece))) = until(deadline, self.next()).await
        {
            text.extend(piece);
        }
        text.truncate(TEXT_BYTES_MAX);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// A connection and the bytes that were read and not used yet.
struct Reader {
    connection: Connection,
    buffer: Vec<u8>,
    /// The place that a read fills.
    piece: Box<[u8]>,
    reads: u64,
}

impl Reader {
    fn new(connection: Connection) -> Self {
        let piece = vec![0; READ_BYTES].into_boxed_slice();
        Self { connection, buffer: Vec::new(), piece, reads: 0 }
    }

    /// Reads once. 0 is the end, by a reset too.
    async fn read(&mut self) -> usize {
        let count = self.connection.read(&mut self.piece).await.unwrap_or(0);
        let (piece, _) = self.piece.split_at(count);
        self.buffer.extend_from_slice(piece);
        self.reads += 1;
        count
    }
}
