//! TLS as a client speaks it, and what is wrong with a server's certificate.
//!
//! Knows: the machine's root certificates, the handshake, and the dates and names in a certificate. Does not know:
//! what is sent afterwards.
//!
//! Decision: the roots are the system's (`rustls-native-certs`), checked by the verifier of rustls on every system.
//! The verifiers of the systems (`rustls-platform-verifier`) describe the same fault differently, and a fault has to
//! have one name here. `SSL_CERT_FILE` replaces the system's roots, as it does for OpenSSL. The provider of
//! cryptography is `ring`, like everywhere in this project.
//!
//! Decision: dates are read from the certificate with `x509-cert`, the smallest maintained parser that has them.

use core::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use futures_rustls::TlsConnector;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use smol::net::TcpStream;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::connection::{Connection, until};

/// The only ALPN protocol that is offered (RFC 7301).
const ALPN: &[u8] = b"http/1.1";
const DAY_SECONDS: i64 = 24 * 60 * 60;

/// What certificates are checked against.
#[derive(Clone)]
pub(crate) struct Trust {
    provider: Arc<CryptoProvider>,
    /// `None` only if nothing is checked.
    verifier: Option<Arc<WebPkiServerVerifier>>,
    insecure: bool,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust(insecure: {})", self.insecure)
    }
}

impl Trust {
    /// The system's roots. With `insecure`, invalid certificates are accepted, but what is wrong with them is still
    /// reported.
    pub(crate) fn load(insecure: bool) -> Result<Self, String> {
        let provider = Arc::new(crypto::ring::default_provider());
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        match verifier.build() {
            Ok(verifier) => Ok(Self { provider, verifier: Some(verifier), insecure }),
            Err(_) if insecure => Ok(Self { provider, verifier: None, insecure }),
            Err(_) => {
                let why = found.errors.first().map_or(String::new(), |error| format!(": {error}"));
                Err(format!(
                    "this machine has no root certificates to check a server's certificate with{why}; \
                     install them (on Debian the package ca-certificates), name a file with \
                     SSL_CERT_FILE, or use --insecure"
                ))
            }
        }
    }

    /// Accepts every certificate, to find out whether a port speaks TLS at all.
    pub(crate) fn nothing_checked() -> Self {
        let provider = Arc::new(crypto::ring::default_provider());
        Self { provider, verifier: None, insecure: true }
    }

    /// Does the handshake on `stream`.
    pub(crate) async fn handshake(
        &self,
        stream: TcpStream,
        host: &str,
        deadline: Instant,
    ) -> Result<(Connection, ServerCertificate), TlsFault> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| TlsFault::Failed(format!("{host} is not a name for a certificate")))?;
        let recorder = Arc::new(Recorder { trust: self.clone(), seen: Mutex::default() });
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsFault::Failed(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(recorder.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        let done =
            until(deadline, TlsConnector::from(Arc::new(config)).connect(name, stream)).await;
        let seen = recorder.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let certificate = seen.certificate.as_ref().map(facts).unwrap_or_default();
        let problem = seen.refused.as_ref().map(|error| problem(error, &certificate));
        match (done, problem) {
            (Some(Ok(stream)), problem) => {
                Ok((Box::pin(stream), ServerCertificate { problem, ..certificate }))
            }
            (_, Some(problem)) => Err(TlsFault::Certificate(problem)),
            (Some(Err(error)), None) => Err(TlsFault::Failed(error.to_string())),
            (None, None) => Err(TlsFault::TimedOut),
        }
    }
}

/// Why a handshake failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TlsFault {
    /// The server's certificate was refused.
    Certificate(CertificateProblem),
    /// The handshake was not complete in time.
    TimedOut,
    /// Another failure, in words of the TLS library.
    Failed(String),
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(problem) => {
                write!(f, "the certificate is not valid: {}", problem.details)
            }
            Self::TimedOut => f.write_str("the TLS handshake was not complete in time"),
            Self::Failed(why) => write!(f, "the TLS handshake failed: {why}"),
        }
    }
}

/// What is wrong with a certificate, and the details in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateProblem {
    pub(crate) kind: CertificateProblemKind,
    pub(crate) details: String,
}

/// The kinds of problems with a certificate that have different remedies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CertificateProblemKind {
    Expired,
    NotYetValid,
    WrongName,
    SelfSigned,
    UnknownIssuer,
    Other,
}

/// What the server's certificate says.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServerCertificate {
    /// Whole days until it expires. `None` if it cannot be read.
    pub(crate) days_left: Option<i64>,
    /// The time when it becomes valid, and the time when it expires.
    valid: Option<(String, String)>,
    /// Issuer and subject are the same.
    self_issued: bool,
    /// What would have been refused without `insecure`.
    pub(crate) problem: Option<CertificateProblem>,
}

/// Reads dates and names.
fn facts(certificate: &CertificateDer<'static>) -> ServerCertificate {
    let Ok(certificate) = Certificate::from_der(certificate) else {
        return ServerCertificate::default();
    };
    let certificate = certificate.tbs_certificate();
    let validity = certificate.validity();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds =
        |duration: core::time::Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let left = seconds(validity.not_after.to_unix_duration()) - seconds(now);
    ServerCertificate {
        days_left: Some(left.div_euclid(DAY_SECONDS)),
        valid: Some((validity.not_before.to_string(), validity.not_after.to_string())),
        self_issued: certificate.issuer() == certificate.subject(),
        problem: None,
    }
}

fn problem(error: &rustls::Error, certificate: &ServerCertificate) -> CertificateProblem {
    use CertificateProblemKind as Kind;
    let date = |pick: fn(&(String, String)) -> &String| {
        certificate.valid.as_ref().map_or("an unknown time", |valid| pick(valid))
    };
    let rustls::Error::InvalidCertificate(error) = error else {
        return CertificateProblem { kind: Kind::Other, details: error.to_string() };
    };
    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is not exhaustive")]
    let (kind, details) = match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            (Kind::Expired, format!("it expired at {}", date(|(_, end)| end)))
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            (Kind::NotYetValid, format!("it is valid from {}", date(|(start, _)| start)))
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            (Kind::WrongName, error.to_string())
        }
        // A self-signed certificate is refused for various reasons, and only this one helps.
        _ if certificate.self_issued => (Kind::SelfSigned, "it is signed by itself".into()),
        CertificateError::UnknownIssuer => {
            (Kind::UnknownIssuer, "this machine does not know its issuer".into())
        }
        CertificateError::BadSignature => {
            let details = "its issuer has the name of one that this machine knows, and another key";
            (Kind::UnknownIssuer, details.into())
        }
        _ => (Kind::Other, error.to_string()),
    };
    CertificateProblem { kind, details }
}

/// Verifies certificates, and keeps what it saw.
#[derive(Debug)]
struct Recorder {
    trust: Trust,
    seen: Mutex<Seen>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    certificate: Option<CertificateDer<'static>>,
    refused: Option<rustls::Error>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verify = |verifier: &Arc<WebPkiServerVerifier>| {
            verifier.verify_server_cert(certificate, intermediates, name, ocsp, now).err()
        };
        let refused = self.trust.verifier.as_ref().and_then(verify);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen =
            Seen { certificate: Some(certificate.clone().into_owned()), refused: refused.clone() };
        match refused {
            Some(error) if !self.trust.insecure => Err(error),
            Some(_) | None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.trust.provider.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.trust.provider.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.provider.signature_verification_algorithms.supported_schemes()
    }
}
