//! The end of a response's body.
//!
//! Knows: RFC 9112 §6.3 for responses: a length, chunks, or the end of the connection. Does not know: sockets.

/// The longest line between chunks, in bytes.
const CHUNK_LINE_BYTES_MAX: usize = 1 << 10;
/// The most lines of a trailer section.
const TRAILER_LINES_MAX: u32 = 128;

/// The framing is invalid, or a line of it is over the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// How a body ends, and where in it the reader is.
#[derive(Debug)]
pub(super) enum Framing {
    /// This many bytes are left.
    Length(u64),
    /// The body ends with the connection.
    UntilClosed,
    /// A chunk's size line is next.
    ChunkSize,
    /// This many bytes of a chunk are left.
    Chunk(u64),
    /// The line end after a chunk is next.
    ChunkEnd,
    /// A line of the trailer section is next, after this many.
    Trailer(u32),
    /// The body is complete.
    Ended,
}

/// What the received bytes give.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Piece(Vec<u8>),
    /// More bytes have to be received.
    NeedsMore,
    End,
}

impl Framing {
    /// The framing of a response with these fields. `empty` says that such a response never has a body.
    pub(super) fn of(
        empty: bool,
        length: Option<&str>,
        coding: Option<&str>,
    ) -> Result<Self, Malformed> {
        if empty {
            return Ok(Self::Ended);
        }
        if let Some(coding) = coding {
            let last = coding.rsplit(',').next().unwrap_or_default().trim();
            let chunked = last.eq_ignore_ascii_case("chunked");
            return Ok(if chunked { Self::ChunkSize } else { Self::UntilClosed });
        }
        match length {
            Some(length) => {
                let length = length.trim().parse().map_err(|_| Malformed)?;
                Ok(if length == 0 { Self::Ended } else { Self::Length(length) })
            }
            None => Ok(Self::UntilClosed),
        }
    }

    /// Whether the end of the connection is the proper end of the body here.
    pub(super) fn may_end(&self) -> bool {
        matches!(self, Self::UntilClosed | Self::Ended)
    }

    /// Takes the next part of the body out of `buffer`.
    pub(super) fn take(&mut self, buffer: &mut Vec<u8>) -> Result<Taken, Malformed> {
        loop {
            match self {
                Self::Ended => return Ok(Taken::End),
                Self::UntilClosed | Self::Length(_) | Self::Chunk(_) if buffer.is_empty() => {
                    return Ok(Taken::NeedsMore);
                }
                Self::UntilClosed => return Ok(Taken::Piece(core::mem::take(buffer))),
                Self::Length(left) => {
                    let piece = split(buffer, left);
                    if *left == 0 {
                        *self = Self::Ended;
                    }
                    return Ok(Taken::Piece(piece));
                }
                Self::Chunk(left) => {
                    let piece = split(buffer, left);
                    if *left == 0 {
                        *self = Self::ChunkEnd;
                    }
                    return Ok(Taken::Piece(piece));
                }
                Self::ChunkEnd => match line(buffer)? {
                    None => return Ok(Taken::NeedsMore),
                    Some(line) if line.is_empty() => *self = Self::ChunkSize,
                    Some(_) => return Err(Malformed),
                },
                Self::ChunkSize => match line(buffer)? {
                    None => return Ok(Taken::NeedsMore),
                    Some(mut line) => {
                        line.extend_from_slice(b"\r\n");
                        *self = match httparse::parse_chunk_size(&line) {
                            Ok(httparse::Status::Complete((_, 0))) => Self::Trailer(0),
                            Ok(httparse::Status::Complete((_, size))) => Self::Chunk(size),
                            Ok(httparse::Status::Partial) | Err(_) => {
                                return Err(Malformed);
                            }
                        };
                    }
                },
                Self::Trailer(lines) => match line(buffer)? {
                    None => return Ok(Taken::NeedsMore),
                    Some(line) if line.is_empty() => *self = Self::Ended,
                    Some(_) if *lines == TRAILER_LINES_MAX => return Err(Malformed),
                    Some(_) => *lines += 1,
                },
            }
        }
    }
}

/// Takes up to `left` bytes, and lowers `left`.
fn split(buffer: &mut Vec<u8>, left: &mut u64) -> Vec<u8> {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left -= count as u64;
    buffer.drain(..count).collect()
}

/// Takes a line, without its end.
fn line(buffer: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Malformed> {
    let Some(end) = buffer.windows(2).position(|pair| pair == b"\r\n") else {
        return if buffer.len() > CHUNK_LINE_BYTES_MAX { Err(Malformed) } else { Ok(None) };
    };
    let line = buffer.drain(..end).collect();
    buffer.drain(..2);
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `wire` in pieces of `size` bytes. Returns the content, and whether the end was seen.
    fn decode(
        coding: Option<&str>,
        length: Option<&str>,
        wire: &[u8],
        size: usize,
    ) -> Result<(String, bool), Malformed> {
        let mut framing = Framing::of(false, length, coding)?;
        let (mut buffer, mut content, mut ended) = (Vec::new(), Vec::new(), false);
        for piece in wire.chunks(size) {
            buffer.extend_from_slice(piece);
            loop {
                match framing.take(&mut buffer)? {
                    Taken::Piece(piece) => content.extend(piece),
                    Taken::NeedsMore => break,
                    Taken::End => {
                        ended = true;
                        break;
                    }
                }
            }
        }
        Ok((String::from_utf8(content).expect("text"), ended))
    }

    #[test]
    fn body_is_the_same_however_it_arrives() {
        let chunked = b"5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\n";
        for size in 1..chunked.len() {
            let expected = ("hello!".to_owned(), true);
            assert_eq!(decode(Some("gzip, Chunked"), None, chunked, size), Ok(expected));
            let expected = ("hello".to_owned(), true);
            assert_eq!(decode(None, Some("5"), b"hello, more", size), Ok(expected));
            let expected = ("hello".to_owned(), false);
            assert_eq!(decode(None, None, b"hello", size), Ok(expected));
        }
    }

    /// Otherwise a trailer without an end would be read for ever, because it gives no piece.
    #[test]
    fn trailer_with_too_many_lines_is_refused() {
        let lines = |count: u32| {
            let wire = format!("0\r\n{}\r\n", "a: b\r\n".repeat(count as usize));
            decode(Some("chunked"), None, wire.as_bytes(), 64)
        };
        assert_eq!(lines(TRAILER_LINES_MAX), Ok((String::new(), true)));
        assert_eq!(lines(TRAILER_LINES_MAX + 1), Err(Malformed));
    }

    #[test]
    fn malformed_framing_is_refused() {
        for wire in [&b"x\r\n"[..], b"1\r\nab\r\n", &[b'1'; 2 * CHUNK_LINE_BYTES_MAX]] {
            assert_eq!(decode(Some("chunked"), None, wire, 4096), Err(Malformed));
        }
        assert_eq!(decode(None, Some("5x"), b"", 1), Err(Malformed));
    }
}
