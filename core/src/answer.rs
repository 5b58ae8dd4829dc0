//! Answers: what each says, as bytes or, for an exchange, as a head and a body.
//!
//! Knows: the body and the fields of each answer, and the current date.
//! Does not know: when an answer is due, or what happens to the connection afterwards.
//!
//! Decision: every body but a stream's ends in a line feed, so that the next prompt of a person who uses
//! curl is on a line of its own; JSON readers skip it. To end only the bodies of refusals so was
//! considered, but the 202 and the probes are the answers that people see most.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use crate::config::Config;
use crate::error::Fault;
use crate::exchange::ResponseHead;
use crate::health_extras::HealthExtras;
use crate::http1::{self, HttpDate, Persistence, Response, StreamFraming, rfc3339};
use crate::instance_id::InstanceId;
use crate::jsonrpc;
use crate::metrics_page::MetricsPage;
use crate::policy::cors::{CorsOrigin, Preflight};
use crate::policy::rate::whole_seconds;
use crate::route::Service;
use crate::session_ref::Misrouting;
use crate::sse::{EventName, Frame};
use crate::token::SessionToken;

/// A refusal: a fault, and what its answer says besides what the table of faults has.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) fault: Fault,
    /// The text, if it is not the fault's own.
    pub(crate) text: Option<Cow<'static, str>>,
    /// The value of `Allow`, for a 405.
    pub(crate) allow: Option<&'static str>,
    /// For a 401, whether there were credentials, and they are not valid.
    pub(crate) invalid_token: bool,
    /// After how many seconds to try again. For 429 and 503.
    pub(crate) retry_after: Option<u64>,
    /// Where a misrouted post should have gone. The log says it, the answer does not.
    pub(crate) misrouting: Option<Misrouting>,
}

impl From<http1::Error> for Refused {
    fn from(error: http1::Error) -> Self {
        Fault::from(error).into()
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self {
            fault,
            text: None,
            allow: None,
            invalid_token: false,
            retry_after: None,
            misrouting: None,
        }
    }
}

impl Refused {
    pub(crate) fn saying(fault: Fault, text: impl Into<Cow<'static, str>>) -> Self {
        Self { text: Some(text.into()), ..Self::from(fault) }
    }

    pub(crate) fn method(allow: &'static str) -> Self {
        Self { allow: Some(allow), ..Self::from(Fault::MethodNotAllowed) }
    }

    /// A request that a rate does not allow now; it may be tried again after `wait`.
    pub(crate) fn limited(fault: Fault, text: Option<&'static str>, wait: Duration) -> Self {
        Self {
            text: text.map(Cow::from),
            retry_after: Some(whole_seconds(wait)),
            ..Self::from(fault)
        }
    }

    /// A post whose session belongs to another instance or shard.
    pub(crate) fn misrouted(misrouting: Misrouting) -> Self {
        Self { misrouting: Some(misrouting), ..Self::from(Fault::Misrouted) }
    }

    fn text(&self) -> &str {
        self.text.as_deref().unwrap_or(self.fault.text())
    }
}

/// How the answer to the request at hand is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) persistence: Persistence,
    /// The request was a HEAD: the answer has the length of a body, and no body.
    pub(crate) head_only: bool,
}

impl Reply {
    /// For faults in a head that could not be read.
    pub(crate) const CLOSE: Self = Self { persistence: Persistence::Close, head_only: false };
}

/// What an answer depends on besides what it says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResponseContext<'a> {
    pub(crate) reply: Reply,
    /// Whether HTTP is spoken elsewhere, so that the answer's head is a value.
    pub(crate) exchange: bool,
    pub(crate) cors_origin: &'a CorsOrigin,
    pub(crate) config: &'a Config,
}

/// An answer that is ready to be queued.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The head of the answer to an exchange. Any other answer has its head among `bytes`.
    pub(crate) head: Option<ResponseHead>,
    /// What is queued for the peer.
    pub(crate) bytes: Arc<[u8]>,
}

const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Renders answers, and caches the one that every accepted post gets.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// The wall clock, in seconds, and the date that it stands for.
    wall: Option<(u64, HttpDate)>,
    /// The 202 for each [`Persistence`], and for exchanges; rendered at most once a second.
    accepted: [Option<Answer>; 4],
    /// The origin that the cached ones are for. With CORS, requests of one origin often follow one another.
    accepted_by: CorsOrigin,
}

impl Answers {
    pub(crate) fn handle_wall_clock(&mut self, unix_seconds: u64) {
        if self.wall.as_ref().is_none_or(|(seconds, _)| *seconds != unix_seconds) {
            self.wall = Some((unix_seconds, HttpDate::from_unix(unix_seconds)));
            self.accepted = [const { None }; 4];
        }
    }

    fn date(&self) -> Option<&HttpDate> {
        self.wall.as_ref().map(|(_, date)| date)
    }

    fn render(&self, response: Response<'_>, to: &ResponseContext<'_>) -> Answer {
        let mut fields;
        let mut response = response;
        if *to.cors_origin != CorsOrigin::Off {
            fields = response.fields.to_vec();
            to.config.cors.fields(to.cors_origin, &mut fields);
            response.fields = &fields;
        }
        let Reply { persistence, head_only } = to.reply;
        if to.exchange {
            let body = response.body.filter(|_| !head_only).unwrap_or_default();
            let head = Some(ResponseHead::of(&response, self.date()));
            return Answer { status: response.status, head, bytes: body.into() };
        }
        let bytes = response.render(self.date(), persistence, head_only).into();
        Answer { status: response.status, head: None, bytes }
    }

    /// The 202 of an accepted post.
    pub(crate) fn accepted(&mut self, to: &ResponseContext<'_>) -> Answer {
        let slot = if to.exchange { 3 } else { to.reply.persistence as usize };
        if self.accepted_by != *to.cors_origin {
            self.accepted = [const { None }; 4];
            self.accepted_by = to.cors_origin.clone();
        }
        if let Some(Some(answer)) = self.accepted.get(slot) {
            return answer.clone();
        }
        let answer = self.text(202, PLAIN, &[], "Accepted\n".into(), to);
        if let Some(slot) = self.accepted.get_mut(slot) {
            *slot = Some(answer.clone());
        }
        answer
    }

    /// The answer to a fault; `None` where there is none to give.
    pub(crate) fn refusal(&self, refused: &Refused, to: &ResponseContext<'_>) -> Option<Answer> {
        let status = refused.fault.status()?;
        let mut fields = Vec::new();
        fields.extend(refused.allow.map(|allow| ("Allow", allow)));
        let seconds = refused.retry_after.map(|seconds| seconds.to_string());
        fields.extend(seconds.as_deref().map(|seconds| ("Retry-After", seconds)));
        let oauth = |error: &str, description: &str| {
            let body = format!(r#"{{"error":"{error}","error_description":"{description}"}}"#);
            (JSON, Cow::from(body))
        };
        let mut challenge = None;
        #[expect(clippy::wildcard_enum_match_arm, reason = "all the others say it in plain text")]
        let (content_type, body) = match refused.fault {
            // A plain-text 404 confuses clients that look for OAuth metadata.
            Fault::NotFound => (JSON, not_found(refused.text.as_deref()).into()),
            Fault::NotJson => (JSON, json_rpc(jsonrpc::code::PARSE_ERROR, refused.text())),
            Fault::NotJsonRpc => (JSON, json_rpc(jsonrpc::code::INVALID_REQUEST, refused.text())),
            Fault::DuplicateCredentials => {
                challenge = Some(challenge_of(Some("invalid_request"), to.config));
                oauth("invalid_request", "more than one Authorization field")
            }
            Fault::Unauthorized if refused.invalid_token => {
                challenge = Some(challenge_of(Some("invalid_token"), to.config));
                oauth("invalid_token", "the access token is not valid")
            }
            Fault::Unauthorized => {
                challenge = Some(challenge_of(None, to.config));
                oauth("unauthorized", "an access token is required")
            }
            Fault::Forbidden => oauth("forbidden", "the access token does not allow this"),
            _ => (PLAIN, refused.text().into()),
        };
        fields.extend(challenge.as_deref().map(|challenge| ("WWW-Authenticate", challenge)));
        Some(self.text(status, content_type, &fields, body, to))
    }

    /// The answer to OPTIONS, which is a CORS preflight if `preflight` is there.
    pub(crate) fn options(
        &self,
        allow: &str,
        preflight: Option<Preflight>,
        to: &ResponseContext<'_>,
    ) -> Answer {
        let mut fields = alloc::vec![("Allow", allow)];
        if let (Some(preflight), CorsOrigin::Any | CorsOrigin::Allowed(_)) =
            (preflight, to.cors_origin)
        {
            to.config.cors.preflight_fields(preflight, &mut fields);
        }
        let response = Response { status: 204, fields: &fields, content_type: None, body: None };
        self.render(response, to)
    }

    /// The document of RFC 9728.
    pub(crate) fn metadata(&self, to: &ResponseContext<'_>) -> Answer {
        let body = to.config.metadata.as_ref().map_or("{}", |metadata| &metadata.body);
        self.json(200, body, to)
    }

    /// What `/health` answers.
    pub(crate) fn health(&self, snapshot: &HealthSnapshot<'_>, to: &ResponseContext<'_>) -> Answer {
        let HealthSnapshot { sessions, connections, uptime_seconds, draining, extras } = snapshot;
        let status = if *draining { "draining" } else { "healthy" };
        let mut body = format!(
            "{{\"status\":\"{status}\",\"active_sessions\":{sessions},\
             \"active_connections\":{connections},\"uptime_seconds\":{uptime_seconds}"
        );
        if let Some((seconds, _)) = self.wall {
            body.push_str(",\"timestamp\":\"");
            body.push_str(&rfc3339(seconds));
            body.push('"');
        }
        if let Some(instance) = &to.config.instance_id {
            body.push_str(&format!(",\"instance_id\":\"{instance}\""));
        }
        for (name, value) in &extras.gauges {
            body.push(',');
            body.push_str(&serde_json::Value::from(*name).to_string());
            body.push_str(&format!(":{value}"));
        }
        body.push('}');
        self.json(200, &body, to)
    }

    /// What `/ready` answers: 200, or 503 with the word for why not, and after how many seconds to ask again.
    pub(crate) fn ready(
        &self,
        ready: Result<(), &str>,
        retry_after: u64,
        to: &ResponseContext<'_>,
    ) -> Answer {
        match ready {
            Ok(()) => self.json(200, r#"{"status":"ready"}"#, to),
            Err(why) => {
                let body = format!("{{\"status\":{}}}", serde_json::Value::from(why));
                let seconds = retry_after.to_string();
                self.text(503, JSON, &[("Retry-After", &seconds)], body.into(), to)
            }
        }
    }

    /// A page for a person.
    pub(crate) fn page(&self, text: &str, to: &ResponseContext<'_>) -> Answer {
        self.text(200, PLAIN, &[], text.into(), to)
    }

    /// The metrics of the server.
    pub(crate) fn metrics(&self, text: Cow<'_, str>, to: &ResponseContext<'_>) -> Answer {
        self.text(200, MetricsPage::CONTENT_TYPE, &[], text, to)
    }

    /// An answer whose body is a line of text.
    fn text(
        &self,
        status: u16,
        content_type: &str,
        fields: &[(&str, &str)],
        body: Cow<'_, str>,
        to: &ResponseContext<'_>,
    ) -> Answer {
        let (content_type, body) = (Some(content_type), line(body));
        self.render(Response { status, fields, content_type, body: Some(body.as_bytes()) }, to)
    }

    fn json(&self, status: u16, body: &str, to: &ResponseContext<'_>) -> Answer {
        self.text(status, JSON, &[], body.into(), to)
    }

    /// The head of an event stream, and behind it the `endpoint` event, so that both leave in one write.
    /// Without an `endpoint` the head alone, for a HEAD.
    pub(crate) fn stream(
        &self,
        framing: StreamFraming,
        endpoint: Option<EndpointInfo<'_>>,
        to: &ResponseContext<'_>,
    ) -> Answer {
        const FIELDS: &[(&str, &str)] =
            &[("Cache-Control", "no-cache, no-transform"), ("X-Accel-Buffering", "no")];
        let mut fields = FIELDS.to_vec();
        to.config.cors.fields(to.cors_origin, &mut fields);
        let content_type = Some("text/event-stream");
        let response = Response { status: 200, fields: &fields, content_type, body: None };
        let (head, mut bytes) = if to.exchange {
            (Some(ResponseHead::of(&response, self.date())), Vec::new())
        } else {
            (None, response.render_stream_head(self.date(), framing))
        };
        if let Some(endpoint) = endpoint {
            let event = endpoint_event(to.config, &endpoint);
            bytes.extend_from_slice(match framing {
                StreamFraming::Chunked | StreamFraming::ChunkedThenClose => event.chunked(),
                StreamFraming::UntilClose => event.bare(),
            });
        }
        Answer { status: response.status, head, bytes: bytes.into() }
    }
}

/// What the URI that a new session's client posts to is made of.
#[derive(Debug)]
pub(crate) struct EndpointInfo<'a> {
    pub(crate) token: &'a SessionToken,
    /// The front of the path, as the client sees it: a proxy's prefix and a mount.
    pub(crate) mount: &'a str,
    pub(crate) service: Service,
    /// After what time the client reconnects, if it is told.
    pub(crate) retry_ms: Option<u64>,
}

/// What `/health` reports.
#[derive(Debug)]
pub(crate) struct HealthSnapshot<'a> {
    pub(crate) sessions: u32,
    pub(crate) connections: u32,
    pub(crate) uptime_seconds: u64,
    pub(crate) draining: bool,
    pub(crate) extras: &'a HealthExtras,
}

/// The text with a line feed at its end.
fn line(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.ends_with('\n') {
        return text;
    }
    let mut line = String::with_capacity(text.len() + 1);
    line.push_str(&text);
    line.push('\n');
    line.into()
}

/// The body of a 404 for a path that is not served.
fn not_found(hint: Option<&str>) -> String {
    let hint = serde_json::Value::from(hint.unwrap_or_default());
    format!("{{\"error\":\"not found\",\"hint\":{hint}}}")
}

/// The value of `WWW-Authenticate` (RFC 6750 section 3, RFC 9728 section 5.1).
fn challenge_of(error: Option<&str>, config: &Config) -> String {
    let mut challenge = String::from("Bearer");
    if let Some(error) = error {
        challenge.push_str(&format!(" error=\"{error}\""));
    }
    if let Some(metadata) = &config.metadata {
        challenge.push_str(if error.is_some() { ", " } else { " " });
        challenge.push_str(&metadata.challenge);
    }
    challenge
}

fn json_rpc(code: i32, reason: &str) -> Cow<'static, str> {
    String::from_utf8_lossy(&jsonrpc::error_body(None, code, reason)).into_owned().into()
}

/// The `endpoint` event: the URI reference that a session's client posts to, as an absolute path, because
/// clients disagree about every other form.
fn endpoint_event(config: &Config, endpoint: &EndpointInfo<'_>) -> Frame {
    let EndpointInfo { token, mount, service, .. } = endpoint;
    let text = token.encode();
    let text = core::str::from_utf8(&text).unwrap_or_default();
    let instance = config.instance_id.as_ref().map_or("", InstanceId::as_str);
    let dot = if instance.is_empty() { "" } else { "." };
    let uri = format!(
        "{mount}{}{}?{}={instance}{dot}{text}",
        config.paths.service(*service),
        config.paths.message,
        config.session_parameter
    );
    Frame::event_with_retry(EventName::ENDPOINT, uri.as_bytes(), endpoint.retry_ms)
        .expect("invariant: a validated path and a token are visible ASCII")
}
