//! Splits the output of a process into lines, and writes a JSON text as one line.
//!
//! Knows: line feeds, a carriage return in front of one, the longest line that is kept, and the characters that some
//! readers treat as line ends. Does not know: what a line means, or its encoding.
//!
//! Decision: U+2028, U+2029 and U+0085 are escaped in lines for a server, because common line readers
//! end lines at these characters.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// The default for the longest line of a bridged server's output: 16 MiB.
pub(crate) const LINE_BYTES_MAX: usize = 16 << 20;

/// A buffer that has grown beyond this size for a long line is freed after that line.
const CAPACITY_KEPT: usize = 64 << 10;

/// One line, without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// A complete line.
    Complete(&'a [u8]),
    /// The beginning of a line that is longer than allowed. The rest of the line is dropped.
    TooLong(&'a [u8]),
}

/// Splits bytes into lines. It stores at most the longest line and one fed piece.
#[derive(Debug)]
pub(crate) struct Lines {
    line_bytes_max: usize,
    buffer: Vec<u8>,
    /// The bytes in front of this index were returned.
    start: usize,
    /// There is no line feed between `start` and this index.
    scanned: usize,
    /// The current line is too long, and its rest is dropped.
    passing_over: bool,
}

/// The longest line that a bridged server may print, in bytes, if clients may send bodies of `body_bytes_max` (`None`
/// is unlimited): four times as much, like the queue of a session, but at least 16 MiB.
#[must_use]
pub fn line_bytes_max(body_bytes_max: Option<u64>) -> usize {
    let several = body_bytes_max.map_or(u64::MAX, |bytes| bytes.saturating_mul(4));
    usize::try_from(several).unwrap_or(usize::MAX).max(LINE_BYTES_MAX)
}

impl Lines {
    /// Creates a splitter for lines of at most `line_bytes_max` bytes, without their line ends.
    #[must_use]
    pub(crate) const fn new(line_bytes_max: usize) -> Self {
        Self { line_bytes_max, buffer: Vec::new(), start: 0, scanned: 0, passing_over: false }
    }

    /// Adds bytes that were read. Call [`next_line`](Self::next_line) until it returns `None` before the next call,
    /// because lines are stored until they are taken.
    pub(crate) fn feed(&mut self, piece: &[u8]) {
        self.buffer.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > CAPACITY_KEPT {
            self.buffer = Vec::new();
        }
        self.buffer.extend_from_slice(piece);
    }

    /// The next line that is complete or too long; `None` if more bytes are needed.
    pub(crate) fn next_line(&mut self) -> Option<Line<'_>> {
        self.next_line_watched(|_, _| ())
    }

    /// Returns the next line like [`next_line`](Self::next_line), and calls `watch` with each dropped piece of a line
    /// that is too long, and whether the line ends with that piece.
    pub(crate) fn next_line_watched(
        &mut self,
        mut watch: impl FnMut(&[u8], bool),
    ) -> Option<Line<'_>> {
        loop {
            let Some(found) = memchr(b'\n', self.buffer.get(self.scanned..)?) else {
                self.scanned = self.buffer.len();
                if self.passing_over {
                    watch(self.buffer.get(self.start..).unwrap_or_default(), false);
                    self.start = self.scanned;
                    return None;
                }
                return self.too_long();
            };
            let (start, end) = (self.start, self.scanned + found);
            if core::mem::take(&mut self.passing_over) {
                watch(self.buffer.get(start..end).unwrap_or_default(), true);
                self.start = end + 1;
                self.scanned = end + 1;
                continue;
            }
            // The next call drops the rest of the line.
            if end - start > self.line_bytes_max {
                return self.too_long();
            }
            self.start = end + 1;
            self.scanned = end + 1;
            let line = self.buffer.get(start..end)?;
            return Some(Line::Complete(line.strip_suffix(b"\r").unwrap_or(line)));
        }
    }

    fn too_long(&mut self) -> Option<Line<'_>> {
        let (start, end) = (self.start, self.start.saturating_add(self.line_bytes_max));
        if self.buffer.len() <= end {
            return None;
        }
        self.passing_over = true;
        self.start = end;
        self.scanned = end;
        self.buffer.get(start..end).map(Line::TooLong)
    }

    /// The last line, if the output has ended without a line feed.
    pub(crate) fn last_line(&mut self) -> Option<&[u8]> {
        let rest = self.start..self.buffer.len();
        self.start = rest.end;
        self.scanned = rest.end;
        if self.passing_over || rest.is_empty() { None } else { self.buffer.get(rest) }
    }
}

/// Writes a valid JSON text as one line, for every common definition of a line end.
///
/// A raw CR or LF in JSON is always between tokens, and is removed. U+0085, U+2028 and U+2029 are always in strings,
/// and are escaped: `readline` of Node 24 ends lines at the last two, `str.splitlines` of Python at all three.
/// `str.splitlines` also ends lines at VT and FF, which cannot be raw in JSON.
pub(super) fn on_one_line(text: &str) -> Cow<'_, str> {
    // 0xC2 and 0xE2 are the first bytes of the three characters, and of others.
    let bytes = text.as_bytes();
    if memchr2(b'\n', b'\r', bytes).is_none() && memchr2(0xc2, 0xe2, bytes).is_none() {
        return Cow::Borrowed(text);
    }
    let ends = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];
    if !text.contains(ends) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 64);
    let mut done = 0;
    for (at, end) in text.match_indices(ends) {
        line.push_str(text.get(done..at).unwrap_or_default());
        line.push_str(match end {
            "\u{85}" => r"\u0085",
            "\u{2028}" => r"\u2028",
            "\u{2029}" => r"\u2029",
            _ => "",
        });
        done = at + end.len();
    }
    line.push_str(text.get(done..).unwrap_or_default());
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_limit_is_four_bodies_and_at_least_the_default() {
        let check = |body, line| assert_eq!(line_bytes_max(body), line, "{body:?}");
        check(Some(4 << 20), 16 << 20);
        check(Some(1 << 10), 16 << 20);
        check(Some(100 << 20), 400 << 20);
        check(None, usize::MAX);
    }

    #[test]
    fn json_with_line_ends_becomes_one_line() {
        assert!(matches!(on_one_line("{\"ä\":\"“”\"}"), Cow::Borrowed("{\"ä\":\"“”\"}")));
        let text = "{\r\n \"a\u{85}\":\"\u{2028}é\u{2029}\\n\"\n}";
        assert_eq!(on_one_line(text), r#"{ "a\u0085":"\u2028é\u2029\n"}"#);
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&on_one_line(text)), value(text));
    }

    #[test]
    fn rest_of_too_long_line_is_watched_completely() {
        for size in 1..12 {
            let mut lines = Lines::new(4);
            let (mut seen, mut ends) = (Vec::new(), 0);
            for piece in b"12345678\nok\nabcdefghij\n".chunks(size) {
                lines.feed(piece);
                loop {
                    let mut watched = Vec::new();
                    let line = lines.next_line_watched(|piece, ended| {
                        watched.extend_from_slice(piece);
                        ends += usize::from(ended);
                    });
                    let line = line.map(|line| match line {
                        Line::Complete(line) | Line::TooLong(line) => line.to_vec(),
                    });
                    seen.extend(watched);
                    let Some(line) = line else { break };
                    seen.extend(line);
                }
            }
            let seen = String::from_utf8(seen).unwrap();
            assert_eq!((&*seen, ends), ("12345678okabcdefghij", 2), "{size} bytes at once");
        }
    }

    /// The lines in `pieces`: `!` marks a line that is too long, `?` a last line without a line feed.
    fn cut<'a>(max: usize, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut lines = Lines::new(max);
        let mut seen = Vec::new();
        for piece in pieces {
            lines.feed(piece);
            while let Some(line) = lines.next_line() {
                seen.push(match line {
                    Line::Complete(line) => String::from_utf8(line.into()).unwrap(),
                    Line::TooLong(beginning) => format!("!{}", beginning.escape_ascii()),
                });
            }
            assert!(lines.buffer.len() <= max + piece.len());
        }
        seen.extend(lines.last_line().map(|line| format!("?{}", line.escape_ascii())));
        seen
    }

    #[track_caller]
    fn check(max: usize, input: &str, expected: &[&str]) {
        let input = input.as_bytes();
        assert_eq!(cut(max, [input]), expected, "whole");
        assert_eq!(cut(max, input.chunks(1)), expected, "byte by byte");
        for at in 0..input.len() {
            assert_eq!(cut(max, [&input[..at], &input[at..]]), expected, "cut at {at}");
        }
    }

    #[test]
    fn lines_fed_in_any_pieces_come_out_complete() {
        check(9, "", &[]);
        check(9, "\n", &[""]);
        check(9, "one\ntwo\r\n\n", &["one", "two", ""]);
        check(9, "größe\n漢字\n", &["größe", "漢字"]);
        check(9, "a\rb\n", &["a\rb"]);
        check(9, "a\nrest", &["a", "?rest"]);
    }

    #[test]
    fn line_too_long_is_returned_once_and_dropped() {
        check(4, "1234\n", &["1234"]);
        check(4, "12345\nok\n", &["!1234", "ok"]);
        check(4, "1234567890123\nok\n12345", &["!1234", "ok", "!1234"]);
    }

    #[test]
    fn buffer_grown_for_one_line_is_shrunk() {
        let mut lines = Lines::new(LINE_BYTES_MAX);
        lines.feed(&vec![b'x'; 1 << 20]);
        assert_eq!(lines.next_line(), None);
        lines.feed(b"\n");
        assert!(matches!(lines.next_line(), Some(Line::Complete(line)) if line.len() == 1 << 20));
        lines.feed(b"y\n");
        assert_eq!(lines.next_line(), Some(Line::Complete(b"y")));
        assert!(lines.buffer.capacity() <= CAPACITY_KEPT);
    }
}
