//! The endpoint event: whether and when it arrives, and whether clients can post to what it says.
//!
//! Knows: the rules for the endpoint. Does not know: posts.

use core::time::Duration;
use std::time::Instant;

use super::findings::Code;
use super::handshake::ended_early;
use super::listening::{Stream, What};
use super::options::Settings;
use super::report::{Mark, Report, in_words};
use super::secrets::excerpt;
use crate::client::target::{Target, masked};

/// Waits for the endpoint event. `None` if clients cannot go on, which is reported.
pub(super) async fn wait(
    settings: &Settings,
    stream: &mut Stream,
    report: &mut Report,
) -> Option<Target> {
    let deadline = Instant::now() + settings.timeout;
    let mut first = None;
    loop {
        let Some((arrival, together)) = stream.next_with_company(deadline).await else {
            missing(settings, first, stream, report);
            return None;
        };
        // What arrives without a pause would otherwise be read for ever.
        let in_time = arrival.at <= deadline;
        let event = match arrival.what {
            What::Event(event) => event,
            What::Comment if in_time => continue,
            What::Comment => {
                missing(settings, first, stream, report);
                return None;
            }
            What::End(end) => {
                ended_early("endpoint", end, report);
                return None;
            }
        };
        if event.name != "endpoint" {
            first.get_or_insert(event.name);
            if in_time {
                continue;
            }
            missing(settings, first, stream, report);
            return None;
        }
        let took = arrival.at.saturating_duration_since(stream.opened);
        report.measure("endpoint_ms", took);
        if let Some(first) = first {
            let first = excerpt(&first);
            let sentence = format!("An event named {first} arrived before the endpoint event.");
            report.find(Code::EndpointNotFirst, &sentence);
        }
        if took > settings.late {
            tell_late(took, together, report);
        }
        return resolve(settings, &event.data, took, report);
    }
}

fn missing(settings: &Settings, first: Option<String>, stream: &Stream, report: &mut Report) {
    report.step("endpoint", Mark::Bad, "no endpoint event", Some(stream.opened.elapsed()));
    let timeout = in_words(settings.timeout);
    let first = first
        .map_or(String::new(), |name| format!(" The first event is named {}.", excerpt(&name)));
    let sentence = format!("No endpoint event arrived within {timeout}.{first}");
    report.find(Code::EndpointMissing, &sentence);
}

fn tell_late(took: Duration, together: bool, report: &mut Report) {
    let took = in_words(took);
    if together {
        let sentence = format!(
            "The endpoint event arrived after {took}, together with the next event or heartbeat."
        );
        report.find(Code::Buffered, &sentence);
    } else {
        report.find(Code::EndpointLate, &format!("The endpoint event arrived after {took}."));
    }
}

/// The URL to post to.
fn resolve(settings: &Settings, data: &str, took: Duration, report: &mut Report) -> Option<Target> {
    let target = &settings.target;
    let found = if data.starts_with('/') && !data.starts_with("//") {
        Target::parse(&format!("{}{data}", target.origin()))
    } else {
        let absolute = match data.strip_prefix("//") {
            Some(rest) => format!("{}://{rest}", if target.is_https() { "https" } else { "http" }),
            None => data.to_owned(),
        };
        Target::parse(&absolute)
    };
    let shown = excerpt(&masked(data));
    if let Ok(found) = &found {
        // What the query says is the key to the session.
        found.query_values().for_each(|value| report.hide(value));
    } else {
        // Each value by itself, because a server may repeat one of them.
        let query = data.split_once('?').map_or("", |(_, query)| query);
        let values = query.split('&');
        let values = values.map(|pair| pair.split_once('=').map_or(pair, |(_, value)| value));
        values.for_each(|value| report.hide(value));
    }
    let found = match found {
        Ok(found) if found.origin() != target.origin() => {
            report.step("endpoint", Mark::Bad, "it is at another origin", Some(took));
            let (theirs, ours) = (found.origin(), target.origin());
            let sentence = format!("The endpoint is at {theirs}, and the stream at {ours}.");
            report.find(Code::EndpointOtherOrigin, &sentence);
            return None;
        }
        Ok(found) if !has_dots(found.path()) => found,
        Ok(_) | Err(_) => {
            report.step("endpoint", Mark::Bad, "it is not an absolute path", Some(took));
            report.find(Code::EndpointNotPath, &format!("The endpoint is {shown}."));
            return None;
        }
    };
    if !data.starts_with('/') {
        let sentence = format!("The endpoint is a complete URL: {shown}.");
        report.find(Code::EndpointFullUrl, &sentence);
    }
    let place = masked(found.path_and_query());
    report.step("endpoint", Mark::Good, excerpt(&place).trim_matches('"'), Some(took));
    Some(found)
}

fn has_dots(path: &str) -> bool {
    path.split('/').any(|segment| matches!(segment, "." | ".."))
}
