//! What a run is like: how its servers are configured, who comes, how the application behaves.
//!
//! Knows: how each of these is drawn. Does not know: what follows from it.

use core::time::Duration;

use mcp_sse_core::{
    Acknowledgement, Authorization, Config, Limits, ShardId, StaticTokens, Timeouts,
};

use super::chance::Chance;

/// How input is cut on its way from a link to the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cuts {
    /// Anyhow; what the core has no interest in stays on the link.
    Drawn,
    /// What has arrived goes in at once.
    Whole,
    /// What has arrived goes in byte by byte, without a look in between.
    Crumbs,
    /// What has arrived goes in in pieces, without a look in between.
    Pieces,
}

/// Everything that is decided before a run begins.
#[derive(Clone, Debug)]
pub struct Setup {
    /// One for each shard.
    pub configs: Vec<Config>,
    /// Whether the application is asked about each request.
    pub asked: bool,
    /// Whether requests need one of the tokens below.
    pub tokens: bool,
    /// Whether posts for other shards are handed on.
    pub forwarding: bool,
    /// Whether posts are answered when the application says so.
    pub deferred: bool,
    /// Whether a client's end of input leaves its stream as it is.
    pub half_close: bool,
    /// What stands in front of each token.
    pub instance: &'static str,
    /// How many peers come and go.
    pub parties: usize,
    /// How often something happens before the end.
    pub steps: u64,
    /// In how many of a hundred steps the application looks at its events.
    pub attention: usize,
    /// Whether all limits and deadlines are the defaults, so that nothing should be refused.
    pub generous: bool,
    /// Whether entropy fails now and then.
    pub entropy_fails: bool,
    /// How input is cut.
    pub cuts: Cuts,
    /// `Server::check` runs after each of so many calls.
    pub check_every: u64,
    /// One in so many reads and writes may be short.
    pub crumbs: usize,
    /// Frames that an application with something to say sends at once.
    pub burst: usize,
}

impl Setup {
    /// Draws one. If it is to be `roomy`, the budget of bodies and what is thrown away behind a refusal
    /// are the defaults: how much of either is used depends on how input is cut.
    #[must_use]
    pub fn draw(chance: &mut Chance, roomy: bool) -> Self {
        let generous = chance.one_in(4);
        let shards = 1 + chance.below(3).saturating_sub(1);
        let authorization = match chance.below(6) {
            4 | 5 => Authorization::Deferred,
            3 => Authorization::Static(tokens()),
            _ => Authorization::None,
        };
        let acknowledgement =
            if chance.one_in(3) { Acknowledgement::Deferred } else { Acknowledgement::Queued };
        // Whether a body has come whole with its head decides about what its shard is asked first.
        let forwarding = !chance.one_in(3) && !roomy;
        let half_close = chance.one_in(4);
        let instance = chance.one_in(4);
        let limits = if generous { Limits::default() } else { limits(chance) };
        let limits = if roomy {
            let Limits { bodies_bytes_max, bodies_bytes_per_address_max, linger_bytes_max, .. } =
                Limits::default();
            Limits { bodies_bytes_max, bodies_bytes_per_address_max, linger_bytes_max, ..limits }
        } else {
            limits
        };
        // No body is longer than all of them together may be, or there would be no such configuration.
        let body_bytes_max = limits.body_bytes_max.min(limits.bodies_bytes_max);
        let limits = Limits { body_bytes_max, ..limits };
        let timeouts = if generous { Timeouts::default() } else { timeouts(chance) };
        let configs = (0..shards).map(|shard| {
            let mut config = Config::builder()
                .shard(ShardId(shard as u16))
                .authorization(authorization.clone())
                .acknowledgement(acknowledgement)
                .forwarding(forwarding)
                .allow_half_close(half_close)
                .limits(limits.clone())
                .timeouts(timeouts.clone());
            if instance {
                config = config.instance("a1");
            }
            config.build().expect("a configuration that makes sense")
        });
        Self {
            configs: configs.collect(),
            asked: matches!(authorization, Authorization::Deferred),
            tokens: matches!(authorization, Authorization::Static(_)),
            forwarding,
            deferred: acknowledgement == Acknowledgement::Deferred,
            half_close,
            instance: if instance { "a1." } else { "" },
            parties: 3 + chance.below(6),
            steps: u64::MAX,
            attention: if generous { 100 } else { *chance.pick(&[100, 60, 15]) },
            generous,
            entropy_fails: !generous && chance.one_in(4),
            cuts: Cuts::Drawn,
            check_every: 1,
            crumbs: 1,
            burst: 4,
        }
    }

    /// Two busy servers with all limits as they are by default: for runs of many messages.
    #[must_use]
    pub fn busy(parties: usize) -> Self {
        let config = |shard| {
            Config::builder().shard(ShardId(shard)).forwarding(true).build().expect("the defaults")
        };
        Self {
            configs: vec![config(0), config(1)],
            asked: false,
            tokens: false,
            forwarding: true,
            deferred: false,
            half_close: false,
            instance: "",
            parties,
            steps: u64::MAX,
            attention: 100,
            generous: true,
            entropy_fails: false,
            cuts: Cuts::Drawn,
            check_every: 1_000,
            crumbs: 16,
            burst: 6,
        }
    }
}

/// One for each of three principals, whose names are numbers.
fn tokens() -> StaticTokens {
    let tokens = StaticTokens::builder();
    let tokens = tokens.token("0", "secret0").token("1", "secret1").token("2", "secret2");
    tokens.build().expect("tokens that are told apart")
}

fn limits(chance: &mut Chance) -> Limits {
    let mut limits = Limits::default();
    // Now and then all of them, so that their sum is something that can be come near.
    let all = chance.one_in(3);
    let mut small = |value: &mut Option<u32>, few: &[u32]| {
        if all || !chance.one_in(3) {
            *value = Some(*chance.pick(few));
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
    let rate = |text: &str| text.parse().ok();
    if chance.one_in(4) {
        let text = *chance.pick(&["2/second,burst=3", "6/minute"]);
        limits.posts_rate_per_session = rate(text);
    }
    if chance.one_in(4) {
        limits.posts_rate_per_principal = rate("1/second,burst=6");
    }
    if chance.one_in(4) {
        let text = *chance.pick(&["1/second", "3/minute"]);
        limits.sessions_rate_per_address = rate(text);
        limits.rate_entries_max = Some(*chance.pick(&[1, 8]));
    }
    if chance.one_in(3) {
        limits.fields_max = *chance.pick(&[5, 8]);
    }
    let mut few = |value: &mut Option<u64>, few: &[u64]| {
        if all || !chance.one_in(3) {
            *value = Some(*chance.pick(few));
        }
    };
    few(&mut limits.body_bytes_max, &[200, 2_000]);
    few(&mut limits.bodies_bytes_max, &[1_000, 5_000, 50_000]);
    few(&mut limits.bodies_bytes_per_address_max, &[0, 1_000, 3_000]);
    few(&mut limits.inbound_bytes_max, &[200, 2_000]);
    few(&mut limits.queue_bytes_max, &[300, 1_000, 10_000]);
    few(&mut limits.queues_bytes_max, &[1_500, 5_000, 50_000]);
    few(&mut limits.answers_bytes_max, &[1, 400, 4_000]);
    limits.queue_reserve_bytes = *chance.pick(&[0, 0, 300, 2_000]);
    limits.stream_input_bytes_max = *chance.pick(&[0, 300, 4_000]);
    limits.discard_bytes_max = *chance.pick(&[0, 100, 10_000]);
    limits.linger_bytes_max = *chance.pick(&[100, 10_000]);
    limits.stall_bytes_min = *chance.pick(&[1, 100, 1_000]);
    limits
}

fn timeouts(chance: &mut Chance) -> Timeouts {
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
        match chance.below(8) {
            0 => *timeout = None,
            1 => *timeout = Some(Duration::from_millis(1)),
            2 => *timeout = Some(Duration::from_secs(1 + chance.below(60) as u64)),
            _ => {}
        }
    }
    timeouts
}
