//! Whether a web page of an origin can use the server.
//!
//! Knows: what a browser sends and checks (the Fetch standard, "CORS protocol"). Does not know: the session, except
//! for the endpoint that is posted to.

use super::findings::Code;
use super::options::Settings;
use super::report::{Mark, Report};
use super::visit::{RequestFault, Visitor};
use crate::client::exchange::Head;
use crate::client::target::Target;

/// Header names that need no permission.
const SAFELISTED: [&str; 3] = ["accept", "accept-language", "host"];
/// Headers that clients in browsers send with a post, besides the user's.
const OF_POSTS: [&str; 2] = ["content-type", "mcp-protocol-version"];

/// Checks the preflights, and the GET itself.
pub(super) async fn check(
    visitor: &Visitor<'_>,
    endpoint: Option<&Target>,
    origin: &str,
    report: &mut Report,
) {
    let settings = visitor.settings;
    let own = own_headers(settings);
    if !own.is_empty() && !preflight(visitor, &settings.target, "GET", &own, origin, report).await {
        return;
    }
    if let Some(endpoint) = endpoint {
        let mut names = own;
        names.extend(OF_POSTS.map(str::to_owned));
        names.sort_unstable();
        names.dedup();
        if !preflight(visitor, endpoint, "POST", &names, origin, report).await {
            return;
        }
    }
    get(visitor, origin, report).await;
}

/// The names of the user's headers that a page needs permission for, in lower case.
fn own_headers(settings: &Settings) -> Vec<String> {
    let names = settings.headers.iter().map(|(name, _)| name.to_ascii_lowercase());
    let mut names: Vec<_> = names.filter(|name| !SAFELISTED.contains(&&**name)).collect();
    names.retain(|name| name != "origin");
    names.sort_unstable();
    names
}

/// Sends a preflight. False if it does not allow the request, which is reported.
async fn preflight(
    visitor: &Visitor<'_>,
    target: &Target,
    method: &str,
    names: &[String],
    origin: &str,
    report: &mut Report,
) -> bool {
    let step = format!("cors {method}");
    let listed = names.join(",");
    let fields = [
        ("Origin", origin),
        ("Access-Control-Request-Method", method),
        ("Access-Control-Request-Headers", &listed),
    ];
    let refused = match visitor.preflight(target, &fields).await {
        Ok(head) => refusal(&head, names, origin),
        Err(fault) => Some(fault.to_string()),
    };
    let Some(refused) = refused else {
        report.step(&step, Mark::Good, "the preflight allows it", None);
        return true;
    };
    report.step(&step, Mark::Bad, "the preflight does not allow it", None);
    let sentence = format!("The preflight for {method} {} fails: {refused}.", target.path());
    report.find(Code::CorsPreflight, &sentence);
    false
}

/// Why a browser would not send the request after this answer to its preflight.
fn refusal(head: &Head, names: &[String], origin: &str) -> Option<String> {
    if !(200..300).contains(&head.status) {
        return Some(format!("it is answered {}", head.status));
    }
    if !allows(head, origin) {
        return Some(not_allowed(head, origin));
    }
    // The methods GET and POST need no permission, but header names do.
    let listed = head.field("access-control-allow-headers").unwrap_or_default();
    let listed: Vec<_> = listed.split(',').map(|name| name.trim().to_ascii_lowercase()).collect();
    let allowed = |name: &String| {
        // The asterisk does not stand for this name.
        listed.contains(name) || (name != "authorization" && listed.iter().any(|name| name == "*"))
    };
    let missing: Vec<_> = names.iter().filter(|name| !allowed(name)).map(String::as_str).collect();
    if missing.is_empty() {
        return None;
    }
    Some(format!("Access-Control-Allow-Headers does not name {}", missing.join(", ")))
}

fn allows(head: &Head, origin: &str) -> bool {
    let mut fields = head.fields.iter();
    let mut values = fields
        .by_ref()
        .filter(|(name, _)| name.eq_ignore_ascii_case("access-control-allow-origin"))
        .map(|(_, value)| value.trim());
    // A browser refuses two such fields.
    matches!((values.next(), values.next()), (Some(value), None) if value == "*" || value == origin)
}

fn not_allowed(head: &Head, origin: &str) -> String {
    match head.field("access-control-allow-origin") {
        Some(value) => {
            let value = super::secrets::excerpt(value);
            format!("Access-Control-Allow-Origin is {value}, and not {origin}")
        }
        None => format!("there is no Access-Control-Allow-Origin for {origin}"),
    }
}

/// Opens the stream as a page does, and closes it.
async fn get(visitor: &Visitor<'_>, origin: &str, report: &mut Report) {
    const STEP: &str = "cors stream";
    let settings = visitor.settings;
    let origin_field = [("Origin", origin)];
    let response =
        visitor.get_stream(&settings.target, None, &origin_field, settings.timeout).await;
    match response {
        Ok(response) if matches!(response.head.status, 403 | 421) => {
            report.step(STEP, Mark::Bad, "refused because of Origin", Some(response.took));
            let status = response.head.status;
            let sentence = format!("The server answers {status} to a GET with Origin: {origin}.");
            report.find(Code::OriginRefused, &sentence);
        }
        Ok(response) if response.head.status != 200 || !allows(&response.head, origin) => {
            report.step(STEP, Mark::Bad, "a page could not read it", Some(response.took));
            let why = match response.head.status {
                200 => not_allowed(&response.head, origin),
                status => format!("it is answered {status}"),
            };
            report.find(Code::CorsMissing, &format!("The GET with an Origin fails: {why}."));
        }
        Ok(response) => report.step(STEP, Mark::Good, "a page can read it", Some(response.took)),
        Err(fault @ (RequestFault::Connect(_) | RequestFault::Answer(_))) => {
            report.step(STEP, Mark::Bad, &fault.to_string(), None);
            report.find(Code::CorsMissing, &format!("The GET with an Origin fails: {fault}."));
        }
    }
}
