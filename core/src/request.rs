//! Routing: from a request head to what it asks for, by everything that needs no state.
//!
//! Knows: the checks of `Host` and `Origin`, of methods, media types and framing, and their order.
//! Does not know: sessions, budgets, or anything that changes.
//!
//! Decision: `/health` and `/ready` are exempt from the checks of `Host` and `Origin`, because
//! probes know no host names.
//!
//! Decision: an absolute target must have the scheme of its connection; otherwise the answer is
//! 421. `https` on plain TCP must be refused (RFC 9110 §7.4). `http` on TLS is refused because
//! this server refuses whenever a standard leaves the choice.
//!
//! Decision: on loopback the `Host` field must be allowed even if a proxy states another host. A
//! page that has rebound its name to this machine reaches the port from the same address as a
//! local proxy, and may write any field but `Host`.

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

/// What a request asks for, once it has passed all checks that need no state.
#[derive(Debug)]
pub(crate) enum RoutedRequest {
    Health,
    Ready,
    Metadata,
    /// OPTIONS, where CORS is on: the value of `Allow`, and the preflight, if it is one.
    Options {
        allow: &'static str,
        preflight: Option<Preflight>,
    },
    Action(Action),
}

/// What is to be done once the request is authorized.
#[derive(Debug)]
pub(crate) enum Action {
    Stream(StreamPlan),
    Post(PostPlan),
    Index { unread: Unread },
    Metrics { unread: Unread },
}

impl Action {
    /// What is left to read of the request if it is refused.
    pub(crate) const fn unread(&self) -> Unread {
        match self {
            Self::Stream(plan) => plan.unread,
            Self::Post(plan) => plan.unread,
            Self::Index { unread } | Self::Metrics { unread } => *unread,
        }
    }
}

#[derive(Debug)]
pub(crate) struct StreamPlan {
    pub(crate) framing: StreamFraming,
    /// The request is a HEAD: it is answered like a GET, without a body and without a session.
    pub(crate) head_only: bool,
    pub(crate) unread: Unread,
    /// The front of the path that the client is told to post to.
    pub(crate) mount: String,
    pub(crate) service: Service,
    pub(crate) client: Option<IpAddr>,
    pub(crate) head: Arc<RequestHead>,
}

impl StreamPlan {
    fn of(
        service: Service,
        head: &Head<'_>,
        client_info: &ClientInfo<'_>,
        exchange: Option<&str>,
        config: &Config,
    ) -> Self {
        let client = client_info.client;
        Self {
            framing: match (head.version(), head.keep_alive()) {
                _ if exchange.is_some() => StreamFraming::UntilClose,
                (Version::Http10, _) => StreamFraming::UntilClose,
                (Version::Http11, true) => StreamFraming::Chunked,
                (Version::Http11, false) => StreamFraming::ChunkedThenClose,
            },
            head_only: head.method() == Method::Head,
            unread: Unread::of(head),
            mount: mount(client_info, exchange, config),
            service,
            client,
            head: Arc::new(RequestHead::capture(head, config.paths.service(service), client)),
        }
    }
}

#[derive(Debug)]
pub(crate) struct PostPlan {
    /// What is wrong with the head. A client that is not authorized is not told.
    pub(crate) refusal: Option<Refused>,
    pub(crate) unread: Unread,
    pub(crate) token: Result<SessionToken, TokenError>,
    pub(crate) service: Service,
    pub(crate) decoder: BodyDecoder,
    pub(crate) expects_continue: bool,
}

impl PostPlan {
    fn of(service: Service, head: &Head<'_>, exchange: bool, config: &Config) -> Self {
        let target = head.target();
        let mut ids = target.query_parameters(&config.session_parameter);
        let ids = (ids.next(), ids.next());
        let id = if let (Some(id), None) = ids { id } else { "" };
        let unframed = exchange && head.framing() == Framing::Empty;
        Self {
            refusal: post_refusal(head, ids, unframed, config),
            unread: Unread::of(head),
            token: SessionToken::parse_for(id.as_bytes(), config.instance_id),
            service,
            decoder: if unframed {
                BodyDecoder::until_end()
            } else {
                BodyDecoder::new(head.framing())
            },
            expects_continue: head.expects_continue(),
        }
    }
}

/// What is still to be read of a request when it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// This many bytes, possibly none; the next request follows.
    Known(u64),
    /// A number that cannot be known, or is not to be waited for.
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

    /// What is unread of a post of whose body nothing has been decoded, and whose client does not wait for
    /// `100 Continue`. The end of an exchange's body needs no reading.
    pub(crate) fn of_body(decoder: &BodyDecoder) -> Self {
        match decoder.declared() {
            _ if decoder.ends_with_input() => Self::Known(0),
            Some(length) => Self::Known(length),
            None => Self::Unknown,
        }
    }
}

/// How the answer to a request is framed, as far as the request decides.
pub(crate) fn reply_to(head: &Head<'_>) -> Reply {
    let persistence = match (head.keep_alive(), head.version()) {
        (true, Version::Http11) => Persistence::KeepAlive11,
        (true, Version::Http10) => Persistence::KeepAlive10,
        (false, _) => Persistence::Close,
    };
    Reply { persistence, head_only: head.method() == Method::Head }
}

/// What a request asks for, by its route, `Host` and `Origin`, method, and, for a GET, what it accepts.
///
/// A probe is answered whatever its `Host` and `Origin`. Any other request is checked for them before the
/// answer tells what exists here. What is wrong with a post is in its plan, because only an authorized client
/// is told.
///
/// `exchange` is where the server is mounted, for a request whose HTTP is spoken elsewhere: then the other
/// server is responsible for the connection, its scheme and the framing of bodies.
pub(crate) fn route_request(
    route: Route,
    head: &Head<'_>,
    client_info: &Result<ClientInfo<'_>, Fault>,
    peer: &Peer,
    exchange: Option<&str>,
    config: &Config,
) -> Result<RoutedRequest, Refused> {
    let (method, target) = (head.method(), head.target());
    // `https` may not be answered on plain TCP (RFC 9110 §7.4); `http` on TLS was meant for another
    // server.
    if let (Some(scheme), None) = (target.scheme, exchange)
        && (scheme == Scheme::Https) != peer.is_secure()
    {
        return Err(Fault::SchemeMismatch.into());
    }
    if is_never(method) {
        return Err(Refused::method("GET, HEAD, POST"));
    }
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
    match applies(route, method, config.cors.is_on()) {
        Ok(()) => {}
        Err(allow) if config.cors.is_on() && method == Method::Options => {
            return Ok(RoutedRequest::Options { allow, preflight: Preflight::of(head) });
        }
        Err(allow) => return Err(Refused::method(allow)),
    }
    match route {
        Route::Unknown => Err(not_found(client_info, exchange, config)),
        Route::Health => Ok(RoutedRequest::Health),
        Route::Ready => Ok(RoutedRequest::Ready),
        Route::Metadata => Ok(RoutedRequest::Metadata),
        Route::Index => text(head, |unread| Action::Index { unread }),
        Route::Metrics => text(head, |unread| Action::Metrics { unread }),
        Route::Stream(service) => {
            if !media::accepts_event_stream(head.fields_named("accept")) {
                return Err(Fault::NotAcceptable.into());
            }
            head.check_expectation()?;
            let plan = StreamPlan::of(service, head, client_info, exchange, config);
            Ok(RoutedRequest::Action(Action::Stream(plan)))
        }
        Route::Message(service) => {
            let plan = PostPlan::of(service, head, exchange.is_some(), config);
            Ok(RoutedRequest::Action(Action::Post(plan)))
        }
    }
}

/// A request for a text.
fn text(head: &Head<'_>, action: impl FnOnce(Unread) -> Action) -> Result<RoutedRequest, Refused> {
    head.check_expectation()?;
    Ok(RoutedRequest::Action(action(Unread::of(head))))
}

/// The route of a request, whatever its method and its client.
pub(crate) fn route_of(head: &Head<'_>, config: &Config) -> Route {
    let path = head.target().path;
    let route = config.paths.route(path);
    let is_stream = |path: &str| matches!(config.paths.route(path), Route::Stream(_));
    match (route, &config.metadata) {
        (Route::Unknown, Some(metadata)) if metadata.is_at(path, is_stream) => Route::Metadata,
        _ => route,
    }
}

/// The 404 for an unknown path, which names the streams, for a person who mistyped one. Nothing of the
/// requested path is repeated, so the mount of an exchange is not named either: a router may have taken it
/// from that path.
fn not_found(client_info: &ClientInfo<'_>, exchange: Option<&str>, config: &Config) -> Refused {
    let prefix = client_info.prefix.unwrap_or(&config.public_path_prefix);
    let services = &config.paths.services;
    let mut hint = String::new();
    if services.len() > 1 && config.paths.index_page.is_some() {
        hint.push_str(&format!("GET {prefix}/ lists the SSE streams that are served here"));
    } else if services.is_empty() {
        hint.push_str("no SSE streams are served here");
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

/// The front of a service's path, as the client sees it: a proxy's prefix, and the mount of an exchange.
fn mount(client_info: &ClientInfo<'_>, exchange: Option<&str>, config: &Config) -> String {
    let mut mount = String::from(client_info.prefix.unwrap_or(&config.public_path_prefix));
    mount.push_str(exchange.unwrap_or_default());
    mount
}

/// Checks `Host` and `Origin`, and whether HTTPS is used where it is required.
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
    // On loopback the peer may be a browser instead of a proxy, and a page may set any field but `Host`.
    if loopback && client_info.host.is_some() {
        allowed(head.host())?;
    }
    let origins = || head.fields_named("origin");
    let cors_allows = |origin: &Origin<'_>| config.cors.allows(origin);
    origin::check(origins(), loopback, &config.allow_origin, cors_allows).map_err(|fault| {
        let origin = shown(origins().next().unwrap_or_default());
        Refused::saying(fault, format!("Origin {origin} is not allowed here; see allow_origin"))
    })
}

/// A value that the peer sent, for an answer: quoted, escaped and cut.
fn shown(value: &[u8]) -> String {
    const SHOWN_MAX: usize = 128;
    let cut = value.get(..SHOWN_MAX).unwrap_or(value);
    let dots = if cut.len() < value.len() { ".." } else { "" };
    format!("\"{}{dots}\"", cut.escape_ascii())
}

/// What is wrong with the head of a post, the first of several mistakes.
/// `ids` are the first two values of the parameter that names the session.
fn post_refusal(
    head: &Head<'_>,
    ids: (Option<&str>, Option<&str>),
    unframed: bool,
    config: &Config,
) -> Option<Refused> {
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
    let what = match ids {
        (Some(_), None) => return None,
        (None, _) => "missing",
        (Some(_), Some(_)) => "repeated",
    };
    let parameter = &config.session_parameter;
    let text = format!("{what} query parameter {parameter}, which names the session");
    Some(Refused::saying(Fault::MissingSessionId, text))
}

/// The refusal of a body over the limit.
pub(crate) fn body_too_large(config: &Config) -> Refused {
    let limit = config.limits.body_bytes_max.unwrap_or(u64::MAX);
    let text = format!("the request body is larger than {limit} bytes (limit body_bytes_max)");
    Refused::saying(Fault::BodyTooLarge, text)
}
