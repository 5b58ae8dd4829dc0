//! Chunked bodies.

use mcp_sse_core::http1::{BodyDecoder, BodyLimits, Framing};

use super::cut;

/// The first byte decides how the rest, a chunked body and what may follow it, is cut. Checks that
/// the cuts change nothing, that a naive reader finds the same content and end, and that the rest
/// as content survives encoding.
pub fn chunked(input: &[u8]) {
    let Some((&how, said)) = input.split_first() else { return };
    let whole = decode(cut(0, said));
    assert_eq!(whole, decode(cut(how.max(1), said)), "the cuts changed something");
    if let Some(end) = whole.end {
        let read = naive(said);
        assert_eq!(read, Some((whole.content, end)), "another reader sees another body");
    }
    // The chunks have the lengths of the cuts; some sizes are in capital letters.
    let mut encoded = Vec::new();
    for chunk in cut(how.max(1), said) {
        let (small, capital) = (format!("{:x}\r\n", chunk.len()), format!("{:X}\r\n", chunk.len()));
        let size = if chunk.len().is_multiple_of(3) { small } else { capital };
        encoded.extend_from_slice(size.as_bytes());
        encoded.extend_from_slice(chunk);
        encoded.extend_from_slice(b"\r\n");
    }
    encoded.extend_from_slice(b"0\r\n\r\n");
    let read = decode(cut(how, &encoded));
    assert_eq!((read.content.as_slice(), read.end), (said, Some(encoded.len())));
}

#[derive(Debug, PartialEq, Eq)]
struct Read {
    content: Vec<u8>,
    end: Option<usize>,
    fault: Option<&'static str>,
}

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Read {
    let limits =
        BodyLimits { body_bytes_max: 1 << 16, extension_bytes_max: 64, trailer_bytes_max: 64 };
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    let mut read = Read { content: Vec::new(), end: None, fault: None };
    let mut consumed = 0;
    for piece in pieces {
        match decoder.decode(piece, &limits, &mut |bytes| read.content.extend_from_slice(bytes)) {
            Ok(progress) => {
                consumed += progress.consumed;
                if progress.done {
                    read.end = Some(consumed);
                    break;
                }
                assert_eq!(progress.consumed, piece.len(), "an unfinished body takes all there is");
            }
            Err(fault) => {
                read.fault = Some(mcp_sse_core::Fault::from(fault).name());
                break;
            }
        }
    }
    read
}

/// The content and end of a body, without checks of its extensions and trailers but for white space
/// in extensions.
fn naive(said: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut content, mut at) = (Vec::new(), 0);
    let line_at = |at: usize| {
        let length = said.get(at..)?.windows(2).position(|two| two == b"\r\n")?;
        Some((&said[at..at + length], at + length + 2))
    };
    loop {
        let (line, next) = line_at(at)?;
        let digits = line.iter().take_while(|octet| octet.is_ascii_hexdigit()).count();
        let digits = core::str::from_utf8(&line[..digits]).ok()?;
        let size = usize::from_str_radix(digits, 16).ok()?;
        if has_bare_white_space(line) {
            return None;
        }
        at = next;
        if size == 0 {
            break;
        }
        content.extend_from_slice(said.get(at..at + size)?);
        at += size;
        at = line_at(at).filter(|(line, _)| line.is_empty())?.1;
    }
    loop {
        let (line, next) = line_at(at)?;
        at = next;
        if line.is_empty() {
            return Some((content, at));
        }
        line.contains(&b':').then_some(())?;
    }
}

/// Whether a chunk's line has white space outside quotes.
fn has_bare_white_space(line: &[u8]) -> bool {
    let mut octets = line.iter();
    let mut quoted = false;
    while let Some(octet) = octets.next() {
        match octet {
            b'"' => quoted = !quoted,
            b'\\' if quoted => drop(octets.next()),
            b' ' | b'\t' if !quoted => return true,
            _ => {}
        }
    }
    false
}
