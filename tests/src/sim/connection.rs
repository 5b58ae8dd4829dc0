//! A simulated connection: its bytes in both directions, and what both ends know.
//!
//! Knows: the bytes on the way to the server, how many are on the way to the client, and network
//! faults: delay, few bytes at a time, a gap in the middle, a closed window, a pause. Does not
//! know: what the bytes mean; [`Reader`] does.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::VecDeque;

use mcp_sse_core::{ConnId, Interest, Time};

use super::reader::Reader;
use super::request::{Credentials, Expected, RequestSize, SimRequest};

/// A connection: its shard and its id there.
pub type ConnectionKey = (usize, ConnId);

/// The end of the client's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fin {
    /// The client may send more.
    No,
    /// The client has shut down its side.
    Sent,
    /// The server has read the end.
    Read,
}

/// One connection.
#[derive(Debug)]
pub struct SimConnection {
    /// The index of its client.
    pub client: usize,
    pub address: Option<IpAddr>,
    /// For an exchange: whether the head of the response was taken. `None` for a socket.
    pub exchange: Option<bool>,

    /// Bytes on the way to the server.
    pub inbound: VecDeque<u8>,
    /// They arrive at this time.
    pub arrives: Time,
    /// Bytes after this offset arrive at this later time.
    pub gap: Option<(u64, Time)>,
    /// On a slow connection: how many bytes arrive in a step, and how many of them are left in this
    /// one.
    pub bytes_per_step: Option<(usize, usize)>,
    pub fin: Fin,
    /// Bytes that the client has sent, and that the server has read.
    pub sent: u64,
    pub given: u64,

    /// Bytes that the server has written, and that the client has read.
    pub written: u64,
    pub read: u64,
    /// How many written bytes may be unread.
    pub window: u64,
    /// The client reads everything at once.
    pub reading: bool,
    /// The client once did not read, or its socket was full.
    pub slow: bool,
    /// The socket accepts no bytes until the next step.
    pub paused: bool,
    pub opened: Time,
    pub last_given: Time,
    pub last_written: Time,
    pub last_answer: Time,
    /// How long nothing was written before the current write.
    pub silence: Duration,

    pub reader: Reader,
    pub requests: VecDeque<SimRequest>,
    /// Where the last request ends in the input.
    asked_until: u64,
    /// Numbers of posts that are hidden in other requests, or were sent in part.
    pub hidden: Vec<u64>,
    /// The number of the stream request, and whether it was refused.
    pub stream_request: Option<u64>,
    pub stream_refused: bool,
    /// How many requests were sent, and how many responses were received.
    pub asked: u64,
    pub answered: u64,
    /// The client will send no further request.
    pub done: bool,
    /// A response announced the close: none may follow.
    pub closed_by_answer: bool,
    /// The session's token, and the output offset by which it was received.
    pub token: Option<(u64, String)>,

    /// The interest that the driver saw last.
    pub known_interest: Interest,
    /// Listed as ready.
    pub listed: bool,
}

impl SimConnection {
    /// Makes a new connection of a client.
    #[must_use]
    pub fn new(client: usize, exchange: bool, known_interest: Interest, now: Time) -> Self {
        Self {
            client,
            address: None,
            exchange: exchange.then_some(false),
            inbound: VecDeque::new(),
            arrives: now,
            gap: None,
            bytes_per_step: None,
            fin: Fin::No,
            sent: 0,
            given: 0,
            written: 0,
            read: 0,
            window: u64::MAX,
            reading: true,
            slow: false,
            paused: false,
            opened: now,
            last_given: now,
            last_written: now,
            last_answer: now,
            silence: Duration::ZERO,
            reader: Reader::default(),
            requests: VecDeque::new(),
            asked_until: 0,
            hidden: Vec::new(),
            stream_request: None,
            stream_refused: false,
            asked: 0,
            answered: 0,
            done: false,
            closed_by_answer: false,
            token: None,
            known_interest,
            listed: false,
        }
    }

    /// The client sends `bytes`.
    pub fn send(&mut self, bytes: &[u8]) {
        self.inbound.extend(bytes);
        self.sent += bytes.len() as u64;
    }

    /// Records a request that ends with the last sent byte.
    pub fn add_request(
        &mut self,
        number: u64,
        expected: Expected,
        bodiless: bool,
        size: RequestSize,
    ) {
        self.reader.expect(bodiless);
        self.asked += 1;
        let (start, end) = (self.asked_until, self.sent);
        self.asked_until = end;
        let credentials = Credentials::NotNeeded;
        let (begun, whole, refusal) = (None, None, None);
        let request =
            SimRequest { number, expected, start, end, size, begun, whole, refusal, credentials };
        self.requests.push_back(request);
    }

    /// How many bytes the server can read now.
    #[must_use]
    pub fn arrived(&self, now: Time) -> usize {
        if self.arrives > now {
            return 0;
        }
        let gap = self.gap.filter(|&(_, until)| until > now);
        let until_gap = gap.map_or(u64::MAX, |(at, _)| at.saturating_sub(self.given));
        let drops = self.bytes_per_step.map_or(usize::MAX, |(_, left)| left);
        self.inbound.len().min(drops).min(usize::try_from(until_gap).unwrap_or(usize::MAX))
    }

    /// Whether the server can read the end of the input now.
    #[must_use]
    pub fn ends_now(&self, now: Time) -> bool {
        self.fin == Fin::Sent && self.inbound.is_empty() && self.arrives <= now
    }

    /// The server reads `count` bytes.
    pub fn give(&mut self, count: usize, now: Time) -> Vec<u8> {
        self.given += count as u64;
        self.last_given = now;
        if let Some((_, left)) = &mut self.bytes_per_step {
            *left -= count;
        }
        for request in &mut self.requests {
            if request.start < self.given || request.start == request.end {
                request.begun.get_or_insert(now);
            }
            if request.end <= self.given {
                request.whole.get_or_insert(now);
            }
        }
        self.inbound.drain(..count).collect()
    }

    /// Removes every delay of the client's input.
    pub fn deliver_all(&mut self, now: Time) {
        (self.arrives, self.gap, self.bytes_per_step) = (now, None, None);
    }

    /// How many bytes the socket accepts.
    #[must_use]
    pub const fn room(&self) -> u64 {
        if self.paused { 0 } else { self.window.saturating_sub(self.written - self.read) }
    }

    /// Whether the client reads everything at once.
    #[must_use]
    pub const fn is_willing(&self) -> bool {
        self.reading && !self.paused
    }
}
