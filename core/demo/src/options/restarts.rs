//! The flags for a server that is replaced while clients are connected: how it stops, and when its clients come
//! back.
//!
//! Knows: the flags, and the form of ranges. Does not know: how a shutdown proceeds, which the core does.

use core::ops::RangeInclusive;
use core::time::Duration;

use clap::Args;
use mcp_sse_core::{ConfigBuilder, Timeouts};

use super::values::{OrNone, TimeFlag, parse_time};

/// The flags of restarts.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Restarts")]
pub(super) struct Restarts {
    /// How long requests in flight may take when the server is stopped (Ctrl-C, SIGTERM), or "off" for
    /// no limit. A second signal aborts them.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_time)]
    shutdown_grace: TimeFlag,
    /// When the server is stopped, answer /ready with 503 for this time and serve as before; the shutdown
    /// begins afterwards. A load balancer then sends new clients elsewhere before streams end. A second
    /// signal aborts. "off" begins at once.
    #[arg(long, value_name = "TIME", default_value = "off", value_parser = parse_time)]
    drain_delay: TimeFlag,
    /// When the server is stopped, end streams without a request in flight one by one over this time, so
    /// that their clients do not all come back at once. At most --shutdown-grace; "off" ends them at once.
    #[arg(long, value_name = "TIME", default_value = "off", value_parser = parse_time)]
    drain_spread: TimeFlag,
    /// Tell each client to reconnect after a time from this range, as in 1s..5s, when its stream has ended.
    /// Browsers and the TypeScript SDK obey; clients of the Go and Java SDKs cannot connect.
    #[arg(long, value_name = "RANGE", value_parser = parse_time_range)]
    retry: Option<RangeInclusive<Duration>>,
    /// Tell each client that is refused with 503 to try again after a number of seconds from this range, as in
    /// 1s..5s.
    #[arg(long, value_name = "RANGE", default_value = "1s", value_parser = parse_seconds_range)]
    retry_after: RangeInclusive<u64>,
}

impl Restarts {
    /// Sets the timeouts of a shutdown.
    pub(super) fn time(&self, timeouts: &mut Timeouts) {
        timeouts.shutdown_grace = self.shutdown_grace.0;
        timeouts.drain_delay = self.drain_delay.0;
        timeouts.drain_spread = self.drain_spread.0;
    }

    /// Sets when clients come back.
    pub(super) fn apply(&self, mut builder: ConfigBuilder) -> ConfigBuilder {
        if let Some(range) = &self.retry {
            builder = builder.retry(range.clone());
        }
        builder.retry_after(self.retry_after.clone())
    }
}

/// Parses a range of times such as `1s..5s`, or one time.
fn parse_time_range(text: &str) -> Result<RangeInclusive<Duration>, String> {
    let (low, high) = text.split_once("..").unwrap_or((text, text));
    match (parse_time(low), parse_time(high)) {
        (Ok(OrNone(Some(low))), Ok(OrNone(Some(high)))) => Ok(low..=high),
        _ => {
            Err("expected a range of times as in 1s..5s or 500ms..2s, or one time as in 3s".into())
        }
    }
}

/// Parses a range of times in whole seconds such as `1s..5s`, or one time.
fn parse_seconds_range(text: &str) -> Result<RangeInclusive<u64>, String> {
    let range = parse_time_range(text).ok();
    let whole = |time: &&Duration| time.subsec_nanos() == 0;
    range
        .filter(|range| [range.start(), range.end()].iter().all(whole))
        .map(|range| range.start().as_secs()..=range.end().as_secs())
        .ok_or_else(|| {
            "expected a range of whole seconds as in 1s..5s, or one time as in 3s".into()
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::tests::serve;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn flags_reach_the_configuration() {
        let config = serve(&[
            "--shutdown-grace=20s",
            "--drain-delay=10s",
            "--drain-spread=15s",
            "--retry=500ms..5s",
            "--retry-after=2s..9s",
        ])
        .unwrap()
        .config()
        .unwrap();
        let Timeouts { shutdown_grace, drain_delay, drain_spread, .. } = *config.timeouts();
        let times = [shutdown_grace, drain_delay, drain_spread];
        assert_eq!(times, [Some(20 * SECOND), Some(10 * SECOND), Some(15 * SECOND)]);
        assert_eq!(config.retry(), Some(SECOND / 2..=5 * SECOND));
        assert_eq!(config.retry_after(), 2..=9);
        let config = serve(&["--retry=3s", "--retry-after=4"]).unwrap().config().unwrap();
        assert_eq!((config.retry(), config.retry_after()), (Some(3 * SECOND..=3 * SECOND), 4..=4));
        let config = serve(&[]).unwrap().config().unwrap();
        assert_eq!((config.retry(), config.retry_after()), (None, 1..=1));
    }

    #[test]
    fn mistakes_name_the_flag() {
        let said = |args: &[&str]| match serve(args) {
            Err(error) => error.to_string(),
            Ok(serve) => serve.config().expect_err("a mistake").to_string(),
        };
        for (args, text) in [
            (&["--retry=5s..1s"][..], "begin with 5000 ms and end with 1000 ms"),
            (&["--retry=5s..1s"], "see --retry"),
            (&["--retry=0s..1s"], "see --retry"),
            (&["--retry=off"], "'--retry <RANGE>'"),
            (&["--retry=1s..off"], "1s..5s or 500ms..2s"),
            (&["--retry=1s..2s..3s"], "'--retry <RANGE>'"),
            (&["--retry-after=500ms..2s"], "whole seconds"),
            (&["--retry-after=0"], "see --retry-after"),
            (&["--retry-after=3s..2s"], "see --retry-after"),
            (
                &["--drain-spread=6s"],
                "must not be above shutdown_grace (5000 ms); see --drain-spread",
            ),
            (&["--drain-delay=later"], "'--drain-delay <TIME>'"),
        ] {
            let error = said(args);
            assert!(error.contains(text), "{args:?}: {error}");
        }
        assert!(serve(&["--drain-spread=60s", "--shutdown-grace=off"]).unwrap().config().is_ok());
    }
}
