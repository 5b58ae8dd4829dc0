//! What the encoder writes an independent decoder reads: any JSON object, the same value, one event.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mcp_sse_core::Frame;
use mcp_sse_core::sse::Decoder;
use serde_json::Value;

fuzz_target!(|json: &[u8]| {
    let Ok(frame) = Frame::message(json) else { return };
    let mut events = Vec::new();
    let mut decoder = Decoder::new(usize::MAX);
    decoder.feed(frame.bare(), &mut |event| events.push(event)).expect("no bound was set");
    let [event] = &events[..] else { panic!("{} events of one frame", events.len()) };
    assert_eq!(event.name, "message");
    let (sent, read) =
        (serde_json::from_slice::<Value>(json), serde_json::from_str::<Value>(&event.data));
    if let (Ok(sent), Ok(read)) = (sent, read) {
        assert_eq!(sent, read);
    }
});
