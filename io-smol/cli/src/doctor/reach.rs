//! The way to the server: its name, its port, and TLS.
//!
//! Knows: in which of these steps it failed, and whether the port speaks the other scheme. Does not know: HTTP beyond
//! the first bytes of an answer.

use std::time::Instant;

use super::findings::Code;
use super::options::Settings;
use super::report::{Mark, Report};
use crate::client::connect::{self, ConnectFault, Dialer};
use crate::client::connection::Connection;
#[cfg(feature = "tls")]
use crate::client::exchange::{AnswerFault, Request};
#[cfg(feature = "tls")]
use crate::client::target::Target;
#[cfg(feature = "tls")]
use crate::client::tls::{
    CertificateProblem, CertificateProblemKind, ServerCertificate, TlsFault, Trust,
};

/// A certificate that expires within this time is reported.
#[cfg(feature = "tls")]
const EXPIRY_DAYS: i64 = 14;

/// The first byte of a TLS alert, which answers what is no TLS (RFC 8446 §5.1).
#[cfg(feature = "tls")]
const ALERT: u8 = 0x15;

/// What certificates are checked with, if the URL says `https`.
pub(super) struct Roots {
    #[cfg(feature = "tls")]
    trust: Option<Trust>,
}

impl Roots {
    /// Reads the roots of the system. The error says why there are none.
    pub(super) fn load(settings: &Settings) -> Result<Self, String> {
        #[cfg(not(feature = "tls"))]
        let _ = settings;
        Ok(Self {
            #[cfg(feature = "tls")]
            trust: settings
                .target
                .is_https()
                .then(|| Trust::load(settings.insecure))
                .transpose()?,
        })
    }
}

/// Connects to the server. `None` if that failed, which is reported.
pub(super) async fn reach(
    settings: &Settings,
    roots: &Roots,
    report: &mut Report,
) -> Option<(Dialer, Connection)> {
    let target = &settings.target;
    let began = Instant::now();
    let addresses = match connect::resolve(target, began + settings.timeout).await {
        Ok(addresses) => addresses,
        Err(fault) => return failed(&fault, "name", target.host(), report),
    };
    report.measure("name_ms", began.elapsed());
    let listed: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
    let listed = listed.join(", ");
    report.step(
        "name",
        Mark::Good,
        &format!("{} is {listed}", target.host()),
        Some(began.elapsed()),
    );

    let began = Instant::now();
    let (stream, address) = match connect::connect_tcp(&addresses, began + settings.timeout).await {
        Ok(connected) => connected,
        Err(fault) => {
            let place = format!("port {} of {listed}", target.port());
            return failed(&fault, "connection", &place, report);
        }
    };
    report.measure("connect_ms", began.elapsed());
    report.step("connection", Mark::Good, &format!("to {address}"), Some(began.elapsed()));
    let dialer = Dialer::new(
        target,
        vec![address],
        #[cfg(feature = "tls")]
        roots.trust.as_ref(),
    );
    #[cfg(not(feature = "tls"))]
    let Roots {} = roots;
    #[cfg(feature = "tls")]
    if let Some(trust) = &roots.trust {
        let began = Instant::now();
        let handshake = trust.handshake(stream, target.host(), began + settings.timeout).await;
        let (stream, certificate) = match handshake {
            Ok(done) => done,
            Err(fault) => {
                tls_failed(&fault, settings, address, report).await;
                return None;
            }
        };
        report.measure("tls_ms", began.elapsed());
        judge_certificate(&certificate, began, report);
        return Some((dialer, stream));
    }
    Some((dialer, Box::pin(stream)))
}

/// Reports why there is no TCP connection.
fn failed<T>(fault: &ConnectFault, step: &str, place: &str, report: &mut Report) -> Option<T> {
    let (code, text, sentence) = match fault {
        ConnectFault::NameNotFound(error) => {
            let sentence = format!("The name {place} cannot be resolved: {error}.");
            (Code::NameNotFound, "not found", sentence)
        }
        ConnectFault::NameTimedOut => {
            let sentence = format!("The resolver did not answer in time for the name {place}.");
            (Code::NameTimedOut, "no answer", sentence)
        }
        ConnectFault::Refused => {
            (Code::PortRefused, "refused", format!("Nothing accepts connections at {place}."))
        }
        ConnectFault::TimedOut => {
            (Code::ConnectTimedOut, "no answer", format!("Nothing answers at {place}."))
        }
        ConnectFault::Failed(error) => {
            (Code::ConnectFailed, "failed", format!("Cannot connect to {place}: {error}."))
        }
        #[cfg(feature = "tls")]
        ConnectFault::Tls(_) => (Code::TlsFailed, "failed", "The TLS handshake failed.".into()),
    };
    report.step(step, Mark::Bad, text, None);
    report.find(code, &sentence);
    None
}

/// Reports why TLS failed.
#[cfg(feature = "tls")]
async fn tls_failed(
    fault: &TlsFault,
    settings: &Settings,
    address: core::net::SocketAddr,
    report: &mut Report,
) {
    let why = match fault {
        TlsFault::Certificate(problem) => {
            report.step("tls", Mark::Bad, "the certificate is refused", None);
            let (code, sentence) = describe(problem);
            report.find(code, &sentence);
            return;
        }
        TlsFault::TimedOut => "it was not complete in time",
        TlsFault::Failed(why) => why,
    };
    report.step("tls", Mark::Bad, "the handshake failed", None);
    if speaks_plain_http(settings, address).await {
        let sentence = "The URL says https, and the port answers in plain HTTP.";
        report.find(Code::TlsOnPlainPort, sentence);
    } else {
        report.find(Code::TlsFailed, &format!("The TLS handshake failed: {why}."));
    }
}

/// Whether a server answers plain HTTP with anything else than a hint that the port speaks TLS.
#[cfg(feature = "tls")]
async fn speaks_plain_http(settings: &Settings, address: core::net::SocketAddr) -> bool {
    let deadline = Instant::now() + settings.probe_timeout();
    let Ok((stream, _)) = connect::connect_tcp(&[address], deadline).await else { return false };
    // The user's headers are not sent, because the connection is not encrypted.
    let target = &settings.target;
    let request = Request { method: "GET", target, fields: &[], body: None, closes: true };
    match request.send(Box::pin(stream), settings.probe_timeout()).await {
        Ok(response) => {
            let status = response.head.status;
            status != 400 || !hints_at_tls(&response.body.text(deadline).await)
        }
        Err(_) => false,
    }
}

/// Whether the text of an error says that the port speaks TLS.
#[cfg(feature = "tls")]
fn hints_at_tls(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["https", "tls", "ssl"].into_iter().any(|word| text.contains(word))
}

/// Whether a failed plain request failed because the port speaks TLS. Reports it if so.
#[cfg(feature = "tls")]
pub(super) async fn port_speaks_tls(
    settings: &Settings,
    target: &Target,
    addresses: &[core::net::SocketAddr],
    report: &mut Report,
) -> bool {
    if target.is_https() {
        return false;
    }
    let deadline = Instant::now() + settings.probe_timeout();
    let Ok((stream, _)) = connect::connect_tcp(addresses, deadline).await else { return false };
    if Trust::nothing_checked().handshake(stream, target.host(), deadline).await.is_err() {
        return false;
    }
    report.find(Code::PlainOnTlsPort, "The URL says http, and the port speaks TLS.");
    true
}

/// Whether a failure to get an HTTP answer can come from a port that speaks TLS.
#[cfg(feature = "tls")]
pub(super) fn may_speak_tls(fault: &AnswerFault) -> bool {
    match fault {
        AnswerFault::Closed | AnswerFault::TimedOut => true,
        AnswerFault::NotHttp(bytes) => bytes.first() == Some(&ALERT),
        AnswerFault::Malformed => false,
    }
}

#[cfg(feature = "tls")]
fn judge_certificate(certificate: &ServerCertificate, began: Instant, report: &mut Report) {
    let days = certificate.days_left;
    let text = match days {
        Some(days) => format!("the certificate is valid for {days} more days"),
        None => "the certificate's dates cannot be read".into(),
    };
    if let Some(days) = days {
        report.record("certificate_days", days.into());
    }
    match &certificate.problem {
        Some(problem) => {
            let (code, sentence) = describe(problem);
            report.step(
                "tls",
                Mark::Skipped,
                "the certificate is not accepted",
                Some(began.elapsed()),
            );
            report.note(code, &format!("{sentence} It is used because of --insecure."));
        }
        None => report.step("tls", Mark::Good, &text, Some(began.elapsed())),
    }
    if let Some(days) = days.filter(|days| (0..EXPIRY_DAYS).contains(days)) {
        let sentence = format!("The server's certificate expires in {days} days.");
        report.find(Code::CertificateEndsSoon, &sentence);
    }
}

#[cfg(feature = "tls")]
fn describe(problem: &CertificateProblem) -> (Code, String) {
    let code = match problem.kind {
        CertificateProblemKind::Expired => Code::CertificateExpired,
        CertificateProblemKind::NotYetValid => Code::CertificateNotYetValid,
        CertificateProblemKind::WrongName => Code::CertificateWrongName,
        CertificateProblemKind::SelfSigned => Code::CertificateSelfSigned,
        CertificateProblemKind::UnknownIssuer => Code::CertificateUnknownIssuer,
        CertificateProblemKind::Other => Code::CertificateInvalid,
    };
    (code, format!("The server's certificate is not valid: {}.", problem.details))
}
