//! What servers print on stderr, in the log.
//!
//! Knows: lines, and what must not reach a terminal. Does not know: what it says.

use std::collections::VecDeque;
use std::process::ChildStderr;
use std::sync::{Mutex, OnceLock, PoisonError};

use async_io::Async;
use futures_lite::{AsyncReadExt, future};

use super::lines::{Line, Lines};

/// The longest line that is logged whole.
const LINE_BYTES_MAX: usize = 8 << 10;
/// So many lines are kept where they are kept at all.
pub(super) const LINES_KEPT: usize = 10;

/// The last lines of all processes together, for whoever has to say why one failed.
#[derive(Debug, Default)]
pub(super) struct Kept {
    lines: OnceLock<Mutex<VecDeque<String>>>,
}

impl Kept {
    /// Keeps lines from now on.
    pub(super) fn begin(&self) {
        self.lines.get_or_init(Mutex::default);
    }

    pub(super) fn last(&self) -> Vec<String> {
        let Some(lines) = self.lines.get() else { return Vec::new() };
        lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn add(&self, line: String) {
        let Some(lines) = self.lines.get() else { return };
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES_KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// Puts a server's stderr into the log, line by line.
pub(super) struct Log<'n> {
    name: &'n str,
    kept: &'n Kept,
    lines: Lines,
}

impl<'n> Log<'n> {
    pub(super) const fn new(name: &'n str, kept: &'n Kept) -> Self {
        Self { name, kept, lines: Lines::new(LINE_BYTES_MAX) }
    }

    /// Reads for ever.
    pub(super) async fn follow(&mut self, stderr: &mut Async<ChildStderr>) {
        self.read_to_end(stderr).await;
        future::pending().await
    }

    pub(super) async fn read_to_end(&mut self, stderr: &mut Async<ChildStderr>) {
        let mut buffer = vec![0; LINE_BYTES_MAX];
        while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
            self.lines.feed(buffer.get(..count).unwrap_or_default());
            while let Some(line) = self.lines.next_line() {
                match line {
                    Line::Whole(line) => say(self.name, self.kept, line, ""),
                    Line::TooLong(beginning) => say(self.name, self.kept, beginning, ".."),
                }
            }
            // Others have their turn, however much it prints.
            future::yield_now().await;
        }
    }

    pub(super) fn finish(&mut self) {
        if let Some(line) = self.lines.last_line() {
            say(self.name, self.kept, line, "");
        }
    }
}

fn say(name: &str, kept: &Kept, line: &[u8], more: &str) {
    let line = printable(line);
    log::info!(target: "mcp_sse::stderr", "{name}: {line}{more}");
    kept.add(line);
}

/// Bytes of somebody else's as text that does nothing to a terminal.
pub(super) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for c in String::from_utf8_lossy(bytes).chars() {
        if c.is_control() && c != '\t' { text.extend(c.escape_default()) } else { text.push(c) }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_where_they_are_wanted() {
        let kept = Kept::default();
        kept.add("too early".into());
        assert!(kept.last().is_empty());
        kept.begin();
        (0..LINES_KEPT + 2).for_each(|n| kept.add(n.to_string()));
        let last = kept.last();
        assert_eq!((last.len(), &*last[0]), (LINES_KEPT, "2"));
    }

    #[test]
    fn nothing_is_done_to_a_terminal() {
        assert_eq!(
            printable(b"\x1b]0;t\x07\tok\xff\xc2\x9b"),
            "\\u{1b}]0;t\\u{7}\tok\u{fffd}\\u{9b}"
        );
    }
}
