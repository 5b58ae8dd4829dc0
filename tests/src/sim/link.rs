//! A connection's two byte pipes, and what is known at both ends.
//!
//! Knows: bytes on their way to the server, how many are on their way to the peer, and faults of links:
//! delay, few bytes at a time, a gap in the middle of something, a window that closes, a pause.
//! Does not know: what the bytes mean; [`Reader`] does.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::VecDeque;

use mcp_sse_core::{ConnId, Interest, Time};

use super::ask::{Ask, Credentials, Size, Wanted};
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

/// One connection.
#[derive(Debug)]
pub struct Link {
    /// Whose it is.
    pub party: usize,
    pub address: Option<IpAddr>,
    /// Whether its HTTP is spoken elsewhere, and whether the answer's head has been taken.
    pub exchange: Option<bool>,

    /// On its way to the server.
    pub inbound: VecDeque<u8>,
    /// Not before.
    pub arrives: Time,
    /// What is behind this place does not come before then.
    pub gap: Option<(u64, Time)>,
    /// On a slow link: how many bytes come in a step, and how many of them have not come in this one.
    pub drip: Option<(usize, usize)>,
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
    /// It did not always, or its socket did not take everything.
    pub slow: bool,
    /// The socket takes nothing until the next step.
    pub paused: bool,
    pub opened: Time,
    pub last_given: Time,
    pub last_written: Time,
    pub last_answer: Time,
    /// For how long nothing was written before what is being written now.
    pub silence: Duration,

    pub reader: Reader,
    pub asks: VecDeque<Ask>,
    /// Where the last of them ends.
    asked_until: u64,
    /// Posts that are hidden in what was sent, or of which only a part was.
    pub hidden: Vec<u64>,
    /// The number of the request that asked for a stream, and whether it was refused.
    pub stream_ask: Option<u64>,
    pub stream_refused: bool,
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
            address: None,
            exchange: exchange.then_some(false),
            inbound: VecDeque::new(),
            arrives: now,
            gap: None,
            drip: None,
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
            asks: VecDeque::new(),
            asked_until: 0,
            hidden: Vec::new(),
            stream_ask: None,
            stream_refused: false,
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
    pub fn ask(&mut self, number: u64, wanted: Wanted, bodiless: bool, size: Size) {
        self.reader.expect(bodiless);
        self.asked += 1;
        let (start, end) = (self.asked_until, self.sent);
        self.asked_until = end;
        let credentials = Credentials::Needless;
        let (begun, whole, refusal) = (None, None, None);
        let ask = Ask { number, wanted, start, end, size, begun, whole, refusal, credentials };
        self.asks.push_back(ask);
    }

    /// How many bytes have arrived that the server could be given.
    #[must_use]
    pub fn arrived(&self, now: Time) -> usize {
        if self.arrives > now {
            return 0;
        }
        let gap = self.gap.filter(|&(_, until)| until > now);
        let until_gap = gap.map_or(u64::MAX, |(at, _)| at.saturating_sub(self.given));
        let drops = self.drip.map_or(usize::MAX, |(_, left)| left);
        self.inbound.len().min(drops).min(usize::try_from(until_gap).unwrap_or(usize::MAX))
    }

    /// Whether the end of the peer's input has arrived.
    #[must_use]
    pub fn ends_now(&self, now: Time) -> bool {
        self.fin == Fin::Sent && self.inbound.is_empty() && self.arrives <= now
    }

    /// The server is given so many bytes more.
    pub fn give(&mut self, count: usize, now: Time) -> Vec<u8> {
        self.given += count as u64;
        self.last_given = now;
        if let Some((_, left)) = &mut self.drip {
            *left -= count;
        }
        for ask in &mut self.asks {
            if ask.start < self.given || ask.start == ask.end {
                ask.begun.get_or_insert(now);
            }
            if ask.end <= self.given {
                ask.whole.get_or_insert(now);
            }
        }
        self.inbound.drain(..count).collect()
    }

    /// Nothing keeps back what the peer has sent any more.
    pub fn hurry(&mut self, now: Time) {
        (self.arrives, self.gap, self.drip) = (now, None, None);
    }

    /// How many bytes the socket takes.
    #[must_use]
    pub const fn room(&self) -> u64 {
        if self.paused { 0 } else { self.window.saturating_sub(self.written - self.read) }
    }

    /// Whether the peer takes all that comes, at once.
    #[must_use]
    pub const fn is_willing(&self) -> bool {
        self.reading && !self.paused
    }
}
