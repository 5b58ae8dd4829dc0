//! TLS: certificates that are wrong in one way each, and ports that speak the other scheme.

use core::time::Duration;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use mcp_sse_tests::scratch::Scratch;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::scripted::{Script, Scripted};
use crate::support::{PATIENT, Server, examine, run};

const DAY_SECONDS: i64 = 24 * 60 * 60;

/// An authority, the only one that the doctor trusts.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The file with its certificate, for the variable that makes the doctor trust it.
    roots: String,
    _scratch: Scratch,
}

/// A certificate of a server, with its key.
struct Identity {
    config: Arc<ServerConfig>,
    certificate_pem: String,
    key_pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        let scratch = Scratch::new();
        let roots = scratch.file("roots.pem", certificate.pem());
        let roots = roots.to_str().expect("a path").to_owned();
        Self { issuer: Issuer::new(params, key), roots, _scratch: scratch }
    }

    /// A certificate for `name` that is valid from now plus `from` days to now plus `to` days.
    fn issue(&self, name: &str, from: i64, to: i64) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
        let in_days = |days: i64| {
            // Half a day more, so that the whole days do not depend on the second.
            let seconds =
                now.checked_add_signed(days * DAY_SECONDS + DAY_SECONDS / 2).expect("a time");
            date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
        };
        params.not_before = in_days(from);
        params.not_after = in_days(to);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        identity(&certificate, &key)
    }
}

fn self_signed(name: &str) -> Identity {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    identity(&params.self_signed(&key).expect("a certificate"), &key)
}

fn identity(certificate: &rcgen::Certificate, key: &KeyPair) -> Identity {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], der)
        .expect("a pair");
    Identity {
        config: Arc::new(config),
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    }
}

#[test]
fn certificates_are_judged() {
    let authority = Authority::new("authority");
    let check = |identity: &Identity, flags: &[&str], expected: &[&str]| {
        let server = Scripted::start_tls(Script::GOOD, identity.config.clone());
        let url = format!("https://localhost:{}/sse", server.port());
        let args = [&PATIENT[..], flags, &[&url]].concat();
        let (codes, report) = examine(&args, &[("SSL_CERT_FILE", &authority.roots)]);
        assert_eq!(codes, expected, "{report:#}");
        report
    };
    let good = check(&authority.issue("localhost", -1, 90), &[], &[]);
    assert_eq!(good["measurements"]["certificate_days"], 90);
    check(&authority.issue("localhost", -1, 13), &[], &["certificate-ends-soon"]);
    let expired = check(&authority.issue("localhost", -2, -1), &[], &["certificate-expired"]);
    let sentence = expired["findings"][0]["sentence"].as_str().expect("a sentence");
    assert!(sentence.contains("it expired at 20"), "{sentence}");
    check(&authority.issue("localhost", 1, 90), &[], &["certificate-not-yet-valid"]);
    check(&authority.issue("other.example", -1, 90), &[], &["certificate-wrong-name"]);
    check(&self_signed("localhost"), &[], &["certificate-self-signed"]);
    let stranger = Authority::new("stranger").issue("localhost", -1, 90);
    check(&stranger, &[], &["certificate-unknown-issuer"]);
    // An authority that was made anew has the same name and another key.
    let renewed = Authority::new("authority").issue("localhost", -1, 90);
    check(&renewed, &[], &["certificate-unknown-issuer"]);
    // The user says that it does not matter, so it is a note.
    let insecure = check(&stranger, &["--insecure"], &["certificate-unknown-issuer"]);
    assert_eq!(insecure["verdict"], "good");
    assert_eq!(insecure["findings"][0]["level"], "note");
}

#[test]
fn other_scheme_is_named() {
    let authority = Authority::new("authority");
    let identity = authority.issue("localhost", -1, 90);
    let variables = [("SSL_CERT_FILE", &*authority.roots)];
    let plain = Scripted::start(Script::GOOD);
    let tls = Scripted::start_tls(Script::GOOD, identity.config.clone());
    let check = |url: &str, expected: &str| {
        let (codes, report) = examine(&[&PATIENT[..], &[url]].concat(), &variables);
        assert_eq!(codes, [expected], "{report:#}");
    };
    check(&format!("https://localhost:{}/sse", plain.port()), "tls-on-plain-port");
    check(&format!("http://localhost:{}/sse", tls.port()), "plain-on-tls-port");
    // A real server answers in plain HTTP that its port speaks TLS.
    let scratch = Scratch::new();
    let cert = scratch.file("cert.pem", &identity.certificate_pem);
    let key = scratch.file("key.pem", &identity.key_pem);
    let (cert, key) = (cert.to_str().expect("a path"), key.to_str().expect("a path"));
    let server = Server::start(&["--port=0", "--tls-cert", cert, "--tls-key", key], &[]);
    check(&format!("http://localhost:{}/sse", server.port()), "plain-on-tls-port");
    let (codes, report) = examine(
        &[&PATIENT[..], &[&format!("https://localhost:{}/sse", server.port())]].concat(),
        &variables,
    );
    assert!(codes.is_empty(), "{report:#}");

    let health = |flags: &[&str]| {
        let url = format!("https://127.0.0.1:{}", server.port());
        run(&[&["health", "--timeout=60s"], flags, &[&url]].concat(), &variables)
    };
    assert_eq!(health(&["--insecure"]).status.code(), Some(0));
    let refused = health(&[]);
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("the certificate is not valid") && told.contains("--insecure"), "{told}");
}

/// Without any root certificates, the doctor could only report every server as untrusted.
#[test]
fn missing_roots_are_an_error_of_the_machine() {
    let scratch = Scratch::new();
    let empty = scratch.file("roots.pem", "");
    let variables = [("SSL_CERT_FILE", empty.to_str().expect("a path"))];
    let output = run(&["doctor", "https://127.0.0.1:1/sse"], &variables);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("no root certificates") && told.contains("SSL_CERT_FILE"), "{told}");
}
