//! JSON: the envelope of a message, and a message as an event.

use mcp_sse_core::http1::{BodyDecoder, BodyLimits, Framing};
use mcp_sse_core::jsonrpc::{Envelope, Invalid, Kind, Message};
use mcp_sse_core::{Frame, sse};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

/// The envelope's reader takes a text for JSON exactly when a library does, and finds in it what the
/// library's tree holds.
pub fn jsonrpc(body: &[u8]) {
    let read = Envelope::read(body, None);
    // Skipped, not built: the library's trees bound nesting and numbers, the grammar does not.
    let json = core::str::from_utf8(body)
        .is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    assert_eq!(json, !matches!(read, Err(Invalid::Parse(_))), "{read:?}");
    let owned = Message::read(body.to_vec(), None);
    match (&read, &owned) {
        (Ok(envelope), Ok(message)) => {
            assert_eq!(
                (envelope.kind, envelope.id, envelope.method.as_deref()),
                (message.kind(), message.id(), message.method())
            );
            assert_eq!(message.body(), body);
        }
        (Err(invalid), Err((same, given_back))) => {
            assert_eq!((invalid, &given_back[..]), (same, body));
        }
        _ => panic!("two verdicts: {read:?}, {owned:?}"),
    }
    if let (Ok(envelope), Ok(Value::Object(members))) = (&read, serde_json::from_slice(body)) {
        check(envelope, &members);
    }
}

fn check(envelope: &Envelope<'_>, members: &Map<String, Value>) {
    let outcome = members.contains_key("result") || members.contains_key("error");
    let kind = match (members.get("method"), members.get("id")) {
        (Some(Value::String(_)), Some(_)) => Kind::Request,
        (Some(Value::String(_)), None) => Kind::Notification,
        (None, Some(_)) if outcome => Kind::Response,
        other => panic!("no message has {other:?}"),
    };
    assert_eq!((envelope.kind, members.get("jsonrpc")), (kind, Some(&Value::from("2.0"))));
    assert_eq!(envelope.method.as_deref(), members.get("method").and_then(Value::as_str));
    let id = envelope.id.map(|raw| serde_json::from_str::<Value>(raw).expect("an id is JSON"));
    assert_eq!(id.as_ref(), members.get("id"));
    assert!(id.is_none_or(|id| id.is_string() || id.is_number()));
}

/// Any JSON object, as an event, comes back from an independent decoder as the same value, in one
/// event; any text comes back as its lines; a chunk holds the event and nothing else; and how a stream is
/// cut changes nothing.
pub fn sse_roundtrip(input: &[u8]) {
    if let Ok(frame) = Frame::message(input) {
        check_chunk(&frame);
        let events = decode(super::cut(0, frame.bare()));
        let [event] = &events[..] else { panic!("{} events of one frame", events.len()) };
        assert_eq!(event.name, "message");
        // The library's trees do not hold every number and every nesting.
        if let Ok(sent) = serde_json::from_slice::<Value>(input) {
            let read = serde_json::from_str::<Value>(&event.data);
            assert_eq!(Some(sent), read.ok(), "{}", event.data.escape_debug());
        }
    }
    if let Ok(frame) = Frame::event(sse::EventName::ENDPOINT, input) {
        let text = core::str::from_utf8(input)
            .expect("it was taken")
            .replace("\r\n", "\n")
            .replace('\r', "\n");
        check_chunk(&frame);
        let events = decode(super::cut(0, frame.bare()));
        let [event] = &events[..] else { panic!("{} events of one frame", events.len()) };
        assert_eq!((event.name.as_str(), &event.data), ("endpoint", &text));
    }
    let Some((&how, stream)) = input.split_first() else { return };
    assert_eq!(decode(super::cut(0, stream)), decode(super::cut(how.max(1), stream)));
}

/// With the last chunk behind it, it is a whole body.
fn check_chunk(frame: &Frame) {
    let body = [frame.chunked(), b"0\r\n\r\n"].concat();
    let (mut content, mut decoder) = (Vec::new(), BodyDecoder::new(Framing::Chunked));
    let mut sink = |bytes: &[u8]| content.extend_from_slice(bytes);
    let read = decoder.decode(&body, &BodyLimits::default(), &mut sink).expect("a chunk");
    assert_eq!((read.consumed, read.done), (body.len(), true));
    assert_eq!(content, frame.bare());
}

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<sse::Event> {
    let mut events = Vec::new();
    let mut decoder = sse::Decoder::new(usize::MAX);
    for piece in pieces {
        decoder.feed(piece, &mut |event| events.push(event)).expect("no bound was set");
    }
    events
}
