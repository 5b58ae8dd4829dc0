//! Cross-origin resource sharing (WHATWG Fetch): what browsers are told about other origins.
//!
//! Knows: which origins may read answers, and the fields that say so. Does not know: the guard, which
//! lets a request pass or not; these fields only tell a browser what it may show to a page.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::origin::{Origin, OriginPattern};
use crate::http1::Head;

/// Fields that a page may send without asking for more.
const HEADERS: &str =
    "authorization, content-type, last-event-id, mcp-protocol-version, mcp-session-id";
const METHODS: &str = "GET, POST, OPTIONS";

/// The settings; CORS is on where there is at least one origin.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cors {
    pub(crate) origins: Vec<OriginPattern>,
    /// `*`.
    pub(crate) any: bool,
    pub(crate) credentials: bool,
    pub(crate) headers: String,
    pub(crate) max_age: Option<String>,
    /// Whether there are challenges, which a page has to read to find out where to log in.
    pub(crate) challenges: bool,
}

impl Cors {
    pub(crate) fn new() -> Self {
        Self { headers: HEADERS.into(), ..Self::default() }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.any || !self.origins.is_empty()
    }

    pub(crate) fn set_max_age(&mut self, age: Duration) {
        self.max_age = Some(alloc::format!("{}", age.as_secs()));
    }

    /// Whether a page of this origin may use the server.
    pub(crate) fn allows(&self, origin: &Origin<'_>) -> bool {
        self.any || self.origins.iter().any(|pattern| pattern.matches(origin))
    }

    /// What a request's `Origin` fields mean for its answer. `room` is memory to use again.
    pub(crate) fn evaluate<'a>(
        &self,
        mut origins: impl Iterator<Item = &'a [u8]>,
        room: CorsOrigin,
    ) -> CorsOrigin {
        if !self.is_on() {
            return CorsOrigin::Off;
        }
        let mut room = match room {
            CorsOrigin::With(text) => text.into_string(),
            CorsOrigin::Off | CorsOrigin::Nobody | CorsOrigin::Anybody => String::new(),
        };
        let origin = origins.next().filter(|_| origins.next().is_none());
        let text = origin.and_then(|origin| core::str::from_utf8(origin).ok());
        match text.and_then(|text| Some((text, Origin::parse(text)?))) {
            Some((text, origin)) if self.allows(&origin) => {
                if self.any && !self.credentials {
                    return CorsOrigin::Anybody;
                }
                room.clear();
                room.push_str(text);
                CorsOrigin::With(room.into_boxed_str())
            }
            _ if self.any => CorsOrigin::Anybody,
            _ => CorsOrigin::Nobody,
        }
    }

    /// The fields of an answer.
    pub(crate) fn fields<'a>(
        &self,
        cors_origin: &'a CorsOrigin,
        out: &mut Vec<(&'a str, &'a str)>,
    ) {
        let origin = match cors_origin {
            CorsOrigin::Off => return,
            CorsOrigin::Nobody => return out.push(("Vary", "Origin")),
            CorsOrigin::Anybody => "*",
            CorsOrigin::With(origin) => {
                out.push(("Vary", "Origin"));
                origin
            }
        };
        out.push(("Access-Control-Allow-Origin", origin));
        if self.credentials {
            out.push(("Access-Control-Allow-Credentials", "true"));
        }
        let exposed =
            if self.challenges { "mcp-session-id, www-authenticate" } else { "mcp-session-id" };
        out.push(("Access-Control-Expose-Headers", exposed));
    }

    /// Lets pages send one more field; a field that is listed already is not listed twice.
    pub(crate) fn allow_header(&mut self, name: &str) {
        if !self.headers.split(", ").any(|known| known.eq_ignore_ascii_case(name)) {
            self.headers.push_str(", ");
            self.headers.push_str(name);
        }
    }

    /// What an answer to a preflight says besides.
    pub(crate) fn preflight_fields<'a>(
        &'a self,
        preflight: Preflight,
        out: &mut Vec<(&'a str, &'a str)>,
    ) {
        out.push(("Access-Control-Allow-Methods", METHODS));
        out.push(("Access-Control-Allow-Headers", &self.headers));
        out.extend(self.max_age.as_deref().map(|age| ("Access-Control-Max-Age", age)));
        if preflight.private_network {
            out.push(("Access-Control-Allow-Private-Network", "true"));
        }
    }
}

/// What a browser asks in front of a page's request, apart from the origin and the fields, which have
/// lists of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Preflight {
    /// The page is of a public site, and this server is on the browser's own network or machine
    /// (WICG Private Network Access). Who lists the page's origin means to be reached by it.
    private_network: bool,
}

impl Preflight {
    /// `None` for an OPTIONS request that is no preflight.
    pub(crate) fn of(head: &Head<'_>) -> Option<Self> {
        head.field("access-control-request-method")?;
        let asks = head.field("access-control-request-private-network");
        Some(Self { private_network: asks.is_some_and(|value| value == b"true") })
    }
}

/// What an answer says about who may read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum CorsOrigin {
    /// CORS is off: nothing.
    #[default]
    Off,
    /// Nothing, and that it depends on who asks.
    Nobody,
    /// `*`.
    Anybody,
    /// This origin.
    With(Box<str>),
}
