//! The validated configuration of a server.
//!
//! Knows: every setting and its default, and how much memory a configuration may take.
//! Does not know: which values are invalid (see `builder`), where settings come from (flags, files), or how a running
//! server uses them.

mod builder;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use core::sync::atomic::AtomicBool;
use core::time::Duration;

pub use builder::ConfigBuilder;

use crate::error::ConfigError;
use crate::instance_id::InstanceId;
use crate::jitter::JitterRange;
use crate::limits::{Limits, Timeouts, settings};
use crate::metrics_page::MetricsPage;
use crate::policy::bearer::StaticTokens;
use crate::policy::cidr::Cidr;
use crate::policy::cors::Cors;
use crate::policy::host::HostPattern;
use crate::policy::origin::{Origin, OriginPattern};
use crate::policy::resource::Metadata;
use crate::route::{PATH_BYTES_MAX, Paths, STREAMS_NAMED_MAX};
use crate::token::ShardId;

/// How requests are authorized.
///
/// Every GET of an event stream or of the index page and every POST of a message is authorized,
/// before a session is created or looked up. A session belongs to the principal that opened it: a POST of another principal is
/// answered as if the session did not exist.
///
/// ```
/// use mcp_sse_core::{Authorization, Config, StaticTokens};
///
/// let tokens = StaticTokens::builder().token("alice", "s3cr3t").build()?;
/// let config = Config::builder().authorization(Authorization::Static(tokens)).build()?;
/// assert!(matches!(config.authorization(), Authorization::Static(_)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Authorization {
    /// Requests are not authorized: every client that reaches the server may use it.
    #[default]
    None,
    /// Requests must present one of these tokens in `Authorization: Bearer <token>`.
    Static(StaticTokens),
    /// The application decides about each request, which it receives as
    /// [`Event::Asked`](crate::Event::Asked).
    Deferred,
}

settings! {
    /// A validated configuration, made by [`Config::builder`].
    ///
    /// The default serves the event stream at `/sse` and posts at `/messages`. On connections to a
    /// loopback address it allows loopback host names only, elsewhere any host name. It requires no
    /// authorization.
    ///
    /// ```
    /// use mcp_sse_core::{Config, Limits};
    ///
    /// let config = Config::builder()
    ///     .stream_path("/events")
    ///     .allow_host("mcp.example.com")
    ///     .limits(Limits { sessions_max: Some(100), ..Limits::default() })
    ///     .build()?;
    /// assert_eq!((config.stream_path(), config.message_path()), ("/events", "/messages"));
    ///
    /// let error = Config::builder().stream_path("events").build().unwrap_err();
    /// assert_eq!(error.setting(), Some("stream_path"));
    /// # Ok::<(), mcp_sse_core::ConfigError>(())
    /// ```
    #[derive(Clone, Debug)]
    pub struct Config {
        pub(crate) paths: Paths = Paths {
            stream: "/sse".into(),
            message: "/messages".into(),
            services: vec![String::new()],
            index_page: None,
            metrics: false,
        },
        pub(crate) session_parameter: String = "session_id".into(),
        pub(crate) public_path_prefix: String = String::new(),
        /// In milliseconds.
        pub(crate) retry: Option<JitterRange> = None,
        /// In seconds.
        pub(crate) retry_after: JitterRange = JitterRange::one(1),
        pub(crate) allow_host: Vec<HostPattern> = Vec::new(),
        pub(crate) allow_origin: Vec<OriginPattern> = Vec::new(),
        pub(crate) cors: Cors = Cors::new(),
        pub(crate) trusted_proxies: Vec<Cidr> = Vec::new(),
        pub(crate) trust_local_peers: bool = false,
        pub(crate) require_https: bool = false,
        /// Whether the log already has the warning that forwarding fields of an untrusted peer are
        /// ignored. Clones of a configuration share it, and so do the shards of a server.
        pub(crate) ignored_fields_said: Arc<AtomicBool> = Arc::default(),
        pub(crate) metrics_page: Option<MetricsPage> = None,
        pub(crate) metadata: Option<Metadata> = None,
        pub(crate) authorization: Authorization = Authorization::None,
        pub(crate) shard: ShardId = ShardId(0),
        pub(crate) instance_id: Option<InstanceId> = None,
        pub(crate) forwarding: bool = false,
        pub(crate) allow_half_close: bool = false,
        pub(crate) limits: Limits = Limits::default(),
        pub(crate) timeouts: Timeouts = Timeouts::default(),
    }
}

impl Config {
    /// Makes a builder with the default settings.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::new()
    }

    /// The limits.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The timeouts.
    #[must_use]
    pub const fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// The path of the event stream, below each [service path](ConfigBuilder::service_path).
    #[must_use]
    pub fn stream_path(&self) -> &str {
        &self.paths.stream
    }

    /// The path of posts, below each [service path](ConfigBuilder::service_path).
    #[must_use]
    pub fn message_path(&self) -> &str {
        &self.paths.message
    }

    /// The name of the query parameter that contains the session token.
    #[must_use]
    pub fn session_parameter(&self) -> &str {
        &self.session_parameter
    }

    /// The name of this process, which is the prefix of every session token.
    #[must_use]
    pub const fn instance_id(&self) -> Option<InstanceId> {
        self.instance_id
    }

    /// The range of reconnection times in endpoint events, if they have one.
    #[must_use]
    pub fn retry(&self) -> Option<RangeInclusive<Duration>> {
        let JitterRange { low, high } = self.retry?;
        Some(Duration::from_millis(low)..=Duration::from_millis(high))
    }

    /// The range of `Retry-After` in 503 responses, in seconds.
    #[must_use]
    pub const fn retry_after(&self) -> RangeInclusive<u64> {
        self.retry_after.low..=self.retry_after.high
    }

    /// How requests are authorized.
    #[must_use]
    pub const fn authorization(&self) -> &Authorization {
        &self.authorization
    }

    /// Replaces the limits of a built configuration. A driver uses it to lower limits to what its
    /// environment offers, such as the number of file descriptors. The limits are not validated.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The configuration of one of `shards` servers that together serve this configuration.
    ///
    /// Session tokens then name `shard`, the limits are its [share](Limits::share_of) of these
    /// limits, and a post for another shard becomes [`Event::Foreign`](crate::Event::Foreign),
    /// which the driver has to forward.
    ///
    /// `shard` is a number from 0 to `shards - 1`, which is not checked. If `shards` is 0, the limits
    /// are those of one shard.
    ///
    /// ```
    /// # use mcp_sse_core::{Config, Limits, ShardId};
    /// let limits = Limits { sessions_max: Some(100), ..Limits::default() };
    /// let config = Config::builder().limits(limits).build()?;
    /// let second_of_four = config.clone().for_shard(ShardId(1), 4);
    /// assert_eq!(second_of_four.limits().sessions_max, Some(25));
    /// # Ok::<(), mcp_sse_core::ConfigError>(())
    /// ```
    #[must_use]
    pub fn for_shard(mut self, shard: ShardId, shards: u16) -> Self {
        self.shard = shard;
        self.forwarding = true;
        self.limits = self.limits.share_of(shards);
        self
    }

    /// Changes the authorization to [`Authorization::Deferred`]. A driver calls it if it was given
    /// an authorizer.
    ///
    /// # Errors
    ///
    /// [`ConfigError::TwoAuthorizers`] if the configuration has [`Authorization::Static`].
    pub fn defer_authorization(&mut self) -> Result<(), ConfigError> {
        match self.authorization {
            Authorization::Static(_) => return Err(ConfigError::TwoAuthorizers),
            Authorization::None | Authorization::Deferred => {}
        }
        self.authorization = Authorization::Deferred;
        self.cors.challenges = true;
        Ok(())
    }

    /// Serves `page` at `/metrics`. The request must pass the checks of `Host` and `Origin`, and must be
    /// authorized like that for a stream. Default: none, and `GET /metrics` is answered 404.
    ///
    /// While it is queued, the text counts towards
    /// [`Limits::queues_bytes_max`](Limits::queues_bytes_max); without room the request is answered 503.
    ///
    /// # Errors
    ///
    /// [`ConfigError::PathsCollide`] if another route has this path.
    pub fn serve_metrics(&mut self, page: MetricsPage) -> Result<(), ConfigError> {
        self.metrics_page = Some(page);
        self.paths.metrics = true;
        self.paths.collision().map_or(Ok(()), |value| Err(ConfigError::PathsCollide { value }))
    }

    /// The largest amount of memory that a server with this configuration can hold, in bytes:
    /// [`Limits::memory_bytes_max`], and for each connection a response that contains the longest
    /// text of this configuration. For one of several shards, it is the amount of that shard.
    ///
    /// ```
    /// # use mcp_sse_core::Config;
    /// let config = Config::default();
    /// assert!(config.memory_bytes_max() > config.limits().memory_bytes_max());
    /// ```
    #[must_use]
    pub fn memory_bytes_max(&self) -> u64 {
        let connections = self.limits.connections_max.map_or(u64::MAX, u64::from);
        // Two more responses: one being made consists of its pieces and of the joined bytes.
        let answers = connections.saturating_add(2);
        let texts = self.answer_text_bytes_max() as u64;
        self.limits.memory_bytes_max().saturating_add(answers.saturating_mul(texts))
    }

    /// The largest number of octets that settings, and trusted proxies, add to one response beyond
    /// those that [`Limits::memory_bytes_max`] includes.
    fn answer_text_bytes_max(&self) -> usize {
        let Paths { stream, message, services, .. } = &self.paths;
        let service = services.iter().map(String::len).max().unwrap_or_default();
        let prefix = if self.trusted_proxies.is_empty() && !self.trust_local_peers {
            self.public_path_prefix.len()
        } else {
            PATH_BYTES_MAX
        };
        let instance = self.instance_id.map_or(0, |id| id.as_str().len() + 1);
        let retry = self.retry.map_or(0, |_| "retry: 86400000\n".len());
        let parameter = self.session_parameter.len();
        let endpoint = prefix + service + message.len() + parameter + instance + retry;
        // A response to an unknown path lists them, separated by a comma and a space.
        let streams = services.len().min(STREAMS_NAMED_MAX);
        let hint = streams * (prefix + service + stream.len() + 2);
        let page = self.paths.index_page.as_deref().map_or(0, |page| page.len() + 1);
        let metadata = self.metadata.as_ref().map_or(0, |it| it.body.len().max(it.challenge.len()));
        let (headers, origin) = match self.cors.is_on() {
            // The origin is in the response, and is kept for the next response.
            true => (self.cors.headers.len(), 2 * Origin::BYTES_MAX),
            false => (0, 0),
        };
        [endpoint, hint, page, metadata, headers].into_iter().max().unwrap_or(0) + origin
    }
}

#[cfg(test)]
mod tests;
