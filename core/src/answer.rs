//! How requests are answered: the bytes of refusals, of the 202, of health, of a stream's beginning.
//!
//! Knows: what each answer says and how it is rendered; the current date.
//! Does not know: when an answer is due, or what happens to the connection afterwards.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::config::Config;
use crate::error::Fault;
use crate::http1::{HttpDate, Persistence, Response, StreamFraming, render_stream_head, rfc3339};
use crate::jsonrpc;
use crate::report::Report;
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
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self { fault, text: None, allow: None, invalid_token: false }
    }
}

impl Refused {
    pub(crate) fn saying(fault: Fault, text: impl Into<Cow<'static, str>>) -> Self {
        Self { text: Some(text.into()), ..Self::from(fault) }
    }

    pub(crate) fn method(allow: &'static str) -> Self {
        Self { allow: Some(allow), ..Self::from(Fault::MethodNotAllowed) }
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

/// After this many seconds a client that was told 503 may come again.
const RETRY_AFTER: (&str, &str) = ("Retry-After", "1");

/// Renders answers, and keeps the one that every post gets.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    wall: Option<(u64, HttpDate)>,
    /// The 202 for each [`Persistence`], rendered at most once a second.
    accepted: [Option<Arc<[u8]>>; 3],
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

    fn render(&self, response: &Response<'_>, reply: Reply) -> Arc<[u8]> {
        response.render(self.date(), reply.persistence, reply.head_only).into()
    }

    pub(crate) fn accepted(&mut self, persistence: Persistence) -> Arc<[u8]> {
        let slot = persistence as usize;
        if let Some(Some(bytes)) = self.accepted.get(slot) {
            return bytes.clone();
        }
        let response = Response {
            status: 202,
            fields: &[],
            content_type: Some("text/plain; charset=utf-8"),
            body: b"Accepted",
        };
        let bytes = self.render(&response, Reply { persistence, head_only: false });
        if let Some(slot) = self.accepted.get_mut(slot) {
            *slot = Some(bytes.clone());
        }
        bytes
    }

    /// The answer to a fault; `None` where there is none to give.
    pub(crate) fn refusal(&self, refused: &Refused, reply: Reply) -> Option<Arc<[u8]>> {
        let status = refused.fault.status()?;
        let mut fields = Vec::new();
        fields.extend(refused.allow.map(|allow| ("Allow", allow)));
        if status == 503 {
            fields.push(RETRY_AFTER);
        }
        const JSON: &str = "application/json";
        let plain = || (Cow::from("text/plain; charset=utf-8"), Cow::from(refused.text()));
        #[expect(clippy::wildcard_enum_match_arm, reason = "all the others say it in plain text")]
        let (content_type, body) = match refused.fault {
            // A plain-text 404 confuses clients that look for OAuth metadata.
            Fault::NotFound => (JSON.into(), r#"{"error":"not found"}"#.into()),
            Fault::NotJson => (JSON.into(), json_rpc(jsonrpc::code::PARSE_ERROR, refused.text())),
            Fault::NotJsonRpc => {
                (JSON.into(), json_rpc(jsonrpc::code::INVALID_REQUEST, refused.text()))
            }
            Fault::Unauthorized if refused.invalid_token => {
                fields.push(("WWW-Authenticate", "Bearer error=\"invalid_token\""));
                let body = r#"{"error":"invalid_token","error_description":"the access token is not valid"}"#;
                (JSON.into(), body.into())
            }
            Fault::Unauthorized => {
                fields.push(("WWW-Authenticate", "Bearer"));
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
        let response = Response {
            status,
            fields: &fields,
            content_type: Some(&content_type),
            body: body.as_bytes(),
        };
        Some(self.render(&response, reply))
    }

    pub(crate) fn health(&self, vitals: &Vitals<'_>, reply: Reply) -> Arc<[u8]> {
        let Vitals { sessions, connections, uptime_seconds, draining, report } = vitals;
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
        self.json(200, &body, reply)
    }

    pub(crate) fn ready(&self, ready: Result<(), &str>, reply: Reply) -> Arc<[u8]> {
        match ready {
            Ok(()) => self.json(200, r#"{"status":"ready"}"#, reply),
            Err(why) => {
                let why = serde_json::Value::from(why);
                self.json(503, &format!("{{\"status\":{why}}}"), reply)
            }
        }
    }

    /// A page for a person.
    pub(crate) fn page(&self, text: &str, reply: Reply) -> Arc<[u8]> {
        let content_type = Some("text/plain; charset=utf-8");
        let response = Response { status: 200, fields: &[], content_type, body: text.as_bytes() };
        self.render(&response, reply)
    }

    fn json(&self, status: u16, body: &str, reply: Reply) -> Arc<[u8]> {
        let fields: &[_] = if status == 503 { &[RETRY_AFTER] } else { &[] };
        let content_type = Some("application/json");
        self.render(&Response { status, fields, content_type, body: body.as_bytes() }, reply)
    }

    /// The head of an event stream, and behind it the `endpoint` event, so that they leave in one
    /// write; the head alone for a HEAD, which has no session.
    pub(crate) fn stream(
        &self,
        config: &Config,
        framing: StreamFraming,
        invitation: Option<Invitation<'_>>,
    ) -> Arc<[u8]> {
        const FIELDS: &[(&str, &str)] = &[
            ("Content-Type", "text/event-stream"),
            ("Cache-Control", "no-cache, no-transform"),
            ("X-Accel-Buffering", "no"),
        ];
        let mut bytes = render_stream_head(200, FIELDS, self.date(), framing);
        if let Some(invitation) = invitation {
            let event = endpoint_event(config, &invitation);
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
pub(crate) struct Invitation<'a> {
    pub(crate) token: &'a SessionToken,
    /// Where the server is mounted, in an exchange.
    pub(crate) mount: &'a str,
    pub(crate) service: Service,
}

/// What `/health` reports.
#[derive(Debug)]
pub(crate) struct Vitals<'a> {
    pub(crate) sessions: u32,
    pub(crate) connections: u32,
    pub(crate) uptime_seconds: u64,
    pub(crate) draining: bool,
    pub(crate) report: &'a Report,
}

fn json_rpc(code: i32, reason: &str) -> Cow<'static, str> {
    String::from_utf8_lossy(&jsonrpc::error_body(None, code, reason)).into_owned().into()
}

/// The URI reference that a session's client posts to: an absolute path, because clients disagree
/// about every other form.
fn endpoint_event(config: &Config, invitation: &Invitation<'_>) -> Frame {
    let Invitation { token, mount, service } = invitation;
    let text = token.encode();
    let text = core::str::from_utf8(&text).unwrap_or_default();
    let (instance, dot) = config.instance.as_deref().map_or(("", ""), |name| (name, "."));
    let uri = format!(
        "{}{mount}{}{}?{}={instance}{dot}{text}",
        config.public_path_prefix,
        config.paths.service(*service),
        config.paths.message,
        config.session_parameter
    );
    Frame::event_with_retry(EventName::ENDPOINT, uri.as_bytes(), config.endpoint_retry)
        .expect("invariant: a validated path and a token are visible ASCII")
}
