//! Checks the output of a connection against its requests.
//!
//! Knows: how many responses there must be and when there may be fewer, and the exact response to a
//! request without unusual fields. Does not know: how the server decides. It reads requests with
//! the core's codec, which other targets compare with independent readers.

use mcp_sse_core::Fault;
use mcp_sse_core::http1::{
    BodyDecoder, BodyLimits, FieldStorage, Head, HeadLimits, HeadScanner, Scan,
};
use mcp_sse_core::jsonrpc::{Kind, code};

use super::bytes::{TOKEN, Transcript, WORDS, limits};
use super::events::{on_one_line, strictly};
use super::json::classify;
use crate::sim::reader::{Reader, Received};

/// Checks all output against the input of the connection.
pub(super) fn check(said: &[u8], transcript: &Transcript) {
    let (asked, behind) = requests(said);
    let (answers, stream) = answers(&transcript.connection, &asked);
    check_count(&asked, behind, &answers, stream.is_some());
    for (asked, answer) in asked.iter().zip(&answers) {
        check_answer(asked, answer);
    }
    let words = if stream.is_some() { &[WORDS][..] } else { &[] };
    assert_eq!(check_stream(stream.as_ref()), words);

    let (none, stream) = self::answers(&transcript.stream, &[]);
    let sent = check_stream(stream.as_ref());
    assert!(none.len() == 1 && stream.is_some(), "a stream was asked for, and nothing else");
    check_messages(&asked, &answers, transcript, &sent);
}

/// A request, as far as it was received.
struct ParsedRequest {
    method: String,
    target: String,
    version: char,
    fields: Vec<(String, String)>,
    /// Its content, if all of it was received.
    content: Option<Vec<u8>>,
}

/// The requests in the input, and the fault of a malformed head behind them.
fn requests(mut said: &[u8]) -> (Vec<ParsedRequest>, Option<Fault>) {
    let limits = limits();
    let size = |limit: Option<u32>| limit.map_or(usize::MAX, |limit| limit as usize);
    let heads = HeadLimits {
        head_bytes_max: size(limits.head_bytes_max),
        fields_max: limits.fields_max as usize,
        target_bytes_max: size(limits.target_bytes_max),
    };
    let bodies = BodyLimits {
        body_bytes_max: limits.body_bytes_max.expect("a limit"),
        extension_bytes_max: size(limits.extension_bytes_max),
        trailer_bytes_max: size(limits.trailer_bytes_max),
    };
    let mut all = Vec::new();
    loop {
        let end = match HeadScanner::new().scan(said, &heads) {
            Ok(Scan::Complete { consumed }) => consumed,
            Ok(Scan::Partial) => return (all, None),
            Err(error) => return (all, Some(error.into())),
        };
        let (bytes, rest) = said.split_at(end);
        let mut storage = FieldStorage::new();
        let head = match Head::parse(bytes, &mut storage) {
            Ok(head) => head,
            Err(error) => return (all, Some(error.into())),
        };
        let lines = String::from_utf8_lossy(bytes);
        let line = lines.trim_start().split("\r\n").next().unwrap_or_default();
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let fields = head.fields().map(|(name, value)| (name.to_ascii_lowercase(), text(value)));
        let mut asked = ParsedRequest {
            method: head.method().as_str().to_owned(),
            target: line.split(' ').nth(1).unwrap_or_default().to_owned(),
            version: line.chars().last().unwrap_or_default(),
            fields: fields.collect(),
            content: None,
        };
        let mut content = Vec::new();
        let mut decoder = BodyDecoder::new(head.framing());
        let mut sink = |bytes: &[u8]| content.extend_from_slice(bytes);
        match decoder.decode(rest, &bodies, &mut sink) {
            Ok(progress) if progress.done => {
                asked.content = Some(content);
                all.push(asked);
                said = &rest[progress.consumed..];
            }
            // The body is incomplete or malformed, so no request follows.
            Ok(_) | Err(_) => {
                all.push(asked);
                return (all, None);
            }
        }
    }
}

/// A final response that is no stream.
struct ParsedResponse {
    status: u16,
    closes: bool,
    body: String,
}

/// Reads all responses. The last one may be a stream, whose events are returned.
fn answers(
    mut heard: &[u8],
    asked: &[ParsedRequest],
) -> (Vec<ParsedResponse>, Option<Vec<Received>>) {
    let mut answers = Vec::new();
    while !heard.is_empty() {
        let end = heard.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
        let head = core::str::from_utf8(&heard[..end]).expect("a head is text");
        let body = &heard[end + 4..];
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status: u16 = status.and_then(|status| status.parse().ok()).expect("a status");
        let field = |name: &str| {
            let mut named = head.split("\r\n").filter_map(|line| line.split_once(": "));
            named.find(|(field, _)| *field == name).map(|(_, value)| value)
        };
        if status < 200 {
            assert_eq!((status, end), (100, "HTTP/1.1 100 Continue".len()), "{head}");
            heard = body;
            continue;
        }
        let bodiless = asked.get(answers.len()).is_some_and(|asked| asked.method == "HEAD");
        let closes = field("Connection") == Some("close");
        if field("Content-Type") == Some("text/event-stream") && !bodiless {
            let chunked = field("Transfer-Encoding");
            assert!(matches!(chunked, None | Some("chunked")) && status == 200, "{head}");
            assert_eq!(chunked.is_none(), closes, "only a close ends events without chunks");
            answers.push(ParsedResponse { status, closes, body: String::new() });
            return (answers, Some(strictly(Reader::default(), heard)));
        }
        let len = match field("Content-Length") {
            _ if bodiless => 0,
            Some(length) => length.parse().expect("a length"),
            None => {
                assert_eq!(status, 204, "an answer without a length: {head}");
                0
            }
        };
        assert!(body.len() >= len, "a body is missing: {head}");
        let (body, rest) = body.split_at(len);
        let body = String::from_utf8(body.to_vec()).expect("answers are text");
        answers.push(ParsedResponse { status, closes, body });
        heard = rest;
    }
    (answers, None)
}

/// Checks that every complete request and a malformed head have a response, unless an earlier
/// response closed the connection.
fn check_count(
    asked: &[ParsedRequest],
    behind: Option<Fault>,
    answers: &[ParsedResponse],
    stream: bool,
) {
    let last = answers.last().is_some_and(|answer| answer.closes) || stream;
    let more = answers.iter().rev().skip(1).any(|answer| answer.closes);
    assert!(!more, "something follows the last answer");
    let whole = asked.iter().filter(|asked| asked.content.is_some()).count();
    let status = behind.and_then(Fault::status);
    let most = asked.len() + usize::from(status.is_some());
    assert!(answers.len() <= most, "{} answers to {most} requests", answers.len());
    let least = whole + usize::from(status.is_some());
    assert!(last || answers.len() >= least, "{} answers to {least} requests", answers.len());
    if let Some(answer) = answers.get(asked.len()) {
        assert_eq!((Some(answer.status), answer.closes), (status, true), "to {behind:?}");
    }
}

/// Checks the response to a request without unusual fields.
fn check_answer(asked: &ParsedRequest, answer: &ParsedResponse) {
    let Some(content) = asked.content.as_deref().filter(|_| !asked.is_unusual()) else { return };
    let line = (asked.method.as_str(), asked.target.as_str(), asked.version);
    let expected = match line {
        ("GET", "/health", _) => 200,
        // A complete post is validated before it is answered.
        ("POST", target, '1') if target == format!("/messages?session_id={TOKEN}") => {
            if asked.has("content-length", None) || asked.has("transfer-encoding", None) {
                classify(content, Some(6)).map_or(400, |_| 202)
            } else {
                411
            }
        }
        _ => return,
    };
    assert_eq!(answer.status, expected, "{line:?} is answered {:?}", answer.body);
    // The rest of a refused body is discarded, so the connection stays open.
    let closes = asked.version == '0' || asked.has("connection", Some("close"));
    assert_eq!(answer.closes, closes, "{line:?} is answered {}", answer.status);
    if let (400, Err(error)) = (expected, classify(content, Some(6))) {
        let start = format!(r#"{{"jsonrpc":"2.0","id":null,"error":{{"code":{error},"#);
        assert!(answer.body.starts_with(&start), "{} is not {error}", answer.body);
    }
}

impl ParsedRequest {
    fn has(&self, name: &str, value: Option<&str>) -> bool {
        let mut named = self.fields.iter().filter(|(field, _)| field == name);
        named.any(|(_, found)| value.is_none_or(|value| value == found))
    }

    /// Whether it could be refused for another reason than its content.
    fn is_unusual(&self) -> bool {
        let known = |(name, value): &(String, String)| match name.as_str() {
            "host" => value == "localhost",
            "content-type" => value == "application/json",
            "connection" => value == "close",
            "expect" => value == "100-continue",
            "content-length" | "transfer-encoding" => self.method == "POST",
            _ => false,
        };
        let count = |wanted: &str| self.fields.iter().filter(|(name, _)| name == wanted).count();
        let twice = self.fields.iter().any(|(name, _)| count(name) > 1);
        let typed = self.method != "POST" || count("content-type") == 1;
        !self.fields.iter().all(known) || twice || !typed || count("host") == 0
    }
}

/// Checks the events of a stream: the endpoint, and then messages, which are returned.
fn check_stream(heard: Option<&Vec<Received>>) -> Vec<String> {
    let mut messages = Vec::new();
    let mut heard = heard.into_iter().flatten();
    let Some(begin) = heard.next() else { return messages };
    assert!(matches!(begin, Received::StreamBegins { .. }), "{begin:?}");
    let Some(Received::Event { name, data }) = heard.next() else { panic!("no endpoint") };
    assert!(name == "endpoint" && data.starts_with("/messages?session_id=AAA"), "{data}");
    for thing in heard {
        match thing {
            Received::Event { name, data } if name == "message" => messages.push(data.clone()),
            Received::Heartbeat | Received::StreamEnds => {}
            Received::Event { .. }
            | Received::Response { .. }
            | Received::Continue
            | Received::StreamBegins { .. } => panic!("on a stream: {thing:?}"),
        }
    }
    messages
}

/// Checks that each accepted post was delivered once and in order, or was answered "busy" on the
/// stream, or was cancelled; that nothing else was delivered; and that the stream has the
/// application's responses.
fn check_messages(
    asked: &[ParsedRequest],
    answers: &[ParsedResponse],
    transcript: &Transcript,
    sent: &[String],
) {
    let busy = format!(r#""code":{}"#, code::SERVER_BUSY);
    let is_busy = |data: &&String| data.contains(&busy) && !transcript.answers.contains(data);
    let mut refused: Vec<_> = sent.iter().filter(is_busy).collect();
    let expected: Vec<_> = transcript.answers.iter().map(|json| on_one_line(json)).collect();
    assert!(sent.iter().filter(|data| !is_busy(data)).eq(&expected), "{sent:?}, {expected:?}");

    let mut arrived = transcript.messages.iter().peekable();
    let mut withdrawn = 0;
    let accepted = asked.iter().zip(answers).filter(|(_, answer)| answer.status == 202);
    for (asked, _) in accepted {
        let content = asked.content.as_deref().expect("a post that is accepted is whole");
        if arrived.next_if(|message| message.as_bytes() == content).is_some() {
            continue;
        }
        let found = classify(content, Some(6)).expect("a message");
        let id = on_one_line(found.id.unwrap_or_default());
        assert_eq!(found.kind, Kind::Request, "it did not arrive: {}", content.escape_ascii());
        let told_busy = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":"#);
        match refused.iter().position(|data| data.starts_with(&told_busy)) {
            Some(at) => drop(refused.remove(at)),
            None => withdrawn += 1,
        }
    }
    assert_eq!(withdrawn, transcript.withdrawn, "requests that were accepted are nowhere");
    assert_eq!(arrived.next(), None, "nobody was told that it was accepted");
    assert!(refused.is_empty(), "busy for nothing: {refused:?}");
}
