//! The builder of a configuration: each setting is checked when it is made, and their combination at the end.
//!
//! Knows: which values are invalid, and which settings contradict each other.
//! Does not know: where settings come from (flags, files), or how a running server uses them.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use core::time::Duration;

use super::{Authorization, Config};
use crate::error::ConfigError;
use crate::http1::{self, FIELDS_CAP};
use crate::instance_id::InstanceId;
use crate::jitter::JitterRange;
use crate::limits::{Limits, Timeouts};
use crate::policy::cidr::Cidr;
use crate::policy::host::HostPattern;
use crate::policy::origin::OriginPattern;
use crate::policy::resource::ProtectedResource;
use crate::route::{Service, is_clean_path};
use crate::token::ShardId;

/// The largest bound of times after which clients come back. A longer one is a mistake in a unit.
const DAY_SECONDS: u64 = 86_400;

/// A builder of [`Config`], made by [`Config::builder`].
///
/// Each method sets one setting and returns the builder. The first invalid setting is reported by
/// [`build`](Self::build).
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct ConfigBuilder {
    config: Config,
    services: Vec<String>,
    fault: Option<ConfigError>,
}

impl ConfigBuilder {
    pub(super) fn new() -> Self {
        Self { config: Config::default(), services: Vec::new(), fault: None }
    }

    /// Sets the path of the event stream. Default: `/sse`.
    ///
    /// The path must start with `/`, must not have empty, `.` or `..` segments, and must not be
    /// longer than 256 octets. Its segments consist of letters, digits, `-._~`, `!$&'()*+,;=`, `:`
    /// and `@`, and contain no `%`. Another path is [`ConfigError::InvalidPath`]. If two routes have
    /// the same path, which may also be `/health` or `/ready`, [`build`](Self::build) returns
    /// [`ConfigError::PathsCollide`]. Requests may have one additional trailing slash.
    pub fn stream_path(mut self, path: &str) -> Self {
        self.require_path("stream_path", path);
        self.config.paths.stream = path.into();
        self
    }

    /// Sets the path to which clients post messages. Default: `/messages`. It must have the form
    /// that [`stream_path`](Self::stream_path) requires.
    ///
    /// ```
    /// # use mcp_sse_core::Config;
    /// let config = Config::builder().stream_path("/mcp/sse").message_path("/mcp/post").build()?;
    /// assert_eq!(config.message_path(), "/mcp/post");
    /// # Ok::<(), mcp_sse_core::ConfigError>(())
    /// ```
    pub fn message_path(mut self, path: &str) -> Self {
        self.require_path("message_path", path);
        self.config.paths.message = path.into();
        self
    }

    /// Adds a service: the stream and message paths are served below `path` instead of at the root,
    /// so that several MCP servers can share one address. With `/files` and `/time` there are
    /// streams at `/files/sse` and `/time/sse`. `path` must have the form that
    /// [`stream_path`](Self::stream_path) requires. There can be up to 65,535 services. Default: one
    /// service at the root.
    ///
    /// The sessions of different services are separate: a post below the path of another service is
    /// answered as a post to an unknown session.
    /// [`RequestHead::service_path`](crate::RequestHead::service_path) tells the application which
    /// service a session belongs to.
    pub fn service_path(mut self, path: &str) -> Self {
        self.require_path("service_path", path);
        self.services.push(path.into());
        self
    }

    /// Serves no sessions: there are no streams, and no path takes posts. What is left are `/health`,
    /// `/ready` and what else is configured, such as [metrics](Config::serve_metrics) on an address of
    /// their own. A [`service_path`](Self::service_path) has precedence.
    ///
    /// ```
    /// # use mcp_sse_core::{Config, MetricsPage};
    /// let mut config = Config::builder().without_sessions().build()?;
    /// config.serve_metrics(MetricsPage::new(String::new))?;
    /// # Ok::<(), mcp_sse_core::ConfigError>(())
    /// ```
    pub fn without_sessions(mut self) -> Self {
        self.config.paths.services.clear();
        self
    }

    /// Sets the text with which `GET /` is answered, as `text/plain`. The request must be authorized
    /// like that for a stream. Default: none, and `GET /` is answered 404.
    ///
    /// ```
    /// # use mcp_sse_core::Config;
    /// let config = Config::builder().index_page("An MCP server. Connect to /sse.").build()?;
    /// # Ok::<(), mcp_sse_core::ConfigError>(())
    /// ```
    pub fn index_page(mut self, text: &str) -> Self {
        self.config.paths.index_page = Some(text.into());
        self
    }

    /// Sets the name of the query parameter that contains the session token. Default: `session_id`.
    /// It must consist of letters, digits, `-`, `_` and `.`.
    ///
    /// ```
    /// # use mcp_sse_core::Config;
    /// let config = Config::builder().session_parameter("sessionId").build()?;
    /// assert_eq!(config.session_parameter(), "sessionId");
    /// # Ok::<(), mcp_sse_core::ConfigError>(())
    /// ```
    pub fn session_parameter(mut self, name: &str) -> Self {
        let is_valid = !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !is_valid {
            self.invalid("session_parameter", name, "letters, digits, '-', '_' and '.'");
        }
        self.config.session_parameter = name.into();
        self
    }

    /// Sets the path prefix that a proxy in front of the server removes from requests. The endpoint
    /// event then contains the path as clients have to request it. A prefix must have the form that
    /// [`stream_path`](Self::stream_path) requires. Default: `""`, no prefix.
    ///
    /// ```
    /// # use mcp_sse_core::Config;
    /// // Clients use https://example.com/mcp/sse, and the proxy requests /sse.
    /// let config = Config::builder().public_path_prefix("/mcp").build()?;
    /// # Ok::<(), mcp_sse_core::ConfigError>(())
    /// ```
    pub fn public_path_prefix(mut self, prefix: &str) -> Self {
        if !prefix.is_empty() {
            self.require_path("public_path_prefix", prefix);
        }
        self.config.public_path_prefix = prefix.into();
        self
    }

    /// Sets after what time clients reconnect when their stream has ended. For each stream a time is
    /// drawn from the range, and its endpoint event has it in a `retry:` field in milliseconds, so
    /// that the clients of a server that restarts do not all come back at the same moment. Bounds
    /// are rounded down to whole milliseconds; they must be from 1 ms to one day. Default: no such
    /// field.
    ///
    /// Browsers and the client of the TypeScript SDK reconnect by themselves, and obey it. The client
    /// of the Python SDK ignores it. Clients of the Go and the Java SDK treat a field that they do
    /// not know as an error and cannot connect, so set it only if there are none.
    /// The guide `reconnection` of the adapters says more.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use mcp_sse_core::Config;
    /// let seconds = Duration::from_secs;
    /// let config = Config::builder().retry(seconds(1)..=seconds(5)).build()?;
    /// assert_eq!(config.retry(), Some(seconds(1)..=seconds(5)));
    /// assert!(Config::builder().retry(seconds(5)..=seconds(1)).build().is_err());
    /// # Ok::<(), mcp_sse_core::ConfigError>(())
    /// ```
    pub fn retry(mut self, range: RangeInclusive<Duration>) -> Self {
        let [low, high] = [range.start(), range.end()]
            .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.config.retry = self.jitter("retry", low, high, DAY_SECONDS * 1_000, "ms");
        self
    }

    /// Sets after how many seconds a client may repeat a request that was answered 503. For each
    /// such answer a number is drawn from the range, and its `Retry-After` field has it, so that
    /// clients that were refused together do not come back together. Bounds must be from 1 to
    /// 86,400, one day. Default: `1..=1`. Where a rate is exceeded, the field has the time until the
    /// rate allows the next request instead.
    ///
    /// ```
    /// # use mcp_sse_core::Config;
    /// let config = Config::builder().retry_after(1..=5).build()?;
    /// assert_eq!(config.retry_after(), 1..=5);
    /// # Ok::<(), mcp_sse_core::ConfigError>(())
    /// ```
    // The default is a range of one: a refused client that could be served after a second should not
    // wait longer unless the operator knows of a crowd, and equal requests get equal bytes.
    pub fn retry_after(mut self, seconds: RangeInclusive<u64>) -> Self {
        let (low, high) = seconds.into_inner();
        if let Some(range) = self.jitter("retry_after", low, high, DAY_SECONDS, "s") {
            self.config.retry_after = range;
        }
        self
    }

    /// Allows a value of `Host`: a name or an address, with a port, or without one for any port.
    ///
    /// On connections to a loopback address the loopback names are always allowed as well. On other
    /// connections every host is allowed as long as none is listed. Other hosts are answered 403.
    ///
    /// ```
    /// # use mcp_sse_core::Config;
    /// let config =
    /// Config::builder().allow_host("mcp.example.com").allow_host("[::1]:8080").build()?;
    /// assert!(Config::builder().allow_host("http://mcp.example.com").build().is_err());
    /// # Ok::<(), mcp_sse_core::ConfigError>(())
    /// ```
    pub fn allow_host(mut self, host: &str) -> Self {
        match HostPattern::parse(host) {
            Some(pattern) => self.config.allow_host.push(pattern),
            None => self.invalid(
                "allow_host",
                host,
                "a host name or address with an optional port, like mcp.example.com:8443",
            ),
        }
        self
    }

    /// Allows a value of `Origin`: an origin such as `https://app.example.com`, or
    /// `http://localhost:*` for any port. On connections to a loopback address loopback origins are
    /// always allowed. Requests of other origins are answered 403. Requests without `Origin` are
    /// allowed: they do not come from a browser, come from a page of this server, or are GETs whose
    /// answers the page that causes them cannot read.
    ///
    /// ```
    /// # use mcp_sse_core::Config;
    /// let config = Config::builder().allow_origin("https://app.example.com").build()?;
    /// # Ok::<(), mcp_sse_core::ConfigError>(())
    /// ```
    pub fn allow_origin(mut self, origin: &str) -> Self {
        match OriginPattern::parse(origin) {
            Some(pattern) => self.config.allow_origin.push(pattern),
            None => self.invalid(
                "allow_origin",
                origin,
                "an origin like https://app.example.com or http://localhost:*",
            ),
        }
        self
    }

    /// Allows pages of this origin to use the server from a browser (CORS). `origin` has the form
    /// that [`allow_origin`](Self::allow_origin) takes, or is `*` for any origin. It implies
    /// `allow_origin`. Default: none, and CORS is off.
    ///
    /// Responses to these origins, including refusals, have the CORS fields; responses to other
    /// origins do not. A preflight request is answered before authorization. If a browser asks
    /// whether a page of a public site may reach a server on a private network, the answer is
    /// `Access-Control-Allow-Private-Network: true`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use mcp_sse_core::Config;
    /// let config = Config::builder()
    ///     .cors_origin("https://app.example.com")
    ///     .cors_header("x-trace-id")
    ///     .cors_max_age(Duration::from_secs(600))
    ///     .build()?;
    /// # Ok::<(), mcp_sse_core::ConfigError>(())
    /// ```
    pub fn cors_origin(mut self, origin: &str) -> Self {
        match OriginPattern::parse(origin) {
            _ if origin == "*" => self.config.cors.any = true,
            Some(pattern) => self.config.cors.origins.push(pattern),
            None => self.invalid(
                "cors_origin",
                origin,
                "an origin like https://app.example.com or http://localhost:*, or *",
            ),
        }
        self
    }

    /// Allows pages of the CORS origins to send a field with this name, besides `authorization`,
    /// `content-type`, `last-event-id`, `mcp-protocol-version` and `mcp-session-id`. Call it once
    /// for each name. It has no effect without a [`cors_origin`](Self::cors_origin).
    pub fn cors_header(mut self, name: &str) -> Self {
        if http1::is_token(name.as_bytes()) {
            self.config.cors.allow_header(name);
        } else {
            self.invalid("cors_header", name, "the name of a field");
        }
        self
    }

    /// Sets for how long browsers may cache the answer to a preflight request, rounded down to
    /// seconds. By default the answer does not say, and browsers cache it for 5 s.
    pub fn cors_max_age(mut self, age: Duration) -> Self {
        self.config.cors.set_max_age(age);
        self
    }

    /// Sets whether pages of the CORS origins may send credentials that the browser manages, such
    /// as cookies. Default: `false`. It cannot be combined with the origin `*`. A token that a page
    /// itself puts into `Authorization` does not need this setting.
    pub fn cors_credentials(mut self, on: bool) -> Self {
        self.config.cors.credentials = on;
        self
    }

    /// Trusts proxies with an address in this range: `10.0.0.0/8`, `2001:db8::/32`, or a single
    /// address. Call it once for each range. Default: no proxy is trusted. When another peer sends
    /// forwarding fields, the log gets one warning.
    ///
    /// Of requests from these proxies, and of no others, `Forwarded` (RFC 7239) or
    /// `X-Forwarded-For`, `-Proto` and `-Host`, and `X-Forwarded-Prefix` are evaluated:
    ///
    /// - The client is the nearest address in the chain that is not a trusted proxy. Limits, logs
    ///   and [`RequestHead::client`](crate::RequestHead::client) use it.
    /// - The forwarded host is checked instead of `Host`. On connections to a loopback address
    ///   `Host` has to be allowed as well, because a browser on this machine can connect there like
    ///   the proxy.
    /// - The prefix is put before the path in the endpoint event, instead of
    ///   [`public_path_prefix`](Self::public_path_prefix).
    ///
    /// A malformed field is answered 400, and so are `Forwarded` and `X-Forwarded-*` in one
    /// request: a proxy that writes the one and passes on the other would allow clients to choose
    /// their address.
    ///
    /// ```
    /// # use mcp_sse_core::Config;
    /// let config = Config::builder().trusted_proxy("10.0.0.0/8").trusted_proxy("::1").build()?;
    /// # Ok::<(), mcp_sse_core::ConfigError>(())
    /// ```
    pub fn trusted_proxy(mut self, range: &str) -> Self {
        match range.parse::<Cidr>() {
            Ok(range) => self.config.trusted_proxies.push(range),
            Err(error) => self.report(ConfigError::InvalidRange { value: range.into(), error }),
        }
        self
    }

    /// Sets whether peers without an IP address, which connect by a Unix socket, are trusted
    /// proxies. Default: `false`.
    pub fn trust_local_peers(mut self, on: bool) -> Self {
        self.config.trust_local_peers = on;
        self
    }

    /// Sets whether requests must use https: on a TLS connection, or as stated by a trusted proxy.
    /// Other requests are answered 403, except for `/health` and `/ready`. Default: `false`.
    /// [`Config::https_can_arrive`] tells whether any request can satisfy it.
    ///
    /// ```
    /// # use mcp_sse_core::Config;
    /// let config = Config::builder().require_https(true).trusted_proxy("10.0.0.1").build()?;
    /// assert!(config.https_can_arrive(false, false)); // by the proxy, without TLS of its own
    /// # Ok::<(), mcp_sse_core::ConfigError>(())
    /// ```
    pub fn require_https(mut self, on: bool) -> Self {
        self.config.require_https = on;
        self
    }

    /// Serves OAuth protected resource metadata (RFC 9728) at
    /// `/.well-known/oauth-protected-resource`, and refers to it in every 401 response. Default:
    /// none, and that path is answered 404. See [`ProtectedResource`].
    pub fn protected_resource(mut self, resource: ProtectedResource) -> Self {
        match resource.render() {
            Ok(metadata) => self.config.metadata = Some(metadata),
            Err((setting, value, expected)) => self.invalid(setting, &value, expected),
        }
        self
    }

    /// Sets how requests are authorized. Default: [`Authorization::None`].
    pub fn authorization(mut self, mode: Authorization) -> Self {
        self.config.authorization = mode;
        self
    }

    /// Sets the number of this server among several that share one address. It becomes part of
    /// every session token. Default: 0. [`Config::for_shard`] sets it together with the limits.
    pub fn shard(mut self, shard: ShardId) -> Self {
        self.config.shard = shard;
        self
    }

    /// Sets whether posts for a session of another shard become
    /// [`Event::Foreign`](crate::Event::Foreign). If not, they are answered like posts to an
    /// unknown session. Default: `false`.
    pub fn forwarding(mut self, on: bool) -> Self {
        self.config.forwarding = on;
        self
    }

    /// Sets a name of this process among several that serve the same URL. It becomes the prefix of
    /// every session token, as in `eu-1.<32 characters>`, so that a load balancer can route posts by
    /// it. Clients see it in the URI of the `endpoint` event, and `/health` has it as
    /// `"instance_id"`. It must be 1 to 16 characters of `a-z0-9-`. Default: none.
    ///
    /// Each process needs a name of its own; the shards of one process share it. A post whose token
    /// has the name of another process, or none, is answered like one to an unknown session. It is
    /// counted as [`Fault::Misrouted`](crate::Fault::Misrouted), and the log names the process that
    /// has the session.
    ///
    /// ```
    /// # use mcp_sse_core::Config;
    /// let config = Config::builder().instance_id("eu-1").build()?;
    /// assert!(Config::builder().instance_id("EU 1").build().is_err());
    /// # Ok::<(), mcp_sse_core::ConfigError>(())
    /// ```
    pub fn instance_id(mut self, id: &str) -> Self {
        match InstanceId::parse(id.as_bytes()) {
            Some(id) => self.config.instance_id = Some(id),
            None => self.invalid("instance_id", id, "1 to 16 of a-z, 0-9 and '-'"),
        }
        self
    }

    /// Sets whether a client may shut down the sending side of a stream's connection and continue
    /// to receive events. Default: `false`: the end of input ends the session, because it usually
    /// means that the client is gone.
    pub fn allow_half_close(mut self, on: bool) -> Self {
        self.config.allow_half_close = on;
        self
    }

    /// Replaces all limits. Default: [`Limits::default`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.limits = limits;
        self
    }

    /// Replaces all timeouts. Default: [`Timeouts::default`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use mcp_sse_core::{Config, Timeouts};
    /// let timeouts = Timeouts { heartbeat: Some(Duration::from_secs(30)), ..Timeouts::default() };
    /// let config = Config::builder().timeouts(timeouts).build()?;
    /// assert_eq!(config.timeouts().heartbeat, Some(Duration::from_secs(30)));
    /// # Ok::<(), mcp_sse_core::ConfigError>(())
    /// ```
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.config.timeouts = timeouts;
        self
    }

    /// Validates the settings and makes the configuration.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for the first invalid setting, or for settings that contradict each other.
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
        if let Some(value) = self.config.paths.collision() {
            self.report(ConfigError::PathsCollide { value });
        }
        if self.config.limits.fields_max as usize > FIELDS_CAP {
            self.report(ConfigError::AboveMaximum {
                setting: "fields_max",
                maximum: FIELDS_CAP as u64,
                unit: "fields",
            });
        }
        // A body over `bodies_bytes_max` would be refused with 503, and the client would repeat it
        // for ever. There is no such check for `queues_bytes_max`: a long post may have a short
        // answer.
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
        self.check_timeouts();
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(self.config),
        }
    }

    /// Reports timeouts that cannot work, alone or together.
    fn check_timeouts(&mut self) {
        // These timers are armed again when they fire, so an interval of zero would fire without
        // end.
        let Timeouts { head, body, idle, heartbeat, .. } = self.config.timeouts;
        for (setting, interval) in
            [("head", head), ("body", body), ("idle", idle), ("heartbeat", heartbeat)]
        {
            if interval.is_some_and(|interval| interval < Duration::from_millis(1)) {
                self.report(ConfigError::BelowMinimum { setting, minimum: 1, unit: "ms" });
            }
        }
        let Timeouts { drain_spread, shutdown_grace, .. } = self.config.timeouts;
        if let (Some(spread), Some(grace)) = (drain_spread, shutdown_grace)
            && spread > grace
        {
            let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            self.report(ConfigError::AboveOther {
                setting: "drain_spread",
                value: Some(millis(spread)),
                other: "shutdown_grace",
                maximum: millis(grace),
                unit: "ms",
            });
        }
    }

    /// The range from `low` to `high`, if both are from 1 to `maximum` and in this order.
    fn jitter(
        &mut self,
        setting: &'static str,
        low: u64,
        high: u64,
        maximum: u64,
        unit: &'static str,
    ) -> Option<JitterRange> {
        if low > high {
            self.report(ConfigError::EmptyRange { setting, low, high, unit });
        } else if low < 1 {
            self.report(ConfigError::BelowMinimum { setting, minimum: 1, unit });
        } else if high > maximum {
            self.report(ConfigError::AboveMaximum { setting, maximum, unit });
        } else {
            return Some(JitterRange { low, high });
        }
        None
    }

    fn require_path(&mut self, setting: &'static str, path: &str) {
        if !is_clean_path(path) {
            self.report(ConfigError::InvalidPath { setting, value: path.into() });
        }
    }

    fn invalid(&mut self, setting: &'static str, value: &str, expected: &'static str) {
        self.report(ConfigError::Invalid { setting, value: value.into(), expected });
    }

    fn report(&mut self, fault: ConfigError) {
        self.fault.get_or_insert(fault);
    }
}
