//! Method and path: the one table of what is served where.
//!
//! Knows: the routes, the services that have them, the methods of each, and how `Allow` is spelled.
//! Does not know: queries, sessions, or clients. Paths are compared as octets: nothing is decoded or
//! normalised, so no other spelling of a path passes a comparison.

use alloc::string::String;
use alloc::vec::Vec;

use crate::http1::Method;

/// One of the services behind one address, by its place in [`Paths::services`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Service(u16);

impl Service {
    pub(crate) const COUNT_MAX: usize = u16::MAX as usize;

    #[cfg(test)]
    pub(crate) const ROOT: Self = Self(0);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `GET`: a session's event stream.
    Stream(Service),
    /// `POST`: one message of a session.
    Message(Service),
    /// `GET`: a page for people that lists what is served here, where one is configured.
    Index,
    /// `GET`: the metrics of the server, where they are configured.
    Metrics,
    /// `GET`: the metadata of a protected resource (RFC 9728), where it is configured.
    Metadata,
    /// `GET`: whether the process is alive. Answered without a check of `Host` and `Origin`.
    Health,
    /// `GET`: whether traffic should be sent here. Answered without a check of `Host` and `Origin`.
    Ready,
    /// Nothing is served there.
    Unknown,
}

/// Whether a method applies to a route; if not, the value of `Allow`. `cors` is whether OPTIONS is answered,
/// with that value.
pub(crate) fn applies(route: Route, method: Method, cors: bool) -> Result<(), &'static str> {
    let (fits, without, with) = match route {
        Route::Stream(_)
        | Route::Index
        | Route::Metrics
        | Route::Metadata
        | Route::Health
        | Route::Ready => {
            (matches!(method, Method::Get | Method::Head), "GET, HEAD", "GET, HEAD, OPTIONS")
        }
        Route::Message(_) => (method == Method::Post, "POST", "POST, OPTIONS"),
        Route::Unknown => (!is_never(method), "GET, HEAD, POST", "GET, HEAD, POST, OPTIONS"),
    };
    match (fits, cors) {
        (true, _) => Ok(()),
        (false, false) => Err(without),
        (false, true) => Err(with),
    }
}

impl Route {
    /// The name of the route in the log.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Stream(_) => "stream",
            Self::Message(_) => "message",
            Self::Index => "index",
            Self::Metrics => "metrics",
            Self::Metadata => "metadata",
            Self::Health => "health",
            Self::Ready => "ready",
            Self::Unknown => "unknown",
        }
    }

    /// What is requested, in a sentence of the log.
    pub(crate) const fn noun(self) -> &'static str {
        match self {
            Self::Stream(_) => "an event stream",
            Self::Message(_) => "a message",
            Self::Index => "the index page",
            Self::Metrics => "the metrics",
            Self::Metadata => "the resource metadata",
            Self::Health => Paths::HEALTH,
            Self::Ready => Paths::READY,
            Self::Unknown => "an unknown path",
        }
    }
}

/// Whether no path here has the method, so that it is refused before the path is looked at.
pub(crate) const fn is_never(method: Method) -> bool {
    matches!(method, Method::Connect | Method::Trace)
}

/// The paths of the routes, without trailing slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Paths {
    /// The path of a service's event stream, below the service's own path.
    pub(crate) stream: String,
    /// The path that a service's messages are posted to, below the service's own path.
    pub(crate) message: String,
    /// The path of each service; one empty text if there is only the service at the root, and none if
    /// there are no sessions.
    pub(crate) services: Vec<String>,
    /// The text with which the root is answered; `None` if there is no such page.
    pub(crate) index_page: Option<String>,
    /// Whether there are metrics.
    pub(crate) metrics: bool,
}

impl Paths {
    pub(crate) const HEALTH: &str = "/health";
    pub(crate) const READY: &str = "/ready";
    pub(crate) const METRICS: &str = "/metrics";

    /// The path of a service.
    pub(crate) fn service(&self, service: Service) -> &str {
        self.services.get(usize::from(service.0)).map_or("", String::as_str)
    }

    /// Every path that has a route of its own.
    pub(crate) fn all(&self) -> Vec<String> {
        let below = |path: &'_ String| {
            let path = path.clone();
            self.services.iter().map(move |service| service.clone() + &path)
        };
        let metrics = self.metrics.then_some(Self::METRICS);
        let fixed = [Self::HEALTH, Self::READY].into_iter().chain(metrics).map(String::from);
        fixed.chain(below(&self.stream)).chain(below(&self.message)).collect()
    }

    /// A path that two routes have, if there is one.
    pub(crate) fn collision(&self) -> Option<String> {
        let mut paths = self.all();
        paths.sort_unstable();
        let twice = paths.iter().zip(paths.iter().skip(1)).find(|(a, b)| a == b);
        twice.map(|(path, _)| path.clone())
    }

    /// The service, if any, for which `path` is its own path followed by `route`.
    fn service_with(&self, path: &str, route: &str) -> Option<Service> {
        let before = path.strip_suffix(route)?;
        let place = self.services.iter().position(|service| service == before)?;
        u16::try_from(place).ok().map(Service)
    }

    /// The route at `path`; one trailing slash makes no difference.
    pub(crate) fn route(&self, path: &str) -> Route {
        let bare = match path.strip_suffix('/') {
            Some(bare) if !bare.is_empty() => bare,
            _ => path,
        };
        if let Some(service) = self.service_with(bare, &self.stream) {
            Route::Stream(service)
        } else if let Some(service) = self.service_with(bare, &self.message) {
            Route::Message(service)
        } else if path == "/" && self.index_page.is_some() {
            Route::Index
        } else if bare == Self::HEALTH {
            Route::Health
        } else if bare == Self::READY {
            Route::Ready
        } else if bare == Self::METRICS && self.metrics {
            Route::Metrics
        } else {
            Route::Unknown
        }
    }
}

/// How many streams the answer to an unknown path names at most.
pub(crate) const STREAMS_NAMED_MAX: usize = 8;

/// The longest path, in octets, that a setting, a proxy's prefix or a mount may be. The memory bound of
/// answers that hold such paths is derived from it.
pub(crate) const PATH_BYTES_MAX: usize = 256;

/// Whether `path` is absolute and clean: at most [`PATH_BYTES_MAX`] octets, in segments of `pchar` that are
/// neither empty, `.` nor `..`. Every URL library joins such a path to a base URL in the same way.
pub(crate) fn is_clean_path(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    let short = path.len() <= PATH_BYTES_MAX;
    short
        && rest.split('/').all(|segment| {
            !segment.is_empty()
                && segment != "."
                && segment != ".."
                && segment
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&b))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(services: &[&str], index: bool) -> Paths {
        let services = services.iter().map(|&service| service.into()).collect();
        let index_page = index.then(String::new);
        let (stream, message) = ("/sse".into(), "/messages".into());
        Paths { stream, message, services, index_page, metrics: false }
    }

    #[track_caller]
    fn check(path: &str, expected: Route) {
        assert_eq!(paths(&[""], false).route(path), expected, "{path}");
    }

    #[test]
    fn routes() {
        check("/sse", Route::Stream(Service(0)));
        check("/sse/", Route::Stream(Service(0)));
        check("/sse//", Route::Unknown);
        check("//sse", Route::Unknown);
        check("/SSE", Route::Unknown);
        check("/sse/.", Route::Unknown);
        check("/%73se", Route::Unknown);
        check("/sse%2F", Route::Unknown);
        check("/sse%00", Route::Unknown);
        check("/sse2", Route::Unknown);
        check("/messages", Route::Message(Service(0)));
        check("/messages/", Route::Message(Service(0)));
        check("/x/../messages", Route::Unknown);
        check("/health", Route::Health);
        check("/ready/", Route::Ready);
        check("/", Route::Unknown);
        check("", Route::Unknown);
    }

    #[test]
    fn routes_of_services() {
        let paths = paths(&["/a", "/b/c"], true);
        let check = |path, expected| assert_eq!(paths.route(path), expected, "{path}");
        check("/a/sse", Route::Stream(Service(0)));
        check("/b/c/sse/", Route::Stream(Service(1)));
        check("/b/c/messages", Route::Message(Service(1)));
        check("/sse", Route::Unknown);
        check("/messages", Route::Unknown);
        check("/c/sse", Route::Unknown);
        check("/b/sse", Route::Unknown);
        check("/a/a/sse", Route::Unknown);
        check("/a", Route::Unknown);
        check("/a/health", Route::Unknown);
        check("/health", Route::Health);
        check("/", Route::Index);
        check("//", Route::Unknown);
        assert_eq!(paths.service(Service(1)), "/b/c");
    }

    #[test]
    fn metrics_have_a_route_where_they_are_configured() {
        let without = paths(&[""], false);
        assert_eq!(without.route("/metrics"), Route::Unknown);
        let with = Paths { metrics: true, ..without };
        assert_eq!(with.route("/metrics"), Route::Metrics);
        assert_eq!(with.route("/metrics/"), Route::Metrics);
        assert_eq!(with.route("/metrics/x"), Route::Unknown);
        assert_eq!(with.route("/sse"), Route::Stream(Service(0)));
        let alone = Paths { services: Vec::new(), ..with };
        assert_eq!(alone.route("/sse"), Route::Unknown);
        assert_eq!(alone.route("/messages"), Route::Unknown);
        assert_eq!(alone.route("/metrics"), Route::Metrics);
    }

    #[test]
    fn every_method_on_every_route() {
        use Method::{Connect, Delete, Get, Head, Options, Patch, Post, Put, Trace};
        for method in [Connect, Delete, Get, Head, Options, Patch, Post, Put, Trace] {
            let reads = matches!(method, Get | Head);
            for route in [Route::Stream(Service(0)), Route::Index, Route::Metadata, Route::Health] {
                assert_eq!(applies(route, method, false).is_ok(), reads, "{route:?} {method}");
            }
            let message = applies(Route::Message(Service(0)), method, false);
            assert_eq!(message.is_ok(), method == Post, "{method}");
            let never = matches!(method, Connect | Trace);
            assert_eq!(applies(Route::Unknown, method, true).is_ok(), !never, "{method}");
        }
    }

    #[test]
    fn clean_paths() {
        for path in ["/sse", "/a/b-c", "/~x/y;z=1"] {
            assert!(is_clean_path(path), "{path}");
        }
        for path in [
            "", "sse", "/", "/sse/", "//sse", "/a//b", "/./a", "/a/..", "/a?b", "/a#b", "/a b",
            "/%2e", "/é", "/a\r\nb",
        ] {
            assert!(!is_clean_path(path), "{path}");
        }
        let longest = "/a".repeat(PATH_BYTES_MAX / 2);
        assert!(is_clean_path(&longest) && !is_clean_path(&(longest + "a")));
    }
}
