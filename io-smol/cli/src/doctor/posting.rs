//! A post to the endpoint, and what its answer means.
//!
//! Knows: that 202 is right, and what each other status says about server and proxy. Does not know: streams.

use super::findings::Code;
use super::messages::{self, Incoming, Method};
use super::open::redirect_place;
use super::report::{Mark, Report, in_words};
use super::secrets::excerpt;
use super::visit::{Answer, Visitor};
use crate::client::target::Target;

/// A post that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Posted {
    /// The answer comes on the stream.
    Accepted,
    /// The response has the answer in its body, so the stream will not have it.
    WithAnswer,
}

/// Posts a message of this step. `None` if it was not accepted, which is reported.
pub(super) async fn post(
    visitor: &Visitor<'_>,
    endpoint: &Target,
    message: &str,
    step: &str,
    report: &mut Report,
) -> Option<Posted> {
    let name = format!("post {step}");
    let Answer { head, took, text } = match visitor.post(endpoint, message).await {
        Ok(answer) => answer,
        Err(fault) => {
            report.step(&name, Mark::Bad, &fault.to_string(), None);
            let sentence = format!("The post of {step} has no response: {fault}.");
            report.find(Code::PostNoAnswer, &sentence);
            return None;
        }
    };
    let (status, said) = (head.status, excerpt(&text));
    report.measure(&format!("post_{step}_ms"), took);
    if took > visitor.settings.late {
        let sentence = format!("The post of {step} was answered after {}.", in_words(took));
        report.find(Code::PostLate, &sentence);
    }
    if status == 202 {
        report.step(&name, Mark::Good, "202", Some(took));
        return Some(Posted::Accepted);
    }
    report.step(&name, Mark::Bad, &status.to_string(), Some(took));
    let sentence = format!("The post of {step} was answered {status}, with {said}.");
    let code = match status {
        200..=299 => {
            let answered = matches!(messages::read(&text), Incoming::Response { .. });
            let where_it_is =
                if answered { " The answer is in the body of the response." } else { "" };
            report.find(Code::PostNotAccepted, &format!("{sentence}{where_it_is}"));
            return Some(if answered { Posted::WithAnswer } else { Posted::Accepted });
        }
        300..=399 => {
            let place = redirect_place(&head);
            let sentence =
                format!("The post of {step} was answered {status}, a redirect to {place}.");
            report.find(Code::PostRedirect, &sentence);
            return None;
        }
        401 => Code::PostUnauthorized,
        403 => Code::PostForbidden,
        404 | 405 | 410 => {
            if let Some(prefixed) = prefixed(visitor, endpoint).await {
                let sentence = format!("{sentence} The same post to {prefixed} is accepted.");
                report.find(Code::EndpointWithoutPrefix, &sentence);
                return None;
            }
            if status == 405 { Code::PostMethodNotAllowed } else { Code::PostNotFound }
        }
        500.. => Code::PostServerError,
        _ => Code::PostRefused,
    };
    report.find(code, &sentence);
    None
}

/// The endpoint with the path in front of the stream's, if posts are accepted there.
async fn prefixed(visitor: &Visitor<'_>, endpoint: &Target) -> Option<Target> {
    let folder = visitor.settings.target.folder();
    let path = endpoint.path_and_query();
    if folder.is_empty() || path.starts_with(&format!("{folder}/")) {
        return None;
    }
    let prefixed = endpoint.with_path(format!("{folder}{path}"));
    let answer = visitor.post(&prefixed, &Method::Ping.request(&"prefix".into())).await.ok()?;
    (answer.head.status == 202).then_some(prefixed)
}
