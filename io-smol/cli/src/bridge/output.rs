//! Makes messages of what a server prints.
//!
//! Knows: that a message should be one line, that some servers print batches, or one message over
//! several lines, and that some print other things in between.
//! Does not know: what messages are for.

use core::time::Duration;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use mcp_sse_core::jsonrpc::{Invalid, Message};
use serde_json::value::RawValue;

use super::lines::{LINE_BYTES_MAX, Line, Lines};
use super::status::Status;
use super::stderr::printable;

/// So many lines that are no messages are logged, of each server, in each [`PERIOD`].
const WARNINGS_MAX: u32 = 10;
const PERIOD: Duration = Duration::from_secs(10);
/// So much of such a line is shown.
const SHOWN_BYTES: usize = 200;

/// What one server prints, from bytes to messages.
///
/// Everything that is no message is logged and counted, and does no harm.
#[derive(Debug)]
pub struct Output {
    name: String,
    status: Arc<Status>,
    line_bytes_max: usize,
    lines: Lines,
    /// Lines that may become one message, from the first on.
    pieces: Pieces,
    /// Of a batch.
    ready: VecDeque<Message>,
    /// Lines that were no messages, and are not counted yet: there may be thousands at once.
    refused: u64,
    spoken: bool,
    warnings: u32,
    unsaid: u32,
    period: Option<Instant>,
}

impl Output {
    /// The output of a server that is called `name` in the log.
    #[must_use]
    pub fn new(name: impl Into<String>, status: Arc<Status>) -> Self {
        Self {
            name: name.into(),
            status,
            line_bytes_max: LINE_BYTES_MAX,
            lines: Lines::new(LINE_BYTES_MAX),
            pieces: Pieces::default(),
            ready: VecDeque::new(),
            refused: 0,
            spoken: false,
            warnings: 0,
            unsaid: 0,
            period: None,
        }
    }

    /// With lines of so many bytes at most, and messages over several lines likewise; longer ones are
    /// passed over. 16 MiB unless said.
    #[must_use]
    pub fn line_bytes_max(mut self, line_bytes_max: usize) -> Self {
        self.line_bytes_max = line_bytes_max;
        self.lines = Lines::new(line_bytes_max);
        self
    }

    /// Whether there has been a message.
    #[must_use]
    pub const fn has_spoken(&self) -> bool {
        self.spoken
    }

    /// Takes in what was read. Then take every [`next_message`](Self::next_message) there is, before
    /// more is fed.
    pub fn feed(&mut self, piece: &[u8]) {
        self.lines.feed(piece);
    }

    /// The output has ended, and with it its last line. Then take what messages there are.
    pub fn end(&mut self) {
        self.lines.feed(b"\n");
    }

    /// The next message.
    pub fn next_message(&mut self) -> Option<Message> {
        let message = self.find_message();
        self.count_refused();
        message
    }

    fn find_message(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                if !self.spoken {
                    self.spoken = true;
                    self.status.note_success();
                }
                return Some(message);
            }
            let line = match self.lines.next_line()? {
                Line::Whole(line) => line.to_vec(),
                Line::TooLong(beginning) => {
                    let shown = shown(beginning);
                    self.status.note_line_too_long();
                    self.pieces.clear();
                    let most = self.line_bytes_max;
                    self.warn(|| format!("a line of more than {most} bytes: {shown}"));
                    continue;
                }
            };
            self.read(line);
        }
    }

    fn read(&mut self, line: Vec<u8>) {
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        // What is indented belongs to what it is inside of.
        let inside = self.pieces.has_begun() && line.first().is_some_and(u8::is_ascii_whitespace);
        let read = if inside { Err((INSIDE, line)) } else { Message::read(line, None) };
        let (invalid, line) = match read {
            Ok(message) => {
                self.refuse_pieces();
                self.ready.push_back(message);
                return;
            }
            Err(refused) => refused,
        };
        if !inside && let Some(batch) = batch(&line) {
            self.refuse_pieces();
            for member in batch {
                match Message::read(member, None) {
                    Ok(message) => self.ready.push_back(message),
                    Err((invalid, member)) => self.refuse(&invalid, &member),
                }
            }
            return;
        }
        match self.pieces.add(line, self.line_bytes_max) {
            Added::Wanting => {}
            Added::Whole(text) => match Message::read(text, None) {
                Ok(message) => self.ready.push_back(message),
                Err((invalid, text)) => match batch(&text) {
                    Some(batch) => batch.into_iter().for_each(|member| self.read(member)),
                    None => self.refuse(&invalid, &text),
                },
            },
            Added::Not(text) => self.refuse(&invalid, &text),
        }
    }

    /// What was taken for the beginning of a message was none.
    fn refuse_pieces(&mut self) {
        if let Some(text) = self.pieces.clear() {
            self.refuse(&"it never ends", &text);
        }
    }

    fn refuse(&mut self, why: &dyn core::fmt::Display, text: &[u8]) {
        self.refused += 1;
        self.warn(|| format!("not a message ({why}): {}", shown(text)));
    }

    fn count_refused(&mut self) {
        if self.refused > 0 {
            self.status.note_lines_refused(core::mem::take(&mut self.refused));
        }
    }

    /// Warns, unless that has been done often enough lately.
    fn warn(&mut self, what: impl FnOnce() -> String) {
        let now = Instant::now();
        if self.period.is_none_or(|start| now.duration_since(start) >= PERIOD) {
            self.period = Some(now);
            self.warnings = 0;
            if self.unsaid > 0 {
                log::warn!("{}: {} more lines were no messages", self.name, self.unsaid);
                self.unsaid = 0;
            }
        }
        self.warnings += 1;
        if self.warnings > WARNINGS_MAX {
            self.unsaid += 1;
        } else {
            log::warn!("{}: the server printed what is passed over, {}", self.name, what());
        }
    }
}

const INSIDE: Invalid = Invalid::Request(Cow::Borrowed("a part of one"));

/// The beginning of a text, for the log.
fn shown(text: &[u8]) -> String {
    match text.get(..SHOWN_BYTES) {
        Some(beginning) if text.len() > SHOWN_BYTES => {
            // A character that is cut is not shown as a wrong one.
            let whole = beginning.utf8_chunks().next().map_or(0, |chunk| chunk.valid().len());
            let end = if whole + 4 > SHOWN_BYTES { whole } else { SHOWN_BYTES };
            format!("{}..", printable(beginning.get(..end).unwrap_or_default()))
        }
        _ => printable(text),
    }
}

/// The members of a JSON array that is not empty.
fn batch(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    if text.trim_ascii_start().first() != Some(&b'[') {
        return None;
    }
    let members: Vec<&RawValue> = serde_json::from_slice(text).ok()?;
    let members: Vec<_> = members.into_iter().map(|raw| raw.get().as_bytes().to_vec()).collect();
    if members.is_empty() { None } else { Some(members) }
}

/// Lines that may be one JSON text, as some servers print theirs for people.
#[derive(Debug, Default)]
struct Pieces {
    text: Vec<u8>,
    depth: u32,
}

enum Added {
    /// More is to come.
    Wanting,
    /// It may be a whole one.
    Whole(Vec<u8>),
    /// It is none.
    Not(Vec<u8>),
}

impl Pieces {
    const fn has_begun(&self) -> bool {
        !self.text.is_empty()
    }

    /// Adds a line. A text begins with a bracket, and ends when all are closed; JSON has no line ends
    /// inside strings.
    fn add(&mut self, line: Vec<u8>, bytes_max: usize) -> Added {
        let begins = matches!(line.trim_ascii_start().first(), Some(b'{' | b'['));
        if self.text.is_empty() && !begins {
            return Added::Not(line);
        }
        let depth = depth_behind(self.depth, &line);
        let alone = self.text.is_empty();
        if alone {
            self.text = line;
        } else {
            self.text.push(b'\n');
            self.text.extend(line);
        }
        match depth {
            // The line alone was looked at already.
            Some(0) if alone => Added::Not(self.take()),
            Some(0) => Added::Whole(self.take()),
            Some(depth) if self.text.len() <= bytes_max => {
                self.depth = depth;
                Added::Wanting
            }
            Some(_) | None => Added::Not(self.take()),
        }
    }

    fn take(&mut self) -> Vec<u8> {
        self.depth = 0;
        core::mem::take(&mut self.text)
    }

    fn clear(&mut self) -> Option<Vec<u8>> {
        let text = self.take();
        if text.is_empty() { None } else { Some(text) }
    }
}

/// How many brackets are open behind a line that begins inside so many; `None` if no JSON text can go
/// on like this.
fn depth_behind(mut depth: u32, line: &[u8]) -> Option<u32> {
    let (mut string, mut escaped) = (false, false);
    for byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if string => escaped = true,
            b'"' => string = !string,
            _ if string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    if string { None } else { Some(depth) }
}

impl Drop for Output {
    fn drop(&mut self) {
        let last = self.lines.last_line().map(<[u8]>::to_vec);
        self.refuse_pieces();
        if let Some(last) = last {
            self.refuse(&"its line does not end", &last);
        }
        self.count_refused();
        if self.unsaid > 0 {
            log::warn!("{}: {} more lines were no messages", self.name, self.unsaid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of some output: the messages, and how many lines were refused.
    #[track_caller]
    fn check(printed: &str, messages: &[&str], refused: u64) {
        for size in [1, 7, printed.len().max(1)] {
            let status = Arc::new(Status::default());
            let mut output = Output::new("test", status.clone());
            let mut found = Vec::new();
            for piece in printed.as_bytes().chunks(size) {
                output.feed(piece);
                while let Some(message) = output.next_message() {
                    found.push(message.text().to_owned());
                }
            }
            assert_eq!(output.has_spoken(), !messages.is_empty());
            drop(output);
            assert_eq!(found, messages, "{size} bytes at once");
            assert_eq!(status.lines_refused(), refused, "{size} bytes at once");
        }
    }

    const ONE: &str = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    const TWO: &str = r#"{"jsonrpc":"2.0","method":"größe","params":["漢字"]}"#;

    #[test]
    fn one_message_a_line() {
        check("", &[], 0);
        check(&format!("{ONE}\n{TWO}\r\n\n  \n"), &[ONE, TWO], 0);
    }

    #[test]
    fn the_end_ends_a_line() {
        let status = Arc::new(Status::default());
        let mut output = Output::new("test", status.clone());
        output.feed(ONE.as_bytes());
        assert_eq!(output.next_message(), None);
        output.end();
        assert_eq!(output.next_message().unwrap().text(), ONE);
        output.end();
        assert_eq!(output.next_message(), None);
        drop(output);
        assert_eq!(status.lines_refused(), 0);
    }

    #[test]
    fn what_is_no_message_is_passed_over() {
        check(&format!("Listening on stdio\n{ONE}\n"), &[ONE], 1);
        check(&format!("[INFO] ready\n{{ not json\n{ONE}\n{{}}\n"), &[ONE], 3);
        check(&format!("{{\"jsonrpc\":\"1.0\"}}\n\"text\"\n17\n]\n{ONE}\n"), &[ONE], 4);
        check(&format!("{ONE}\n{ONE}"), &[ONE], 1);
    }

    #[test]
    fn many_lines_are_told_of_at_once() {
        use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
        let (status, told) = (Arc::new(Status::default()), Arc::<AtomicU32>::default());
        let telling = told.clone();
        status.listen(move |_| {
            telling.fetch_add(1, Relaxed);
        });
        let mut output = Output::new("test", status.clone());
        output.feed("y\n".repeat(1_000).as_bytes());
        assert_eq!(output.next_message(), None);
        assert_eq!((status.lines_refused(), told.load(Relaxed)), (1_000, 2));
    }

    #[test]
    fn several_lines_may_be_one_message() {
        let pretty =
            "{\n  \"jsonrpc\": \"2.0\",\n  \"id\": \"}\\\"{\",\n  \"result\": [\n    {}\n  ]\n}";
        check(&format!("{pretty}\n{ONE}\n{pretty}\n"), &[pretty, ONE, pretty], 0);
        // A message on a line of its own ends what never did.
        check(&format!("{{\n\"a\": 1,\n{ONE}\n}}\n{TWO}\n"), &[ONE, TWO], 2);
        check(&format!("{{\n\"a\": \"unended\n{ONE}\n"), &[ONE], 1);
        check("{\n\"a\": 1\n}\n", &[], 1);
        check("{\n\"a\":", &[], 2);
    }

    #[test]
    fn batches_are_taken_apart() {
        check(&format!("[{ONE},{TWO}]\n"), &[ONE, TWO], 0);
        check(&format!("[\n  {ONE},\n  {TWO}\n]\n"), &[ONE, TWO], 0);
        check(&format!("[{ONE},{{}},17]\n"), &[ONE], 2);
        check("[]\n", &[], 1);
    }

    #[test]
    fn too_long_a_line_is_passed_over() {
        let status = Arc::new(Status::default());
        let mut output = Output::new("test", status.clone());
        for _ in 0..20 {
            output.feed(&vec![b'x'; 1 << 20]);
            assert_eq!(output.next_message(), None);
        }
        output.feed(format!("\n{ONE}\n").as_bytes());
        assert_eq!(output.next_message().unwrap().text(), ONE);
        assert_eq!((status.lines_too_long(), status.lines_refused()), (1, 0));
    }

    #[test]
    fn a_long_line_is_shown_in_part() {
        assert_eq!(shown(b"a\x1b[1mb"), "a\\u{1b}[1mb");
        let shown = shown("ä".repeat(150).as_bytes());
        assert_eq!(shown, format!("{}..", "ä".repeat(100)));
    }
}
