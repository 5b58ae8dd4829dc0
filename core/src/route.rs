//! Method and path: the one table of what is served where.
//!
//! Knows: the routes, the methods of each, and how `Allow` is spelled.
//! Does not know: queries, sessions, or who is asking. Paths are compared as octets: nothing is
//! decoded or normalised, so nothing can be smuggled past a comparison.

use alloc::string::String;

use crate::http1::Method;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `GET`: a session's event stream.
    Stream,
    /// `POST`: one message of a session.
    Message,
    /// `GET`: is the process alive? In front of the guard.
    Health,
    /// `GET`: should traffic be sent here? In front of the guard.
    Ready,
    /// Nothing is served there.
    Unknown,
}

/// Whether a method applies to a route, and if not, the value of `Allow`.
pub(crate) fn applies(route: Route, method: Method) -> Result<(), &'static str> {
    let (fits, allow) = match route {
        Route::Stream | Route::Health | Route::Ready => {
            (matches!(method, Method::Get | Method::Head), "GET, HEAD")
        }
        Route::Message => (method == Method::Post, "POST"),
        Route::Unknown => (!is_never(method), "GET, HEAD, POST"),
    };
    if fits { Ok(()) } else { Err(allow) }
}

/// Methods that no path here has: refused before a path is looked at.
pub(crate) const fn is_never(method: Method) -> bool {
    matches!(method, Method::Connect | Method::Trace)
}

/// Where the routes are, without trailing slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Paths {
    pub(crate) stream: String,
    pub(crate) message: String,
}

impl Paths {
    pub(crate) const HEALTH: &str = "/health";
    pub(crate) const READY: &str = "/ready";

    /// The route at `path`; one trailing slash makes no difference.
    pub(crate) fn route(&self, path: &str) -> Route {
        let bare = match path.strip_suffix('/') {
            Some(bare) if !bare.is_empty() => bare,
            _ => path,
        };
        if bare == self.stream {
            Route::Stream
        } else if bare == self.message {
            Route::Message
        } else if bare == Self::HEALTH {
            Route::Health
        } else if bare == Self::READY {
            Route::Ready
        } else {
            Route::Unknown
        }
    }
}

/// Whether `path` is absolute and clean: segments of `pchar` that are neither empty, `.` nor `..`.
/// A client joins such a path to its base URL in only one way, whatever its URL library.
pub(crate) fn is_clean_path(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    rest.split('/').all(|segment| {
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

    #[track_caller]
    fn check(path: &str, expected: Route) {
        let paths = Paths { stream: "/sse".into(), message: "/messages".into() };
        assert_eq!(paths.route(path), expected, "{path}");
    }

    #[test]
    fn routes() {
        check("/sse", Route::Stream);
        check("/sse/", Route::Stream);
        check("/sse//", Route::Unknown);
        check("//sse", Route::Unknown);
        check("/SSE", Route::Unknown);
        check("/sse/.", Route::Unknown);
        check("/%73se", Route::Unknown);
        check("/sse%2F", Route::Unknown);
        check("/sse%00", Route::Unknown);
        check("/sse2", Route::Unknown);
        check("/messages", Route::Message);
        check("/messages/", Route::Message);
        check("/x/../messages", Route::Unknown);
        check("/health", Route::Health);
        check("/ready/", Route::Ready);
        check("/", Route::Unknown);
        check("", Route::Unknown);
    }

    #[test]
    fn every_method_on_every_route() {
        use Method::{Connect, Delete, Get, Head, Options, Patch, Post, Put, Trace};
        for method in [Connect, Delete, Get, Head, Options, Patch, Post, Put, Trace] {
            let reads = matches!(method, Get | Head);
            for route in [Route::Stream, Route::Health, Route::Ready] {
                assert_eq!(applies(route, method).is_ok(), reads, "{route:?} {method}");
            }
            assert_eq!(applies(Route::Message, method).is_ok(), method == Post, "{method}");
            let never = matches!(method, Connect | Trace);
            assert_eq!(applies(Route::Unknown, method).is_ok(), !never, "{method}");
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
    }
}
