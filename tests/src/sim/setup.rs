//! The setup of a run: the servers' configuration, the number of clients, the application's
//! behaviour.
//!
//! Knows: how each of these is drawn. Does not know: what happens in a run.

use core::time::Duration;

use mcp_sse_core::{Authorization, Config, Limits, ShardId, StaticTokens, Timeouts};

use super::random::Random;

/// How input is cut on its way from a connection to the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cuts {
    /// At random; input is passed only while the core has interest in it.
    Random,
    /// All input that has arrived is passed at once.
    Whole,
    /// All input that has arrived is passed byte by byte, without checking the interest in between.
    SingleBytes,
    /// All input that has arrived is passed in random pieces, without checking the interest in
    /// between.
    Pieces,
}

/// Everything that is decided before a run begins.
#[derive(Clone, Debug)]
pub struct Setup {
    /// One for each shard.
    pub configs: Vec<Config>,
    /// Whether the application decides about each request.
    pub authorizes: bool,
    /// Whether requests need one of the tokens below.
    pub tokens: bool,
    /// Whether posts to sessions of other shards are forwarded.
    pub forwarding: bool,
    /// Whether a stream goes on when its client has ended its input.
    pub half_close: bool,
    /// The instance prefix of each token.
    pub instance: &'static str,
    /// How many clients there are at a time.
    pub clients: usize,
    /// How many steps the run has.
    pub steps: u64,
    /// In how many of a hundred steps the application polls its events.
    pub poll_percent: usize,
    /// Whether all limits and timeouts are the defaults, so that no well-formed request is refused.
    pub default_limits: bool,
    /// Whether entropy sometimes fails.
    pub entropy_fails: bool,
    /// How input is cut.
    pub cuts: Cuts,
    /// `Server::check` runs after every call whose number is a multiple of this.
    pub check_every: u64,
    /// One in this many reads and writes may be short.
    pub short_io_one_in: usize,
    /// How many frames the application sends in a burst, at most.
    pub burst: usize,
}

impl Setup {
    /// Draws a setup. With `default_budgets`, the budgets whose use depends on how input is cut are
    /// those of the defaults: of bodies, and of discarded input.
    #[must_use]
    pub fn draw(random: &mut Random, default_budgets: bool) -> Self {
        let default_limits = random.one_in(4);
        let shards = 1 + random.below(3).saturating_sub(1);
        let authorization = match random.below(6) {
            4 | 5 => Authorization::Deferred,
            3 => Authorization::Static(tokens()),
            _ => Authorization::None,
        };
        // Whether a body arrives with its head decides whether the other shard is asked first, so
        // cuts would make a difference.
        let forwarding = !random.one_in(3) && !default_budgets;
        let half_close = random.one_in(4);
        let instance = random.one_in(4);
        let limits = if default_limits { Limits::default() } else { limits(random) };
        let limits = if default_budgets {
            let Limits { bodies_bytes_max, bodies_bytes_per_address_max, linger_bytes_max, .. } =
                Limits::default();
            Limits { bodies_bytes_max, bodies_bytes_per_address_max, linger_bytes_max, ..limits }
        } else {
            limits
        };
        // A configuration in which one body exceeds the budget of all bodies is invalid.
        let body_bytes_max = limits.body_bytes_max.min(limits.bodies_bytes_max);
        let limits = Limits { body_bytes_max, ..limits };
        let mut timeouts = if default_limits { Timeouts::default() } else { timeouts(random) };
        // Drawn from a copy, so that seeds and stored inputs keep their meaning.
        let restarts = random.clone().next();
        if !default_limits {
            let least = |time: Duration| timeouts.shutdown_grace.map_or(time, |it| it.min(time));
            timeouts.drain_spread = (restarts & 1 == 0).then(|| least(Duration::from_secs(3)));
            timeouts.drain_delay = (restarts & 2 == 0).then(|| Duration::from_secs(2));
        }
        let configs = (0..shards).map(|shard| {
            let mut config = Config::builder()
                .shard(ShardId(shard as u16))
                .authorization(authorization.clone())
                .forwarding(forwarding)
                .allow_half_close(half_close)
                .limits(limits.clone())
                .timeouts(timeouts.clone());
            if restarts & 12 == 0 {
                config = config.retry(Duration::from_secs(1)..=Duration::from_secs(5));
            }
            if restarts & 48 == 0 {
                config = config.retry_after(1..=5);
            }
            if instance {
                config = config.instance_id("a1");
            }
            config.build().expect("a configuration that makes sense")
        });
        Self {
            configs: configs.collect(),
            authorizes: matches!(authorization, Authorization::Deferred),
            tokens: matches!(authorization, Authorization::Static(_)),
            forwarding,
            half_close,
            instance: if instance { "a1." } else { "" },
            clients: 3 + random.below(6),
            steps: u64::MAX,
            poll_percent: if default_limits { 100 } else { *random.pick(&[100, 60, 15]) },
            default_limits,
            entropy_fails: !default_limits && random.one_in(4),
            cuts: Cuts::Random,
            check_every: 1,
            short_io_one_in: 1,
            burst: 4,
        }
    }

    /// Two busy servers with the default limits, for runs with many messages.
    #[must_use]
    pub fn busy(clients: usize) -> Self {
        let config = |shard| {
            Config::builder().shard(ShardId(shard)).forwarding(true).build().expect("the defaults")
        };
        Self {
            configs: vec![config(0), config(1)],
            authorizes: false,
            tokens: false,
            forwarding: true,
            half_close: false,
            instance: "",
            clients,
            steps: u64::MAX,
            poll_percent: 100,
            default_limits: true,
            entropy_fails: false,
            cuts: Cuts::Random,
            check_every: 1_000,
            short_io_one_in: 16,
            burst: 6,
        }
    }
}

/// A token for each of three principals, whose names are numbers.
fn tokens() -> StaticTokens {
    let tokens = StaticTokens::builder();
    let tokens = tokens.token("0", "secret0").token("1", "secret1").token("2", "secret2");
    tokens.build().expect("tokens that are told apart")
}

fn limits(random: &mut Random) -> Limits {
    let mut limits = Limits::default();
    // Now and then all limits are small, so that a run can come near the sum that bounds its
    // memory.
    let all = random.one_in(3);
    let mut small = |value: &mut Option<u32>, few: &[u32]| {
        if all || !random.one_in(3) {
            *value = Some(*random.pick(few));
        }
    };
    small(&mut limits.connections_max, &[3, 6, 12]);
    small(&mut limits.connections_per_address_max, &[2, 4]);
    small(&mut limits.sessions_max, &[1, 2, 4]);
    small(&mut limits.sessions_per_address_max, &[1, 2]);
    small(&mut limits.sessions_per_principal_max, &[1, 2]);
    small(&mut limits.head_bytes_max, &[300, 1_000, 4_000]);
    small(&mut limits.nesting_max, &[3, 16]);
    small(&mut limits.inbound_messages_max, &[1, 2, 5]);
    small(&mut limits.in_flight_max, &[1, 2, 5]);
    small(&mut limits.events_max, &[1, 4, 16]);
    small(&mut limits.forwarded_max, &[0, 1, 4]);
    small(&mut limits.target_bytes_max, &[56, 200]);
    small(&mut limits.extension_bytes_max, &[0, 4, 40]);
    small(&mut limits.trailer_bytes_max, &[0, 14, 40]);
    // Now and then requests wait for answers and for nothing else, so that cancellations overtake them.
    if random.one_in(4) {
        limits.in_flight_max = Some(1);
        limits.inbound_messages_max = Limits::default().inbound_messages_max;
    }
    let rate = |text: &str| text.parse().ok();
    if random.one_in(3) {
        let text = *random.pick(&["2/second,burst=3", "6/minute"]);
        limits.posts_rate_per_session = rate(text);
    }
    if random.one_in(4) {
        limits.posts_rate_per_principal = rate("1/second,burst=6");
    }
    if random.one_in(4) {
        let text = *random.pick(&["1/second", "3/minute"]);
        limits.sessions_rate_per_address = rate(text);
        limits.rate_entries_max = Some(*random.pick(&[1, 8]));
    }
    if random.one_in(3) {
        limits.fields_max = *random.pick(&[5, 8]);
    }
    let mut few = |value: &mut Option<u64>, few: &[u64]| {
        if all || !random.one_in(3) {
            *value = Some(*random.pick(few));
        }
    };
    few(&mut limits.body_bytes_max, &[200, 2_000]);
    few(&mut limits.bodies_bytes_max, &[1_000, 5_000, 50_000]);
    few(&mut limits.bodies_bytes_per_address_max, &[0, 1_000, 3_000]);
    few(&mut limits.inbound_bytes_max, &[200, 2_000]);
    few(&mut limits.queue_bytes_max, &[300, 1_000, 10_000]);
    few(&mut limits.queues_bytes_max, &[1_500, 5_000, 50_000]);
    few(&mut limits.answers_bytes_max, &[1, 400, 4_000]);
    limits.queue_reserve_bytes = *random.pick(&[0, 0, 300, 2_000]);
    limits.stream_input_bytes_max = *random.pick(&[0, 300, 4_000]);
    limits.discard_bytes_max = *random.pick(&[0, 100, 10_000]);
    limits.linger_bytes_max = *random.pick(&[100, 10_000]);
    limits.stall_bytes_min = *random.pick(&[1, 100, 1_000]);
    limits
}

fn timeouts(random: &mut Random) -> Timeouts {
    let mut timeouts = Timeouts::default();
    for timeout in [
        &mut timeouts.head,
        &mut timeouts.body,
        &mut timeouts.idle,
        &mut timeouts.heartbeat,
        &mut timeouts.stall,
        &mut timeouts.stall_when_full,
        &mut timeouts.decision,
        &mut timeouts.hold,
        &mut timeouts.linger,
        &mut timeouts.shutdown_grace,
        &mut timeouts.session_idle,
        &mut timeouts.session_lifetime,
    ] {
        match random.below(8) {
            0 => *timeout = None,
            1 => *timeout = Some(Duration::from_millis(1)),
            2 => *timeout = Some(Duration::from_secs(1 + random.below(60) as u64)),
            _ => {}
        }
    }
    timeouts
}
