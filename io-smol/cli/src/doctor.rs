//! The command `doctor`: connects to a server as a client does, and says what is wrong and what to do.
//!
//! Knows: the order of the steps, and after which failures the next step is skipped. Does not know: how a step is
//! done.
//!
//! The doctor sends `initialize`, `notifications/initialized` and `ping`, and calls no tools. Its sessions end when it
//! closes their streams. Each wait has a time limit, and everything that the doctor reads has a size limit.

mod cors;
mod endpoint;
mod fallback;
mod findings;
mod handshake;
mod idle;
mod listening;
mod messages;
mod open;
mod options;
mod posting;
mod probe;
mod reach;
mod report;
mod secrets;
mod visit;

use crate::failure::Failure;
use findings::Code;
use handshake::Session;
pub(crate) use options::DoctorFlags;
use options::Settings;
use reach::Roots;
use report::{Mark, Report};
use visit::Visitor;

/// Runs the command. It fails if something was found.
pub(crate) fn run(flags: &DoctorFlags) -> Result<(), Failure> {
    let settings = flags.settings().map_err(Failure::Flags)?;
    let roots = Roots::load(&settings).map_err(Failure::Flags)?;
    let url = settings.target.to_string();
    let mut report = Report::new(&url, settings.json, settings.secrets.clone());
    smol::block_on(examine(&settings, &roots, &mut report));
    report.finish();
    if report.faults() == 0 { Ok(()) } else { Err(Failure::Printed) }
}

async fn examine(settings: &Settings, roots: &Roots, report: &mut Report) {
    let Some((dialer, connection)) = reach::reach(settings, roots, report).await else { return };
    let visitor = Visitor { settings, dialer };
    let Some(mut stream) = open::open(&visitor, connection, report).await else { return };
    let endpoint = endpoint::wait(settings, &mut stream, report).await;
    let session = endpoint.clone().map(|endpoint| Session::new(&visitor, stream, endpoint));
    let session = match session {
        Some(session) => converse(session, report).await,
        None => None,
    };
    if report.faults() == 0 {
        fallback::check(&visitor, report).await;
    }
    if let Some(origin) = &settings.origin {
        cors::check(&visitor, endpoint.as_ref(), origin, report).await;
    }
    if let Some(session) = session {
        linger(session, report).await;
    }
}

/// Uses the session as a client does. `None` if it cannot be used further.
async fn converse<'a>(mut session: Session<'a>, report: &mut Report) -> Option<Session<'a>> {
    let works = session.initialize(report).await && session.ping(report).await;
    tell_repeated_endpoint(&session, report);
    works.then_some(session)
}

/// Keeps the session idle, and sees whether it still works.
async fn linger(mut session: Session<'_>, report: &mut Report) {
    let settings = session.visitor.settings;
    if settings.quick {
        report.step("heartbeat", Mark::Skipped, "not waited for, because of --quick", None);
        return;
    }
    if !idle::heartbeat(settings, &mut session.stream, report).await {
        return;
    }
    if settings.soak.is_some() && idle::soak(settings, &mut session.stream, report).await {
        session.ping(report).await;
    }
    tell_repeated_endpoint(&session, report);
}

fn tell_repeated_endpoint(session: &Session<'_>, report: &mut Report) {
    if session.stream.endpoints > 1 {
        let count = session.stream.endpoints;
        let sentence = format!("The stream has {count} endpoint events so far.");
        report.find(Code::EndpointRepeated, &sentence);
    }
}
