//! From a request head to what is asked for: everything that can be judged without state.
//!
//! Knows: the order of the checks and why it is that order.
//! Does not know: sessions, budgets, or anything that changes.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::net::IpAddr;

use crate::answer::{Refused, Reply};
use crate::client_info::ClientInfo;
use crate::config::Config;
use crate::error::Fault;
use crate::event::RequestHead;
use crate::http1::{
    BodyDecoder, Framing, Head, Method, Persistence, Scheme, StreamFraming, Version,
};
use crate::limits::within;
use crate::peer::Peer;
use crate::policy::cors::Preflight;
use crate::policy::origin::Origin;
use crate::policy::{host, media, origin};
use crate::route::{Route, STREAMS_NAMED_MAX, Service, applies, is_never};
use crate::token::{SessionToken, TokenError};

/// What an acceptable request asks for.
#[derive(Debug)]
pub(crate) enum Asked {
    Health,
    Ready,
    Metadata,
    /// OPTIONS, where CORS is on: what may be done there, and what a browser asks for a page.
    Options {
        allow: &'static str,
        preflight: Option<Preflight>,
    },
    Action(Action),
}

/// What is left to do once somebody has vouched for the request.
#[derive(Debug)]
pub(crate) enum Action {
    Stream(StreamPlan),
    Post(PostPlan),
    Index { unread: Unread },
}

#[derive(Debug)]
pub(crate) struct StreamPlan {
    pub(crate) framing: StreamFraming,
    /// A HEAD: the answer's head and no session.
    pub(crate) head_only: bool,
    pub(crate) unread: Unread,
    /// What stands before the paths that clients are told.
    pub(crate) mount: String,
    pub(crate) service: Service,
    pub(crate) client: Option<IpAddr>,
    pub(crate) head: Arc<RequestHead>,
}

#[derive(Debug)]
pub(crate) struct PostPlan {
    /// What is wrong with it anyway; told only to those who may ask.
    pub(crate) refusal: Option<Refused>,
    pub(crate) unread: Unread,
    pub(crate) token: Result<SessionToken, TokenError>,
    pub(crate) service: Service,
    pub(crate) decoder: BodyDecoder,
    pub(crate) expects_continue: bool,
}

/// What is still to be read of a request when it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// This many bytes, zero included, and then the next request.
    Known(u64),
    /// Nobody can or should tell.
    Unknown,
}

impl Unread {
    pub(crate) fn of(head: &Head<'_>) -> Self {
        match head.framing() {
            Framing::Empty => Self::Known(0),
            // The client may send the body or, told the final status, may not (RFC 9110 10.1.1).
            Framing::Length(_) if head.expects_continue() => Self::Unknown,
            Framing::Length(length) => Self::Known(length),
            Framing::Chunked => Self::Unknown,
        }
    }
}

pub(crate) fn reply_to(head: &Head<'_>) -> Reply {
    let persistence = match (head.keep_alive(), head.version()) {
        (true, Version::Http11) => Persistence::KeepAlive11,
        (true, Version::Http10) => Persistence::KeepAlive10,
        (false, _) => Persistence::Close,
    };
    Reply { persistence, head_only: head.method() == Method::Head }
}

/// Judges a head: route, guard, method, and for GETs what they accept.
///
/// Health comes before the guard, so that probes need to know nothing; the guard comes before every
/// other word about what exists here. What only a vouched-for client may learn of its post travels
/// in the plan.
///
/// `exchange` is where the server is mounted, if the request's HTTP is spoken elsewhere: then the
/// connection, its scheme and the framing of bodies are somebody else's.
pub(crate) fn route_request(
    head: &Head<'_>,
    client_info: &Result<ClientInfo<'_>, Fault>,
    peer: &Peer,
    exchange: Option<&str>,
    config: &Config,
) -> Result<Asked, Refused> {
    let (method, target) = (head.method(), head.target());
    // `https` asks for more than plain TCP gives (RFC 9110 §7.4); `http` on TLS is somebody's mistake
    // about which server this is.
    if let (Some(scheme), None) = (target.scheme, exchange)
        && (scheme == Scheme::Https) != peer.is_secure()
    {
        return Err(Fault::SchemeMismatch.into());
    }
    if is_never(method) {
        return Err(Refused::method("GET, HEAD, POST"));
    }
    let route = route_of(head, config);
    let client_info = match client_info {
        _ if matches!(route, Route::Health | Route::Ready) => &ClientInfo::default(),
        Err(fault) => return Err((*fault).into()),
        Ok(client_info) => {
            guard(head, client_info, peer, config)?;
            client_info
        }
    };
    if target.is_asterisk() {
        return Err(Refused::method("GET, HEAD, POST"));
    }
    let cors = config.cors.is_on();
    match applies(route, method, cors) {
        Ok(()) => {}
        Err(allow) if cors && method == Method::Options => {
            return Ok(Asked::Options { allow, preflight: Preflight::of(head) });
        }
        Err(allow) => return Err(Refused::method(allow)),
    }
    match route {
        Route::Unknown => Err(not_found(client_info, exchange, config)),
        Route::Health => Ok(Asked::Health),
        Route::Ready => Ok(Asked::Ready),
        Route::Metadata => Ok(Asked::Metadata),
        Route::Index => {
            head.check_expectation()?;
            Ok(Asked::Action(Action::Index { unread: Unread::of(head) }))
        }
        Route::Stream(service) => {
            if !media::accepts_event_stream(head.fields_named("accept")) {
                return Err(Fault::NotAcceptable.into());
            }
            head.check_expectation()?;
            let framing = match (head.version(), head.keep_alive()) {
                _ if exchange.is_some() => StreamFraming::UntilClose,
                (Version::Http10, _) => StreamFraming::UntilClose,
                (Version::Http11, true) => StreamFraming::Chunked,
                (Version::Http11, false) => StreamFraming::ChunkedThenClose,
            };
            let head_only = method == Method::Head;
            Ok(Asked::Action(Action::Stream(StreamPlan {
                framing,
                head_only,
                unread: Unread::of(head),
                mount: mount(client_info, exchange, config),
                service,
                client: client_info.client,
                head: Arc::new(RequestHead::capture(
                    head,
                    config.paths.service(service),
                    client_info.client,
                )),
            })))
        }
        Route::Message(service) => {
            let text = target.query_parameter(&config.session_parameter);
            let text = text.unwrap_or_default().as_bytes();
            let token = SessionToken::parse_for(text, config.instance.as_deref());
            let unframed = exchange.is_some() && head.framing() == Framing::Empty;
            let decoder =
                if unframed { BodyDecoder::until_end() } else { BodyDecoder::new(head.framing()) };
            Ok(Asked::Action(Action::Post(PostPlan {
                refusal: post_refusal(head, unframed, config),
                unread: Unread::of(head),
                token,
                service,
                decoder,
                expects_continue: head.expects_continue(),
            })))
        }
    }
}

/// What a request asks for, whoever asks and by whatever method.
pub(crate) fn route_of(head: &Head<'_>, config: &Config) -> Route {
    let path = head.target().path;
    let route = config.paths.route(path);
    let is_stream = |path: &str| matches!(config.paths.route(path), Route::Stream(_));
    match (route, &config.metadata) {
        (Route::Unknown, Some(metadata)) if metadata.is_at(path, is_stream) => Route::Metadata,
        _ => route,
    }
}

/// Says where there is something, for the person who typed a wrong path. Nothing of that path is
/// repeated, so the mount of an exchange is not named either: a router may have taken it from there.
fn not_found(client_info: &ClientInfo<'_>, exchange: Option<&str>, config: &Config) -> Refused {
    let prefix = client_info.prefix.unwrap_or(&config.public_path_prefix);
    let services = &config.paths.services;
    let mut hint = String::new();
    if services.len() > 1 && config.paths.index {
        hint.push_str(&format!("GET {prefix}/ lists the SSE streams that are served here"));
    } else {
        let one = services.len() == 1;
        hint.push_str(if one { "the SSE stream is at " } else { "the SSE streams are at " });
        for (at, service) in services.iter().take(STREAMS_NAMED_MAX).enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            hint.push_str(&format!("{comma}{prefix}{service}{}", config.paths.stream));
        }
        if let more @ 1.. = services.len().saturating_sub(STREAMS_NAMED_MAX) {
            hint.push_str(&format!(", and {more} more"));
        }
    }
    if exchange.is_some_and(|mount| !mount.is_empty()) {
        hint.push_str(", below the path at which this server is mounted");
    }
    Refused::saying(Fault::NotFound, hint)
}

/// What stands before a service's paths, as its client sees them.
fn mount(client_info: &ClientInfo<'_>, exchange: Option<&str>, config: &Config) -> String {
    let mut mount = String::from(client_info.prefix.unwrap_or(&config.public_path_prefix));
    mount.push_str(exchange.unwrap_or_default());
    mount
}

fn guard(
    head: &Head<'_>,
    client_info: &ClientInfo<'_>,
    peer: &Peer,
    config: &Config,
) -> Result<(), Refused> {
    if config.require_https && !client_info.secure {
        return Err(Fault::HttpsRequired.into());
    }
    let loopback = peer.arrived_on_loopback();
    let allowed = |host: Option<&str>| {
        host::check(host, loopback, &config.allow_host).map_err(|fault| {
            let host = shown(host.unwrap_or_default().as_bytes());
            Refused::saying(fault, format!("Host {host} is not allowed here; see allow_host"))
        })
    };
    allowed(client_info.host.or(head.host()))?;
    // A browser on this machine is as near as a proxy on it, and may write any field but `Host`.
    if loopback && client_info.host.is_some() {
        allowed(head.host())?;
    }
    let origins = || head.fields_named("origin");
    let shared = |origin: &Origin<'_>| config.cors.allows(origin);
    origin::check(origins(), loopback, &config.allow_origin, shared).map_err(|fault| {
        let origin = shown(origins().next().unwrap_or_default());
        Refused::saying(fault, format!("Origin {origin} is not allowed here; see allow_origin"))
    })
}

/// A peer's own value, fit for an answer or a log: quoted, escaped, cut.
fn shown(value: &[u8]) -> String {
    const SHOWN_MAX: usize = 128;
    let cut = value.get(..SHOWN_MAX).unwrap_or(value);
    let dots = if cut.len() < value.len() { ".." } else { "" };
    format!("\"{}{dots}\"", cut.escape_ascii())
}

/// What is wrong with a post as far as its head can tell, in the order in which it is told.
fn post_refusal(head: &Head<'_>, unframed: bool, config: &Config) -> Option<Refused> {
    let mut types = head.fields_named("content-type");
    let json = types.next().is_some_and(media::is_json) && types.next().is_none();
    if !json {
        return Some(Fault::UnsupportedMediaType.into());
    }
    if let Err(fault) = head.check_content_encoding() {
        return Some(fault.into());
    }
    match head.framing() {
        Framing::Empty if !unframed => return Some(Fault::LengthRequired.into()),
        Framing::Length(length) if !within(config.limits.body_bytes_max, length) => {
            return Some(body_too_large(config));
        }
        Framing::Empty | Framing::Length(_) | Framing::Chunked => {}
    }
    if let Err(fault) = head.check_expectation() {
        return Some(fault.into());
    }
    let parameter = &config.session_parameter;
    let count = head.target().query_parameters(parameter).count();
    if count != 1 {
        let what = if count == 0 { "missing" } else { "repeated" };
        let text = format!("{what} query parameter {parameter}, which names the session");
        return Some(Refused::saying(Fault::MissingSessionId, text));
    }
    None
}

pub(crate) fn body_too_large(config: &Config) -> Refused {
    let limit = config.limits.body_bytes_max.unwrap_or(u64::MAX);
    let text = format!("the request body is larger than {limit} bytes (limit body_bytes_max)");
    Refused::saying(Fault::BodyTooLarge, text)
}
