//! The nth failure: a scenario for each verb, in which the first, the second, the nth draw of entropy fails,
//! slots or places in queues run out, or a connection is cut after each byte of input and of output.
//!
//! Whatever fails, the books balance after each call, every session that was opened is closed once, what was
//! accepted has arrived, what arrived was not refused, every whole post that could be answered was, and when
//! everybody has gone nothing is left.

use core::cell::Cell;
use core::time::Duration;
use std::rc::Rc;

use mcp_sse_core::jsonrpc::Kind;
use mcp_sse_core::{
    Authorization, Config, ConfigBuilder, Exchange, Frame, Limits, Outcome, Refusal, Server,
    SessionId, Verdict,
};
use mcp_sse_tests::sim::meter;

use super::stage::{Extent, Plan, Stage, post_head};

const CALL: Kind = Kind::Request;
const NOTE: Kind = Kind::Notification;
/// What the application says without being asked.
const WORDS: &str = r#"{"jsonrpc":"2.0","method":"say"}"#;

// ── One scenario for each verb. ─────────────────────────────────────────────────────────────────

fn opening(stage: &mut Stage) {
    stage.opens(0, 1);
    stage.opens(0, 1);
    stage.opens(0, 2);
}

fn posting(stage: &mut Stage) {
    let Some(client) = stage.opens(0, 1) else { return };
    stage.posts(0, &client, CALL);
    stage.posts(0, &client, NOTE);
}

/// Two posts in one slice, and one in chunks behind an interim answer.
fn pipelining(stage: &mut Stage) {
    let Some(client) = stage.opens(0, 1) else { return };
    let Some(conn) = stage.posts(0, &client, CALL) else { return };
    let mut all = Vec::new();
    for _ in 0..2 {
        let (number, text) = stage.draft(NOTE);
        let head = post_head(&client, &format!("Content-Length: {}\r\n", text.len()));
        all.push((Some(number), head + &text));
    }
    let (number, text) = stage.draft(NOTE);
    let head = post_head(&client, "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n");
    let chunks = format!("{:x};a=b\r\n{text}\r\n0\r\nT: t\r\n\r\n", text.len());
    all.push((Some(number), head + &chunks));
    stage.says_all(0, conn, &all);
}

fn sending(stage: &mut Stage) {
    let clients = [stage.opens(0, 1), stage.opens(0, 2)];
    let sessions: Vec<SessionId> =
        clients.iter().flatten().filter_map(|client| client.session).collect();
    for &session in &sessions {
        for _ in 0..3 {
            stage.sends(0, session, WORDS);
        }
    }
    let frame = meter::inside(|| Frame::message(WORDS.as_bytes()).unwrap());
    for session in sessions {
        // One at a time, to know who took it.
        let reach = stage.call(0, |server, now| server.broadcast([session], &frame, now));
        if reach.queued == 1 {
            stage.note_sent(0, session, WORDS);
        }
    }
    drop(frame);
    stage.pump();
}

fn closing(stage: &mut Stage) {
    let Some(client) = stage.opens(0, 1) else { return };
    stage.opens(0, 2);
    if let Some(session) = client.session {
        stage.sends(0, session, WORDS);
        stage.call(0, |server, now| server.close(session, now));
    }
    stage.posts(0, &client, CALL);
}

/// A post is held, and goes on, or is answered busy.
fn holding(stage: &mut Stage) {
    let Some(client) = stage.opens(0, 1) else { return };
    let Some(session) = client.session else { return };
    stage.call(0, |server, now| server.set_backlog(session, 64, 10, now));
    stage.posts(0, &client, CALL);
    stage.posts(0, &client, NOTE);
    stage.call(0, |server, now| server.set_backlog(session, 63, 10, now));
    stage.pump();
    stage.call(0, |server, now| server.set_backlog(session, 64, 10, now));
    stage.posts(0, &client, CALL);
    stage.waits(Duration::from_secs(5));
}

fn forwarding(stage: &mut Stage) {
    let Some(client) = stage.opens(0, 1) else { return };
    stage.posts(1 - client.shard, &client, CALL);
    stage.posts(1 - client.shard, &client, NOTE);
}

fn exchanging(stage: &mut Stage) {
    let Some(client) = stage.opens(0, 1) else { return };
    let target = format!("/messages?session_id={}", client.token);
    let fields: &[(&str, &[u8])] = &[("Host", b"localhost"), ("Content-Type", b"application/json")];
    let (number, text) = stage.draft(CALL);
    for (method, target, body) in
        [("GET", "/sse", (None, String::new())), ("POST", &*target, (Some(number), text))]
    {
        let exchange = Exchange { method, target, fields, mount: "" };
        let Some(conn) = stage.exchange(0, exchange) else { continue };
        stage.says_all(0, conn, &[body]);
        stage.call(0, |server, now| server.handle_eof(conn, now));
        stage.pump();
    }
}

fn waiting(stage: &mut Stage) {
    stage.answers = false;
    let Some(client) = stage.opens(0, 1) else { return };
    stage.posts(0, &client, CALL);
    stage.connect(0, 3);
    stage.waits(Duration::from_secs(100));
}

fn stopping(stage: &mut Stage) {
    stage.answers = false;
    let Some(client) = stage.opens(0, 1) else { return };
    stage.opens(0, 2);
    stage.posts(0, &client, CALL);
    stage.connect(0, 3);
    stage.call(0, Server::shutdown);
    stage.pump();
    stage.posts(0, &client, CALL);
    stage.waits(Duration::from_secs(2));
    stage.call(0, Server::shutdown);
    stage.pump();
    stage.cut = true;
    stage.call(0, Server::abort);
    stage.pump();
}

/// The application vouches for nobody any more.
fn refusing(stage: &mut Stage) {
    let Some(client) = stage.opens(0, 1) else { return };
    for refusal in [Refusal::Unauthenticated, Refusal::Forbidden, Refusal::Unavailable] {
        stage.verdict = Verdict::Refuse(refusal);
        stage.posts(0, &client, NOTE);
        stage.posts(1, &client, CALL);
    }
    stage.opens(0, 2);
}

/// The other shard takes none of what it gets.
fn declining(stage: &mut Stage) {
    let Some(client) = stage.opens(0, 1) else { return };
    let retry_after = Duration::from_millis(1_500);
    for outcome in [Outcome::Busy, Outcome::UnknownSession, Outcome::RateLimited { retry_after }] {
        stage.declines = Some(outcome);
        stage.posts(1, &client, NOTE);
        stage.posts(1, &client, CALL);
    }
}

/// With the first of the configurations after each byte; with the others, which differ from it in a few
/// places, after some.
const STEPS: [usize; 2] = [1, 7];

type Scenario = fn(&mut Stage);

const SCENARIOS: [(&str, Scenario); 12] = [
    ("opening", opening),
    ("posting", posting),
    ("pipelining", pipelining),
    ("sending", sending),
    ("closing", closing),
    ("holding", holding),
    ("forwarding", forwarding),
    ("exchanging", exchanging),
    ("waiting", waiting),
    ("stopping", stopping),
    ("refusing", refusing),
    ("declining", declining),
];

/// Nobody is asked; somebody is asked about requests.
fn configs() -> [ConfigBuilder; 2] {
    let config = || Config::builder().forwarding(true);
    [config(), config().authorization(Authorization::Deferred)]
}

fn play(name: &str, scenario: Scenario, config: &ConfigBuilder, plan: Plan) -> Extent {
    struct Say<'a>(&'a str, Plan, Rc<Cell<bool>>);
    impl Drop for Say<'_> {
        fn drop(&mut self) {
            if !self.2.get() {
                eprintln!("── {} with {:?} ──", self.0, self.1);
            }
        }
    }
    let done = Rc::new(Cell::new(false));
    let _say = Say(name, plan, done.clone());
    let before = meter::live();
    let mut stage = Stage::new(config, plan);
    scenario(&mut stage);
    let extent = stage.ends();
    assert_eq!(meter::live(), before, "6: memory is left");
    done.set(true);
    extent
}

/// Where nothing fails, every post of a scenario is answered as it says; by configuration.
#[test]
fn nothing_fails() {
    type Answered = &'static [(u16, usize)];
    const EXPECTED: [(&str, [Answered; 2]); 12] = [
        ("opening", [&[]; 2]),
        ("posting", [&[(202, 2)]; 2]),
        ("pipelining", [&[(202, 4)]; 2]),
        ("sending", [&[]; 2]),
        ("closing", [&[(404, 1)]; 2]),
        ("holding", [&[(202, 3)]; 2]),
        ("forwarding", [&[(202, 2)]; 2]),
        ("exchanging", [&[(202, 1)]; 2]),
        ("waiting", [&[(202, 1)]; 2]),
        ("stopping", [&[(202, 1)]; 2]),
        ("refusing", [&[(202, 6)], &[(401, 2), (403, 2), (503, 2)]]),
        ("declining", [&[(404, 2), (429, 2), (503, 2)]; 2]),
    ];
    for ((name, scenario), (same, expected)) in SCENARIOS.into_iter().zip(EXPECTED) {
        assert_eq!(name, same);
        for (config, expected) in configs().iter().zip(expected) {
            let mut stage = Stage::new(config, Plan::default());
            scenario(&mut stage);
            stage.pump();
            let answered = |status| (status, stage.answered(status));
            let found = [202, 401, 403, 404, 429, 503].map(answered);
            let found: Vec<_> = found.into_iter().filter(|(_, count)| *count > 0).collect();
            assert_eq!(found, expected, "{name}");
            stage.ends();
        }
    }
}

#[test]
fn the_nth_draw_of_entropy() {
    for (name, scenario) in SCENARIOS {
        for config in configs() {
            let whole = play(name, scenario, &config, Plan::default());
            assert!(whole.draws > 0 && whole.input > 0 && whole.output > 0, "{name}: {whole:?}");
            for n in 0..whole.draws {
                play(name, scenario, &config, Plan { entropy: Some(n), ..Plan::default() });
            }
        }
    }
}

#[test]
fn a_cut_after_each_byte_of_input() {
    for (name, scenario) in SCENARIOS {
        for (config, step) in configs().iter().zip(STEPS) {
            let whole = play(name, scenario, config, Plan::default());
            for n in (0..whole.input).step_by(step) {
                play(name, scenario, config, Plan { input: Some(n), ..Plan::default() });
                play(name, scenario, config, Plan { fin: Some(n), ..Plan::default() });
            }
        }
    }
}

#[test]
fn a_cut_after_each_byte_of_output() {
    for (name, scenario) in SCENARIOS {
        for (config, step) in configs().iter().zip(STEPS) {
            let whole = play(name, scenario, config, Plan::default());
            for n in (0..whole.output).step_by(step) {
                play(name, scenario, config, Plan { output: Some(n), ..Plan::default() });
            }
        }
    }
}

/// Slots and places in queues: each limit at each size, up to where it no longer matters.
#[test]
fn the_nth_slot_and_place() {
    type Set = fn(&mut Limits, u64);
    const LIMITS: &[(u64, usize, Set)] = &[
        (5, 1, |limits, n| limits.connections_max = Some(n as u32)),
        (3, 1, |limits, n| limits.connections_per_address_max = Some(n as u32)),
        (4, 1, |limits, n| limits.sessions_max = Some(n as u32)),
        (3, 1, |limits, n| limits.sessions_per_address_max = Some(n as u32)),
        (4, 1, |limits, n| limits.sessions_per_principal_max = Some(n as u32)),
        (4, 1, |limits, n| limits.events_max = Some(n as u32)),
        (4, 1, |limits, n| limits.inbound_messages_max = Some(n as u32)),
        (4, 1, |limits, n| limits.in_flight_max = Some(n as u32)),
        (80, 1, |limits, n| limits.inbound_bytes_max = Some(n)),
        (80, 1, |limits, n| limits.body_bytes_max = Some(n)),
        (600, 5, |limits, n| {
            limits.bodies_bytes_max = Some(n);
            // Any that fits.
            limits.body_bytes_max = Some(n);
        }),
        (200, 7, |limits, n| limits.head_bytes_max = Some(n as u32)),
        (700, 11, |limits, n| limits.queue_bytes_max = Some(n)),
        (1_500, 11, |limits, n| limits.queues_bytes_max = Some(n)),
        (600, 19, |limits, n| limits.answers_bytes_max = Some(n)),
        (60, 7, |limits, n| limits.discard_bytes_max = n as u32),
        (60, 7, |limits, n| limits.stream_input_bytes_max = n as u32),
    ];
    for (name, scenario) in SCENARIOS {
        for (config, sparse) in configs().iter().zip(STEPS) {
            for &(most, step, set) in LIMITS {
                let step = if most > 5 { step * sparse } else { step };
                for n in (0..=most).step_by(step) {
                    let mut limits = Limits::default();
                    set(&mut limits, n);
                    play(name, scenario, &config.clone().limits(limits), Plan::default());
                }
            }
        }
    }
}
