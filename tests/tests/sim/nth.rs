//! The nth failure: each verb has a scenario in which the nth draw of entropy fails, a limit is
//! reached, or a connection is cut after the nth byte of input or output.
//!
//! Whatever fails: counters balance after each call, every opened session is closed once, accepted
//! messages were delivered, refused ones were not, every complete post that could be answered was
//! answered, and nothing is left when all clients have disconnected.

use core::cell::Cell;
use core::time::Duration;
use std::rc::Rc;

use mcp_sse_core::jsonrpc::Kind;
use mcp_sse_core::{
    Authorization, Config, ConfigBuilder, Exchange, Frame, Limits, Outcome, Refusal, Server,
    SessionId, Verdict,
};
use mcp_sse_tests::sim::meter;

use super::scenario::{FailurePoint, ScenarioRun, Totals, post_head};

const CALL: Kind = Kind::Request;
const NOTE: Kind = Kind::Notification;
/// A notification that the application sends.
const WORDS: &str = r#"{"jsonrpc":"2.0","method":"say"}"#;

// ── One scenario for each verb. ─────────────────────────────────────────────────────────────────

fn opening(run: &mut ScenarioRun) {
    run.open_session(0, 1);
    run.open_session(0, 1);
    run.open_session(0, 2);
}

fn posting(run: &mut ScenarioRun) {
    let Some(client) = run.open_session(0, 1) else { return };
    run.post(0, &client, CALL);
    run.post(0, &client, NOTE);
}

/// Two posts in one slice, and a chunked one that waits for `100 Continue`.
fn pipelining(run: &mut ScenarioRun) {
    let Some(client) = run.open_session(0, 1) else { return };
    let Some(conn) = run.post(0, &client, CALL) else { return };
    let mut all = Vec::new();
    for _ in 0..2 {
        let (number, text) = run.new_post(NOTE);
        let head = post_head(&client, &format!("Content-Length: {}\r\n", text.len()));
        all.push((Some(number), head + &text));
    }
    let (number, text) = run.new_post(NOTE);
    let head = post_head(&client, "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n");
    let chunks = format!("{:x};a=b\r\n{text}\r\n0\r\nT: t\r\n\r\n", text.len());
    all.push((Some(number), head + &chunks));
    run.send_requests(0, conn, &all);
}

fn sending(run: &mut ScenarioRun) {
    let clients = [run.open_session(0, 1), run.open_session(0, 2)];
    let sessions: Vec<SessionId> =
        clients.iter().flatten().filter_map(|client| client.session).collect();
    for &session in &sessions {
        for _ in 0..3 {
            run.send_frame(0, session, WORDS);
        }
    }
    let frame = meter::inside(|| Frame::message(WORDS.as_bytes()).unwrap());
    for session in sessions {
        // One session at a time, to know which one queued the frame.
        let reach = run.call(0, |server, now| server.broadcast([session], &frame, now));
        if reach.queued == 1 {
            run.record_sent(0, session, WORDS);
        }
    }
    drop(frame);
    run.pump();
}

fn closing(run: &mut ScenarioRun) {
    let Some(client) = run.open_session(0, 1) else { return };
    run.open_session(0, 2);
    if let Some(session) = client.session {
        run.send_frame(0, session, WORDS);
        run.call(0, |server, now| server.close(session, now));
    }
    run.post(0, &client, CALL);
}

/// A post is queued, and then delivered or answered "busy".
fn holding(run: &mut ScenarioRun) {
    let Some(client) = run.open_session(0, 1) else { return };
    let Some(session) = client.session else { return };
    run.call(0, |server, now| server.set_backlog(session, 64, 10, now));
    run.post(0, &client, CALL);
    run.post(0, &client, NOTE);
    run.call(0, |server, now| server.set_backlog(session, 63, 10, now));
    run.pump();
    run.call(0, |server, now| server.set_backlog(session, 64, 10, now));
    run.post(0, &client, CALL);
    run.wait(Duration::from_secs(5));
}

fn forwarding(run: &mut ScenarioRun) {
    let Some(client) = run.open_session(0, 1) else { return };
    run.post(1 - client.shard, &client, CALL);
    run.post(1 - client.shard, &client, NOTE);
}

fn exchanging(run: &mut ScenarioRun) {
    let Some(client) = run.open_session(0, 1) else { return };
    let target = format!("/messages?session_id={}", client.token);
    let fields: &[(&str, &[u8])] = &[("Host", b"localhost"), ("Content-Type", b"application/json")];
    let (number, text) = run.new_post(CALL);
    for (method, target, body) in
        [("GET", "/sse", (None, String::new())), ("POST", &*target, (Some(number), text))]
    {
        let exchange = Exchange { method, target, fields, mount: "" };
        let Some(conn) = run.exchange(0, exchange) else { continue };
        run.send_requests(0, conn, &[body]);
        run.call(0, |server, now| server.handle_eof(conn, now));
        run.pump();
    }
}

fn waiting(run: &mut ScenarioRun) {
    run.answers = false;
    let Some(client) = run.open_session(0, 1) else { return };
    run.post(0, &client, CALL);
    run.connect(0, 3);
    run.wait(Duration::from_secs(100));
}

fn stopping(run: &mut ScenarioRun) {
    run.answers = false;
    let Some(client) = run.open_session(0, 1) else { return };
    run.open_session(0, 2);
    run.post(0, &client, CALL);
    run.connect(0, 3);
    run.call(0, Server::shutdown);
    run.pump();
    run.post(0, &client, CALL);
    run.wait(Duration::from_secs(2));
    run.call(0, Server::shutdown);
    run.pump();
    run.cut = true;
    run.call(0, Server::abort);
    run.pump();
}

/// The application refuses all further requests.
fn refusing(run: &mut ScenarioRun) {
    let Some(client) = run.open_session(0, 1) else { return };
    for refusal in [Refusal::Unauthenticated, Refusal::Forbidden, Refusal::Unavailable] {
        run.verdict = Verdict::Refuse(refusal);
        run.post(0, &client, NOTE);
        run.post(1, &client, CALL);
    }
    run.open_session(0, 2);
}

/// The other shard accepts none of the forwarded posts.
fn declining(run: &mut ScenarioRun) {
    let Some(client) = run.open_session(0, 1) else { return };
    let retry_after = Duration::from_millis(1_500);
    for outcome in [Outcome::Busy, Outcome::UnknownSession, Outcome::RateLimited { retry_after }] {
        run.declines = Some(outcome);
        run.post(1, &client, NOTE);
        run.post(1, &client, CALL);
    }
}

/// The step between cuts, by configuration: the first is cut after each byte; the other differs
/// from it in few places.
const STEPS: [usize; 2] = [1, 7];

type Scenario = fn(&mut ScenarioRun);

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

/// Without an authorizer, and with one.
fn configs() -> [ConfigBuilder; 2] {
    let config = || Config::builder().forwarding(true);
    [config(), config().authorization(Authorization::Deferred)]
}

fn run_scenario(
    name: &str,
    scenario: Scenario,
    config: &ConfigBuilder,
    failure: FailurePoint,
) -> Totals {
    struct PrintOnPanic<'a>(&'a str, FailurePoint, Rc<Cell<bool>>);
    impl Drop for PrintOnPanic<'_> {
        fn drop(&mut self) {
            if !self.2.get() {
                eprintln!("── {} with {:?} ──", self.0, self.1);
            }
        }
    }
    let done = Rc::new(Cell::new(false));
    let _print = PrintOnPanic(name, failure, done.clone());
    let before = meter::live();
    let mut run = ScenarioRun::new(config, failure);
    scenario(&mut run);
    let totals = run.finish();
    assert_eq!(meter::live(), before, "6: memory is left");
    done.set(true);
    totals
}

/// Without a failure, every post has the expected status, by configuration.
#[test]
fn scenarios_without_failure_get_expected_statuses() {
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
            let mut run = ScenarioRun::new(config, FailurePoint::default());
            scenario(&mut run);
            run.pump();
            let answered = |status| (status, run.answered(status));
            let found = [202, 401, 403, 404, 429, 503].map(answered);
            let found: Vec<_> = found.into_iter().filter(|(_, count)| *count > 0).collect();
            assert_eq!(found, expected, "{name}");
            run.finish();
        }
    }
}

#[test]
fn nth_entropy_failure_keeps_invariants() {
    for (name, scenario) in SCENARIOS {
        for config in configs() {
            let whole = run_scenario(name, scenario, &config, FailurePoint::default());
            assert!(whole.draws > 0 && whole.input > 0 && whole.output > 0, "{name}: {whole:?}");
            for n in 0..whole.draws {
                run_scenario(
                    name,
                    scenario,
                    &config,
                    FailurePoint { entropy: Some(n), ..FailurePoint::default() },
                );
            }
        }
    }
}

#[test]
fn connection_cut_after_each_input_byte_keeps_invariants() {
    for (name, scenario) in SCENARIOS {
        for (config, step) in configs().iter().zip(STEPS) {
            let whole = run_scenario(name, scenario, config, FailurePoint::default());
            for n in (0..whole.input).step_by(step) {
                run_scenario(
                    name,
                    scenario,
                    config,
                    FailurePoint { input: Some(n), ..FailurePoint::default() },
                );
                run_scenario(
                    name,
                    scenario,
                    config,
                    FailurePoint { fin: Some(n), ..FailurePoint::default() },
                );
            }
        }
    }
}

#[test]
fn connection_cut_after_each_output_byte_keeps_invariants() {
    for (name, scenario) in SCENARIOS {
        for (config, step) in configs().iter().zip(STEPS) {
            let whole = run_scenario(name, scenario, config, FailurePoint::default());
            for n in (0..whole.output).step_by(step) {
                run_scenario(
                    name,
                    scenario,
                    config,
                    FailurePoint { output: Some(n), ..FailurePoint::default() },
                );
            }
        }
    }
}

/// Each limit at each size, up to where it makes no difference.
#[test]
fn each_limit_at_each_size_keeps_invariants() {
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
            // One body may use the whole budget.
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
                    run_scenario(
                        name,
                        scenario,
                        &config.clone().limits(limits),
                        FailurePoint::default(),
                    );
                }
            }
        }
    }
}
