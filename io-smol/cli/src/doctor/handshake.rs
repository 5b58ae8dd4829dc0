//! The session: endpoint, initialize, and pings.
//!
//! Knows: what a client needs from each answer, and how to tell a slow server from one whose events are held back.
//! Does not know: how posts are judged (`posting`), or what happens later.
//!
//! Decision: if an answer does not arrive in time, pings with long ids are sent. Their answers repeat the ids, and
//! push what something holds back out of its buffer. Only a ping that then arrives together with something else
//! counts as held back, because a server that is slow to start also answers initialize and the pings at once.

use core::time::Duration;
use std::time::Instant;

use serde_json::Value;

use super::findings::Code;
use super::listening::{End, Stream, What};
use super::messages::{self, Incoming, Method, PROTOCOL_VERSION};
use super::posting::{self, Posted};
use super::report::{Mark, Report, in_words};
use super::secrets::excerpt;
use super::visit::Visitor;
use crate::client::target::Target;

/// The pings that are sent to push held-back answers.
const PUSHES: u32 = 8;
/// The length of the ids of such pings.
const PUSH_ID_BYTES: usize = 1 << 10;

/// A session with the server.
pub(super) struct Session<'a> {
    pub(super) visitor: &'a Visitor<'a>,
    pub(super) stream: Stream,
    pub(super) endpoint: Target,
    /// The ids of all requests so far. A response to another one is wrong.
    asked: Vec<Value>,
}

/// What came of a request.
struct Asked {
    outcome: Outcome,
    took: Duration,
    /// Something else arrived together with the answer.
    together: bool,
}

enum Outcome {
    Answer(Value),
    WrongId(Value),
    Malformed {
        why: &'static str,
        text: String,
    },
    Ended(End),
    /// Nothing, or nothing but events with this name.
    Silence {
        other: Option<String>,
    },
}

impl<'a> Session<'a> {
    pub(super) fn new(visitor: &'a Visitor<'a>, stream: Stream, endpoint: Target) -> Self {
        Self { visitor, stream, endpoint, asked: Vec::new() }
    }

    /// Sends initialize and its notification. False if a client could not go on, which is reported.
    pub(super) async fn initialize(&mut self, report: &mut Report) -> bool {
        let Some(asked) = self.ask(Method::Initialize, report).await else { return false };
        let (took, late) = (asked.took, self.is_late(&asked));
        let Some(answer) = self.judge(Method::Initialize, asked, report) else { return false };
        report.measure("initialize_ms", took);
        if let Some(error) = answer.get("error") {
            report.step("initialize", Mark::Bad, "answered with an error", Some(took));
            let sentence =
                format!("The server answered initialize with {}.", excerpt(&error.to_string()));
            report.find(Code::InitializeRefused, &sentence);
            return false;
        }
        let result = answer.get("result").unwrap_or(&Value::Null);
        let missing = messages::missing_members(result);
        if !missing.is_empty() {
            report.step("initialize", Mark::Bad, "answered, but incompletely", Some(took));
            let sentence = format!("The result of initialize lacks {}.", missing.join(", "));
            report.find(Code::InitializeInvalid, &sentence);
            return false;
        }
        report.step("initialize", Mark::Good, "answered on the stream", Some(took));
        if late {
            self.tell_late(Method::Initialize, took, report);
        }
        tell_server(result, report);
        let message = messages::initialized();
        let posted = posting::post(self.visitor, &self.endpoint, &message, "initialized", report);
        posted.await.is_some()
    }

    /// Sends a ping. False if it is not answered well, which is reported.
    pub(super) async fn ping(&mut self, report: &mut Report) -> bool {
        let Some(asked) = self.ask(Method::Ping, report).await else { return false };
        let (took, together, late) = (asked.took, asked.together, self.is_late(&asked));
        if self.judge(Method::Ping, asked, report).is_none() {
            return false;
        }
        report.measure("ping_ms", took);
        if late && together {
            report.step(
                "ping",
                Mark::Bad,
                "answered late, together with something else",
                Some(took),
            );
            let took = in_words(took);
            let sentence = format!(
                "The answer to a ping arrived after {took}, together with the next event or \
                 heartbeat."
            );
            report.find(Code::Buffered, &sentence);
            return false;
        }
        report.step("ping", Mark::Good, "answered on the stream", Some(took));
        if late {
            self.tell_late(Method::Ping, took, report);
        }
        true
    }

    fn is_late(&self, asked: &Asked) -> bool {
        asked.took > self.visitor.settings.late
    }

    fn tell_late(&self, method: Method, took: Duration, report: &mut Report) {
        let sentence = format!("The answer to {} arrived after {}.", method.name(), in_words(took));
        report.find(Code::AnswerLate, &sentence);
    }

    /// Posts a request, and waits for its answer. `None` if the post failed, which is reported.
    async fn ask(&mut self, method: Method, report: &mut Report) -> Option<Asked> {
        let settings = self.visitor.settings;
        let id = Value::from(self.asked.len() + 1);
        self.asked.push(id.clone());
        let sent = Instant::now();
        let message = method.request(&id);
        let posted =
            posting::post(self.visitor, &self.endpoint, &message, method.name(), report).await?;
        if posted == Posted::WithAnswer {
            return None;
        }
        let mut asked = self.answer(&id, sent, sent + settings.late).await;
        let slice = (settings.timeout - settings.late) / PUSHES;
        for push in 0..PUSHES {
            if !matches!(asked.outcome, Outcome::Silence { .. }) {
                break;
            }
            self.push(push).await;
            let deadline = sent + settings.late + slice * (push + 1);
            asked = self.answer(&id, sent, deadline).await;
        }
        Some(asked)
    }

    /// Sends a ping whose answer is long. What becomes of the post does not matter.
    async fn push(&mut self, push: u32) {
        let id = format!("{}-{push}-{:-<PUSH_ID_BYTES$}", self.asked.len(), "");
        let id = Value::from(id);
        let message = Method::Ping.request(&id);
        self.asked.push(id);
        let timeout = self.visitor.settings.probe_timeout();
        let _ = self.visitor.post_open(&self.endpoint, &message, timeout).await;
    }

    /// Waits for the answer to the request `id`.
    async fn answer(&mut self, id: &Value, sent: Instant, deadline: Instant) -> Asked {
        let mut other = None;
        loop {
            let next = self.stream.next_with_company(deadline).await;
            let Some((arrival, together)) = next else { break };
            let took = arrival.at.saturating_duration_since(sent);
            // What arrives without a pause would otherwise be read for ever.
            let over = arrival.at > deadline;
            match self.outcome(arrival.what, id) {
                Ok(outcome) => return Asked { outcome, took, together },
                Err(name) => other = name.or(other),
            }
            if over {
                break;
            }
        }
        Asked { outcome: Outcome::Silence { other }, took: sent.elapsed(), together: false }
    }

    /// What an arrival is for who waits for the answer to the request `id`. An error if it is not for it; if clients
    /// ignore it, with the event's name.
    fn outcome(&self, what: What, id: &Value) -> Result<Outcome, Option<String>> {
        match what {
            What::End(end) => Ok(Outcome::Ended(end)),
            What::Event(event) if event.name == "message" => match messages::read(&event.data) {
                Incoming::Response { id: found, message } if found == *id => {
                    Ok(Outcome::Answer(message))
                }
                Incoming::Response { id: found, .. } if self.asked.contains(&found) => Err(None),
                Incoming::Response { id: found, .. } => Ok(Outcome::WrongId(found)),
                Incoming::Malformed(why) => Ok(Outcome::Malformed { why, text: event.data }),
                Incoming::Other => Err(None),
            },
            What::Event(event) => Err((event.name != "endpoint").then_some(event.name)),
            What::Comment => Err(None),
        }
    }

    /// Returns the answer, or reports what came instead of it.
    fn judge(&self, method: Method, asked: Asked, report: &mut Report) -> Option<Value> {
        let name = method.name();
        match asked.outcome {
            Outcome::Answer(answer) => return Some(answer),
            Outcome::WrongId(found) => {
                report.step(name, Mark::Bad, "answered with another id", Some(asked.took));
                let found = excerpt(&found.to_string());
                let sentence = format!("A response has the id {found}, which was not asked for.");
                report.find(Code::AnswerWrongId, &sentence);
            }
            Outcome::Malformed { why, text } => {
                report.step(name, Mark::Bad, "answered with no JSON-RPC message", Some(asked.took));
                let text = excerpt(&text);
                let sentence = format!("An event is no JSON-RPC message, because {why}: {text}.");
                report.find(Code::AnswerMalformed, &sentence);
            }
            Outcome::Ended(end) => ended_early(name, end, report),
            Outcome::Silence { other } => {
                report.step(name, Mark::Bad, "no answer on the stream", Some(asked.took));
                let timeout = in_words(self.visitor.settings.timeout);
                let other = other.map_or(String::new(), |name| {
                    format!(" Events named {} arrived, which clients ignore.", excerpt(&name))
                });
                let sentence =
                    format!("The answer to {name} did not arrive within {timeout}.{other}");
                report.find(Code::AnswerMissing, &sentence);
            }
        }
        None
    }
}

/// Reports that the stream ended during a step.
pub(super) fn ended_early(step: &str, end: End, report: &mut Report) {
    report.step(step, Mark::Bad, &format!("the stream ended: {}", end.text()), None);
    let (code, what) = match end {
        End::TooLarge => (Code::EventTooLarge, "An event on the stream is over the limit"),
        End::Malformed => (Code::NotHttp, "The stream is not valid HTTP"),
        End::Complete | End::Cut => (Code::StreamEndedEarly, "The stream ended"),
    };
    report.find(code, &format!("{what} during the step {step}: {}.", end.text()));
}

fn tell_server(result: &Value, report: &mut Report) {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("?").to_owned();
    let version = text(result.get("protocolVersion"));
    let server = result.get("serverInfo");
    let name = text(server.and_then(|server| server.get("name")));
    let release = text(server.and_then(|server| server.get("version")));
    report.record("protocol_version", version.clone().into());
    report.record("server_name", name.clone().into());
    report.record("server_version", release.clone().into());
    let asked = if version == PROTOCOL_VERSION {
        String::new()
    } else {
        format!(" It was asked for {PROTOCOL_VERSION}.")
    };
    let (name, release, version) = (excerpt(&name), excerpt(&release), excerpt(&version));
    let sentence =
        format!("The server is {name} {release}, with protocol version {version}.{asked}");
    report.find(Code::ProtocolVersion, &sentence);
}
