//! The GET that opens the stream, and what its answer means.
//!
//! Knows: each status and field of the answer that keeps a client from listening, and where a stream or another
//! transport can be found instead. Does not know: events.

use std::time::Instant;

use super::findings::Code;
use super::listening::Stream;
use super::probe::{self, Streamable};
#[cfg(feature = "tls")]
use super::reach;
use super::report::{Mark, Report};
use super::secrets::excerpt;
use super::visit::{Answer, RequestFault, Visitor};
use crate::client::connection::Connection;
use crate::client::exchange::{AnswerFault, Head, Response};
use crate::client::target::masked;

/// Opens the stream. `None` if there is none, which is reported.
pub(super) async fn open(
    visitor: &Visitor<'_>,
    connection: Connection,
    report: &mut Report,
) -> Option<Stream> {
    let settings = visitor.settings;
    let opened = Instant::now();
    let target = &settings.target;
    let response = visitor.get_stream(target, Some(connection), &[], settings.timeout).await;
    let response = match response {
        Ok(response) => response,
        Err(fault) => {
            no_response(visitor, &fault, report).await;
            return None;
        }
    };
    report.measure("first_byte_ms", response.first_byte);
    report.record("status", response.head.status.into());
    if let Some(server) = response.head.field("server") {
        report.record("server_field", excerpt(server).trim_matches('"').into());
    }
    if response.head.status != 200 {
        refused(visitor, response, report).await;
        return None;
    }
    let media_type = response.head.media_type();
    if media_type != "text/event-stream" {
        wrong_type(visitor, response, report).await;
        return None;
    }
    if let Some(coding) = compression(&response.head) {
        report.step("stream", Mark::Bad, "200, but it is compressed", Some(response.took));
        let sentence = format!("The event stream has Content-Encoding: {}.", excerpt(coding));
        report.find(Code::Compressed, &sentence);
        return None;
    }
    report.step("stream", Mark::Good, "200, text/event-stream", Some(response.took));
    Some(Stream::new(response.body, opened))
}

fn compression(head: &Head) -> Option<&str> {
    head.field("content-encoding").filter(|coding| !coding.trim().eq_ignore_ascii_case("identity"))
}

async fn no_response(visitor: &Visitor<'_>, fault: &RequestFault, report: &mut Report) {
    report.step("stream", Mark::Bad, &fault.to_string(), None);
    let RequestFault::Answer(fault) = fault else {
        report.find(Code::ConnectFailed, "The server accepts no further connection.");
        return;
    };
    #[cfg(feature = "tls")]
    if reach::may_speak_tls(fault) {
        let (settings, addresses) = (visitor.settings, visitor.dialer.addresses());
        if reach::port_speaks_tls(settings, &settings.target, addresses, report).await {
            return;
        }
    }
    match fault {
        AnswerFault::TimedOut => {
            let timeout = super::report::in_words(visitor.settings.timeout);
            let sentence = format!("The head of a response did not arrive within {timeout}.");
            report.find(Code::NoAnswer, &sentence);
        }
        AnswerFault::Closed => {
            report.find(Code::ConnectionClosed, "The connection was closed without a response.");
        }
        AnswerFault::NotHttp(bytes) => {
            let text = excerpt(&String::from_utf8_lossy(bytes));
            report
                .find(Code::NotHttp, &format!("The server does not speak HTTP/1. It sent {text}."));
        }
        AnswerFault::Malformed => {
            report.find(Code::NotHttp, "The head of the response is invalid, or far too large.");
        }
    }
}

/// Reports a status other than 200.
async fn refused(visitor: &Visitor<'_>, response: Response, report: &mut Report) {
    let Answer { head, took, text } = Visitor::read(response).await;
    report.step("stream", Mark::Bad, &format!("the server answered {}", head.status), Some(took));
    let said = format!("The server answered {} to the GET, with {}.", head.status, excerpt(&text));
    match head.status {
        301 | 302 | 303 | 307 | 308 => {
            let place = redirect_place(&head);
            let sentence = format!("The server answered {}, a redirect to {place}.", head.status);
            report.find(Code::Redirect, &sentence);
        }
        401 => unauthorized(visitor, &head, report),
        403 | 421 => forbidden(visitor, &head, &text, &said, report).await,
        400 if text.to_ascii_lowercase().contains("host") => {
            forbidden(visitor, &head, &text, &said, report).await;
        }
        404 | 410 => no_stream_here(visitor, Code::NotFound, &said, report).await,
        405 => no_stream_here(visitor, Code::MethodNotAllowed, &said, report).await,
        429 => {
            let wait = retry_after(&head);
            report.find(Code::TooManyRequests, &format!("{said}{wait}"));
        }
        500.. => report.find(Code::ServerError, &format!("{said}{}", retry_after(&head))),
        _ => {
            #[cfg(feature = "tls")]
            if matches!(head.status, 400 | 426) {
                let (settings, addresses) = (visitor.settings, visitor.dialer.addresses());
                if reach::port_speaks_tls(settings, &settings.target, addresses, report).await {
                    return;
                }
            }
            no_stream_here(visitor, Code::BadStatus, &said, report).await;
        }
    }
}

/// Where a redirect leads, for a sentence.
pub(super) fn redirect_place(head: &Head) -> String {
    let place = |value: &str| excerpt(&masked(value));
    head.field("location").map_or("no place that it names".into(), place)
}

fn retry_after(head: &Head) -> String {
    let wait = |value: &str| format!(" Retry-After: {}.", excerpt(value));
    head.field("retry-after").map(wait).unwrap_or_default()
}

fn unauthorized(visitor: &Visitor<'_>, head: &Head, report: &mut Report) {
    let given = visitor.settings.headers.iter().any(|(name, _)| name == "authorization");
    let given = if given { "the token that was given" } else { "a request without a token" };
    match head.field("www-authenticate") {
        Some(challenge) => {
            let challenge = excerpt(challenge);
            let sentence = format!("The server answered 401 to {given}, and asks for {challenge}.");
            report.find(Code::Unauthorized, &sentence);
        }
        None => {
            let sentence = format!("The server answered 401 to {given}, without WWW-Authenticate.");
            report.find(Code::UnauthorizedNoChallenge, &sentence);
        }
    }
}

/// Finds out whether Host or Origin is the reason.
async fn forbidden(
    visitor: &Visitor<'_>,
    head: &Head,
    text: &str,
    said: &str,
    report: &mut Report,
) {
    let settings = visitor.settings;
    let text = text.to_ascii_lowercase();
    let own = |wanted: &str| {
        let mut headers = settings.headers.iter();
        headers.find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
    };
    let host = own("host").unwrap_or_else(|| settings.target.authority());
    let localhost = format!("localhost:{}", settings.target.port());
    let opens_with = async |field: (&str, &str)| {
        let head = visitor.look(&settings.target, &[field]).await;
        head.is_some_and(|head| head.status == 200)
    };
    if let Some(origin) = own("origin")
        && (text.contains("origin") || opens_with(("Origin", &settings.target.origin())).await)
    {
        report.find(Code::OriginRefused, &format!("{said} It refuses Origin: {origin}."));
    } else if head.status == 421 || text.contains("host") || opens_with(("Host", &localhost)).await
    {
        report.find(Code::HostRefused, &format!("{said} It refuses Host: {host}."));
    } else if head.status == 400 {
        report.find(Code::BadStatus, said);
    } else {
        report.find(Code::Forbidden, said);
    }
}

async fn wrong_type(visitor: &Visitor<'_>, response: Response, report: &mut Report) {
    let given = response.head.field("content-type").map_or("none".into(), excerpt);
    report.step("stream", Mark::Bad, "200, but no event stream", Some(response.took));
    let Answer { text, .. } = Visitor::read(response).await;
    let sentence = format!(
        "The server answered 200, but with Content-Type {given} and the text {}.",
        excerpt(&text)
    );
    no_stream_here(visitor, Code::ContentType, &sentence, report).await;
}

/// Reports that there is no stream at this path, and what is there or elsewhere.
async fn no_stream_here(visitor: &Visitor<'_>, code: Code, sentence: &str, report: &mut Report) {
    let target = &visitor.settings.target;
    if let Streamable::Yes = probe::streamable(visitor, target).await {
        let sentence = format!(
            "{sentence} But it answers initialize in a POST: it speaks Streamable HTTP at {target}."
        );
        report.find(Code::StreamableHttp, &sentence);
        return;
    }
    let advice = match probe::other_stream(visitor).await {
        Some((place, 401)) => format!("{place} exists and asks for a token: try it with one."),
        Some((place, _)) => format!("There is an event stream at {place}: use that URL."),
        None if let Some(place) = probe::other_streamable(visitor).await => format!(
            "There is a server of the Streamable HTTP transport at {place}: a client for that \
             transport can use it."
        ),
        None => {
            let places = probe::places(target).join(", ");
            format!("There is no event stream at {places} either.")
        }
    };
    report.find_with(code, sentence, &advice);
}
