//! What servers print on stderr, in the log.
//!
//! Knows: lines, and what must not reach a terminal. Does not know: what it says.

use std::process::ChildStderr;

use async_io::Async;
use futures_lite::{AsyncReadExt, future};

use super::lines::{Line, Lines};

/// The longest line that is logged whole.
const LINE_BYTES_MAX: usize = 8 << 10;

/// Puts a server's stderr into the log, line by line.
pub(super) struct Log<'n> {
    name: &'n str,
    lines: Lines,
}

impl<'n> Log<'n> {
    pub(super) const fn new(name: &'n str) -> Self {
        Self { name, lines: Lines::new(LINE_BYTES_MAX) }
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
                    Line::Whole(line) => say(self.name, line, ""),
                    Line::TooLong(beginning) => say(self.name, beginning, ".."),
                }
            }
            // Others have their turn, however much it prints.
            future::yield_now().await;
        }
    }

    pub(super) fn finish(&mut self) {
        if let Some(line) = self.lines.last_line() {
            say(self.name, line, "");
        }
    }
}

fn say(name: &str, line: &[u8], more: &str) {
    log::info!(target: "mcp_sse::stderr", "{name}: {}{more}", printable(line));
}

/// Bytes of somebody else's as text that does nothing to a terminal.
pub(super) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for c in String::from_utf8_lossy(bytes).chars() {
        if c.is_control() && c != '\t' { text.extend(c.escape_default()) } else { text.push(c) }
    }
    text
}
