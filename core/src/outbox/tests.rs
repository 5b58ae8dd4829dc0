#[cfg(feature = "std")]
use alloc::vec;
use alloc::vec::Vec;

use super::*;

fn filled_outbox() -> (Outbox, Vec<u8>) {
    let mut outbox = Outbox::default();
    outbox.push(Segment::Answer(Arc::from(&b"head\r\n"[..])));
    let frame = Frame::message(br#"{"jsonrpc":"2.0","method":"m"}"#).unwrap();
    outbox.push(Segment::frame(&frame, true));
    outbox.push(Segment::frame(&frame, false));
    outbox.push(Segment::Static(b":\n"));
    let mut all = b"head\r\n".to_vec();
    all.extend_from_slice(frame.chunked());
    all.extend_from_slice(frame.bare());
    all.extend_from_slice(b":\n");
    (outbox, all)
}

fn remaining(outbox: &Outbox) -> Vec<u8> {
    Transmit::new(Some(outbox)).chunks().flatten().copied().collect()
}

#[test]
fn any_two_partial_writes_leave_the_remaining_bytes() {
    let (_, all) = filled_outbox();
    for first in 0..=all.len() {
        for second in 0..=all.len() - first {
            let (mut outbox, _) = filled_outbox();
            outbox.advance(first);
            outbox.check();
            outbox.advance(second);
            outbox.check();
            assert_eq!(remaining(&outbox), all[first + second..], "{first} then {second}");
            assert_eq!(outbox.is_empty(), first + second == all.len());
        }
    }
}

#[test]
fn only_completely_written_frames_are_counted() {
    let (mut outbox, all) = filled_outbox();
    assert_eq!(outbox.frames(), 2);
    assert_eq!(outbox.advance(7), 0);
    assert_eq!(outbox.advance(all.len() - 7 - 2), 2);
    assert_eq!(outbox.frames(), 0);
    assert!(!outbox.is_empty());
}

#[test]
#[should_panic(expected = "more bytes written than were offered")]
fn advance_by_more_than_was_queued_panics() {
    let (mut outbox, all) = filled_outbox();
    outbox.advance(all.len() + 1);
}

#[test]
fn large_queue_frees_its_memory_when_empty() {
    let mut outbox = Outbox::default();
    for _ in 0..1_000 {
        outbox.push(Segment::Static(b"x"));
    }
    outbox.advance(1_000);
    assert_eq!(outbox.segments.capacity(), 0);
    assert_eq!(outbox.cost(), 0);
}

#[test]
fn detached_bytes_stay_valid_after_the_queue_advances() {
    let (mut outbox, all) = filled_outbox();
    outbox.advance(3);
    let detached = Transmit::new(Some(&outbox)).detach(4);
    outbox.advance(all.len() - 3);
    let bytes: Vec<u8> = detached.chunks().flatten().copied().collect();
    assert_eq!(bytes.len(), detached.len());
    assert!(detached.len() >= 4 && !detached.is_empty());
    assert_eq!(bytes, all[3..3 + bytes.len()]);
}

#[cfg(feature = "std")]
#[test]
fn write_to_writes_all_pieces_in_one_call() {
    let (mut outbox, all) = filled_outbox();
    outbox.advance(2);
    let mut sink = vec![];
    let written = Transmit::new(Some(&outbox)).write_to(&mut sink).unwrap();
    assert_eq!((written, &sink[..]), (all.len() - 2, &all[2..]));
    assert_eq!(Transmit::new(None).len(), 0);
}

#[test]
fn segment_and_outbox_are_small() {
    assert!(size_of::<Segment>() <= 32);
    assert!(size_of::<Outbox>() <= 48);
}
