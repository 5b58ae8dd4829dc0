//! The POST with which newer clients find out which transport a URL speaks.
//!
//! Knows: that they fall back to SSE at 400, 404 and 405 only. Does not know: the session.

use super::findings::Code;
use super::probe::{self, Streamable};
use super::report::{Mark, Report};
use super::visit::Visitor;

/// Posts initialize to the stream's URL.
pub(super) async fn check(visitor: &Visitor<'_>, report: &mut Report) {
    const STEP: &str = "fallback";
    let target = &visitor.settings.target;
    match probe::streamable(visitor, target).await {
        Streamable::Yes => {
            report.step(STEP, Mark::Good, "the URL speaks Streamable HTTP too", None);
            let sentence = "The URL answers initialize in a POST: it speaks Streamable HTTP too.";
            report.find(Code::StreamableHttpToo, sentence);
        }
        Streamable::No(head) if matches!(head.status, 400 | 404 | 405) => {
            let text = format!("POST to the stream's URL is refused with {}", head.status);
            report.step(STEP, Mark::Good, &text, None);
        }
        Streamable::No(head) => {
            let status = head.status;
            report.step(STEP, Mark::Bad, &format!("POST to the stream's URL gives {status}"), None);
            let sentence = format!("A POST to the stream's URL is answered {status}.");
            report.find(Code::FallbackBroken, &sentence);
        }
        Streamable::Unknown(fault) => {
            report.step(STEP, Mark::Bad, &fault.to_string(), None);
            let sentence = format!("A POST to the stream's URL has no response: {fault}.");
            report.find(Code::FallbackBroken, &sentence);
        }
    }
}
