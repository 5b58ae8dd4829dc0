//! The whole of a run: servers, links, peers, the application, the model, and one clock.
//!
//! Knows: in which order things happen, and what must hold after each.
//! Does not know: what peers say ([`super::peer`]) or what the application does
//! ([`super::application`]).

use core::fmt;
use std::collections::{BTreeMap, VecDeque};

use mcp_sse_core::{Event, Fault, Server, Time};

use super::application::Application;
use super::chance::{Chance, Tokens};
use super::faults::Tally;
use super::link::{Link, LinkKey};
use super::meter;
use super::model::{Model, Tour};
use super::peer::Party;
use super::setup::{Cuts, Setup};
use super::trace::Trace;

/// Messages that the application says it holds for a session, at most.
pub const BACKLOG_MAX: u32 = 2;
/// Their bytes.
pub const BACKLOG_BYTES_MAX: i64 = 200;

/// A server, and what its driver counts.
#[derive(Debug)]
pub struct SimShard {
    pub server: Server,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub accepted: u64,
    pub backsteps: u64,
    pub beats: u64,
    pub drained: bool,
    /// Refusals that peers have heard, by fault.
    pub heard: BTreeMap<Fault, u64>,
}

/// One run.
pub struct World {
    pub setup: Setup,
    /// How to have this run again.
    pub name: String,
    pub chance: Chance,
    /// Decides about cuts and nothing else, so that runs can differ in nothing else.
    pub scissors: Chance,
    pub trace: Trace,
    pub shards: Vec<SimShard>,
    pub now: Time,
    pub calls: u64,
    pub links: BTreeMap<LinkKey, Link>,
    pub look: VecDeque<LinkKey>,
    /// Sockets that take nothing until the next step.
    pub paused: Vec<LinkKey>,
    pub parties: Vec<Party>,
    pub app: Application,
    pub model: Model,
    pub asks: u64,
    /// Tokens of sessions that are no more.
    pub old_tokens: VecDeque<String>,
    /// Handles of connections that are no more.
    pub old_links: VecDeque<LinkKey>,
    /// The most that the core may hold.
    pub memory_max: i64,
    /// The most that it has held.
    pub memory_peak: i64,
    pub ending: bool,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("\n── the last of what happened in {} ──", self.name);
            for line in self.trace.tail() {
                eprintln!("{line}");
            }
            for (at, shard) in self.shards.iter().enumerate() {
                let count = |fault| (fault, shard.server.metrics().fault(fault));
                let faults = Fault::ALL.iter().map(|&fault| count(fault));
                let faults: Vec<_> = faults.filter(|&(_, count)| count > 0).collect();
                eprintln!("── {at}: {faults:?}");
            }
            eprintln!("── {} ──\n", self.name);
        }
    }
}

impl World {
    /// A world in which nothing has happened.
    #[must_use]
    pub fn new(setup: Setup, name: String, chance: Chance, trace: Trace) -> Self {
        let mut memory_max = 0_i64;
        let _ = meter::take_peak();
        let shards = setup.configs.iter().enumerate().map(|(at, config)| {
            let most = i64::try_from(config.memory_bytes_max()).unwrap_or(i64::MAX);
            memory_max = memory_max.saturating_add(most);
            let config = config.clone();
            let tokens = Tokens::new(at as u64, setup.entropy_fails);
            let server =
                meter::inside(|| Server::new(config.clone(), Box::new(tokens), Time::ZERO));
            let (bytes_in, bytes_out, accepted) = (0, 0, 0);
            SimShard {
                server,
                bytes_in,
                bytes_out,
                accepted,
                backsteps: 0,
                beats: 0,
                drained: false,
                heard: BTreeMap::new(),
            }
        });
        let shards = shards.collect();
        let parties = (0..setup.parties).map(|_| Party::unknown()).collect();
        let mut world = Self {
            name,
            scissors: Chance::seeded(5),
            chance,
            trace,
            shards,
            now: Time::ZERO,
            calls: 0,
            links: BTreeMap::new(),
            look: VecDeque::new(),
            paused: Vec::new(),
            parties,
            app: Application::default(),
            model: Model { deferred: setup.deferred, ..Model::default() },
            asks: 0,
            old_tokens: VecDeque::new(),
            old_links: VecDeque::new(),
            memory_max,
            memory_peak: 0,
            ending: false,
            setup,
        };
        for at in 0..world.parties.len() {
            world.draw_party(at);
        }
        world
    }

    /// Lets everything happen, the end included.
    pub fn run(&mut self) {
        for _ in 0..self.setup.steps {
            if self.chance.is_spent() {
                break;
            }
            self.step();
        }
        self.finish();
    }

    /// Lets one thing happen, and what follows from it.
    pub fn step(&mut self) {
        self.go_on();
        let party = self.chance.below(self.parties.len());
        match self.chance.below(16) {
            0..=7 => self.party_acts(party),
            8 | 9 => self.time_passes(),
            10..=13 => self.application_acts(),
            14 => self.link_suffers(party),
            _ => self.mischief(),
        }
        self.pump();
        if self.chance.below(100) < self.setup.attention {
            self.poll_all();
        }
        self.verify();
    }

    /// Calls the core. `work` is in proportion to what the call may take.
    pub fn call<T>(
        &mut self,
        shard: usize,
        work: u64,
        verb: impl FnOnce(&mut Server, Time) -> T,
    ) -> T {
        self.calls += 1;
        let mut now = self.now;
        let holder = &mut self.shards[shard];
        // A clock that goes back is counted, and makes no difference.
        if self.setup.cuts == Cuts::Drawn
            && self.calls.is_multiple_of(257)
            && now > holder.server.now()
        {
            now = Time::from_micros(holder.server.now().as_micros().saturating_sub(1));
            holder.backsteps += u64::from(now < holder.server.now());
            let before = holder.server.metrics().clock_backsteps;
            meter::inside(|| holder.server.handle_timeout(now));
            let after = holder.server.metrics().clock_backsteps;
            assert!(after - before <= 1);
            now = self.now;
        }
        let before = meter::allocations();
        let tally = Tally::of(&holder.server);
        let result = meter::inside(|| verb(&mut holder.server, now));
        // 7: a step here is an allocation, of which no request, answer or event takes more than a few.
        let steps = meter::allocations() - before;
        let others = 16 * u64::from(holder.server.connections_open());
        assert!(steps <= 128 + work + others, "7: {steps} allocations in one call");
        self.judge_faults(shard, &tally);
        if self.calls.is_multiple_of(self.setup.check_every) {
            // 6, 11, 13 from within: budgets, counters, lists, lanes, wakes.
            self.shards[shard].server.check();
        }
        // 6, from without: what the core has asked for and not given back.
        let peak = meter::take_peak();
        self.memory_peak = self.memory_peak.max(peak);
        let most = self.memory_max.saturating_add(self.app.held_bytes);
        assert!(peak <= most, "6: the core held {peak} bytes and may hold {most}");
        result
    }

    /// Forgets the servers and everything of theirs.
    pub fn leave(mut self) -> (Trace, Tour, u64) {
        self.app = Application::default();
        self.shards.clear();
        let trace = core::mem::take(&mut self.trace);
        let tour = core::mem::take(&mut self.model.tour);
        (trace, tour, self.model.messages)
    }

    /// An event was polled.
    pub fn poll(&mut self, shard: usize) -> bool {
        let event = self.call(shard, 0, |server, _| server.poll_event());
        let Some(event) = event else { return false };
        if self.trace.verbose {
            let text = format!("{event:?}");
            // 14: neither the token nor what makes it one.
            let told = |token: &String| text.contains(&token[8..]);
            let mut streams = self.model.streams.values();
            assert!(!streams.any(|stream| stream.token.as_ref().is_some_and(told)), "14: {text}");
            self.trace.say(format_args!("{shard} tells {text}"));
        }
        if let Event::Drained = event {
            assert!(!core::mem::replace(&mut self.shards[shard].drained, true), "10: told once");
            assert_eq!(self.shards[shard].server.connections_open(), 0);
            return true;
        }
        self.told(shard, event);
        true
    }

    /// Polls until there are no events.
    pub fn poll_all(&mut self) {
        for shard in 0..self.shards.len() {
            let mut events = 0;
            while self.poll(shard) {
                self.pump();
                events += 1;
                assert!(events < 1_000_000, "13: events without end");
            }
        }
    }

    /// Whether the run is being ended.
    #[must_use]
    pub const fn is_ending(&self) -> bool {
        self.ending
    }
}
