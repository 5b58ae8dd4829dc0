//! Events: encoding, and decoding of a stream.

use core::slice;

use mcp_sse_core::{Frame, sse};
use serde_json::Value;

use super::cut;
use super::json::members;
use crate::sim::reader::{Reader, Received};

/// Checks that JSON objects and nothing else become messages, with the octets of the wire contract,
/// which three readers read alike; that any text survives as the lines of an event; and that any
/// stream is read as a naive reader reads it, however it is cut.
pub fn sse_roundtrip(input: &[u8]) {
    check_message(input);
    check_lines(input);
    let Some((&how, stream)) = input.split_first() else { return };
    let whole = decode(cut(0, stream));
    assert_eq!(whole, decode(cut(how.max(1), stream)), "the cuts changed something");
    assert_eq!(whole, naive(stream), "another reader sees other events");
}

fn check_message(input: &[u8]) {
    let object = core::str::from_utf8(input).ok().and_then(|text| Some((text, members(text)?)));
    let frame = Frame::message(input);
    let Some((text, members)) = object else {
        return assert!(frame.is_err(), "no object was taken: {}", input.escape_ascii());
    };
    let frame = frame.expect("an object is taken");
    let data = on_one_line(text);
    let same = |text: &str| serde_json::from_str::<Value>(text).ok();
    assert_eq!(same(text), same(&data), "on one line it is another value");

    let bare = format!("event: message\ndata: {data}\n\n");
    assert_eq!(frame.bare().escape_ascii().to_string(), bare.as_bytes().escape_ascii().to_string());
    let chunked = format!("{:x}\r\n{bare}\r\n", bare.len());
    assert_eq!(frame.chunked(), chunked.as_bytes());
    assert_eq!(frame.wire_len(), chunked.len());
    let event = sse::DecodedEvent { name: "message".into(), data, last_event_id: String::new() };
    assert_eq!(decode(cut(0, frame.bare())), slice::from_ref(&event));
    assert_eq!(naive(frame.bare()), slice::from_ref(&event));
    let strict = Received::Event { name: event.name, data: event.data };
    assert_eq!(strictly(Reader::of_bare_stream(), frame.bare()), [strict]);

    let outcome = !members.named("result").is_empty() || !members.named("error").is_empty();
    let answers = outcome && members.named("method").is_empty();
    let id = members.named("id").pop().filter(|_| answers).map(on_one_line);
    assert_eq!((frame.answered_id(), frame.answers()), (id.as_deref(), id.is_some()));
}

fn check_lines(input: &[u8]) {
    let frame = Frame::event(sse::EventName::ENDPOINT, input);
    let Ok(text) = core::str::from_utf8(input) else {
        return assert!(frame.is_err(), "octets were taken for text");
    };
    let frame = frame.expect("text is taken");
    let data = text.replace("\r\n", "\n").replace('\r', "\n");
    let event = sse::DecodedEvent { name: "endpoint".into(), data, last_event_id: String::new() };
    assert_eq!(decode(cut(0, frame.bare())), slice::from_ref(&event));
    assert_eq!(naive(frame.bare()), [event]);
    assert!(!frame.answers());
    let bare = frame.bare();
    let chunked = [format!("{:x}\r\n", bare.len()).as_bytes(), bare, b"\r\n"].concat();
    assert_eq!(frame.chunked(), chunked);
}

/// JSON as it is sent: without line ends, and without characters that some readers take for line
/// ends.
pub(super) fn on_one_line(json: &str) -> String {
    let mut text = json.trim_matches([' ', '\t', '\r', '\n']).replace(['\r', '\n'], "");
    for (character, escape) in
        [('\u{85}', "\\u0085"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")]
    {
        text = text.replace(character, escape);
    }
    text
}

/// Reads a complete output with a strict client's reader.
pub(super) fn strictly(mut reader: Reader, said: &[u8]) -> Vec<Received> {
    let mut heard = Vec::new();
    reader.feed(said, &mut heard);
    assert!(reader.is_idle(), "something is half said: {}", said.escape_ascii());
    heard
}

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<sse::DecodedEvent> {
    let mut events = Vec::new();
    let mut decoder = sse::Decoder::new(usize::MAX);
    for piece in pieces {
        decoder.feed(piece, &mut |event| events.push(event)).expect("no bound was set");
    }
    events
}

/// "Interpreting an event stream" of the HTML standard, for a complete stream.
fn naive(stream: &[u8]) -> Vec<sse::DecodedEvent> {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<_> = text.split('\n').collect();
    // After the last line end there is no line.
    lines.pop();
    let (mut events, mut id, mut name, mut data) = (Vec::new(), "", "", Vec::new());
    for line in lines {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => name = value,
            "data" => data.push(value),
            "id" if !value.contains('\0') => id = value,
            "" if line.is_empty() => {
                if !data.is_empty() {
                    events.push(sse::DecodedEvent {
                        name: if name.is_empty() { "message" } else { name }.into(),
                        data: data.join("\n"),
                        last_event_id: id.into(),
                    });
                }
                (name, data) = ("", Vec::new());
            }
            _ => {}
        }
    }
    events
}
