use super::*;
use crate::sse::{EventName, Frame, HEARTBEAT_BARE};
use crate::testing::Random;
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use serde_json::Value;

/// Everything observable of a decoder after some input.
#[derive(Debug, PartialEq)]
struct Trace {
    events: Vec<DecodedEvent>,
    error: Option<EventTooLarge>,
    comments: u64,
    retry_ms: Option<u64>,
    last_event_id: String,
}

fn run(limit: usize, parts: &[&[u8]]) -> Trace {
    let mut decoder = Decoder::new(limit);
    let mut events = vec![];
    let mut error = None;
    for part in parts {
        error = decoder.feed(part, &mut |event| events.push(event)).err();
    }
    Trace {
        events,
        error,
        comments: decoder.comments(),
        retry_ms: decoder.retry_ms(),
        last_event_id: decoder.last_event_id().to_string(),
    }
}

/// Decodes `input` in one piece, byte by byte, and split at every point. The results must be equal.
#[track_caller]
fn decode_in_every_split(limit: usize, input: &[u8]) -> Trace {
    let whole = run(limit, &[input]);
    assert_eq!(whole, run(limit, &input.chunks(1).collect::<Vec<_>>()), "byte by byte");
    for cut in 0..=input.len() {
        assert_eq!(whole, run(limit, &[&input[..cut], b"", &input[cut..]]), "cut at {cut}");
    }
    whole
}

/// Decodes `input` and compares its events, as (name, data, last event id), with `expected`.
#[track_caller]
fn check_bytes(input: &[u8], expected: &[(&str, &str, &str)]) -> Trace {
    let trace = decode_in_every_split(1 << 20, input);
    let events: Vec<(&str, &str, &str)> =
        trace.events.iter().map(|e| (&*e.name, &*e.data, &*e.last_event_id)).collect();
    assert_eq!(events, expected);
    assert_eq!(trace.error, None);
    trace
}

#[track_caller]
fn check(input: &str, expected: &[(&str, &str, &str)]) -> Trace {
    check_bytes(input.as_bytes(), expected)
}

#[test]
fn examples_of_the_standard_are_decoded_as_it_says() {
    check("data: YHOO\ndata: +2\ndata: 10\n\n", &[("message", "YHOO\n+2\n10", "")]);
    let trace = check(
        ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        &[
            ("message", "first event", "1"),
            ("message", "second event", ""),
            ("message", " third event", ""),
        ],
    );
    assert_eq!(trace.comments, 1);
    check("data\n\ndata\ndata\n\ndata:", &[("message", "", ""), ("message", "\n", "")]);
    check("data:test\n\ndata: test\n\n", &[("message", "test", ""), ("message", "test", "")]);
    check(
        "data: This is the first message.\n\ndata: This is the second message, it\n\
         data: has two lines.\n\ndata: This is the third message.\n\n",
        &[
            ("message", "This is the first message.", ""),
            ("message", "This is the second message, it\nhas two lines.", ""),
            ("message", "This is the third message.", ""),
        ],
    );
    check(
        "event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n",
        &[("add", "73857293", ""), ("remove", "2153", ""), ("add", "113411", "")],
    );
}

#[test]
fn line_ends_at_lf_cr_or_crlf_only() {
    check("data: a\n\ndata: b\n\n", &[("message", "a", ""), ("message", "b", "")]);
    check("data: a\r\rdata: b\r\r", &[("message", "a", ""), ("message", "b", "")]);
    check("data: a\r\n\r\ndata: b\r\n\r\n", &[("message", "a", ""), ("message", "b", "")]);
    check("data: a\r\n\rdata: b\n\r\n", &[("message", "a", ""), ("message", "b", "")]);
    // LF CR is two line ends, so it ends an event; so is CR CR LF.
    check("data: a\n\rdata: b\r\r\n", &[("message", "a", ""), ("message", "b", "")]);
    // No other character ends a line.
    check(
        "data: a\u{2028}b\u{85}c\u{b}d\u{c}\n\n",
        &[("message", "a\u{2028}b\u{85}c\u{b}d\u{c}", "")],
    );
    // The end of the stream ends neither an event nor a line.
    check("data: a\n\ndata: b\n", &[("message", "a", "")]);
    check("data: a", &[]);
    check("data: a\n", &[]);
    check("data: a\r", &[]);
    check("data: a\r\n", &[]);
    check("", &[]);
    check("\n\n\r\n\r\r", &[]);
}

#[test]
fn fields_are_interpreted_as_the_standard_says() {
    check("event: x\n\ndata: a\n\n", &[("message", "a", "")]); // an event without data is dropped with its name
    check("event: x\nevent: y\ndata: a\n\n", &[("y", "a", "")]);
    check("event: x\nevent\ndata: a\n\n", &[("message", "a", "")]);
    check("data:a\ndata:  b\ndata:\tc\ndata:d:e\n\n", &[("message", "a\n b\n\tc\nd:e", "")]);
    check("data: \ndata:\ndata\n\n", &[("message", "\n\n", "")]);
    check("Data: a\n data: b\ndata : c\nfoo: d\nfoo\n\ndatax: e\n\n", &[]);
    check("dat", &[]);
    // Comments.
    let trace = check(":\n: x\n:data: y\ndata: a\n:\r\n\n::\n", &[("message", "a", "")]);
    assert_eq!(trace.comments, 5);
    // The last event id stays until an `id` field changes it, even in an event without data. A
    // field with NUL in it is ignored, and so is a field of an incomplete event.
    check("id: 1\ndata: a\n\ndata: b\n\n", &[("message", "a", "1"), ("message", "b", "1")]);
    let trace = check("id: 1\n\nid: 2\nid: \0\ndata: a\n\nid: 3\n", &[("message", "a", "2")]);
    assert_eq!(trace.last_event_id, "2");
    assert_eq!(check("id: 7\n\n", &[]).last_event_id, "7");
    assert_eq!(check("id: 7\n\nid:\n\n", &[]).last_event_id, "");
    // NUL is accepted in every other field.
    check("event: \0\ndata: \0\n\n", &[("\0", "\0", "")]);
    // The reconnection time takes effect as soon as its line ends.
    for (retry, expected) in [
        ("3000", Some(3000)),
        ("0", Some(0)),
        ("007", Some(7)),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        (" 1", None),
        ("1 ", None),
        ("1s", None),
        ("٣", None),
        ("99999999999999999999999", Some(u64::MAX)),
    ] {
        assert_eq!(check(&format!("retry: {retry}\n"), &[]).retry_ms, expected, "{retry:?}");
    }
    assert_eq!(check("retry: 5\nretry: x\nretry\n", &[]).retry_ms, Some(5));
}

#[test]
fn byte_order_mark_is_ignored_at_the_start_only() {
    check("\u{feff}data: a\n\n", &[("message", "a", "")]);
    assert_eq!(check("\u{feff}:\n", &[]).comments, 1);
    check("\u{feff}\ndata: a\n\n", &[("message", "a", "")]);
    check("\u{feff}\u{feff}data: a\n\n", &[]);
    check("\n\u{feff}data: a\n\n", &[]);
    check("data: \u{feff}a\n\n", &[("message", "\u{feff}a", "")]);
    check_bytes(b"\xef\xbbdata: a\n\n", &[]);
}

#[test]
fn invalid_utf8_is_replaced() {
    check_bytes(b"data: a\xffb\n\n", &[("message", "a\u{fffd}b", "")]);
    check_bytes(b"data: \xe2\x80\n\n", &[("message", "\u{fffd}", "")]);
    check_bytes(b"data: \xe2\x80\r\ndata: \xa8\n\n", &[("message", "\u{fffd}\n\u{fffd}", "")]);
    check_bytes(b"data: \xf0\x9f\x98\x80\xc0\xaf\n\n", &[("message", "😀\u{fffd}\u{fffd}", "")]);
    check_bytes(b"\xffdata: a\n\ndata: b\n\n", &[("message", "b", "")]);
}

#[test]
fn event_over_the_limit_is_an_error() {
    #[track_caller]
    fn check(limit: usize, input: &str, events: usize, fits: bool) {
        let trace = decode_in_every_split(limit, input.as_bytes());
        let error = EventTooLarge { event_bytes_max: limit };
        assert_eq!((trace.events.len(), trace.error), (events, (!fits).then_some(error)));
    }
    check(10, "data: 6789\n\n", 1, true);
    check(10, "data: 6789a\n\n", 0, false);
    check(10, "data: 6789a", 0, false);
    check(10, ": 23456789\n\n", 0, true);
    check(10, ": 23456789a", 0, false);
    check(10, "data: a\n\ndata: 6789a\n\ndata: b\n\n", 1, false);
    // The limit applies to each event separately, and to all lines of one event together.
    check(10, &"data: a\n\n".repeat(9), 9, true);
    check(10, &":\n".repeat(90), 0, true);
    check(10, "data:a\ndata:b\ndata:c\n\n", 1, true);
    check(10, "data:a\ndata:b\ndata:c\ndata:d\n\n", 0, false);
    check(10, "event: bcd\ndata:\n\n", 1, true);
    check(10, "event: bcd\ndata: 89\n\n", 0, false);
    // Replacement characters count with their own length.
    assert_eq!(run(20, &[b"data: \xff\xff\xff\xff\xff\xff\n\n"]).events.len(), 1);
    assert!(run(20, &[b"data: \xff\xff\xff\xff\xff\xff\xff\n\n"]).error.is_some());
    check(0, "\n\n", 0, true);
    check(0, "a", 0, false);
}

/// Generates random texts and JSON values.
struct ValueGenerator(Random);

impl ValueGenerator {
    fn below(&mut self, end: usize) -> usize {
        self.0.below(end)
    }

    fn text(&mut self) -> String {
        const CHARS: [char; 20] = [
            'a', 'Z', '0', ' ', ':', '"', '\\', '/', '\n', '\r', '\t', '\0', '\u{85}', '\u{a0}',
            'é', '\u{2028}', '\u{2029}', '“', '\u{feff}', '😀',
        ];
        (0..self.below(8)).map(|_| CHARS[self.below(CHARS.len())]).collect()
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 5 } else { 7 }) {
            0 => Value::Null,
            1 => Value::Bool(self.below(2) == 0),
            2 => Value::from(self.below(1 << 20) as i64 - (1 << 19)),
            3 | 4 => Value::String(self.text()),
            5 => (0..self.below(4)).map(|_| self.value(depth - 1)).collect(),
            _ => self.object(depth - 1),
        }
    }

    fn object(&mut self, depth: usize) -> Value {
        let members = (0..self.below(5)).map(|_| {
            let key = match self.below(6) {
                0 => "id".to_string(),
                1 => "result".to_string(),
                2 => "method".to_string(),
                _ => self.text(),
            };
            (key, self.value(depth))
        });
        Value::Object(members.collect())
    }
}

#[test]
fn encoded_frame_is_decoded_to_the_same_value() {
    let mut random = ValueGenerator(Random::seeded(21));
    let mut answers = 0;
    for round in 0..3_000 {
        let value = random.object(3);
        let json = match round % 3 {
            0 => value.to_string(),
            1 => serde_json::to_string_pretty(&value).unwrap(),
            _ => serde_json::to_string_pretty(&value).unwrap().replace('\n', "\r\n"),
        };
        let frame = Frame::message(json.as_bytes()).unwrap();
        assert_eq!(frame.bare().iter().filter(|&&b| b == b'\n' || b == b'\r').count(), 3);

        let response = value.get("result").is_some() && value.get("method").is_none();
        let id = value.get("id").filter(|_| response).cloned();
        let answered = frame.answered_id().map(|id| serde_json::from_str::<Value>(id).unwrap());
        assert_eq!(answered, id, "{json}");
        answers += usize::from(id.is_some());

        // The frame is one of several on the stream, which arrives in pieces of a random size.
        let text = random.text();
        let other = Frame::event(EventName::new("x").unwrap(), text.as_bytes()).unwrap();
        let stream = [frame.bare(), HEARTBEAT_BARE, other.bare(), frame.bare()].concat();
        let piece_len = 1 + random.below(stream.len());
        let trace = run(1 << 20, &stream.chunks(piece_len).collect::<Vec<_>>());
        let [first, second, third] = trace.events.as_slice() else { panic!("{trace:?}") };
        assert_eq!((trace.comments, first), (1, third));
        assert_eq!(first.name, "message");
        assert_eq!(serde_json::from_str::<Value>(&first.data).unwrap(), value);
        // Some clients end a line at these characters.
        assert!(!first.data.contains(['\u{85}', '\u{2028}', '\u{2029}']));
        assert_eq!(second.name, "x");
        assert_eq!(second.data, text.replace("\r\n", "\n").replace('\r', "\n"));
    }
    assert!(answers > 100, "the generator makes too few responses: {answers}");
}
