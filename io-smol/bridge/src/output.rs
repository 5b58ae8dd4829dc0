//! Reads messages from the stdout of a server.
//!
//! Knows: that a message should be one line, and that some servers print batches, several messages on one line, one
//! message over several lines, or other text in between.
//! Does not know: how one value is classified (see `lenient`), or where a message goes.
//!
//! Decision: lines are put together to a message where brackets balance, up to the limit of a line.
//! An unindented line that begins with a bracket ends what was begun, so a banner with an open
//! bracket costs itself and nothing else.
//!
//! Decision: output that is no message is logged once a second for each kind (no message, a lost
//! answer, a request that cannot be read, too long a line) and for all servers together; the other
//! lines are logged at level debug. `lines_refused` and `lines_too_long` of `/health` count all.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use mcp_sse_core::jsonrpc::Message;
use mcp_sse_driver::LogThrottle;

use super::envelope_scan::EnvelopeScan;
use super::json_values::{FirstValue, each_in_array, first_value};
use super::lenient::{classify, lost_answer};
use super::lines::{LINE_BYTES_MAX, Line, Lines};
use super::multiline::{MultilineStep, MultilineText};
use super::printed::{Classified, LostAnswer, Printed, UnreadableRequest};
use super::status::BridgeStatus;
use super::stderr::printable;

/// How many bytes of a line that is not a message are logged.
const SHOWN_BYTES: usize = 200;

/// The most values that are read from one line; the rest of the line is dropped. The number is limited because other
/// tasks on this thread wait while a line is read. It is larger than the number of requests that can be in flight.
const VALUES_MAX: usize = 65_536;

/// Throttles of the log. Each is shared by all servers, because clients decide how many servers are started.
static NO_MESSAGE: LogThrottle = LogThrottle::new();
static LOST: LogThrottle = LogThrottle::new();
static UNREAD: LogThrottle = LogThrottle::new();
static TOO_LONG: LogThrottle = LogThrottle::new();

/// The stdout of one server: bytes go in, messages come out.
///
/// Output that is not a message is counted in [`BridgeStatus`], and logged: one line a second of each kind at level
/// warn, the others at level debug.
#[derive(Debug)]
pub(crate) struct ServerOutput {
    name: String,
    status: Arc<BridgeStatus>,
    line_bytes_max: usize,
    lines: Lines,
    /// The lines of an incomplete message.
    multiline: MultilineText,
    /// Values that were found and not returned yet.
    ready: VecDeque<Printed>,
    /// The scan of a line that is too long, until the line ends or the scan is conclusive.
    too_long: Option<EnvelopeScan>,
    /// The output has ended.
    ended: bool,
    /// Lines that were not messages and are not counted in `status` yet. They are counted together, because there may
    /// be thousands at once.
    refused: u64,
    has_spoken: bool,
    /// When the server was started.
    started: Instant,
}

impl ServerOutput {
    /// Creates the empty output of a server that was started just now. `name` is the server's name in the log, and `status` counts invalid
    /// lines.
    #[must_use]
    pub(crate) fn new(name: impl Into<String>, status: Arc<BridgeStatus>) -> Self {
        Self {
            name: name.into(),
            status,
            line_bytes_max: LINE_BYTES_MAX,
            lines: Lines::new(LINE_BYTES_MAX),
            multiline: MultilineText::default(),
            ready: VecDeque::new(),
            too_long: None,
            ended: false,
            refused: 0,
            has_spoken: false,
            started: Instant::now(),
        }
    }

    /// Sets the longest line and the longest message over several lines, in bytes; 16 MiB by default. Longer ones are
    /// dropped. Call it before [`feed`](Self::feed).
    #[must_use]
    pub(crate) fn line_bytes_max(mut self, line_bytes_max: usize) -> Self {
        self.line_bytes_max = line_bytes_max;
        self.lines = Lines::new(line_bytes_max);
        self
    }

    /// Whether the server has printed at least one message.
    #[must_use]
    pub(crate) const fn has_spoken(&self) -> bool {
        self.has_spoken
    }

    /// Adds bytes that were read. Call [`next_printed`](Self::next_printed) until it returns `None` before the next
    /// call.
    pub(crate) fn feed(&mut self, piece: &[u8]) {
        self.lines.feed(piece);
    }

    /// Ends the output and its last line. Then call [`next_printed`](Self::next_printed) until it returns `None`.
    pub(crate) fn end(&mut self) {
        self.lines.feed(b"\n");
        self.ended = true;
    }

    /// The next message or other value in the bytes that were fed; `None` if more bytes are needed.
    pub(crate) fn next_printed(&mut self) -> Option<Printed> {
        let printed = self.find();
        self.count_refused();
        if matches!(printed, Some(Printed::Message(_))) && !self.has_spoken {
            self.has_spoken = true;
            self.status.note_success(self.started.elapsed());
        }
        printed
    }

    fn find(&mut self) -> Option<Printed> {
        loop {
            if let Some(printed) = self.ready.pop_front() {
                return Some(printed);
            }
            let most = self.line_bytes_max;
            let Self { lines, too_long, ready, .. } = self;
            let line = lines.next_line_watched(|piece, ended| {
                let Some(scan) = too_long else { return };
                scan.feed(piece);
                if ended || scan.is_conclusive() {
                    ready
                        .extend(scan.found(&too_long_why(most)).and_then(Classified::into_printed));
                    *too_long = None;
                }
            });
            let line = line.map(|line| match line {
                Line::Complete(line) => Ok(line.to_vec()),
                Line::TooLong(beginning) => Err((shown(beginning), scan_of(beginning))),
            });
            match line {
                Some(Ok(line)) => self.read(line),
                Some(Err((shown, scan))) => {
                    self.status.note_line_too_long();
                    self.refuse_multiline();
                    self.warn((&TOO_LONG, "line_too_long"), || {
                        format!("a line of more than {most} bytes: {shown}")
                    });
                    match scan {
                        Some(scan) if scan.is_conclusive() => {
                            self.ready.extend(
                                scan.found(&too_long_why(most)).and_then(Classified::into_printed),
                            );
                        }
                        scan => self.too_long = scan,
                    }
                }
                // The rest of a line that is too long has just yielded a value.
                None if !self.ready.is_empty() => {}
                None if self.ended && self.multiline.is_open() => self.refuse_multiline(),
                None => return None,
            }
        }
    }

    fn read(&mut self, line: Vec<u8>) {
        let text = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line);
        let Some(first) = text.trim_ascii_start().first() else { return };
        // An indented line continues the text that has begun. An unindented bracket begins a new text.
        let indented = text.first().is_some_and(u8::is_ascii_whitespace);
        let opens = matches!(first, b'{' | b'[');
        if self.multiline.is_open() && (indented || !opens) {
            return match self.multiline.add(line, self.line_bytes_max) {
                MultilineStep::Incomplete => {}
                MultilineStep::Complete(text) => self.read_values(&text),
                MultilineStep::NotJson(text) => self.refuse_text("it is not JSON", &text),
            };
        }
        if !opens {
            return self.refuse(&"it does not begin with a bracket", text);
        }
        self.refuse_multiline();
        match Message::read(line, None) {
            Ok(message) => match lost_answer(&message) {
                Some(lost) => self.take(Classified::LostAnswer(lost), message.body()),
                None => self.ready.push_back(Printed::Message(message)),
            },
            Err((_, line)) => self.read_values(&line),
        }
    }

    /// Reads one JSON value, several consecutive ones, or the beginning of one.
    fn read_values(&mut self, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        let mut rest = text.trim_start_matches('\u{feff}').trim();
        let mut left = VALUES_MAX;
        while !rest.is_empty() {
            if left == 0 {
                return self.refuse(&"it is behind too many values on one line", rest.as_bytes());
            }
            if !rest.starts_with(['{', '[']) {
                return self.refuse(&"it is behind a JSON text", rest.as_bytes());
            }
            let (value, end) = match first_value(rest) {
                FirstValue::Ends { value, end } => (value, end),
                FirstValue::OpenBracket => {
                    return match self.multiline.add(rest.into(), self.line_bytes_max) {
                        MultilineStep::Incomplete => {}
                        MultilineStep::Complete(text) | MultilineStep::NotJson(text) => {
                            self.refuse_text("it is not JSON", &text);
                        }
                    };
                }
                FirstValue::OpenString => {
                    return self.refuse_text("a string does not end", rest.as_bytes());
                }
            };
            let (printed, behind) = rest.split_at(end);
            rest = behind.trim_start();
            if is_batch(&value) {
                let mut more = false;
                each_in_array(&value, |member| {
                    more = left == 0;
                    if !more {
                        left -= 1;
                        self.take(classify(member), member.as_bytes());
                    }
                });
                if more {
                    self.refuse(&"it has too many values on one line", printed.as_bytes());
                }
                continue;
            }
            left -= 1;
            let classified = classify(&value);
            if let Classified::NotAMessage { why, object: false } = &classified {
                // For example a log line that begins with a bracket.
                return self.refuse(why, text.trim().as_bytes());
            }
            self.take(classified, printed.as_bytes());
        }
    }

    fn take(&mut self, classified: Classified, text: &[u8]) {
        match &classified {
            Classified::Message(_) => {}
            Classified::NotAMessage { why, .. } => self.refuse(why, text),
            Classified::LostAnswer(LostAnswer { why, .. }) => {
                self.refused += 1;
                let what = "an answer that cannot be passed on";
                self.warn((&LOST, "answer_lost"), || format!("{what} ({why})"));
                self.trace(text);
            }
            Classified::UnreadableRequest(UnreadableRequest { why, .. }) => {
                self.refused += 1;
                let what = "a request that cannot be passed on";
                self.warn((&UNREAD, "request_unreadable"), || format!("{what} ({why})"));
                self.trace(text);
            }
        }
        self.ready.extend(classified.into_printed());
    }

    /// Refuses text that is not JSON. If it has the envelope of an answer or a request, it is reported as such.
    fn refuse_text(&mut self, why: &str, text: &[u8]) {
        match scan_of(text).and_then(|scan| scan.found(why)) {
            Some(found) => self.take(found, text),
            None => self.refuse(&why, text),
        }
    }

    /// Refuses the lines of an incomplete message.
    fn refuse_multiline(&mut self) {
        if let Some(text) = self.multiline.clear() {
            self.refuse_text("it never ends", &text);
        }
    }

    fn refuse(&mut self, why: &dyn core::fmt::Display, text: &[u8]) {
        self.refused += 1;
        self.warn((&NO_MESSAGE, "not_a_message"), || {
            format!("not a message ({why}): {}", shown(text))
        });
    }

    fn count_refused(&mut self) {
        if self.refused > 0 {
            self.status.note_lines_refused(core::mem::take(&mut self.refused));
        }
    }

    /// Logs output that is not a message: at level warn if the throttle allows it, otherwise at level debug.
    fn warn(&self, (throttle, reason): (&LogThrottle, &str), what: impl FnOnce() -> String) {
        let unsaid = throttle.tell();
        let level = if unsaid.is_some() { log::Level::Warn } else { log::Level::Debug };
        let more = unsaid.map(|unsaid| unsaid.to_string()).unwrap_or_default();
        log::log!(
            level,
            event = "invalid_output",
            owner = self.name,
            reason = reason,
            suppressed = unsaid;
            "{}: invalid output of the server: {}{more}",
            self.name,
            what()
        );
    }

    /// Logs the text of a message that cannot be passed on. Messages are shown at level trace only.
    fn trace(&self, text: &[u8]) {
        log::trace!(
            event = "invalid_output_text",
            owner = self.name;
            "{}: invalid output of the server is {}",
            self.name,
            shown(text)
        );
    }
}

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

fn too_long_why(bytes_max: usize) -> String {
    format!("it is longer than {bytes_max} bytes")
}

/// Scans the envelope of a text or of its beginning, if it is an object.
fn scan_of(text: &[u8]) -> Option<EnvelopeScan> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text).trim_ascii_start();
    let mut scan = EnvelopeScan::default();
    scan.feed(text);
    text.starts_with(b"{").then_some(scan)
}

/// The beginning of a text, for the log.
fn shown(text: &[u8]) -> String {
    match text.get(..SHOWN_BYTES) {
        Some(beginning) if text.len() > SHOWN_BYTES => {
            // An incomplete character at the end is left out, instead of being shown as an invalid one.
            let whole = beginning.utf8_chunks().next().map_or(0, |chunk| chunk.valid().len());
            let end = if whole + 4 > SHOWN_BYTES { whole } else { SHOWN_BYTES };
            format!("{}..", printable(beginning.get(..end).unwrap_or_default()))
        }
        _ => printable(text),
    }
}

/// Whether `text` is a JSON array with an object in it. Log lines may begin with other arrays: `[1234] {..}`.
fn is_batch(text: &str) -> bool {
    let mut any = false;
    text.starts_with('[') && each_in_array(text, |member| any |= member.starts_with('{')) && any
}

impl Drop for ServerOutput {
    fn drop(&mut self) {
        let last = self.lines.last_line().map(<[u8]>::to_vec);
        self.refuse_multiline();
        if let Some(last) = last {
            self.refuse(&"its line does not end", &last);
        }
        self.count_refused();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl ServerOutput {
        /// The next message. Lost answers and unreadable requests are skipped.
        fn next_message(&mut self) -> Option<Message> {
            loop {
                if let Printed::Message(message) = self.next_printed()? {
                    return Some(message);
                }
            }
        }
    }

    /// Checks the messages in some output, and how many lines were refused.
    #[track_caller]
    fn check(printed: &str, messages: &[&str], refused: u64) {
        for size in [1, 7, printed.len().max(1)] {
            let status = Arc::new(BridgeStatus::default());
            let mut output = ServerOutput::new("test", status.clone());
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
    fn messages_one_a_line_are_read() {
        check("", &[], 0);
        check(&format!("{ONE}\n{TWO}\r\n\n  \n"), &[ONE, TWO], 0);
    }

    /// Checks the values in some output (`?` marks a lost answer, `!` an unreadable request), and how many lines were
    /// refused.
    #[track_caller]
    fn check_bytes(printed: &[u8], found: &[&str], refused: u64) {
        for size in [1, 7, printed.len().max(1)] {
            let status = Arc::new(BridgeStatus::default());
            let mut output = ServerOutput::new("test", status.clone());
            let mut seen = Vec::new();
            for piece in printed.chunks(size) {
                output.feed(piece);
                seen.extend(core::iter::from_fn(|| output.next_printed()));
            }
            output.end();
            seen.extend(core::iter::from_fn(|| output.next_printed()));
            let seen: Vec<String> = seen
                .into_iter()
                .map(|printed| match printed {
                    Printed::Message(message) => message.text().to_owned(),
                    Printed::LostAnswer(lost) => format!("? {:?} {}", lost.id, lost.why),
                    Printed::UnreadableRequest(unread) => format!("! {} {}", unread.id, unread.why),
                })
                .collect();
            assert_eq!(seen, found, "{size} bytes at once");
            drop(output);
            assert_eq!(status.lines_refused(), refused, "{size} bytes at once");
        }
    }

    #[test]
    fn answers_not_quite_json_are_read_as_clients_read_them() {
        check_bytes(
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"\xb0\xa1\xff\"}\n",
            &["{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"\u{fffd}\u{fffd}\u{fffd}\"}"],
            0,
        );
        let right = r#"{"jsonrpc":"2.0","id":1,"result":{"n":null}}"#;
        check_bytes(br#"{"jsonrpc":"2.0","id":1,"result":{"n":NaN}}"#, &[right], 0);
        check_bytes(br#"{"jsonrpc":"2.0","id":1.0,"result":{"n":null},"error":null}"#, &[right], 0);
        check_bytes(
            b"{\n  \"jsonrpc\": \"2.0\",\n  \"id\": 1.0,\n  \"result\": {\"n\":null}\n}\n",
            &[right],
            0,
        );
        check_bytes(format!("\u{feff}{ONE}\n\u{feff}{TWO}\n").as_bytes(), &[ONE, TWO], 0);
        check_bytes(
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"a\tb\"}\n",
            &[r#"{"jsonrpc":"2.0","id":1,"result":"a\u0009b"}"#],
            0,
        );
        check_bytes(
            b"{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"m\"}\n",
            &[r#"{"jsonrpc":"2.0","method":"m"}"#],
            0,
        );
    }

    #[test]
    fn several_values_on_one_line_are_read() {
        check(&format!("{ONE}{TWO}\n{ONE} \t{TWO}\n"), &[ONE, TWO, ONE, TWO], 0);
        check(&format!("{{\"level\":\"info\"}}{ONE}\n"), &[ONE], 1);
        check(&format!("{ONE}and more\n"), &[ONE], 1);
        check(&format!("{ONE}{{\n  \"jsonrpc\": 1\n}}\n{TWO}\n"), &[ONE, TWO], 1);
        // A message in a log line is not read.
        check(&format!("[INFO] {ONE}\n> {ONE}\n"), &[], 2);
        check(&format!("[1234] {ONE}\n[\"info\", 7] {ONE}\n[]{ONE}\n"), &[], 3);
    }

    #[test]
    fn lost_answers_are_reported_with_their_ids() {
        let broken = r#"{"jsonrpc":"2.0","id":4,"result":{"text":"a"#;
        let lost = r#"? Some("4") a string does not end"#;
        check_bytes(format!("{broken}\nb\"}}}}\n{ONE}\n").as_bytes(), &[lost, ONE], 2);
        let open = r#"{"jsonrpc":"2.0","id":4,"result":{"#;
        let lost = r#"? Some("4") it never ends"#;
        check_bytes(format!("{open}\n{ONE}\n").as_bytes(), &[lost, ONE], 1);
        check_bytes(open.as_bytes(), &[lost], 1);
        let two = r#"{"jsonrpc":"2.0","id":4,"result":{},"error":{}}"#;
        let lost = r#"? Some("4") it has both a result and an error"#;
        check_bytes(format!("[{ONE},{two}]\n{two}{ONE}\n").as_bytes(), &[ONE, lost, lost, ONE], 2);
    }

    #[test]
    fn unreadable_requests_are_reported_with_their_ids() {
        let cut = r#"{"jsonrpc":"2.0","id":"a","method":"m","params":{"text":"a"#;
        check_bytes(
            format!("{cut}\n{ONE}\n").as_bytes(),
            &[r#"! "a" a string does not end"#, ONE],
            1,
        );
        let strange = r#"{"jsonrpc":"2.0","id":4,"method":7}"#;
        let told = "! 4 Invalid Request: the method must be a string of Unicode";
        check_bytes(format!("[{strange},{ONE}]\n").as_bytes(), &[told, ONE], 1);
    }

    #[test]
    fn unindented_bracket_begins_a_new_text() {
        let pretty = "{\n  \"jsonrpc\": \"2.0\",\n  \"id\": 1,\n  \"result\": {}\n}";
        for log in ["{ config = {", "[1, {", "{", "[", "[INFO] config = {"] {
            check(&format!("{log}\n{pretty}\n"), &[pretty], 1);
        }
        check(&format!("[\n{pretty}\n"), &[pretty], 1);
    }

    #[test]
    fn line_too_long_is_reported_with_its_id() {
        let long = "x".repeat(LINE_BYTES_MAX);
        let why = too_long_why(LINE_BYTES_MAX);
        let lost = format!(r#"? Some("7") {why}"#);
        let unread = format!("! 7 {why}");
        for (printed, told) in [
            (format!(r#"{{"jsonrpc":"2.0","id":7,"result":"{long}"}}"#), &lost),
            (format!(r#"{{"result":"{long}","id":7,"jsonrpc":"2.0"}}"#), &lost),
            (format!(r#"{{"method":"m","params":["{long}"],"jsonrpc":"2.0","id":7}}"#), &unread),
        ] {
            let status = Arc::new(BridgeStatus::default());
            let mut output = ServerOutput::new("test", status.clone());
            let mut seen = Vec::new();
            for piece in format!("{printed}\n{ONE}\n").as_bytes().chunks(1 << 20) {
                output.feed(piece);
                seen.extend(core::iter::from_fn(|| output.next_printed()));
            }
            let seen: Vec<String> = seen
                .into_iter()
                .map(|printed| match printed {
                    Printed::Message(message) => message.text().to_owned(),
                    Printed::LostAnswer(lost) => format!("? {:?} {}", lost.id, lost.why),
                    Printed::UnreadableRequest(unread) => format!("! {} {}", unread.id, unread.why),
                })
                .collect();
            assert_eq!(seen, [&**told, ONE]);
            assert_eq!((status.lines_too_long(), status.lines_refused()), (1, 0));
        }
    }

    #[test]
    fn end_of_output_ends_the_last_line() {
        let status = Arc::new(BridgeStatus::default());
        let mut output = ServerOutput::new("test", status.clone());
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
    fn line_without_a_message_is_skipped() {
        check(&format!("Listening on stdio\n{ONE}\n"), &[ONE], 1);
        check(&format!("[INFO] ready\n{{ not json\n{ONE}\n{{}}\n"), &[ONE], 3);
        check(&format!("{{\"jsonrpc\":\"1.0\"}}\n\"text\"\n17\n]\n{ONE}\n"), &[ONE], 4);
        check(&format!("{ONE}\n{ONE}"), &[ONE], 1);
    }

    #[test]
    fn many_refused_lines_are_reported_at_once() {
        use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
        let (status, told) = (Arc::new(BridgeStatus::default()), Arc::<AtomicU32>::default());
        let telling = told.clone();
        status.listen(move |_| {
            telling.fetch_add(1, Relaxed);
        });
        let mut output = ServerOutput::new("test", status.clone());
        output.feed("y\n".repeat(1_000).as_bytes());
        assert_eq!(output.next_message(), None);
        assert_eq!((status.lines_refused(), told.load(Relaxed)), (1_000, 2));
    }

    #[test]
    fn message_over_several_lines_is_read() {
        let pretty =
            "{\n  \"jsonrpc\": \"2.0\",\n  \"id\": \"}\\\"{\",\n  \"result\": [\n    {}\n  ]\n}";
        check(&format!("{pretty}\n{ONE}\n{pretty}\n"), &[pretty, ONE, pretty], 0);
        // A complete message on one line ends an incomplete one.
        check(&format!("{{\n\"a\": 1,\n{ONE}\n}}\n{TWO}\n"), &[ONE, TWO], 2);
        check(&format!("{{\n\"a\": \"unended\n{ONE}\n"), &[ONE], 1);
        check("{\n\"a\": 1\n}\n", &[], 1);
        check("{\n\"a\":", &[], 2);
    }

    #[test]
    fn values_of_one_line_are_bounded() {
        let checked = |line: String, messages: usize, refused: u64| {
            let status = Arc::new(BridgeStatus::default());
            let mut output = ServerOutput::new("test", status.clone());
            output.feed(format!("{line}\n{ONE}\n").as_bytes());
            let found = core::iter::from_fn(|| output.next_message()).count();
            assert_eq!((found, status.lines_refused()), (messages + 1, refused));
        };
        let other = VALUES_MAX as u64 - 1;
        let objects = "{}".repeat(VALUES_MAX - 1);
        checked(format!("{objects}{ONE}"), 1, other);
        checked(format!("{objects}{ONE}{ONE}{ONE}"), 1, other + 1);
        let members = "{},".repeat(VALUES_MAX - 1);
        checked(format!("[{members}{ONE}]"), 1, other);
        checked(format!("[{members}{ONE},{ONE},{ONE}]"), 1, other + 1);
    }

    #[test]
    fn batch_is_read_as_single_messages() {
        check(&format!("[{ONE},{TWO}]\n"), &[ONE, TWO], 0);
        check(&format!("[\n  {ONE},\n  {TWO}\n]\n"), &[ONE, TWO], 0);
        check(&format!("[{ONE},{{}},17]\n"), &[ONE], 2);
        check("[]\n", &[], 1);
    }

    #[test]
    fn line_too_long_is_dropped() {
        let status = Arc::new(BridgeStatus::default());
        let mut output = ServerOutput::new("test", status.clone());
        for _ in 0..20 {
            output.feed(&vec![b'x'; 1 << 20]);
            assert_eq!(output.next_message(), None);
        }
        output.feed(format!("\n{ONE}\n").as_bytes());
        assert_eq!(output.next_message().unwrap().text(), ONE);
        assert_eq!((status.lines_too_long(), status.lines_refused()), (1, 0));
    }

    #[test]
    fn long_line_is_logged_in_part() {
        assert_eq!(shown(b"a\x1b[1mb"), "a\\u{1b}[1mb");
        let shown = shown("ä".repeat(150).as_bytes());
        assert_eq!(shown, format!("{}..", "ä".repeat(100)));
    }
}
