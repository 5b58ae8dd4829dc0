//! How requests are answered: the bytes of refusals, of the 202, of health, of a stream's beginning.
//!
//! Knows: what each answer says and how it is rendered; the current date.
//! Does not know: when an answer is due, or what happens to the connection afterwards.
//!
//! Every body but a stream's ends in a line feed: people ask with curl, and their next prompt is to
//! begin on a line of its own. JSON readers pass over it. To end only the bodies of refusals so was
//! considered; the 202 and the probes are what people see most.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use crate::config::Config;
use crate::error::Fault;
use crate::health_extras::HealthExtras;
use crate::http1::{
    self, HttpDate, Persistence, Response, StreamFraming, render_stream_head, rfc3339,
};
use crate::jsonrpc;
use crate::policy::cors::{CorsOrigin, Preflight};
use crate::policy::rate::whole_seconds;
use crate::route::Service;
use crate::sse::{EventName, Frame};
use crate::token::SessionToken;

/// A fault on its way to the peer, with what the place that found it knows better than the table.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) fault: Fault,
    /// Instead of the fault's own text.
    pub(crate) text: Option<Cow<'static, str>>,
    /// The value of `Allow`, for a 405.
    pub(crate) allow: Option<&'static str>,
    /// Whether bad credentials were given, for a 401.
    pub(crate) invalid_token: bool,
    /// Seconds after which to try again, where it is known; of no use with statuses other than 429
    /// and 503.
    pub(crate) retry_after: Option<u64>,
}

impl From<http1::Error> for Refused {
    fn from(error: http1::Error) -> Self {
        Fault::from(error).into()
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self { fault, text: None, allow: None, invalid_token: false, retry_after: None }
    }
}

impl Refused {
    pub(crate) fn saying(fault: Fault, text: impl Into<Cow<'static, str>>) -> Self {
        Self { text: Some(text.into()), ..Self::from(fault) }
    }

    pub(crate) fn method(allow: &'static str) -> Self {
        Self { allow: Some(allow), ..Self::from(Fault::MethodNotAllowed) }
    }

    /// Too often, by a rate: to be tried again after `wait`.
    pub(crate) fn limited(fault: Fault, text: Option<&'static str>, wait: Duration) -> Self {
        Self {
            text: text.map(Cow::from),
            retry_after: Some(whole_seconds(wait)),
            ..Self::from(fault)
        }
    }

    fn text(&self) -> &str {
        self.text.as_deref().unwrap_or(self.fault.text())
    }
}

/// How the answer to the request at hand is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) persistence: Persistence,
    /// The request was a HEAD: say how long the body would be, and leave it out.
    pub(crate) head_only: bool,
}

impl Reply {
    /// For faults so early that the request said nothing about its answer.
    pub(crate) const CLOSE: Self = Self { persistence: Persistence::Close, head_only: false };
}

/// Whom an answer is for, and what it says besides because of that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResponseContext<'a> {
    pub(crate) reply: Reply,
    pub(crate) cors_origin: &'a CorsOrigin,
    pub(crate) config: &'a Config,
}

/// After this many seconds a client that was told 503 may come again.
const RETRY_AFTER: (&str, &str) = ("Retry-After", "1");

/// Renders answers, and keeps the one that every post gets.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    wall: Option<(u64, HttpDate)>,
    /// The 202 for each [`Persistence`], rendered at most once a second.
    accepted: [Option<Arc<[u8]>>; 3],
    /// Who may read it. With CORS, pages of one origin usually come one after the other.
    accepted_by: CorsOrigin,
}

impl Answers {
    pub(crate) fn handle_wall_clock(&mut self, unix_seconds: u64) {
        if self.wall.as_ref().is_none_or(|(seconds, _)| *seconds != unix_seconds) {
            self.wall = Some((unix_seconds, HttpDate::from_unix(unix_seconds)));
            self.accepted = [const { None }; 3];
        }
    }

    fn date(&self) -> Option<&HttpDate> {
        self.wall.as_ref().map(|(_, date)| date)
    }

    fn render(&self, response: Response<'_>, to: &ResponseContext<'_>) -> Arc<[u8]> {
        let Reply { persistence, head_only } = to.reply;
        if *to.cors_origin == CorsOrigin::Off {
            return response.render(self.date(), persistence, head_only).into();
        }
        let mut fields = response.fields.to_vec();
        to.config.cors.fields(to.cors_origin, &mut fields);
        let response = Response { fields: &fields, ..response };
        response.render(self.date(), persistence, head_only).into()
    }

    pub(crate) fn accepted(&mut self, to: &ResponseContext<'_>) -> Arc<[u8]> {
        let slot = to.reply.persistence as usize;
        if self.accepted_by != *to.cors_origin {
            self.accepted = [const { None }; 3];
            self.accepted_by = to.cors_origin.clone();
        }
        if let Some(Some(bytes)) = self.accepted.get(slot) {
            return bytes.clone();
        }
        let response = Response {
            status: 202,
            fields: &[],
            content_type: Some("text/plain; charset=utf-8"),
            body: b"Accepted\n",
        };
        let bytes = self.render(response, to);
        if let Some(slot) = self.accepted.get_mut(slot) {
            *slot = Some(bytes.clone());
        }
        bytes
    }

    /// The answer to a fault; `None` where there is none to give.
    pub(crate) fn refusal(&self, refused: &Refused, to: &ResponseContext<'_>) -> Option<Arc<[u8]>> {
        let status = refused.fault.status()?;
        let mut fields = Vec::new();
        fields.extend(refused.allow.map(|allow| ("Allow", allow)));
        let seconds = refused.retry_after.map(|seconds| seconds.to_string());
        match &seconds {
            Some(seconds) => fields.push(("Retry-After", seconds)),
            None if status == 503 => fields.push(RETRY_AFTER),
            None => {}
        }
        let challenge;
        const JSON: &str = "application/json";
        let plain = || (Cow::from("text/plain; charset=utf-8"), Cow::from(refused.text()));
        #[expect(clippy::wildcard_enum_match_arm, reason = "all the others say it in plain text")]
        let (content_type, body) = match refused.fault {
            // A plain-text 404 confuses clients that look for OAuth metadata.
            Fault::NotFound => (JSON.into(), not_found(refused.text.as_deref()).into()),
            Fault::NotJson => (JSON.into(), json_rpc(jsonrpc::code::PARSE_ERROR, refused.text())),
            Fault::NotJsonRpc => {
                (JSON.into(), json_rpc(jsonrpc::code::INVALID_REQUEST, refused.text()))
            }
            Fault::DuplicateCredentials => {
                challenge = challenge_of(Some("invalid_request"), to.config);
                fields.push(("WWW-Authenticate", &challenge));
                let body = r#"{"error":"invalid_request","error_description":"more than one Authorization field"}"#;
                (JSON.into(), body.into())
            }
            Fault::Unauthorized if refused.invalid_token => {
                challenge = challenge_of(Some("invalid_token"), to.config);
                fields.push(("WWW-Authenticate", &challenge));
                let body = r#"{"error":"invalid_token","error_description":"the access token is not valid"}"#;
                (JSON.into(), body.into())
            }
            Fault::Unauthorized => {
                challenge = challenge_of(None, to.config);
                fields.push(("WWW-Authenticate", &challenge));
                let body =
                    r#"{"error":"unauthorized","error_description":"an access token is required"}"#;
                (JSON.into(), body.into())
            }
            Fault::Forbidden => {
                let body = r#"{"error":"forbidden","error_description":"the access token does not allow this"}"#;
                (JSON.into(), body.into())
            }
            _ => plain(),
        };
        let body = line(body);
        let response = Response {
            status,
            fields: &fields,
            content_type: Some(&content_type),
            body: body.as_bytes(),
        };
        Some(self.render(response, to))
    }

    /// The answer to OPTIONS: to a preflight, and to whoever else asks.
    pub(crate) fn options(
        &self,
        allow: &str,
        preflight: Option<Preflight>,
        to: &ResponseContext<'_>,
    ) -> Arc<[u8]> {
        let mut fields = alloc::vec![("Allow", allow)];
        if let (Some(preflight), CorsOrigin::Any | CorsOrigin::Allowed(_)) =
            (preflight, to.cors_origin)
        {
            to.config.cors.preflight_fields(preflight, &mut fields);
        }
        let response = Response { status: 204, fields: &fields, content_type: None, body: b"" };
        self.render(response, to)
    }

    /// The document of RFC 9728.
    pub(crate) fn metadata(&self, to: &ResponseContext<'_>) -> Arc<[u8]> {
        let body = to.config.metadata.as_ref().map_or("{}", |metadata| &metadata.body);
        self.json(200, body, to)
    }

    pub(crate) fn health(
        &self,
        snapshot: &HealthSnapshot<'_>,
        to: &ResponseContext<'_>,
    ) -> Arc<[u8]> {
        let HealthSnapshot { sessions, connections, uptime_seconds, draining, report } = snapshot;
        let status = if *draining { "draining" } else { "healthy" };
        let mut body = format!(
            "{{\"status\":\"{status}\",\"active_sessions\":{sessions},\
             \"active_connections\":{connections},\"uptime_seconds\":{uptime_seconds}"
        );
        if let Some((seconds, _)) = self.wall {
            body.push_str(",\"timestamp\":\"");
            body.push_str(rfc3339(seconds).as_str());
            body.push('"');
        }
        for (name, value) in report.gauges() {
            body.push(',');
            body.push_str(&serde_json::Value::from(name).to_string());
            body.push_str(&format!(":{value}"));
        }
        body.push('}');
        self.json(200, &body, to)
    }

    pub(crate) fn ready(&self, ready: Result<(), &str>, to: &ResponseContext<'_>) -> Arc<[u8]> {
        match ready {
            Ok(()) => self.json(200, r#"{"status":"ready"}"#, to),
            Err(why) => {
                let why = serde_json::Value::from(why);
                self.json(503, &format!("{{\"status\":{why}}}"), to)
            }
        }
    }

    /// A page for a person.
    pub(crate) fn page(&self, text: &str, to: &ResponseContext<'_>) -> Arc<[u8]> {
        let content_type = Some("text/plain; charset=utf-8");
        let text = line(text.into());
        let response = Response { status: 200, fields: &[], content_type, body: text.as_bytes() };
        self.render(response, to)
    }

    fn json(&self, status: u16, body: &str, to: &ResponseContext<'_>) -> Arc<[u8]> {
        let fields: &[_] = if status == 503 { &[RETRY_AFTER] } else { &[] };
        let content_type = Some("application/json");
        let body = line(body.into());
        self.render(Response { status, fields, content_type, body: body.as_bytes() }, to)
    }

    /// The head of an event stream, and behind it the `endpoint` event, so that they leave in one
    /// write; the head alone for a HEAD, which has no session.
    pub(crate) fn stream(
        &self,
        framing: StreamFraming,
        endpoint: Option<EndpointInfo<'_>>,
        to: &ResponseContext<'_>,
    ) -> Arc<[u8]> {
        const FIELDS: &[(&str, &str)] = &[
            ("Content-Type", "text/event-stream"),
            ("Cache-Control", "no-cache, no-transform"),
            ("X-Accel-Buffering", "no"),
        ];
        let mut fields = FIELDS.to_vec();
        to.config.cors.fields(to.cors_origin, &mut fields);
        let mut bytes = render_stream_head(200, &fields, self.date(), framing);
        if let Some(endpoint) = endpoint {
            let event = endpoint_event(to.config, &endpoint);
            bytes.extend_from_slice(match framing {
                StreamFraming::Chunked | StreamFraming::ChunkedThenClose => event.chunked(),
                StreamFraming::UntilClose => event.bare(),
            });
        }
        bytes.into()
    }
}

/// Where a new session's client is to post.
#[derive(Debug)]
pub(crate) struct EndpointInfo<'a> {
    pub(crate) token: &'a SessionToken,
    /// What stands before the paths of the service, as its client sees them.
    pub(crate) mount: &'a str,
    pub(crate) service: Service,
}

/// What `/health` reports.
#[derive(Debug)]
pub(crate) struct HealthSnapshot<'a> {
    pub(crate) sessions: u32,
    pub(crate) connections: u32,
    pub(crate) uptime_seconds: u64,
    pub(crate) draining: bool,
    pub(crate) report: &'a HealthExtras,
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

/// The URI reference that a session's client posts to: an absolute path, because clients disagree
/// about every other form.
fn endpoint_event(config: &Config, endpoint: &EndpointInfo<'_>) -> Frame {
    let EndpointInfo { token, mount, service } = endpoint;
    let text = token.encode();
    let text = core::str::from_utf8(&text).unwrap_or_default();
    let (instance, dot) = config.instance.as_deref().map_or(("", ""), |name| (name, "."));
    let uri = format!(
        "{mount}{}{}?{}={instance}{dot}{text}",
        config.paths.service(*service),
        config.paths.message,
        config.session_parameter
    );
    Frame::event_with_retry(EventName::ENDPOINT, uri.as_bytes(), config.endpoint_retry)
        .expect("invariant: a validated path and a token are visible ASCII")
}
