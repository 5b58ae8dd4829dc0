//! Cross-origin resource sharing (CORS, WHATWG Fetch): the response fields that tell a browser
//! which other origins may read a response.
//!
//! Knows: which origins may read responses, and the fields for them. Does not know: whether a
//! request is allowed (see `origin`); these fields only tell a browser what to show to a page.
//!
//! Decision: an origin that CORS allows need not be named in `allow_origin` as well. The fields
//! belong to the request, so every answer has them, refusals included: without them a page
//! could not read why it was refused. `WWW-Authenticate` is exposed where there are challenges,
//! so that a page can learn where to log in. A preflight that asks for access to a private
//! network is granted together with the origin, because the operator has listed that origin for
//! this server.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::origin::{Origin, OriginPattern};
use crate::http1::Head;

/// The request fields that a page may send by default.
const HEADERS: &str =
    "authorization, content-type, last-event-id, mcp-protocol-version, mcp-session-id";
const METHODS: &str = "GET, POST, OPTIONS";

/// The CORS settings. CORS is on if at least one origin is allowed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cors {
    pub(crate) origins: Vec<OriginPattern>,
    /// Whether any origin is allowed (`*`).
    pub(crate) any: bool,
    pub(crate) credentials: bool,
    pub(crate) headers: String,
    pub(crate) max_age: Option<String>,
    /// Whether responses can contain authentication challenges, which a page must be able to read
    /// to find the authorization server.
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

    /// Determines how CORS applies to the response, from the `Origin` fields of the request. The
    /// memory of `room` is reused.
    pub(crate) fn evaluate<'a>(
        &self,
        mut origins: impl Iterator<Item = &'a [u8]>,
        room: CorsOrigin,
    ) -> CorsOrigin {
        if !self.is_on() {
            return CorsOrigin::Off;
        }
        let mut room = match room {
            CorsOrigin::Allowed(text) => text.into_string(),
            CorsOrigin::Off | CorsOrigin::Denied | CorsOrigin::Any => String::new(),
        };
        let origin = origins.next().filter(|_| origins.next().is_none());
        let text = origin.and_then(|origin| core::str::from_utf8(origin).ok());
        match text.and_then(|text| Some((text, Origin::parse(text)?))) {
            Some((text, origin)) if self.allows(&origin) => {
                if self.any && !self.credentials {
                    return CorsOrigin::Any;
                }
                room.clear();
                room.push_str(text);
                CorsOrigin::Allowed(room.into_boxed_str())
            }
            _ if self.any => CorsOrigin::Any,
            _ => CorsOrigin::Denied,
        }
    }

    /// Appends the CORS fields of a response to `out`.
    pub(crate) fn fields<'a>(
        &self,
        cors_origin: &'a CorsOrigin,
        out: &mut Vec<(&'a str, &'a str)>,
    ) {
        let origin = match cors_origin {
            CorsOrigin::Off => return,
            CorsOrigin::Denied => return out.push(("Vary", "Origin")),
            CorsOrigin::Any => "*",
            CorsOrigin::Allowed(origin) => {
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

    /// Allows pages to send one more field. A field that is already allowed is not repeated.
    pub(crate) fn allow_header(&mut self, name: &str) {
        if !self.headers.split(", ").any(|known| known.eq_ignore_ascii_case(name)) {
            self.headers.push_str(", ");
            self.headers.push_str(name);
        }
    }

    /// Appends the additional fields of a response to a preflight request to `out`.
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

/// The properties of a preflight request, other than its origin and the fields it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Preflight {
    /// Whether the page belongs to a public site and this server is on the browser's private
    /// network or machine (WICG Private Network Access). An origin that is listed is allowed to do
    /// this.
    private_network: bool,
}

impl Preflight {
    /// The preflight request in `head`; `None` if the OPTIONS request is not a preflight request.
    pub(crate) fn of(head: &Head<'_>) -> Option<Self> {
        head.field("access-control-request-method")?;
        let asks = head.field("access-control-request-private-network");
        Some(Self { private_network: asks.is_some_and(|value| value == b"true") })
    }
}

/// How CORS applies to one response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum CorsOrigin {
    /// CORS is off: no field is written.
    #[default]
    Off,
    /// The origin is not allowed: only `Vary: Origin` is written.
    Denied,
    /// Any origin may read the response: `*`.
    Any,
    /// This origin may read the response.
    Allowed(Box<str>),
}
