//! The open event stream: what arrives on it, and when.
//!
//! Knows: the moment and the read in which each event and comment arrived, so that what was held back and let go
//! together can be seen. Does not know: what the events mean.
//!
//! A task reads the stream while the doctor posts, because otherwise the moment of arrival would be lost.

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use mcp_sse_core::sse::{DecodedEvent, Decoder};
use smol::Task;
use smol::channel::{Receiver, Sender, bounded};
use smol::lock::{Semaphore, SemaphoreGuardArc};

use crate::client::connection::until;
use crate::client::exchange::{AnswerFault, Body};

/// The largest event that is read, in bytes.
pub(crate) const EVENT_BYTES_MAX: usize = 4 << 20;
/// The most arrivals that wait to be looked at. While there are so many, or so many large ones, the stream is not read.
const ARRIVALS_MAX: usize = 256;
/// The most events over [`LARGE_BYTES`] among them.
const LARGE_ARRIVALS_MAX: usize = 8;
/// An event with more bytes than this is large.
const LARGE_BYTES: usize = 64 << 10;
/// Arrivals that are no further apart than this may have been sent together.
const TOGETHER: Duration = Duration::from_millis(100);

/// What arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Event(DecodedEvent),
    Comment,
    End(End),
}

/// How the stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As HTTP has it: the last chunk, or the end of the connection.
    Complete,
    /// The connection was cut.
    Cut,
    /// The framing is invalid.
    Malformed,
    /// An event is over [`EVENT_BYTES_MAX`].
    TooLarge,
}

impl End {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Complete => "the server ended it",
            Self::Cut => "the connection was cut",
            Self::Malformed => "its chunks are invalid",
            Self::TooLarge => "an event is too large",
        }
    }
}

/// Something that arrived.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) at: Instant,
    read: u64,
    pub(crate) what: What,
    /// One of the [`LARGE_ARRIVALS_MAX`], if it is large.
    _large: Option<SemaphoreGuardArc>,
}

/// When something arrived, and in which read.
#[derive(Clone, Copy, Debug)]
struct Moment {
    at: Instant,
    read: u64,
}

impl Moment {
    const fn of(arrival: &Arrival) -> Self {
        Self { at: arrival.at, read: arrival.read }
    }

    fn is_together_with(self, other: Self) -> bool {
        let apart = self.at.max(other.at) - self.at.min(other.at);
        self.read == other.read || apart <= TOGETHER
    }
}

/// The stream. Dropping it closes its connection, which ends the session.
pub(crate) struct Stream {
    arrivals: Receiver<Arrival>,
    /// Arrivals that were looked at ahead of time.
    ahead: VecDeque<Arrival>,
    previous: Option<Moment>,
    /// When the request was sent.
    pub(crate) opened: Instant,
    /// When something last arrived.
    pub(crate) last: Instant,
    /// The number of endpoint events so far.
    pub(crate) endpoints: u32,
    ended: Option<End>,
    _reader: Task<()>,
}

impl Stream {
    /// Reads `body`, the response to a request that was sent at `opened`.
    pub(crate) fn new(body: Body, opened: Instant) -> Self {
        let (sender, arrivals) = bounded(ARRIVALS_MAX);
        Self {
            arrivals,
            ahead: VecDeque::new(),
            previous: None,
            opened,
            last: Instant::now(),
            endpoints: 0,
            ended: None,
            _reader: smol::spawn(read(body, sender)),
        }
    }

    /// The next arrival, or `None` at `deadline`. After the end, the end again.
    pub(crate) async fn next(&mut self, deadline: Instant) -> Option<Arrival> {
        if let Some(end) = self.ended {
            let what = What::End(end);
            return Some(Arrival { at: self.last, read: 0, what, _large: None });
        }
        let arrival = match self.ahead.pop_front() {
            Some(arrival) => arrival,
            None => until(deadline, self.arrivals.recv()).await?.ok()?,
        };
        self.last = arrival.at;
        match &arrival.what {
            What::End(end) => self.ended = Some(*end),
            What::Event(event) if event.name == "endpoint" => self.endpoints += 1,
            What::Event(_) | What::Comment => {}
        }
        Some(arrival)
    }

    /// The next arrival, and whether another one arrived together with it.
    pub(crate) async fn next_with_company(&mut self, deadline: Instant) -> Option<(Arrival, bool)> {
        let before = self.previous.take();
        let arrival = self.next(deadline).await?;
        let moment = Moment::of(&arrival);
        self.previous = Some(moment);
        let with_previous = before.is_some_and(|before| before.is_together_with(moment));
        let together = with_previous
            || self.peek(arrival.at + TOGETHER).await.is_some_and(|next| {
                !matches!(next.what, What::End(_)) && Moment::of(next).is_together_with(moment)
            });
        Some((arrival, together))
    }

    async fn peek(&mut self, deadline: Instant) -> Option<&Arrival> {
        if self.ahead.is_empty() && self.ended.is_none() {
            let arrival = until(deadline, self.arrivals.recv()).await?.ok()?;
            self.ahead.push_back(arrival);
        }
        self.ahead.front()
    }
}

/// The bytes of an event. Each has the last id, which may be an earlier event's.
fn size(event: &DecodedEvent) -> usize {
    event.name.len() + event.data.len() + event.last_event_id.len()
}

/// Reads the stream to its end.
async fn read(mut body: Body, arrivals: Sender<Arrival>) {
    let mut decoder = Decoder::new(EVENT_BYTES_MAX);
    let large_arrivals = Arc::new(Semaphore::new(LARGE_ARRIVALS_MAX));
    loop {
        let piece = body.next().await;
        let (at, read) = (Instant::now(), body.reads());
        let mut found = Vec::new();
        match piece {
            Ok(Some(piece)) => {
                let comments = decoder.comments();
                let fed = decoder.feed(&piece, &mut |event| found.push(What::Event(event)));
                if decoder.comments() > comments {
                    found.push(What::Comment);
                }
                if fed.is_err() {
                    found.push(What::End(End::TooLarge));
                }
            }
            Ok(None) => found.push(What::End(End::Complete)),
            Err(AnswerFault::Malformed | AnswerFault::NotHttp(_)) => {
                found.push(What::End(End::Malformed));
            }
            Err(AnswerFault::Closed | AnswerFault::TimedOut) => found.push(What::End(End::Cut)),
        }
        for what in found {
            let ended = matches!(what, What::End(_));
            let large = match &what {
                What::Event(event) if size(event) > LARGE_BYTES => {
                    Some(large_arrivals.acquire_arc().await)
                }
                What::Event(_) | What::Comment | What::End(_) => None,
            };
            let arrival = Arrival { at, read, what, _large: large };
            if arrivals.send(arrival).await.is_err() || ended {
                return;
            }
        }
    }
}
