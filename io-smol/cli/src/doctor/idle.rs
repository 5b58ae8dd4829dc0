//! The idle stream: its heartbeats, and whether something cuts it.
//!
//! Knows: how long a stream may be silent. Does not know: what was said on it before.

use std::time::Instant;

use super::findings::Code;
use super::listening::{End, Stream, What};
use super::options::Settings;
use super::report::{Mark, Report, in_words};

/// Waits until anything arrives on the idle stream, or a comment line that has arrived already. False if the stream
/// ended, which is reported.
pub(super) async fn heartbeat(
    settings: &Settings,
    stream: &mut Stream,
    report: &mut Report,
) -> bool {
    const STEP: &str = "heartbeat";
    let idle = Instant::now();
    let mut since = stream.last;
    let arrival = loop {
        match stream.next(since + settings.heartbeat).await {
            // An event from before, for example a notification after initialize, is no heartbeat.
            Some(early) if early.at < idle && matches!(early.what, What::Event(_)) => {
                since = early.at;
            }
            Some(arrival) => break arrival,
            None => {
                tell_silence(STEP, settings, report);
                return true;
            }
        }
    };
    let silent = arrival.at.saturating_duration_since(since);
    let what = match arrival.what {
        What::End(end) => {
            cut(STEP, end, stream, report);
            return false;
        }
        What::Comment => "a comment line arrived",
        What::Event(_) => "an event arrived",
    };
    report.measure("heartbeat_ms", silent);
    report.step(STEP, Mark::Good, what, Some(silent));
    true
}

/// Watches the stream until it is `settings.soak` old. False if it ended before, which is reported.
pub(super) async fn soak(settings: &Settings, stream: &mut Stream, report: &mut Report) -> bool {
    const STEP: &str = "soak";
    let Some(soak) = settings.soak else { return true };
    let end = stream.opened + soak;
    let mut silent = false;
    while Instant::now() < end {
        let since = stream.last;
        let limit = if silent { end } else { end.min(since + settings.heartbeat) };
        match stream.next(limit).await {
            Some(arrival) => {
                if let What::End(end) = arrival.what {
                    cut(STEP, end, stream, report);
                    return false;
                }
            }
            None if limit < end => {
                silent = true;
                tell_silence(STEP, settings, report);
            }
            None => {}
        }
    }
    report.step(STEP, Mark::Good, "the stream is still open", Some(stream.opened.elapsed()));
    true
}

fn tell_silence(step: &str, settings: &Settings, report: &mut Report) {
    let limit = in_words(settings.heartbeat);
    report.step(step, Mark::Bad, &format!("nothing arrived for {limit}"), None);
    report.find(Code::HeartbeatMissing, &format!("Nothing arrived on the stream for {limit}."));
}

fn cut(step: &str, end: End, stream: &Stream, report: &mut Report) {
    let age = in_words(stream.opened.elapsed());
    report.step(step, Mark::Bad, &format!("the stream ended after {age}"), None);
    let sentence = format!("The idle stream ended {age} after it was opened: {}.", end.text());
    report.find(Code::IdleCut, &sentence);
}
