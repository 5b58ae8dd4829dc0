//! Logs the stderr of servers.
//!
//! Knows: lines, how many of them may be logged, and which characters must not reach a terminal.
//! Does not know: what the lines mean.
//!
//! Decision: stderr beyond its rate is read, counted and not logged. If it were not read, a server that prints a lot
//! would block.

use core::time::Duration;
use std::collections::VecDeque;
use std::process::ChildStderr;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use smol::io::AsyncReadExt;
use smol::{Async, Timer, future};

use super::lines::{Line, Lines};
use super::status::BridgeStatus;

/// The longest line that is logged completely, in bytes. Longer lines are cut.
const LINE_BYTES_MAX: usize = 8 << 10;
/// The number of last lines that are kept.
pub(super) const LINES_KEPT: usize = 10;

/// The period to which the limits of a [`StderrRate`] apply.
const PERIOD: Duration = Duration::from_secs(1);

/// How much of one process's stderr is logged in each second. The rest is counted, and the count is logged once a
/// second.
///
/// ```
/// use mcp_sse_bridge::children::Children;
/// use mcp_sse_bridge::stderr::StderrRate;
///
/// // At most 100 lines a second, of any length.
/// let children = Children::with_stderr_rate(StderrRate::new(Some(100), None))?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StderrRate {
    /// The most lines in a second; `None` is unlimited. The default is [`LINES_PER_SECOND`](Self::LINES_PER_SECOND).
    pub lines_per_second: Option<u32>,
    /// The most bytes in a second, without line ends; `None` is unlimited. The first line of each second is logged
    /// whatever its length. The default is [`BYTES_PER_SECOND`](Self::BYTES_PER_SECOND).
    pub bytes_per_second: Option<u64>,
}

impl StderrRate {
    /// The default of [`lines_per_second`](Self::lines_per_second): 1,000.
    pub const LINES_PER_SECOND: u32 = 1_000;
    /// The default of [`bytes_per_second`](Self::bytes_per_second): 1 MiB.
    pub const BYTES_PER_SECOND: u64 = 1 << 20;

    /// Creates a rate with these limits; `None` is unlimited.
    #[must_use]
    pub const fn new(lines_per_second: Option<u32>, bytes_per_second: Option<u64>) -> Self {
        Self { lines_per_second, bytes_per_second }
    }
}

impl Default for StderrRate {
    fn default() -> Self {
        Self::new(Some(Self::LINES_PER_SECOND), Some(Self::BYTES_PER_SECOND))
    }
}

/// Lines that were not logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Unlogged {
    lines: u64,
    bytes: u64,
}

/// Decides which stderr lines of one process are logged.
#[derive(Debug)]
struct StderrThrottle {
    rate: StderrRate,
    /// The start of the current period, if there is one.
    since: Option<Instant>,
    /// The lines and bytes that were logged in the current period.
    lines: u32,
    bytes: u64,
    unlogged: Unlogged,
}

impl StderrThrottle {
    const fn new(rate: StderrRate) -> Self {
        let unlogged = Unlogged { lines: 0, bytes: 0 };
        Self { rate, since: None, lines: 0, bytes: 0, unlogged }
    }

    /// When the count of unlogged lines has to be logged; then call [`take`](Self::take).
    fn due(&self) -> Option<Instant> {
        self.since.filter(|_| self.unlogged.lines > 0).map(|since| since + PERIOD)
    }

    /// Ends the current period if its time is over. Returns the count of lines that were not logged in it.
    fn take(&mut self, now: Instant) -> Option<Unlogged> {
        self.since.take_if(|since| now.saturating_duration_since(*since) >= PERIOD)?;
        (self.lines, self.bytes) = (0, 0);
        self.take_rest()
    }

    /// Takes the count of unlogged lines, if there are any.
    fn take_rest(&mut self) -> Option<Unlogged> {
        Some(core::mem::take(&mut self.unlogged)).filter(|unlogged| unlogged.lines > 0)
    }

    /// Whether a line may be logged. Call [`take`](Self::take) before, so that a period that is over has ended.
    fn admits(&mut self, line: &[u8], now: Instant) -> bool {
        self.since.get_or_insert(now);
        let bytes = u64::try_from(line.len()).unwrap_or(u64::MAX);
        let (lines, sum) = (self.lines.saturating_add(1), self.bytes.saturating_add(bytes));
        let within = self.rate.lines_per_second.is_none_or(|max| lines <= max)
            && (self.lines == 0 || self.rate.bytes_per_second.is_none_or(|max| sum <= max));
        if within {
            (self.lines, self.bytes) = (lines, sum);
        } else {
            self.unlogged.lines += 1;
            self.unlogged.bytes = self.unlogged.bytes.saturating_add(bytes);
        }
        within
    }
}

/// The last stderr lines of all processes together, for reports about a process that failed.
#[derive(Debug, Default)]
pub(super) struct LastLines {
    lines: OnceLock<Mutex<VecDeque<String>>>,
}

impl LastLines {
    /// Starts keeping lines.
    pub(super) fn begin(&self) {
        self.lines.get_or_init(Mutex::default);
    }

    pub(super) fn last(&self) -> Vec<String> {
        let Some(lines) = self.lines.get() else { return Vec::new() };
        lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn keeps(&self) -> bool {
        self.lines.get().is_some()
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

/// Logs a server's stderr line by line.
pub(super) struct StderrLog<'n> {
    name: &'n str,
    kept: &'n LastLines,
    status: &'n BridgeStatus,
    throttle: StderrThrottle,
    lines: Lines,
}

impl<'n> StderrLog<'n> {
    pub(super) const fn new(
        name: &'n str,
        kept: &'n LastLines,
        status: &'n BridgeStatus,
        rate: StderrRate,
    ) -> Self {
        let throttle = StderrThrottle::new(rate);
        Self { name, kept, status, throttle, lines: Lines::new(LINE_BYTES_MAX) }
    }

    /// Logs stderr until its end, and then never returns.
    pub(super) async fn follow(&mut self, stderr: &mut Async<ChildStderr>) {
        self.read_to_end(stderr).await;
        future::pending().await
    }

    pub(super) async fn read_to_end(&mut self, stderr: &mut Async<ChildStderr>) {
        let mut buffer = vec![0; LINE_BYTES_MAX];
        loop {
            let due = self.throttle.due();
            let read = async { Some(stderr.read(&mut buffer).await.unwrap_or(0)) };
            let told = async {
                match due {
                    Some(at) => Timer::at(at).await,
                    None => future::pending().await,
                };
                None
            };
            let read = future::or(read, told).await;
            let now = Instant::now();
            self.tell_unlogged(now);
            match read {
                None => continue,
                Some(0) => return,
                Some(count) => self.lines.feed(buffer.get(..count).unwrap_or_default()),
            }
            while let Some(line) = self.lines.next_line() {
                self.status.note_stderr_line();
                match line {
                    Line::Complete(line) => {
                        log_line(self.name, self.kept, &mut self.throttle, line, "", now);
                    }
                    Line::TooLong(beginning) => {
                        log_line(self.name, self.kept, &mut self.throttle, beginning, "..", now);
                    }
                }
            }
            // Lets other tasks run, however much the process prints.
            future::yield_now().await;
        }
    }

    pub(super) fn finish(&mut self) {
        let now = Instant::now();
        if let Some(line) = self.lines.last_line() {
            self.status.note_stderr_line();
            log_line(self.name, self.kept, &mut self.throttle, line, "", now);
        }
        let rest = self.throttle.take_rest();
        self.tell(rest);
    }

    fn tell_unlogged(&mut self, now: Instant) {
        let unlogged = self.throttle.take(now);
        self.tell(unlogged);
    }

    fn tell(&self, unlogged: Option<Unlogged>) {
        let Some(Unlogged { lines, bytes }) = unlogged else { return };
        let limit = |limit: Option<u64>| limit.map_or("unlimited".into(), |max| max.to_string());
        let StderrRate { lines_per_second, bytes_per_second } = self.throttle.rate;
        // The level is that of the lines, so the count is logged only where lines are.
        log::info!(
            target: "mcp_sse::stderr",
            event = "stderr_suppressed",
            owner = self.name,
            lines = lines,
            bytes = bytes;
            "{}: {lines} lines on stderr were not logged, {bytes} bytes: beyond \
             --stderr-lines-per-second {} or --stderr-bytes-per-second {}",
            self.name,
            limit(lines_per_second.map(u64::from)),
            limit(bytes_per_second),
        );
    }
}

fn log_line(
    name: &str,
    kept: &LastLines,
    throttle: &mut StderrThrottle,
    line: &[u8],
    more: &str,
    now: Instant,
) {
    let admitted = throttle.admits(line, now);
    // The last lines are kept also if they are not logged.
    if !admitted && !kept.keeps() {
        return;
    }
    let line = printable(line);
    if admitted {
        log::info!(
            target: "mcp_sse::stderr",
            event = "stderr_line",
            owner = name;
            "{name}: {line}{more}"
        );
    }
    kept.add(line);
}

/// Converts bytes of a server to text in which control characters are escaped, because they could control the
/// terminal.
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
    fn last_stderr_lines_are_kept_if_asked_for() {
        let kept = LastLines::default();
        kept.add("too early".into());
        assert!(kept.last().is_empty());
        kept.begin();
        (0..LINES_KEPT + 2).for_each(|n| kept.add(n.to_string()));
        let last = kept.last();
        assert_eq!((last.len(), &*last[0]), (LINES_KEPT, "2"));
    }

    #[test]
    fn lines_beyond_the_rate_are_kept_and_not_logged() {
        let kept = LastLines::default();
        kept.begin();
        let mut throttle = StderrThrottle::new(StderrRate::new(Some(3), None));
        let now = Instant::now();
        for line in [b"1", b"2", b"3", b"4", b"5"] {
            log_line("test", &kept, &mut throttle, line, "", now);
        }
        assert_eq!(throttle.take_rest(), Some(Unlogged { lines: 2, bytes: 2 }));
        assert_eq!(kept.last(), ["1", "2", "3", "4", "5"]);
    }

    #[test]
    fn stderr_beyond_the_rate_is_counted_once_a_second() {
        let start = Instant::now();
        let after = |ms: u64| start + Duration::from_millis(ms);
        let mut throttle = StderrThrottle::new(StderrRate::new(Some(3), Some(100)));
        let logged = |throttle: &mut StderrThrottle, line: &str, times: u32, at: Instant| {
            (0..times).filter(|_| throttle.admits(line.as_bytes(), at)).count()
        };
        assert_eq!((throttle.due(), throttle.take(start)), (None, None));
        assert_eq!(logged(&mut throttle, "ten bytes.", 3, start), 3);
        assert_eq!(throttle.due(), None);
        assert_eq!(logged(&mut throttle, "ten bytes.", 5, after(999)), 0);
        assert_eq!(throttle.due(), Some(after(1_000)));
        assert_eq!(throttle.take(after(999)), None);
        assert_eq!(throttle.take(after(1_000)), Some(Unlogged { lines: 5, bytes: 50 }));
        assert_eq!((throttle.due(), throttle.take(after(5_000))), (None, None));
        // The first line of a second is logged whatever its length, and uses up the bytes of that second.
        assert_eq!(logged(&mut throttle, &"x".repeat(101), 2, after(6_000)), 1);
        assert_eq!(throttle.take_rest(), Some(Unlogged { lines: 1, bytes: 101 }));
        assert_eq!(throttle.take_rest(), None);
        let mut free = StderrThrottle::new(StderrRate::new(None, None));
        assert_eq!(logged(&mut free, "ten bytes.", 100_000, start), 100_000);
    }

    #[test]
    fn default_rate_is_a_thousand_lines_and_a_mebibyte() {
        let mut throttle = StderrThrottle::new(StderrRate::default());
        let now = Instant::now();
        assert_eq!((0..2_000).filter(|_| throttle.admits(b"x", now)).count(), 1_000);
        let mut throttle = StderrThrottle::new(StderrRate::default());
        let line = vec![b'x'; LINE_BYTES_MAX];
        assert_eq!((0..2_000).filter(|_| throttle.admits(&line, now)).count(), 128);
    }

    #[test]
    fn stderr_control_characters_are_escaped() {
        assert_eq!(
            printable(b"\x1b]0;t\x07\tok\xff\xc2\x9b"),
            "\\u{1b}]0;t\\u{7}\tok\u{fffd}\\u{9b}"
        );
    }
}
