//! A self-signed certificate for a test, and TLS clients that trust it alone.

use core::fmt;
use std::sync::Arc;

use mcp_sse_driver::Tls;
use rcgen::{CertifiedKey, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

use crate::scratch::Scratch;

/// A self-signed certificate for `localhost` and its key.
pub struct Certificate(CertifiedKey<KeyPair>);

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate(..)")
    }
}

impl Certificate {
    /// Makes a new certificate.
    ///
    /// # Panics
    ///
    /// If the system has no randomness.
    #[must_use]
    pub fn new() -> Self {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        Self(rcgen::generate_simple_self_signed(names).expect("a certificate"))
    }

    /// The certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.cert.pem()
    }

    /// The key in PEM.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.0.signing_key.serialize_pem()
    }

    /// The certificate in DER.
    #[must_use]
    pub fn der(&self) -> CertificateDer<'static> {
        self.0.cert.der().clone()
    }

    /// The key in DER.
    #[must_use]
    pub fn key_der(&self) -> Vec<u8> {
        self.0.signing_key.serialize_der()
    }

    /// The server's TLS configuration, read from two PEM files.
    ///
    /// # Panics
    ///
    /// If the files cannot be used.
    #[must_use]
    pub fn tls(&self) -> Tls {
        let scratch = Scratch::new();
        let cert = scratch.file("cert.pem", self.pem());
        let key = scratch.file("key.pem", self.key_pem());
        Tls::from_pem_files(cert, key).expect("good files")
    }

    /// A client configuration for any version of TLS, with these ALPN protocols.
    #[must_use]
    pub fn client(&self, protocols: &[&str]) -> Arc<ClientConfig> {
        self.client_of(&[&version::TLS13, &version::TLS12], protocols)
    }

    /// A client configuration for these versions of TLS, with these ALPN protocols.
    ///
    /// # Panics
    ///
    /// If the configuration is invalid.
    #[must_use]
    pub fn client_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        protocols: &[&str],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

impl Default for Certificate {
    fn default() -> Self {
        Self::new()
    }
}
