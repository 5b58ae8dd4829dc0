//! A connection's two byte pipes, and what is known at both ends.
//!
//! Knows: bytes on their way to the server, how many are on their way to the peer, and faults of links:
//! delay, a window that closes, a pause.
//! Does not know: what the bytes mean; [`Reader`] does.

use core::time::Duration;
use std::collections::VecDeque;

use mcp_sse_core::{ConnId, Interest, Time};

use super::reader::Reader;

/// A connection: its shard, and its name there.
pub type LinkKey = (usize, ConnId);

/// The end of a peer's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fin {
    /// There may be more.
    No,
    /// It was sent.
    Sent,
    /// The server knows.
    Read,
}

/// What a peer asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A stream.
    Stream,
    /// A post of this number is taken.
    Post(u64),
    /// 200.
    Health,
    /// A refusal with one of these statuses; and no more answers if `last`.
    Refusal { statuses: &'static [u16], last: bool },
}

/// A request that has no answer yet.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The number in its field `X-Ask`.
    pub number: u64,
    /// What for.
    pub wanted: Wanted,
    /// Where in the peer's input it ends.
    pub end: u64,
}

/// One connection.
#[derive(Debug)]
pub struct Link {
    /// Whose it is.
    pub party: usize,
    /// Whether its HTTP is spoken elsewhere, and whether the answer's head has been taken.
    pub exchange: Option<bool>,

    /// On its way to the server.
    pub inbound: VecDeque<u8>,
    /// Not before.
    pub arrives: Time,
    pub fin: Fin,
    /// Bytes that the peer has sent, and that the server has been given.
    pub sent: u64,
    pub given: u64,

    /// Bytes that the server has written, and that the peer has read.
    pub written: u64,
    pub read: u64,
    /// How many may be on their way.
    pub window: u64,
    /// The peer reads what comes.
    pub reading: bool,
    /// The socket takes nothing until the next step.
    pub paused: bool,
    pub last_written: Time,
    /// For how long nothing was written before what is being written now.
    pub silence: Duration,

    pub reader: Reader,
    pub asks: VecDeque<Ask>,
    /// The number of the request that asked for a stream.
    pub stream_ask: Option<u64>,
    /// How many requests have been sent and how many have been answered.
    pub asked: u64,
    pub answered: u64,
    /// The peer will send no further request.
    pub done: bool,
    /// No further answer may come.
    pub closed_by_answer: bool,
    /// Where in the output its session's token is, and the token.
    pub token: Option<(u64, String)>,

    /// What the driver believes.
    pub believed: Interest,
    /// Listed among those to be looked at.
    pub listed: bool,
}

impl Link {
    /// A new connection of a peer.
    #[must_use]
    pub fn new(party: usize, exchange: bool, believed: Interest, now: Time) -> Self {
        Self {
            party,
            exchange: exchange.then_some(false),
            inbound: VecDeque::new(),
            arrives: now,
            fin: Fin::No,
            sent: 0,
            given: 0,
            written: 0,
            read: 0,
            window: u64::MAX,
            reading: true,
            paused: false,
            last_written: now,
            silence: Duration::ZERO,
            reader: Reader::default(),
            asks: VecDeque::new(),
            stream_ask: None,
            asked: 0,
            answered: 0,
            done: false,
            closed_by_answer: false,
            token: None,
            believed,
            listed: false,
        }
    }

    /// The peer sends `bytes`.
    pub fn send(&mut self, bytes: &[u8]) {
        self.inbound.extend(bytes);
        self.sent += bytes.len() as u64;
    }

    /// The peer sends a request that ends here.
    pub fn ask(&mut self, number: u64, wanted: Wanted, bodiless: bool) {
        self.reader.expect(bodiless);
        self.asked += 1;
        self.asks.push_back(Ask { number, wanted, end: self.sent });
    }

    /// How many bytes the socket takes.
    #[must_use]
    pub const fn room(&self) -> u64 {
        if self.paused { 0 } else { self.window.saturating_sub(self.written - self.read) }
    }
}
