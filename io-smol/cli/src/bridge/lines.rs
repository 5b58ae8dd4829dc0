//! Cuts what a process prints into lines, whatever pieces it comes in.
//!
//! Knows: line feeds, a carriage return in front of one, and the longest line that is kept.
//! Does not know: what a line means, or its encoding; bytes are never cut inside a line, and so never
//! inside a character.

use memchr::memchr;

pub use crate::options::LINE_BYTES_MAX;

/// A buffer that has grown beyond this for one line is given back behind it.
const CAPACITY_KEPT: usize = 64 << 10;

/// One line, without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A whole line.
    Whole(&'a [u8]),
    /// The beginning of a line that is longer than allowed. The rest of it is passed over.
    TooLong(&'a [u8]),
}

/// A cutter of lines. It holds the longest line allowed and one piece, at most.
///
/// ```
/// use mcp_sse::bridge::lines::{Line, Lines};
///
/// let mut lines = Lines::new(100);
/// lines.feed(b"one\r\ntw");
/// assert_eq!(lines.next_line(), Some(Line::Whole(b"one")));
/// assert_eq!(lines.next_line(), None);
/// lines.feed(b"o\n");
/// assert_eq!(lines.next_line(), Some(Line::Whole(b"two")));
/// ```
#[derive(Debug)]
pub struct Lines {
    line_bytes_max: usize,
    buffer: Vec<u8>,
    /// What is in front of this was handed out.
    start: usize,
    /// No line feed is between `start` and this.
    scanned: usize,
    /// In the middle of a line that is too long.
    passing_over: bool,
}

impl Lines {
    /// A cutter of lines of so many bytes at most.
    #[must_use]
    pub const fn new(line_bytes_max: usize) -> Self {
        Self { line_bytes_max, buffer: Vec::new(), start: 0, scanned: 0, passing_over: false }
    }

    /// Takes in what was read. Then take every [`next_line`](Self::next_line) there is, before more is
    /// fed: what nobody takes is kept.
    pub fn feed(&mut self, piece: &[u8]) {
        self.buffer.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > CAPACITY_KEPT {
            self.buffer = Vec::new();
        }
        self.buffer.extend_from_slice(piece);
    }

    /// The next line that is complete, or known to be too long.
    pub fn next_line(&mut self) -> Option<Line<'_>> {
        loop {
            let Some(found) = memchr(b'\n', self.buffer.get(self.scanned..)?) else {
                self.scanned = self.buffer.len();
                if self.passing_over {
                    self.start = self.scanned;
                    return None;
                }
                return self.too_long();
            };
            let (start, end) = (self.start, self.scanned + found);
            self.start = end + 1;
            self.scanned = end + 1;
            if core::mem::take(&mut self.passing_over) {
                continue;
            }
            let line = self.buffer.get(start..end)?;
            return Some(match line.get(..self.line_bytes_max) {
                Some(beginning) if line.len() > self.line_bytes_max => Line::TooLong(beginning),
                _ => Line::Whole(line.strip_suffix(b"\r").unwrap_or(line)),
            });
        }
    }

    fn too_long(&mut self) -> Option<Line<'_>> {
        let rest = self.start..self.buffer.len();
        if rest.len() <= self.line_bytes_max {
            return None;
        }
        self.passing_over = true;
        self.start = rest.end;
        self.buffer.get(rest.start..rest.start + self.line_bytes_max).map(Line::TooLong)
    }

    /// What is left when nothing more comes: a line without its end.
    pub fn last_line(&mut self) -> Option<&[u8]> {
        let rest = self.start..self.buffer.len();
        self.start = rest.end;
        self.scanned = rest.end;
        if self.passing_over || rest.is_empty() { None } else { self.buffer.get(rest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out of pieces, one string a line; the last one may have no end.
    fn cut<'a>(max: usize, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut lines = Lines::new(max);
        let mut seen = Vec::new();
        for piece in pieces {
            lines.feed(piece);
            while let Some(line) = lines.next_line() {
                seen.push(match line {
                    Line::Whole(line) => String::from_utf8(line.into()).unwrap(),
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
    fn lines_come_out_whole_however_they_come_in() {
        check(9, "", &[]);
        check(9, "\n", &[""]);
        check(9, "one\ntwo\r\n\n", &["one", "two", ""]);
        check(9, "größe\n漢字\n", &["größe", "漢字"]);
        check(9, "a\rb\n", &["a\rb"]);
        check(9, "a\nrest", &["a", "?rest"]);
    }

    #[test]
    fn what_is_too_long_is_told_once_and_passed_over() {
        check(4, "1234\n", &["1234"]);
        check(4, "12345\nok\n", &["!1234", "ok"]);
        check(4, "1234567890123\nok\n12345", &["!1234", "ok", "!1234"]);
    }

    #[test]
    fn a_large_buffer_is_given_back() {
        let mut lines = Lines::new(LINE_BYTES_MAX);
        lines.feed(&vec![b'x'; 1 << 20]);
        assert_eq!(lines.next_line(), None);
        lines.feed(b"\n");
        assert!(matches!(lines.next_line(), Some(Line::Whole(line)) if line.len() == 1 << 20));
        lines.feed(b"y\n");
        assert_eq!(lines.next_line(), Some(Line::Whole(b"y")));
        assert!(lines.buffer.capacity() <= CAPACITY_KEPT);
    }
}
