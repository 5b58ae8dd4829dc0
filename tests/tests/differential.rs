//! Compares the HTTP/1.1 codec with hyper's, on inputs that are generated from a grammar and then
//! mutated.
//!
//! Hyper accepts what this codec accepts, with the same method, target, fields, content and number
//! of requests. Where this codec refuses what hyper accepts, the fault is in a table with the
//! reason.

use core::cell::RefCell;
use core::convert::Infallible;
use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

use http::{Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use mcp_sse_core::Fault;
use mcp_sse_core::http1::{
    BodyDecoder, BodyLimits, FieldStorage, Framing, Head, HeadLimits, HeadScanner, Scan,
};
use mcp_sse_tests::sim::random::Random;

const INPUTS: u64 = 30_000;

/// Why this codec refuses what hyper accepts.
const STRICTER: &[(Fault, &str)] = &[
    (
        Fault::BadLineEnd,
        "a bare LF ends a line for hyper: RFC 9112 section 2.2 allows that, and smugglers use it",
    ),
    (Fault::TooManyEmptyLines, "hyper skips any number of empty lines before a request"),
    (
        Fault::UnknownMethod,
        "any token is a method for hyper; its application would answer 501 or 405",
    ),
    (
        Fault::MalformedTarget,
        "hyper takes octets that RFC 3986 allows nowhere, user information, other schemes, and forms that the method may not have",
    ),
    (Fault::MissingHost, "hyper leaves RFC 9112 section 3.2 to the application"),
    (Fault::DuplicateHost, "hyper leaves RFC 9112 section 3.2 to the application"),
    (Fault::InvalidHost, "hyper leaves RFC 9112 section 3.2 to the application"),
    (
        Fault::ConflictingFraming,
        "Transfer-Encoding wins for hyper, and Content-Length is removed: RFC 9112 section 6.1 allows that, or to refuse",
    ),
    (
        Fault::InvalidContentLength,
        "hyper merges equal repetitions, and takes leading zeros: RFC 9112 section 6.3 allows that, or to refuse",
    ),
    (
        Fault::InvalidTransferEncoding,
        "hyper takes several codings if the last is chunked, and leaves the others encoded",
    ),
    (
        Fault::MalformedChunk,
        "hyper skips whatever is in an extension, and white space behind a size",
    ),
];

/// A difference: its name, whether a request shows it, and the reason.
type Difference = (&'static str, fn(&HttpRequest) -> bool, &'static str);

/// What this codec accepts and hyper refuses.
const LAXER: &[Difference] = &[
    (
        "a higher minor version",
        |request| !matches!(request.version, b'0' | b'1'),
        "it is a 1.1 that can do more (RFC 9110 section 2.5)",
    ),
    (
        "an escape in the host of a target",
        |request| request.target.split('/').nth(2).is_some_and(|host| host.contains('%')),
        "a registered name may have them (RFC 3986 section 3.2.2), hyper knows them in paths; no host that is allowed has one",
    ),
];

#[derive(Clone, PartialEq, Eq)]
struct HttpRequest {
    method: String,
    target: String,
    version: u8,
    /// By lower-case name; the values of a name in order.
    fields: BTreeMap<String, Vec<Vec<u8>>>,
    content: Vec<u8>,
}

impl core::fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} {} HTTP/1.{}", self.method, self.target, self.version.escape_ascii())?;
        for (name, values) in &self.fields {
            for value in values {
                write!(f, " | {name}: {}", value.escape_ascii())?;
            }
        }
        write!(f, " || {}", self.content.escape_ascii())
    }
}

// ── Ours. ───────────────────────────────────────────────────────────────────────────────────────

/// The complete requests, and the fault that ended them.
fn ours(input: &[u8]) -> (Vec<HttpRequest>, Option<Fault>) {
    let mut requests = Vec::new();
    let mut rest = input;
    loop {
        match request(&mut rest) {
            Ok(Some((request, keep_alive))) => {
                requests.push(request);
                if !keep_alive {
                    return (requests, None);
                }
            }
            Ok(None) => return (requests, None),
            Err(fault) => return (requests, Some(fault)),
        }
    }
}

fn request(rest: &mut &[u8]) -> Result<Option<(HttpRequest, bool)>, Fault> {
    let Scan::Complete { consumed } = HeadScanner::new().scan(rest, &HeadLimits::default())? else {
        return Ok(None);
    };
    let (bytes, behind) = rest.split_at(consumed);
    let mut storage = FieldStorage::new();
    let head = Head::parse(bytes, &mut storage)?;
    let mut fields = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in head.fields() {
        fields.entry(name.to_ascii_lowercase()).or_default().push(value.to_vec());
    }
    let line = bytes.trim_ascii_start().split(|&octet| octet == b'\r').next().expect("a line");
    let line = core::str::from_utf8(line).expect("a request line is ASCII");
    let words: Vec<_> = line.split(' ').collect();
    let mut content = Vec::new();
    let mut decoder = BodyDecoder::new(head.framing());
    let mut sink = |bytes: &[u8]| content.extend_from_slice(bytes);
    let progress = decoder.decode(behind, &BodyLimits::default(), &mut sink)?;
    *rest = &behind[progress.consumed..];
    if !progress.done {
        return Ok(None);
    }
    let request = HttpRequest {
        method: words[0].into(),
        target: words[1].into(),
        version: *line.as_bytes().last().expect("a digit"),
        fields,
        content,
    };
    assert!(head.framing() != Framing::Empty || request.content.is_empty());
    Ok(Some((request, head.keep_alive())))
}

// ── Hyper's. ────────────────────────────────────────────────────────────────────────────────────

/// A connection with all of its input; output is discarded.
struct FixedInput<'a>(&'a [u8]);

impl Read for FixedInput<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let (now, later) = self.0.split_at(self.0.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl Write for FixedInput<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The requests that hyper has passed to its application completely.
fn hypers(input: &[u8]) -> Vec<HttpRequest> {
    let requests = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: http::Request<Incoming>| {
        let requests = requests.clone();
        async move {
            if let Some(request) = whole(request).await {
                requests.borrow_mut().push(request);
            }
            // Not a success status, which would turn `CONNECT` into a tunnel.
            let mut response = Response::new(String::new());
            *response.status_mut() = StatusCode::NOT_FOUND;
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = http1::Builder::new();
    builder.half_close(true).header_read_timeout(None);
    let mut connection = pin!(builder.serve_connection(FixedInput(input), service));
    let mut cx = Context::from_waker(Waker::noop());
    // Each poll does all there is to do, except that hyper sometimes yields.
    let ended = (0..1_000).any(|_| connection.as_mut().poll(&mut cx).is_ready());
    assert!(ended, "hyper waits for something in {}", input.escape_ascii());
    requests.take()
}

async fn whole(request: http::Request<Incoming>) -> Option<HttpRequest> {
    let (head, mut body) = request.into_parts();
    let mut content = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(data) = frame.ok()?.into_data() {
            content.extend_from_slice(&data);
        }
    }
    let mut fields = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in &head.headers {
        fields.entry(name.as_str().to_owned()).or_default().push(value.as_bytes().to_vec());
    }
    Some(HttpRequest {
        method: head.method.as_str().into(),
        target: head.uri.to_string(),
        version: if head.version == http::Version::HTTP_10 { b'0' } else { b'1' },
        fields,
        content,
    })
}

// ── Inputs. ─────────────────────────────────────────────────────────────────────────────────────

/// Generates the requests of one connection. Returns whether all are well-formed.
fn input(random: &mut Random) -> (Vec<u8>, bool) {
    let (mut input, mut right) = (Vec::new(), true);
    for _ in 0..=random.below(3) {
        right &= a_request(random, &mut input);
    }
    if !random.one_in(3) {
        return (input, right);
    }
    const OCTETS: &[u8] = b"\r\n\r\n \t:;,=\"\\0aF\0\x7f\xff#%/?@[]{}";
    for _ in 0..=random.below(3) {
        let at = random.below(input.len());
        match random.below(5) {
            0 if input.len() > 1 => drop(input.remove(at)),
            1 => input.insert(at, *random.pick(OCTETS)),
            2 => input[at] = *random.pick(OCTETS),
            3 => input.insert(at, input[at]),
            _ if random.one_in(4) => input.truncate(at.max(1)),
            _ => {
                let other = random.below(input.len());
                input.swap(at, other);
            }
        }
    }
    (input, false)
}

/// Appends a request. Returns whether it is well-formed.
fn a_request(random: &mut Random, input: &mut Vec<u8>) -> bool {
    const METHODS: &[&str] = &["GET", "POST", "PUT", "OPTIONS", "HEAD", "DELETE", "get", "FETCH"];
    const TARGETS: &[&str] = &[
        "/",
        "/messages?session_id=x",
        "/a/../b//c",
        "/%41?a=b&c=[d]",
        "http://a.example/x",
        "http://a?b",
        "https://[::1]:80/",
        "https://a.example:080",
        "/~!$&'()*+,;=:@-._",
        "//x",
        "*",
        "a",
        "ftp://a/b",
        "http://u@a/",
        "http://%41/",
        "/[x]|",
        "/\"{}",
        "/a#b",
    ];
    const VERSIONS: &[&str] = &["1.1", "1.1", "1.1", "1.0", "1.2", "2.0"];
    const FIELDS: &[&str] = &[
        "Accept: text/event-stream",
        "x-empty:",
        "X-Spaces: \t a b \t",
        "X-Obs: \u{e9}",
        "Cookie: a=b; c=d",
        "Connection: keep-alive",
        "Content-Type: application/json",
        "Expect: 100-continue",
        "X-Twice: 1\r\nX-Twice: 2",
        "TE: trailers",
        "Upgrade: h2c",
        "Connection: close",
        "Host: b",
        "Host: a@b",
        "Content-Length: 3",
        "Content-Length: 3, 3",
        "Content-Length: +3",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
        "X-Folded: a\r\n b",
        "X-Spaced : a",
        "X-Bare: a\nX: b",
    ];
    const EXTENSIONS: &[&str] =
        &["", "", "", ";a", ";a=b", ";a=\"b;\\\"c\"", " ", ";", ";=x", " ; a = b", "\n", "g"];
    const TRAILERS: &[&str] = &[
        "",
        "",
        "X-After: b\r\n",
        "X-A:\r\nX-B: c\r\n",
        "X : y\r\n",
        "x\r\n",
        "X: a\n",
        " x: y\r\n",
    ];

    // In each list the first half is well-formed, and the rest is accepted by some implementation.
    let wild = random.one_in(6);
    let pick = |random: &mut Random, from: &[&'static str]| {
        from[random.below(if wild { from.len() } else { from.len() / 2 })]
    };
    let empty_lines = if random.one_in(30) { 1 + random.below(5) } else { 0 };
    input.extend_from_slice("\r\n".repeat(empty_lines).as_bytes());
    let (method, target) = (pick(random, METHODS), pick(random, TARGETS));
    let line = format!("{method} {target} HTTP/{}\r\n", pick(random, VERSIONS));
    input.extend_from_slice(line.as_bytes());
    let content = b"0123456789abcdef\r\n0\r\n\r\n".split_at(random.below(24)).0;
    let mut fields = vec!["Host: localhost".to_owned()];
    let framing = if wild { random.below(12) } else { random.below(9) };
    match framing {
        0..3 => {}
        3..6 => fields.push(format!("Content-Length: {}", content.len())),
        6..9 => fields.push("Transfer-Encoding: chunked".to_owned()),
        _ => {
            fields.push(format!("Content-Length: {}", content.len()));
            let second = ["Content-Length: 3", "Transfer-Encoding: chunked", "content-length: 03"];
            fields.push((*random.pick(&second)).to_owned());
        }
    }
    for _ in 0..random.below(4) {
        let at = random.below(fields.len() + 1);
        fields.insert(at, pick(random, FIELDS).to_owned());
    }
    if wild && random.one_in(5) {
        fields.retain(|field| !field.starts_with("Host"));
    }
    for field in fields {
        // In Latin-1, so that a character beyond ASCII is one octet.
        input.extend(field.chars().map(|c| c as u8));
        input.extend_from_slice(b"\r\n");
    }
    input.extend_from_slice(b"\r\n");
    match framing {
        3..6 => input.extend_from_slice(content),
        6..9 => {
            for chunk in content.chunks(1 + random.below(9)) {
                let size = format!("{:x}{}\r\n", chunk.len(), pick(random, EXTENSIONS));
                input.extend_from_slice(size.as_bytes());
                input.extend_from_slice(chunk);
                input.extend_from_slice(b"\r\n");
            }
            input.extend_from_slice(format!("0\r\n{}\r\n", pick(random, TRAILERS)).as_bytes());
        }
        _ => {}
    }
    // Five empty lines are one more than this codec skips.
    !wild && empty_lines < 5
}

// ── The comparison. ─────────────────────────────────────────────────────────────────────────────

/// The target as hyper reports it: without a fragment, and with a path even if an absolute target
/// has none.
fn as_hyper_says(request: &HttpRequest) -> HttpRequest {
    let mut request = request.clone();
    if let Ok(uri) = request.target.parse::<http::Uri>() {
        request.target = uri.to_string();
    }
    request
}

#[test]
fn accepted_requests_are_read_alike_by_hyper() {
    let mut random = Random::seeded(1);
    let (mut accepted, mut stricter, mut laxer) = (0, BTreeSet::new(), BTreeSet::new());
    for _ in 0..INPUTS {
        let (input, right) = input(&mut random);
        let ((ours, fault), theirs) = (ours(&input), hypers(&input));
        let context =
            || format!("{}\nours: {ours:#?} {fault:?}\nhyper's: {theirs:#?}", input.escape_ascii());
        assert!(!right || fault.is_none(), "nothing is wrong with {}", context());
        let mut theirs_left = theirs.iter();
        let mut parted = false;
        for request in &ours {
            match theirs_left.next() {
                Some(same) if *same == as_hyper_says(request) => accepted += 1,
                None => {
                    let known = LAXER.iter().find(|(_, applies, _)| applies(request));
                    let (name, ..) = known.unwrap_or_else(|| panic!("hyper refuses {}", context()));
                    laxer.insert(*name);
                    parted = true;
                    break;
                }
                Some(_) => panic!("hyper reads it differently: {}", context()),
            }
        }
        if let (Some(_), false) = (theirs_left.next(), parted) {
            let Some(fault) = fault else { panic!("hyper sees another request: {}", context()) };
            let known = STRICTER.iter().any(|(listed, _)| *listed == fault);
            assert!(known, "not in the table: {fault:?}\n{}", context());
            stricter.insert(fault.name());
        }
    }
    let listed = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<_>>();
    let faults: Vec<_> = STRICTER.iter().map(|(fault, _)| fault.name()).collect();
    assert_eq!(stricter, listed(&faults), "the table lists what is not so");
    assert_eq!(laxer, listed(&LAXER.iter().map(|(name, ..)| *name).collect::<Vec<_>>()));
    assert!(accepted > INPUTS / 2, "{accepted} requests were accepted: the inputs are too wild");
}
