//! What a server is told once: a builder, and the validated value it makes.
//!
//! Knows: every setting, its default, and what would make no sense.
//! Does not know: how settings reach the builder (flags, files), or what a running server does.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::AtomicBool;
use core::time::Duration;

use crate::error::ConfigError;
use crate::http1::{self, FIELDS_CAP};
use crate::limits::{Limits, Timeouts};
use crate::policy::bearer::StaticTokens;
use crate::policy::cidr::Cidr;
use crate::policy::cors::Cors;
use crate::policy::host::HostPattern;
use crate::policy::origin::{Origin, OriginPattern};
use crate::policy::resource::{Metadata, ProtectedResource};
use crate::route::{PATH_BYTES_MAX, Paths, STREAMS_NAMED_MAX, Service, is_clean_path};
use crate::token::ShardId;

/// Who decides whether a request may proceed.
///
/// Whoever it is, GETs and POSTs of sessions are asked alike, before anything is looked up or made;
/// and a session belongs to the principal that opened it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Authorization {
    /// Nobody: whoever reaches the server may use it.
    #[default]
    None,
    /// These tokens, in `Authorization: Bearer <token>` and nowhere else.
    Static(StaticTokens),
    /// The application, asked by [`Event::Asked`](crate::Event::Asked) for each GET and POST.
    Deferred,
}

/// When a post is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Acknowledgement {
    /// At once, when its message has a place in the session's queue.
    #[default]
    Queued,
    /// When the application answers the ticket that comes with the message.
    Deferred,
}

/// A validated configuration. Made by [`Config::builder`]; the default serves `/sse` and
/// `/messages` to loopback names on loopback and to any name elsewhere.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) paths: Paths,
    pub(crate) index_page: Option<String>,
    pub(crate) session_parameter: String,
    pub(crate) public_path_prefix: String,
    pub(crate) endpoint_retry: Option<Duration>,
    pub(crate) allow_host: Vec<HostPattern>,
    pub(crate) allow_origin: Vec<OriginPattern>,
    pub(crate) cors: Cors,
    pub(crate) trusted_proxies: Vec<Cidr>,
    pub(crate) trust_local_peers: bool,
    pub(crate) require_https: bool,
    /// Whether the log says already that fields of a peer that is not trusted are ignored. The copies
    /// of a configuration share it, and so the shards of a server.
    pub(crate) ignored_fields_said: Arc<AtomicBool>,
    pub(crate) metadata: Option<Metadata>,
    pub(crate) authorization: Authorization,
    pub(crate) acknowledgement: Acknowledgement,
    pub(crate) shard: ShardId,
    pub(crate) instance: Option<String>,
    pub(crate) forwarding: bool,
    pub(crate) allow_half_close: bool,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            paths: Paths {
                stream: "/sse".into(),
                message: "/messages".into(),
                services: vec![String::new()],
                index: false,
            },
            index_page: None,
            session_parameter: "session_id".into(),
            public_path_prefix: String::new(),
            endpoint_retry: None,
            allow_host: Vec::new(),
            allow_origin: Vec::new(),
            cors: Cors::new(),
            trusted_proxies: Vec::new(),
            trust_local_peers: false,
            require_https: false,
            ignored_fields_said: Arc::default(),
            metadata: None,
            authorization: Authorization::None,
            acknowledgement: Acknowledgement::Queued,
            shard: ShardId(0),
            instance: None,
            forwarding: false,
            allow_half_close: false,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
        }
    }
}

impl Config {
    /// Starts from the defaults.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder { config: Self::default(), services: Vec::new(), fault: None }
    }

    /// The limits.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The deadlines.
    #[must_use]
    pub const fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// The path of the event stream.
    #[must_use]
    pub fn stream_path(&self) -> &str {
        &self.paths.stream
    }

    /// The path of posts.
    #[must_use]
    pub fn message_path(&self) -> &str {
        &self.paths.message
    }

    /// What stands before those two paths: one empty text unless services were named.
    pub fn service_paths(&self) -> impl Iterator<Item = &str> {
        self.paths.services.iter().map(String::as_str)
    }

    /// The name of the query parameter that carries the session's token.
    #[must_use]
    pub fn session_parameter(&self) -> &str {
        &self.session_parameter
    }

    /// Who decides whether a request may proceed.
    #[must_use]
    pub const fn authorization(&self) -> &Authorization {
        &self.authorization
    }

    /// This configuration with other limits, for a driver that knows of less than it was configured
    /// with, such as a limit on descriptors. Limits that a builder would refuse are for the caller to
    /// avoid.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The configuration of one of `shards` servers that together serve what this configures: its
    /// tokens name `shard`, it has a [share of the limits](Limits::share_of), and posts for the others
    /// are events for its driver to carry ([`Event::Foreign`](crate::Event::Foreign)).
    #[must_use]
    pub fn for_shard(mut self, shard: ShardId, shards: u16) -> Self {
        self.shard = shard;
        self.forwarding = true;
        self.limits = self.limits.share_of(shards);
        self
    }

    /// Has the application decide about each request, as [`Authorization::Deferred`] does. For a driver
    /// that is given an authorizer.
    ///
    /// # Errors
    ///
    /// [`ConfigError::TwoAuthorizers`] with [`Authorization::Static`].
    pub fn defer_authorization(&mut self) -> Result<(), ConfigError> {
        match self.authorization {
            Authorization::Static(_) => return Err(ConfigError::TwoAuthorizers),
            Authorization::None | Authorization::Deferred => {}
        }
        self.authorization = Authorization::Deferred;
        self.cors.challenges = true;
        Ok(())
    }

    /// [`Limits::memory_bytes_max`], and for each connection an answer as long as the texts of this
    /// configuration make it. Of a server that is one of several, the share of this one.
    #[must_use]
    pub fn memory_bytes_max(&self) -> u64 {
        let connections = self.limits.connections_max.map_or(u64::MAX, u64::from);
        // One answer more while it is made: its pieces, and the whole that is made of them.
        let answers = connections.saturating_add(2);
        let texts = self.answer_text_bytes_max() as u64;
        self.limits.memory_bytes_max().saturating_add(answers.saturating_mul(texts))
    }

    /// The most octets that settings, and a proxy by leave of them, put into one answer, beyond those
    /// that [`Limits::memory_bytes_max`] takes for granted.
    fn answer_text_bytes_max(&self) -> usize {
        let Paths { stream, message, services, .. } = &self.paths;
        let service = services.iter().map(String::len).max().unwrap_or_default();
        let prefix = if self.trusted_proxies.is_empty() && !self.trust_local_peers {
            self.public_path_prefix.len()
        } else {
            PATH_BYTES_MAX
        };
        let endpoint = prefix + service + message.len() + self.session_parameter.len();
        // Named with a comma and a space in an answer to an unknown path.
        let streams = services.len().min(STREAMS_NAMED_MAX);
        let hint = streams * (prefix + service + stream.len() + 2);
        let page = self.index_page.as_deref().map_or(0, |page| page.len() + 1);
        let metadata = self.metadata.as_ref().map_or(0, |it| it.body.len().max(it.challenge.len()));
        let (headers, origin) = match self.cors.is_on() {
            // The origin is in the answer, and kept for the next.
            true => (self.cors.headers.len(), 2 * Origin::BYTES_MAX),
            false => (0, 0),
        };
        [endpoint, hint, page, metadata, headers].into_iter().max().unwrap_or(0) + origin
    }
}

/// Collects settings; the first one that makes no sense is what [`build`](Self::build) reports.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct ConfigBuilder {
    config: Config,
    services: Vec<String>,
    fault: Option<ConfigError>,
}

impl ConfigBuilder {
    /// Where the event stream is; `/sse` unless said. One trailing slash is tolerated in requests.
    pub fn stream_path(mut self, path: &str) -> Self {
        self.require_path("stream_path", path);
        self.config.paths.stream = path.into();
        self
    }

    /// Where posts go; `/messages` unless said.
    pub fn message_path(mut self, path: &str) -> Self {
        self.require_path("message_path", path);
        self.config.paths.message = path.into();
        self
    }

    /// Serves the two paths below this one instead of at the root, so that several MCP servers share
    /// an address: `/files` and `/time` have their streams at `/files/sse` and `/time/sse`. May be
    /// said for up to 65,535 of them. Their sessions are kept apart: a post below another service's
    /// path is one to an unknown session. Which service a session belongs to, the head of its request
    /// tells: [`RequestHead::service_path`](crate::RequestHead::service_path).
    pub fn service_path(mut self, path: &str) -> Self {
        self.require_path("service_path", path);
        self.services.push(path.into());
        self
    }

    /// What `GET /` answers, as plain text: for a person who wonders what is served here. 404 unless
    /// said.
    pub fn index_page(mut self, text: &str) -> Self {
        self.config.index_page = Some(text.into());
        self.config.paths.index = true;
        self
    }

    /// The query parameter that names the session; `session_id` unless said.
    pub fn session_parameter(mut self, name: &str) -> Self {
        let fine = !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !fine {
            self.report(ConfigError::Invalid {
                setting: "session_parameter",
                value: name.into(),
                expected: "letters, digits, '-', '_' and '.'",
            });
        }
        self.config.session_parameter = name.into();
        self
    }

    /// What a proxy strips from paths, so that clients are told where to post as *they* see it; none
    /// unless said. `""` takes it back.
    pub fn public_path_prefix(mut self, prefix: &str) -> Self {
        if !prefix.is_empty() {
            self.require_path("public_path_prefix", prefix);
        }
        self.config.public_path_prefix = prefix.into();
        self
    }

    /// A `retry:` field in the endpoint event, for browsers that reconnect by themselves; none
    /// unless said, because some clients take any unknown field as an error.
    pub fn endpoint_retry(mut self, retry: Option<Duration>) -> Self {
        self.config.endpoint_retry = retry;
        self
    }

    /// Allows one more `Host`: a name or address, with a port or for any port.
    ///
    /// On loopback this adds to the loopback names. Elsewhere every name is allowed until one is
    /// listed.
    pub fn allow_host(mut self, host: &str) -> Self {
        match HostPattern::parse(host) {
            Some(pattern) => self.config.allow_host.push(pattern),
            None => self.report(ConfigError::Invalid {
                setting: "allow_host",
                value: host.into(),
                expected: "a host name or address with an optional port, as in mcp.example.com:8443",
            }),
        }
        self
    }

    /// Allows one more `Origin`: `https://app.example.com`, or `http://localhost:*` for any port.
    pub fn allow_origin(mut self, origin: &str) -> Self {
        match OriginPattern::parse(origin) {
            Some(pattern) => self.config.allow_origin.push(pattern),
            None => self.report(ConfigError::Invalid {
                setting: "allow_origin",
                value: origin.into(),
                expected: "an origin as in https://app.example.com or http://localhost:*",
            }),
        }
        self
    }

    /// Lets pages of this origin use the server from a browser (CORS): as in
    /// [`allow_origin`](Self::allow_origin), which this implies, or `*` for any. CORS is off until an
    /// origin is listed.
    ///
    /// Answers say so to these origins only, refusals among them. A preflight is answered before
    /// anybody is asked for credentials. A page of a public site may reach a server on a private network
    /// or on this machine: where the browser asks for that, it is told
    /// `Access-Control-Allow-Private-Network: true`.
    pub fn cors_origin(mut self, origin: &str) -> Self {
        match OriginPattern::parse(origin) {
            _ if origin == "*" => self.config.cors.any = true,
            Some(pattern) => self.config.cors.origins.push(pattern),
            None => self.report(ConfigError::Invalid {
                setting: "cors_origin",
                value: origin.into(),
                expected: "an origin as in https://app.example.com or http://localhost:*, or *",
            }),
        }
        self
    }

    /// Lets such pages send one more field, besides `authorization`, `content-type`, `last-event-id`,
    /// `mcp-protocol-version` and `mcp-session-id`. May be said several times; without a
    /// [`cors_origin`](Self::cors_origin) it means nothing.
    pub fn cors_header(mut self, name: &str) -> Self {
        if http1::is_token(name.as_bytes()) {
            self.config.cors.allow_header(name);
        } else {
            self.report(ConfigError::Invalid {
                setting: "cors_header",
                value: name.into(),
                expected: "the name of a field",
            });
        }
        self
    }

    /// For how long browsers may remember the answer to a preflight, in whole seconds; as long as
    /// they like unless said, which is 5 s.
    pub fn cors_max_age(mut self, age: Duration) -> Self {
        self.config.cors.set_max_age(age);
        self
    }

    /// Whether such pages may send cookies and the like; not unless said, and never together with the
    /// origin `*`. A token that a page puts into `Authorization` by itself is no such credential.
    pub fn cors_credentials(mut self, on: bool) -> Self {
        self.config.cors.credentials = on;
        self
    }

    /// Believes what proxies at these addresses say about whom they speak for: `10.0.0.0/8`,
    /// `2001:db8::/32`, or a single address. May be said several times; nobody is believed unless
    /// said. The first time that another peer sends such fields, the log has a warning.
    ///
    /// From them, and from nobody else, `Forwarded` or `X-Forwarded-For`, `-Proto` and `-Host` count,
    /// and `X-Forwarded-Prefix`. The first address that is no trusted proxy's, seen from here, is the
    /// client: limits, logs and [`RequestHead::client`](crate::RequestHead::client) have it. The host
    /// replaces `Host` for the guard (on loopback `Host` has to be allowed as well, because a
    /// browser on this machine is as near as the proxy). The prefix stands before the path that clients
    /// are told to post to, instead of [`public_path_prefix`](Self::public_path_prefix). What cannot be
    /// understood is answered 400, and so are `Forwarded` and `X-Forwarded-*` together: a proxy that
    /// writes the one and passes the other through would let strangers choose their address.
    pub fn trusted_proxy(mut self, range: &str) -> Self {
        match range.parse::<Cidr>() {
            Ok(range) => self.config.trusted_proxies.push(range),
            Err(error) => self.report(ConfigError::InvalidRange { value: range.into(), error }),
        }
        self
    }

    /// Whether peers without an address, on a Unix socket, are trusted proxies too. Not unless said.
    pub fn trust_local_peers(mut self, on: bool) -> Self {
        self.config.trust_local_peers = on;
        self
    }

    /// Whether requests must have come by https: on a TLS connection, or by the word of a trusted
    /// proxy. Others are answered 403, except for `/health` and `/ready`. Off unless said.
    pub fn require_https(mut self, on: bool) -> Self {
        self.config.require_https = on;
        self
    }

    /// Tells clients, at `/.well-known/oauth-protected-resource` and in every 401, who gives them
    /// tokens (RFC 9728). Without it those paths are like any other that is not there.
    pub fn protected_resource(mut self, resource: ProtectedResource) -> Self {
        match resource.render() {
            Ok(metadata) => self.config.metadata = Some(metadata),
            Err((setting, value, expected)) => {
                self.report(ConfigError::Invalid { setting, value, expected });
            }
        }
        self
    }

    /// Who decides whether a request may proceed; nobody unless said.
    pub fn authorization(mut self, mode: Authorization) -> Self {
        self.config.authorization = mode;
        self
    }

    /// When a post is answered; at once unless said.
    pub fn acknowledgement(mut self, mode: Acknowledgement) -> Self {
        self.config.acknowledgement = mode;
        self
    }

    /// Which of several servers behind one address this is; shard 0 unless said.
    pub fn shard(mut self, shard: ShardId) -> Self {
        self.config.shard = shard;
        self
    }

    /// Whether posts for another shard are handed out as [`Event::Foreign`](crate::Event::Foreign);
    /// otherwise they are answered like posts to an unknown session. Off unless said.
    pub fn forwarding(mut self, on: bool) -> Self {
        self.config.forwarding = on;
        self
    }

    /// A name for this process in front of every session token, for balancers to route by: 1 to 16
    /// of `a-z0-9-`. None unless said.
    pub fn instance(mut self, instance: &str) -> Self {
        let fine = (1..=16).contains(&instance.len())
            && instance.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if !fine {
            self.report(ConfigError::Invalid {
                setting: "instance",
                value: instance.into(),
                expected: "1 to 16 of a-z, 0-9 and '-'",
            });
        }
        self.config.instance = Some(instance.into());
        self
    }

    /// Whether a client may shut its side of a stream's connection down and go on listening. Off
    /// unless said: the end of input is how a client's death usually looks.
    pub fn allow_half_close(mut self, on: bool) -> Self {
        self.config.allow_half_close = on;
        self
    }

    /// Replaces all limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.limits = limits;
        self
    }

    /// Replaces all deadlines.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.config.timeouts = timeouts;
        self
    }

    /// Validates everything together.
    ///
    /// # Errors
    ///
    /// The first setting that makes no sense, by name.
    pub fn build(mut self) -> Result<Config, ConfigError> {
        if !self.services.is_empty() {
            self.config.paths.services = core::mem::take(&mut self.services);
        }
        if self.config.paths.services.len() > Service::COUNT_MAX {
            self.report(ConfigError::AboveMaximum {
                setting: "service_path",
                maximum: Service::COUNT_MAX as u64,
                unit: "paths",
            });
        }
        let mut paths = self.config.paths.all();
        paths.sort_unstable();
        let twice = paths.iter().zip(paths.iter().skip(1)).find(|(a, b)| a == b);
        if let Some(value) = twice.map(|(path, _)| path.clone()) {
            self.report(ConfigError::PathsCollide { value });
        }
        if self.config.limits.fields_max as usize > FIELDS_CAP {
            self.report(ConfigError::AboveMaximum {
                setting: "fields_max",
                maximum: FIELDS_CAP as u64,
                unit: "fields",
            });
        }
        // Such a post would be refused as one too many, and be told to come again, for ever. A budget of
        // queues below `body_bytes_max` is none of our business: answers may be short.
        let Limits { body_bytes_max, bodies_bytes_max, .. } = self.config.limits;
        if let Some(maximum) = bodies_bytes_max
            && body_bytes_max.is_none_or(|bytes| bytes > maximum)
        {
            self.report(ConfigError::AboveOther {
                setting: "body_bytes_max",
                value: body_bytes_max,
                other: "bodies_bytes_max",
                maximum,
                unit: "bytes",
            });
        }
        if self.config.cors.any && self.config.cors.credentials {
            self.report(ConfigError::AnyOriginWithCredentials);
        }
        self.config.cors.challenges = !matches!(self.config.authorization, Authorization::None);
        // What begins anew when it is over would do so without end if it took no time.
        let Timeouts { head, body, idle, heartbeat, .. } = self.config.timeouts;
        for (setting, interval) in
            [("head", head), ("body", body), ("idle", idle), ("heartbeat", heartbeat)]
        {
            if interval.is_some_and(|interval| interval < Duration::from_millis(1)) {
                self.report(ConfigError::BelowMinimum { setting, minimum: 1, unit: "ms" });
            }
        }
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(self.config),
        }
    }

    fn require_path(&mut self, setting: &'static str, path: &str) {
        if !is_clean_path(path) {
            self.report(ConfigError::InvalidPath { setting, value: path.into() });
        }
    }

    fn report(&mut self, fault: ConfigError) {
        self.fault.get_or_insert(fault);
    }
}

#[cfg(test)]
mod tests;
