//! The state of a run: servers, connections, clients, the application, the model, and one clock.
//!
//! Knows: in which order things happen, and what is checked after each. Does not know: what clients
//! send ([`super::client`]) or what the application does ([`super::application`]).

use core::fmt;
use std::collections::{BTreeMap, VecDeque};

use mcp_sse_core::{Event, Fault, Server, Time};

use super::application::Application;
use super::client::SimClient;
use super::connection::{ConnectionKey, SimConnection};
use super::faults::FaultSnapshot;
use super::meter;
use super::model::{Coverage, Model};
use super::random::{Random, SeededEntropy};
use super::setup::{Cuts, Setup};
use super::trace::Trace;

/// The largest backlog of messages that the application reports for a session.
pub const BACKLOG_MAX: u32 = 2;
/// The bytes of that backlog.
pub const BACKLOG_BYTES_MAX: i64 = 200;

/// A shard's server, and what the simulated driver counts.
#[derive(Debug)]
pub struct SimShard {
    pub server: Server,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub accepted: u64,
    pub backsteps: u64,
    pub heartbeats: u64,
    pub drained: bool,
    /// Refusals that clients have received, by fault.
    pub refusals_received: BTreeMap<Fault, u64>,
}

/// One run.
pub struct World {
    pub setup: Setup,
    /// How to repeat this run.
    pub name: String,
    pub random: Random,
    /// Decides about cuts only, so that runs with different cuts differ in nothing else.
    pub cut_random: Random,
    pub trace: Trace,
    pub shards: Vec<SimShard>,
    pub now: Time,
    pub calls: u64,
    pub connections: BTreeMap<ConnectionKey, SimConnection>,
    pub ready: VecDeque<ConnectionKey>,
    /// Connections whose sockets accept nothing until the next step.
    pub paused: Vec<ConnectionKey>,
    pub clients: Vec<SimClient>,
    pub app: Application,
    pub model: Model,
    pub requests_sent: u64,
    /// Tokens of sessions that have ended.
    pub old_tokens: VecDeque<String>,
    /// Keys of connections that have ended.
    pub old_connections: VecDeque<ConnectionKey>,
    /// The most bytes that the core may hold.
    pub memory_max: i64,
    /// The most bytes that the core has held.
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
    /// Makes a world in which nothing has happened yet.
    #[must_use]
    pub fn new(setup: Setup, name: String, random: Random, trace: Trace) -> Self {
        let mut memory_max = 0_i64;
        let _ = meter::take_peak();
        let shards = setup.configs.iter().enumerate().map(|(at, config)| {
            let most = i64::try_from(config.memory_bytes_max()).unwrap_or(i64::MAX);
            memory_max = memory_max.saturating_add(most);
            let config = config.clone();
            let tokens = SeededEntropy::new(at as u64, setup.entropy_fails);
            let server =
                meter::inside(|| Server::new(config.clone(), Box::new(tokens), Time::ZERO));
            let (bytes_in, bytes_out, accepted) = (0, 0, 0);
            SimShard {
                server,
                bytes_in,
                bytes_out,
                accepted,
                backsteps: 0,
                heartbeats: 0,
                drained: false,
                refusals_received: BTreeMap::new(),
            }
        });
        let shards = shards.collect();
        let clients = (0..setup.clients).map(|_| SimClient::unknown()).collect();
        let mut world = Self {
            name,
            cut_random: Random::seeded(5),
            random,
            trace,
            shards,
            now: Time::ZERO,
            calls: 0,
            connections: BTreeMap::new(),
            ready: VecDeque::new(),
            paused: Vec::new(),
            clients,
            app: Application::default(),
            model: Model::default(),
            requests_sent: 0,
            old_tokens: VecDeque::new(),
            old_connections: VecDeque::new(),
            memory_max,
            memory_peak: 0,
            ending: false,
            setup,
        };
        for at in 0..world.clients.len() {
            world.draw_client(at);
        }
        world
    }

    /// Runs all steps, and ends the run.
    pub fn run(&mut self) {
        for _ in 0..self.setup.steps {
            if self.random.is_exhausted() {
                break;
            }
            self.step();
        }
        self.finish();
    }

    /// Runs one step, and what follows from it.
    pub fn step(&mut self) {
        self.resume();
        let client = self.random.below(self.clients.len());
        match self.random.below(16) {
            0..=7 => self.client_acts(client),
            8 | 9 => self.time_passes(),
            10..=13 => self.application_acts(),
            14 => self.disturb_connection(client),
            _ => self.spurious_calls(),
        }
        self.pump();
        if self.random.below(100) < self.setup.poll_percent {
            self.poll_all();
        }
        self.verify();
    }

    /// Calls the core, and checks what must hold after every call. `work` is how many allocations
    /// the call may make beyond a constant.
    pub fn call<T>(
        &mut self,
        shard: usize,
        work: u64,
        verb: impl FnOnce(&mut Server, Time) -> T,
    ) -> T {
        self.calls += 1;
        let mut now = self.now;
        let shard_state = &mut self.shards[shard];
        // Now and then the clock goes back, which the core counts and otherwise ignores.
        if self.setup.cuts == Cuts::Random
            && self.calls.is_multiple_of(257)
            && now > shard_state.server.now()
        {
            now = Time::from_micros(shard_state.server.now().as_micros().saturating_sub(1));
            shard_state.backsteps += u64::from(now < shard_state.server.now());
            let before = shard_state.server.metrics().clock_backsteps;
            meter::inside(|| shard_state.server.handle_timeout(now));
            let after = shard_state.server.metrics().clock_backsteps;
            assert!(after - before <= 1);
            now = self.now;
        }
        let before = meter::allocations();
        let tally = FaultSnapshot::of(&shard_state.server);
        let result = meter::inside(|| verb(&mut shard_state.server, now));
        // 7: work is measured in allocations, of which no request, response or event needs more
        // than a few.
        let steps = meter::allocations() - before;
        let others = 16 * u64::from(shard_state.server.connections_open());
        assert!(steps <= 128 + work + others, "7: {steps} allocations in one call");
        self.check_faults(shard, &tally);
        if self.calls.is_multiple_of(self.setup.check_every) {
            // 6, 11, 13 from inside: budgets, counters, lists, timers, wakes.
            self.shards[shard].server.check();
        }
        // 6, from outside: the memory that the core has allocated and not freed.
        let peak = meter::take_peak();
        self.memory_peak = self.memory_peak.max(peak);
        let most = self.memory_max.saturating_add(self.app.held_bytes);
        assert!(peak <= most, "6: the core held {peak} bytes and may hold {most}");
        result
    }

    /// Drops the servers. Returns the trace, the coverage and the number of messages.
    pub fn leave(mut self) -> (Trace, Coverage, u64) {
        self.app = Application::default();
        self.shards.clear();
        let trace = core::mem::take(&mut self.trace);
        let coverage = core::mem::take(&mut self.model.coverage);
        (trace, coverage, self.model.messages)
    }

    /// Polls one event. Returns whether there was one.
    pub fn poll(&mut self, shard: usize) -> bool {
        let event = self.call(shard, 0, |server, _| server.poll_event());
        let Some(event) = event else { return false };
        if self.trace.verbose {
            let text = format!("{event:?}");
            // 14: an event prints no session token.
            let told = |token: &String| text.contains(&token[8..]);
            let mut streams = self.model.streams.values();
            assert!(!streams.any(|stream| stream.token.as_ref().is_some_and(told)), "14: {text}");
            self.trace.log(format_args!("{shard} tells {text}"));
        }
        if let Event::Drained = event {
            assert!(!core::mem::replace(&mut self.shards[shard].drained, true), "10: told once");
            assert_eq!(self.shards[shard].server.connections_open(), 0);
            return true;
        }
        self.handle_event(shard, event);
        true
    }

    /// Polls events until there is none.
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
