//! Looks for what else the server offers: a stream at another path, and the Streamable HTTP transport.
//!
//! Knows: the usual paths, and how the transports can be told apart. Does not know: what is reported.

use std::time::Instant;

use serde_json::Value;

use super::messages::Method;
use super::visit::{RequestFault, Visitor};
use crate::client::connection::until;
use crate::client::exchange::{Head, Response, TEXT_BYTES_MAX};
use crate::client::target::Target;

/// Where servers usually have their stream.
const USUAL: [&str; 7] = ["/sse", "/mcp/sse", "/api/sse", "/mcp", "/events", "/sse/", "/"];

/// The paths that are tried besides the target's own.
pub(super) fn places(target: &Target) -> Vec<String> {
    let own = target.path();
    let below = format!("{}/sse", own.trim_end_matches('/'));
    let beside = format!("{}/sse", target.folder());
    let with_slash = match own.strip_suffix('/') {
        Some(without) if !without.is_empty() => without.to_owned(),
        Some(_) | None => format!("{own}/"),
    };
    let mut places = Vec::new();
    for place in [with_slash, below, beside].into_iter().chain(USUAL.map(str::to_owned)) {
        if place != own && place != "//" && !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

/// The first other path with an event stream, or else the first that asks for a token; with its status.
pub(super) async fn other_stream(visitor: &Visitor<'_>) -> Option<(Target, u16)> {
    let mut guarded = None;
    for place in places(&visitor.settings.target) {
        let place = visitor.settings.target.with_path(place);
        let Some(head) = visitor.look(&place, &[]).await else { continue };
        match head.status {
            200 if head.media_type() == "text/event-stream" => return Some((place, 200)),
            401 if guarded.is_none() => guarded = Some((place, 401)),
            _ => {}
        }
    }
    guarded
}

/// The first other path that speaks Streamable HTTP.
pub(super) async fn other_streamable(visitor: &Visitor<'_>) -> Option<Target> {
    let target = &visitor.settings.target;
    let beside = format!("{}/mcp", target.folder());
    for place in [&*beside, "/mcp"].into_iter().filter(|place| *place != target.path()) {
        let place = target.with_path(place);
        if let Streamable::Yes = streamable(visitor, &place).await {
            return Some(place);
        }
    }
    None
}

/// What a POST of initialize to the stream's URL gives.
pub(super) enum Streamable {
    /// The transport Streamable HTTP.
    Yes,
    /// Another answer.
    No(Head),
    /// No answer.
    Unknown(RequestFault),
}

/// Asks whether the URL speaks Streamable HTTP. A session that this starts is ended.
pub(super) async fn streamable(visitor: &Visitor<'_>, target: &Target) -> Streamable {
    let message = Method::Initialize.request(&Value::from(1));
    let timeout = visitor.settings.probe_timeout();
    let response = match visitor.post_open(target, &message, timeout).await {
        Ok(response) => response,
        Err(fault) => return Streamable::Unknown(fault),
    };
    let head = response.head.clone();
    let answers =
        (200..300).contains(&head.status) && answers(response, Instant::now() + timeout).await;
    if let Some(session) = head.field("mcp-session-id") {
        visitor.delete_session(target, session).await;
    }
    if answers { Streamable::Yes } else { Streamable::No(head) }
}

/// Whether the body of a response has the answer to initialize.
async fn answers(mut response: Response, deadline: Instant) -> bool {
    let mut text = Vec::new();
    while text.len() < TEXT_BYTES_MAX {
        let Some(Ok(Some(piece))) = until(deadline, response.body.next()).await else { break };
        text.extend(piece);
        let text = String::from_utf8_lossy(&text);
        if text.contains("\"protocolVersion\"") {
            return true;
        }
        // A stream of the HTTP+SSE transport, which has to be opened with GET.
        if text.contains("event: endpoint") || text.contains("event:endpoint") {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_the_usual_ones_and_those_around_the_url() {
        let of = |url: &str| places(&Target::parse(url).expect("a URL"));
        assert_eq!(of("http://a/x/mcp")[..3], ["/x/mcp/", "/x/mcp/sse", "/x/sse"]);
        assert!(!of("http://a/sse").contains(&"/sse".to_owned()));
        assert_eq!(of("http://a/")[..2], ["/sse", "/mcp/sse"]);
    }
}
