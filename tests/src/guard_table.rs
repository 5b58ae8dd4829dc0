//! The table of the guard: every combination of route, method, credential, `Origin` and `Host`.
//!
//! Knows: the expected status and events of each request, by a model that shares no code with the
//! server.
//! Does not know: how requests reach the server; each way in implements [`GuardedServer`].

use mcp_sse_core::{Authorization, Config, ConfigBuilder, StaticTokens};

/// The credentials of the session that the table posts to.
pub const OWNER: &str = "Bearer token-of-alice";
const OTHER: &str = "bearer token-of-bob";
const NOTE: &str = r#"{"jsonrpc":"2.0","method":"notifications/note"}"#;

/// The configuration of a server for the table. The server must be reached on loopback.
pub fn config() -> ConfigBuilder {
    let tokens = StaticTokens::builder()
        .token("alice", "token-of-alice")
        .token("bob", "token-of-bob")
        .build()
        .expect("good tokens");
    Config::builder().authorization(Authorization::Static(tokens))
}

/// A server with [`config`], and a way to send it requests.
pub trait GuardedServer {
    /// Opens a session with the credentials [`OWNER`], keeps it open, and returns its token.
    fn open(&mut self) -> String;

    /// Sends one request on a new connection, and returns the status of the response. A stream is
    /// closed as soon as its head was received.
    fn ask(&mut self, request: &GuardRequest) -> u16;

    /// The application's events since the last call: opened sessions, including that of
    /// [`open`](Self::open), and messages. It waits until the events of the last request have come.
    fn app_events(&mut self, expected: AppEvents) -> AppEvents;
}

/// Numbers of events of the application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppEvents {
    /// Opened sessions.
    pub sessions: usize,
    /// Delivered messages.
    pub messages: usize,
}

/// One request of the table.
#[derive(Clone, Debug)]
pub struct GuardRequest {
    /// The method.
    pub method: &'static str,
    /// The path and query.
    pub target: String,
    /// The fields of the case, without `Content-Length`.
    pub fields: Vec<(&'static str, &'static str)>,
    /// The body.
    pub body: &'static str,
}

impl GuardRequest {
    /// The request as it is sent on a connection.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let Self { method, target, fields, body } = self;
        let fields: String =
            fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = match body.len() {
            0 => String::new(),
            length => format!("Content-Length: {length}\r\n"),
        };
        format!("{method} {target} HTTP/1.1\r\n{fields}{length}\r\n{body}").into_bytes()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum GuardRoute {
    Stream,
    Message,
    Probe,
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Identity {
    Nobody,
    Owner,
    Other,
}

const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"];

/// The values of `Authorization`, and the identity that they prove.
const CREDENTIALS: [(&[&str], Identity); 7] = [
    (&[], Identity::Nobody),
    (&["Bearer token-of-nobody"], Identity::Nobody),
    (&["Bearer token-of-alic"], Identity::Nobody),
    (&["Basic token-of-alice"], Identity::Nobody),
    (&["Bearer token-of-alice, Bearer token-of-bob"], Identity::Nobody),
    (&[OWNER], Identity::Owner),
    (&[OTHER], Identity::Other),
];

/// The values of `Origin`, and whether such a page may use a server on loopback.
const ORIGINS: [(&[&str], bool); 7] = [
    (&[], true),
    (&["http://localhost:3000"], true),
    (&["https://[::1]"], true),
    (&["https://evil.example"], false),
    (&["http://localhost.evil.example"], false),
    (&["null"], false),
    (&["http://localhost", "http://localhost"], false),
];

/// The values of `Host`, whether there is exactly one, and whether it is a loopback host.
const HOSTS: [(&[&str], bool, bool); 9] = [
    (&["localhost"], true, true),
    (&["127.0.0.1:8000"], true, true),
    (&["[::1]:8000"], true, true),
    (&["LOCALHOST:8000"], true, true),
    (&["localhost."], true, true),
    (&["evil.example"], true, false),
    (&["localhost.evil.example"], true, false),
    (&[], false, false),
    (&["localhost", "localhost"], false, false),
];

/// The expected status and events of a request.
fn model(
    route: GuardRoute,
    method: &str,
    identity: Identity,
    origin: bool,
    (one_host, loopback): (bool, bool),
) -> (u16, AppEvents) {
    let nothing = AppEvents::default();
    let reads = matches!(method, "GET" | "HEAD");
    let refused = match (route, identity) {
        _ if !one_host => 400,
        _ if method == "BREW" => 501,
        _ if method == "TRACE" => 405,
        (GuardRoute::Probe, _) if reads => return (200, nothing),
        (GuardRoute::Probe, _) => 405,
        _ if !loopback || !origin => 403,
        (GuardRoute::Nothing, _) => 404,
        (GuardRoute::Stream, _) if !reads => 405,
        (GuardRoute::Message, _) if method != "POST" => 405,
        (_, Identity::Nobody) => 401,
        (GuardRoute::Message, Identity::Other) => 404,
        (GuardRoute::Stream, _) if method == "HEAD" => return (200, nothing),
        (GuardRoute::Stream, _) => return (200, AppEvents { sessions: 1, messages: 0 }),
        (GuardRoute::Message, Identity::Owner) => {
            return (202, AppEvents { sessions: 0, messages: 1 });
        }
    };
    (refused, nothing)
}

/// Checks every `stride`th of the 31,752 requests of the table. A stride without a factor of 2, 3
/// or 7 combines each value of each column with each value of the others.
///
/// # Panics
///
/// If the server answers differently.
pub fn check(server: &mut impl GuardedServer, stride: usize) {
    let token = server.open();
    assert_eq!(
        server.app_events(AppEvents { sessions: 1, messages: 0 }),
        AppEvents { sessions: 1, messages: 0 }
    );
    let routes = [
        ("/sse", GuardRoute::Stream),
        ("/sse/", GuardRoute::Stream),
        ("/messages", GuardRoute::Message),
        ("/health", GuardRoute::Probe),
        ("/ready", GuardRoute::Probe),
        ("/nothing", GuardRoute::Nothing),
        ("/.well-known/oauth-protected-resource", GuardRoute::Nothing),
        ("//sse", GuardRoute::Nothing),
    ];
    let mut cases = Vec::new();
    for (path, route) in routes {
        for method in METHODS {
            for (credentials, identity) in CREDENTIALS {
                for (origins, origin) in ORIGINS {
                    for (hosts, one_host, loopback) in HOSTS {
                        let expected = model(route, method, identity, origin, (one_host, loopback));
                        cases.push((path, method, credentials, origins, hosts, expected));
                    }
                }
            }
        }
    }
    let mut statuses = std::collections::BTreeSet::new();
    for (path, method, credentials, origins, hosts, (status, app_events)) in
        cases.into_iter().step_by(stride)
    {
        let query =
            if path == "/messages" { format!("?session_id={token}") } else { String::new() };
        let named =
            |name, values: &'static [&'static str]| values.iter().map(move |&value| (name, value));
        let mut fields: Vec<_> = named("Host", hosts)
            .chain(named("Origin", origins))
            .chain(named("Authorization", credentials))
            .collect();
        let posts = method == "POST";
        if posts {
            fields.push(("Content-Type", "application/json"));
        }
        let target = format!("{path}{query}");
        let request = GuardRequest { method, target, fields, body: if posts { NOTE } else { "" } };
        assert_eq!(server.ask(&request), status, "{request:?}");
        assert_eq!(server.app_events(app_events), app_events, "{request:?}");
        statuses.insert(status);
    }
    let all = [200, 202, 400, 401, 403, 404, 405, 501];
    assert_eq!(statuses.into_iter().collect::<Vec<_>>(), all, "every answer has been seen");
}
