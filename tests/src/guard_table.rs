//! Who may do what: every route, method, credential, `Origin` and `Host`, each with each.
//!
//! The table knows what must be answered and what must come of it, by a model of its own that shares no
//! code with the server. It does not know how requests get there: that is a [`Door`]'s affair, and there
//! is one for each way into a server.

use mcp_sse_core::{Authorization, Config, ConfigBuilder, StaticTokens};

/// Whose session the table posts to.
pub const OWNER: &str = "Bearer token-of-alice";
const OTHER: &str = "bearer token-of-bob";
const NOTE: &str = r#"{"jsonrpc":"2.0","method":"notifications/note"}"#;

/// The configuration that a door's server must have. It has to be reached on loopback.
pub fn config() -> ConfigBuilder {
    let tokens = StaticTokens::builder()
        .token("alice", "token-of-alice")
        .token("bob", "token-of-bob")
        .build()
        .expect("good tokens");
    Config::builder().authorization(Authorization::Static(tokens))
}

/// A way into a server with [`config`].
pub trait Door {
    /// Opens a session with the credentials of its [`OWNER`], keeps it open, and returns its token.
    fn open(&mut self) -> String;

    /// Sends one request on a connection of its own, and returns the status of the answer. A stream is
    /// left as soon as its head is there.
    fn ask(&mut self, request: &Request) -> u16;

    /// What the application has been told since this was last asked, [`open`](Self::open) included:
    /// sessions opened, and messages. It waits for what `ask` has caused.
    fn told(&mut self, expected: Told) -> Told;
}

/// What the application was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Sessions that have been opened.
    pub sessions: usize,
    /// Messages that have arrived.
    pub messages: usize,
}

/// One request of the table.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: &'static str,
    /// Path and query.
    pub target: String,
    /// The fields that make the case. `Content-Length` is not among them.
    pub fields: Vec<(&'static str, &'static str)>,
    /// The body.
    pub body: &'static str,
}

impl Request {
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
enum Route {
    Stream,
    Message,
    Probe,
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Nobody,
    Owner,
    Other,
}

const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"];

/// The values of `Authorization`, and whom they prove.
const CREDENTIALS: [(&[&str], Who); 7] = [
    (&[], Who::Nobody),
    (&["Bearer token-of-nobody"], Who::Nobody),
    (&["Bearer token-of-alic"], Who::Nobody),
    (&["Basic token-of-alice"], Who::Nobody),
    (&["Bearer token-of-alice, Bearer token-of-bob"], Who::Nobody),
    (&[OWNER], Who::Owner),
    (&[OTHER], Who::Other),
];

/// The values of `Origin`, and whether a page of it may use a server on loopback.
const ORIGINS: [(&[&str], bool); 7] = [
    (&[], true),
    (&["http://localhost:3000"], true),
    (&["https://[::1]"], true),
    (&["https://evil.example"], false),
    (&["http://localhost.evil.example"], false),
    (&["null"], false),
    (&["http://localhost", "http://localhost"], false),
];

/// The values of `Host`, and whether they are one, and one of loopback.
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

/// What must be answered, and what must come of it.
fn model(
    route: Route,
    method: &str,
    who: Who,
    origin: bool,
    (one_host, loopback): (bool, bool),
) -> (u16, Told) {
    let nothing = Told::default();
    let reads = matches!(method, "GET" | "HEAD");
    let refused = match (route, who) {
        _ if !one_host => 400,
        _ if method == "BREW" => 501,
        _ if method == "TRACE" => 405,
        (Route::Probe, _) if reads => return (200, nothing),
        (Route::Probe, _) => 405,
        _ if !loopback || !origin => 403,
        (Route::Nothing, _) => 404,
        (Route::Stream, _) if !reads => 405,
        (Route::Message, _) if method != "POST" => 405,
        (_, Who::Nobody) => 401,
        (Route::Message, Who::Other) => 404,
        (Route::Stream, _) if method == "HEAD" => return (200, nothing),
        (Route::Stream, _) => return (200, Told { sessions: 1, messages: 0 }),
        (Route::Message, Who::Owner) => return (202, Told { sessions: 0, messages: 1 }),
    };
    (refused, nothing)
}

/// Goes through the whole table, 31,752 requests, or through every `stride`th of them: a number that
/// shares no factor with 2, 3 and 7 meets each value of each column with each of the others.
///
/// # Panics
///
/// Where the server does something else.
pub fn check(door: &mut impl Door, stride: usize) {
    let token = door.open();
    assert_eq!(door.told(Told { sessions: 1, messages: 0 }), Told { sessions: 1, messages: 0 });
    let routes = [
        ("/sse", Route::Stream),
        ("/sse/", Route::Stream),
        ("/messages", Route::Message),
        ("/health", Route::Probe),
        ("/ready", Route::Probe),
        ("/nothing", Route::Nothing),
        ("/.well-known/oauth-protected-resource", Route::Nothing),
        ("//sse", Route::Nothing),
    ];
    let mut cases = Vec::new();
    for (path, route) in routes {
        for method in METHODS {
            for (credentials, who) in CREDENTIALS {
                for (origins, origin) in ORIGINS {
                    for (hosts, one_host, loopback) in HOSTS {
                        let expected = model(route, method, who, origin, (one_host, loopback));
                        cases.push((path, method, credentials, origins, hosts, expected));
                    }
                }
            }
        }
    }
    let mut statuses = std::collections::BTreeSet::new();
    for (path, method, credentials, origins, hosts, (status, told)) in
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
        let request = Request { method, target, fields, body: if posts { NOTE } else { "" } };
        assert_eq!(door.ask(&request), status, "{request:?}");
        assert_eq!(door.told(told), told, "{request:?}");
        statuses.insert(status);
    }
    let all = [200, 202, 400, 401, 403, 404, 405, 501];
    assert_eq!(statuses.into_iter().collect::<Vec<_>>(), all, "every answer has been seen");
}
