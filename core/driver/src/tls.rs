//! TLS: certificates, and the handshake on a connection.
//!
//! Knows: PEM files and the errors in them; whether a client speaks TLS, and the answer to a client that does
//! not; when a byte counts as written.
//! Does not know: sockets, or the steps of a handshake. An adapter provides both, with the crate that
//! integrates rustls with its runtime.
//!
//! A handshake takes place inside the reads of a connection that the core has already accepted. So
//! no other connection waits for it, the connection counts against every limit, and the deadline is that
//! of a request head.
//!
//! Decision: the cryptography is `ring`, which needs a C compiler and nothing else. `aws-lc-rs`, the
//! default of rustls, builds all of AWS-LC and needs CMake on some targets. It has post-quantum key
//! exchange and FIPS: an application that wants those passes a configuration with its own provider to
//! [`Tls::from_config`]. Nothing is installed as the default provider of the process.
//!
//! Decision: a byte counts as written when the kernel has it. rustls accepts 64 KiB that have not been
//! sent; if those counted, the stall timer would not see that a client has stopped reading, and the last
//! bytes of a burst would not be flushed.
//!
//! Decision: a certificate is replaced by another `ServerConfig`, and not by a resolver inside the one in use. The
//! configuration also has the store of TLS sessions. With a resolver, a client that resumes an earlier session would
//! go on without seeing the new certificate.
//!
//! Decision: an end of TCP without `close_notify` is an end of input. Many clients end so, and it cannot
//! truncate a message unnoticed, because requests state their length.

use core::fmt;
use core::mem;
use core::task::{Context, Poll, Waker, ready};
use std::fs;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use memchr::memmem;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, ServerConnection};

use mcp_sse_core::{
    Clock, Peer,
    http1::{HttpDate, Persistence, Response},
};

use super::socket::Socket;
use crate::log_throttle::LogThrottle;

/// The only ALPN protocol of this server (RFC 7301).
const ALPN: &[u8] = b"http/1.1";
/// The first byte of every TLS connection: a handshake record (RFC 8446 §5.1).
const HANDSHAKE: u8 = 0x16;
/// The most bytes that are read and discarded from a peer that does not speak TLS.
const DISCARD_BYTES_MAX: usize = 64 << 10;

/// A certificate with its private key, and the settings of TLS: versions 1.2 and 1.3, ALPN `http/1.1`.
///
/// The example of `Listener::tls` reads a certificate and serves with it. A clone is the same value: after
/// [`replace`](Self::replace) on one, all use the new certificate.
#[derive(Clone)]
pub struct Tls {
    config: Arc<Mutex<Arc<ServerConfig>>>,
    throttles: Arc<TlsLogThrottles>,
}

/// Throttles of log lines about connections without a complete handshake: one line a second for each cause.
#[derive(Default)]
struct TlsLogThrottles {
    not_tls: LogThrottle,
    failed: LogThrottle,
}

impl Tls {
    /// Reads a certificate chain and its private key from PEM files. The first certificate must be the server's own.
    /// The key may be PKCS #8, PKCS #1 or SEC 1.
    ///
    /// # Errors
    ///
    /// Returns a [`TlsError`] if a file cannot be read or does not have the expected contents, or if the key does not
    /// belong to the certificate.
    ///
    /// ```
    /// use mcp_sse_driver::{Tls, TlsProblem};
    ///
    /// let error = Tls::from_pem_files("/no/cert.pem", "/no/key.pem").unwrap_err();
    /// assert!(matches!(error.problem(), TlsProblem::Unreadable(_)));
    /// ```
    pub fn from_pem_files(
        cert_path: impl AsRef<Path>,
        key_path: impl AsRef<Path>,
    ) -> Result<Self, TlsError> {
        let (cert_path, key_path) = (cert_path.as_ref(), key_path.as_ref());
        let cert = PemFile { what: "certificate", path: cert_path };
        let key = PemFile { what: "key", path: key_path };
        let cert_pem = cert.read()?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&cert_pem)
            .collect::<Result<_, _>>()
            .map_err(|error| cert.error(TlsProblem::NotPem(pem_problem(&error))))?;
        if chain.is_empty() {
            return Err(cert.error(TlsProblem::NoCertificate));
        }
        let key_pem = key.read()?;
        let private = match PrivateKeyDer::pem_slice_iter(&key_pem).next() {
            Some(Ok(private)) => private,
            Some(Err(error)) => return Err(key.error(TlsProblem::NotPem(pem_problem(&error)))),
            None if memmem::find(&key_pem, b"-----BEGIN ENCRYPTED PRIVATE KEY-----").is_some() => {
                return Err(key.error(TlsProblem::EncryptedKey));
            }
            None => return Err(key.error(TlsProblem::NoKey)),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let private = provider
            .key_provider
            .load_private_key(private)
            .map_err(|error| key.error(TlsProblem::Unusable(error.to_string())))?;
        let pair = CertifiedKey::new(chain, private);
        match pair.keys_match() {
            // Some keys do not reveal their public half. Then the pair is accepted without this check.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                return Err(key.error(TlsProblem::KeyMismatch(cert_path.into())));
            }
            Err(error) => return Err(cert.error(TlsProblem::Unusable(error.to_string()))),
        }
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| cert.error(TlsProblem::Unusable(error.to_string())))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
        Ok(Self::from_config(Arc::new(config)))
    }

    /// Uses a configuration of rustls, for client certificates, several names, certificates that
    /// change at run time, or another provider of cryptography. Its list of ALPN protocols is replaced by
    /// `http/1.1`.
    #[must_use]
    pub fn from_config(config: Arc<ServerConfig>) -> Self {
        let mut config = Arc::unwrap_or_clone(config);
        config.alpn_protocols = vec![ALPN.to_vec()];
        Self { config: Arc::new(Mutex::new(Arc::new(config))), throttles: Arc::default() }
    }

    /// Replaces the certificate, its key and all other settings by those of `other`, for handshakes that begin from
    /// here on. Connections whose handshake has begun are not affected. Keep a clone of the value that a listener was
    /// given, and call this on the clone, from any thread: all workers use the new certificate at once.
    ///
    /// A client cannot resume a TLS session that it began before, so it sees the new certificate in its next handshake.
    /// (It can if both are [from configurations](Self::from_config) that share a store of sessions or a ticketer.)
    ///
    /// ```
    /// use mcp_sse_driver::{Tls, TlsError};
    ///
    /// /// Call this when the files were renewed. If they are faulty, the old certificate stays in use.
    /// fn renew(in_use: &Tls) -> Result<(), TlsError> {
    ///     in_use.replace(&Tls::from_pem_files("cert.pem", "key.pem")?);
    ///     Ok(())
    /// }
    /// ```
    pub fn replace(&self, other: &Self) {
        let config = other.config();
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// The settings for a handshake that begins now.
    fn config(&self) -> Arc<ServerConfig> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(..)")
    }
}

/// One of the two files, for errors about it.
#[derive(Clone, Copy)]
struct PemFile<'a> {
    what: &'static str,
    path: &'a Path,
}

impl PemFile<'_> {
    fn read(self) -> Result<Vec<u8>, TlsError> {
        fs::read(self.path).map_err(|error| self.error(TlsProblem::Unreadable(error)))
    }

    fn error(self, problem: TlsProblem) -> TlsError {
        TlsError { what: self.what, path: self.path.into(), problem }
    }
}

/// Describes `error`. The error's own text is not used, because it repeats the faulty line of the file.
const fn pem_problem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section does not end",
        pem::Error::IllegalSectionStart { .. } => "a section does not begin with a line of its own",
        pem::Error::Base64Decode(_) => "a section is not base64",
        pem::Error::SectionTooLarge => "a section is too large",
        pem::Error::Io(_) | pem::Error::NoItemsFound | _ => "a section cannot be read",
    }
}

/// The error of [`Tls::from_pem_files`]. It displays as a sentence with the file's name, and without
/// any of the file's contents.
#[derive(Debug)]
pub struct TlsError {
    what: &'static str,
    path: PathBuf,
    problem: TlsProblem,
}

impl TlsError {
    /// The path of the faulty file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong with the file.
    #[must_use]
    pub const fn problem(&self) -> &TlsProblem {
        &self.problem
    }
}

/// What is wrong with a file of [`Tls::from_pem_files`].
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsProblem {
    /// The file does not exist or cannot be read.
    Unreadable(io::Error),
    /// The file is not valid PEM, for this reason.
    NotPem(&'static str),
    /// The file contains no certificate.
    NoCertificate,
    /// The file contains no private key.
    NoKey,
    /// The private key is encrypted, which is not supported.
    EncryptedKey,
    /// The certificate or key is invalid, or of a kind that is not supported.
    Unusable(String),
    /// The private key does not belong to the certificate in this other file.
    KeyMismatch(PathBuf),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} file {}: ", self.what, self.path.display())?;
        match &self.problem {
            TlsProblem::Unreadable(error) => write!(f, "cannot be read: {error}"),
            TlsProblem::NotPem(error) => write!(f, "is not sound PEM: {error}"),
            TlsProblem::NoCertificate => {
                f.write_str("has no certificate in it (no \"-----BEGIN CERTIFICATE-----\")")
            }
            TlsProblem::NoKey => {
                f.write_str("has no private key in it (no \"-----BEGIN PRIVATE KEY-----\")")
            }
            TlsProblem::EncryptedKey => {
                f.write_str("the private key is encrypted; decrypt it first")
            }
            TlsProblem::Unusable(error) => write!(f, "cannot be used: {error}"),
            TlsProblem::KeyMismatch(cert) => {
                write!(
                    f,
                    "the private key does not belong to the certificate in {}",
                    cert.display()
                )
            }
        }
    }
}

impl core::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        if let TlsProblem::Unreadable(error) = &self.problem { Some(error) } else { None }
    }
}

/// A TCP stream of a runtime on which TLS can be started.
pub trait TlsUpgrade: Socket + Sized {
    /// The future of a handshake.
    type Handshake: Future<Output = io::Result<Self::TlsStream>> + Unpin;
    /// The stream after a complete handshake.
    type TlsStream: TlsStream;

    /// Returns the first received byte without consuming it; `None` if the peer has shut down its side.
    ///
    /// # Errors
    ///
    /// Any error ends the connection.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<u8>>>;

    /// Starts the server's side of a handshake.
    fn handshake(self, config: Arc<ServerConfig>) -> Self::Handshake;
}

/// A TLS stream of a runtime after its handshake.
pub trait TlsStream {
    /// The state machine of rustls.
    fn connection(&mut self) -> &mut ServerConnection;

    /// Reads decrypted bytes into `buffer` and returns their number. Zero means that the peer has sent
    /// `close_notify`.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::UnexpectedEof`] if the peer has shut down its side without `close_notify`. Any
    /// other error ends the connection.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes all encrypted bytes to the kernel.
    ///
    /// # Errors
    ///
    /// Any error ends the connection.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Sends `close_notify`, and shuts down the write side of the TCP stream.
    ///
    /// # Errors
    ///
    /// Any error ends the connection.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// A [`Socket`] with TLS. Its first read does the handshake.
///
/// A peer that speaks plain HTTP is answered 400 in plain HTTP.
pub(super) struct TlsSocket<P: TlsUpgrade> {
    stage: TlsStage<P>,
    tls: Tls,
    peer: Peer,
}

enum TlsStage<P: TlsUpgrade> {
    /// No byte was received yet.
    Silent(P),
    Handshake(P::Handshake),
    Open {
        stream: P::TlsStream,
        /// The number of bytes that were encrypted and are not all written to the kernel.
        unflushed: usize,
    },
    /// The peer does not speak TLS, and is answered in plain HTTP.
    PlainHttp {
        socket: P,
        answer: Vec<u8>,
        sent: usize,
        shut: bool,
        discarded: usize,
    },
    /// The handshake has failed. This is also the temporary value during a change of the stage.
    Failed,
}

impl<P: TlsUpgrade> TlsSocket<P> {
    /// Creates a socket from an accepted stream on which no byte was read yet. `peer` is for log lines.
    pub(super) fn new(socket: P, tls: &Tls, peer: Peer) -> Self {
        Self { stage: TlsStage::Silent(socket), tls: tls.clone(), peer }
    }

    /// Completes the handshake. Ready with true if bytes can be exchanged, and with false if the peer has shut down
    /// its side before it sent a byte.
    fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            match &mut self.stage {
                TlsStage::Open { .. } | TlsStage::PlainHttp { .. } => return Poll::Ready(Ok(true)),
                TlsStage::Failed => return Poll::Ready(Err(ErrorKind::NotConnected.into())),
                TlsStage::Silent(socket) => {
                    let Some(first) = ready!(socket.poll_first(cx))? else {
                        return Poll::Ready(Ok(false));
                    };
                    let TlsStage::Silent(socket) = mem::replace(&mut self.stage, TlsStage::Failed)
                    else {
                        continue;
                    };
                    self.stage = if first == HANDSHAKE {
                        TlsStage::Handshake(socket.handshake(self.tls.config()))
                    } else {
                        if let Some(unsaid) = self.tls.throttles.not_tls.tell() {
                            let peer = &self.peer;
                            log::info!(
                                event = "tls_expected",
                                peer = peer,
                                suppressed = unsaid;
                                "{peer} does not speak TLS, which this port requires{unsaid}"
                            );
                        }
                        let answer = not_plain();
                        TlsStage::PlainHttp { socket, answer, sent: 0, shut: false, discarded: 0 }
                    };
                }
                TlsStage::Handshake(handshake) => {
                    let done = ready!(core::pin::Pin::new(handshake).poll(cx));
                    self.stage = TlsStage::Failed;
                    match done {
                        Ok(stream) => self.stage = TlsStage::Open { stream, unflushed: 0 },
                        Err(error) => {
                            // A peer may leave during a handshake; other failures are logged.
                            if error.kind() == ErrorKind::InvalidData
                                && let Some(unsaid) = self.tls.throttles.failed.tell()
                            {
                                let peer = &self.peer;
                                log::info!(
                                    event = "tls_handshake_failed",
                                    peer = peer,
                                    error:% = error,
                                    suppressed = unsaid;
                                    "the TLS handshake failed with {peer}: {error}{unsaid}"
                                );
                            }
                            return Poll::Ready(Err(error));
                        }
                    }
                }
            }
        }
    }
}

/// The answer to a client that speaks plain HTTP to this port.
fn not_plain() -> Vec<u8> {
    let response = Response {
        status: 400,
        fields: &[],
        content_type: Some("text/plain"),
        body: Some(b"this port speaks TLS: use https instead of http\n"),
    };
    let date = HttpDate::from_unix(Clock::start().unix_seconds());
    response.render(Some(&date), Persistence::Close, false)
}

impl<P: TlsUpgrade> Socket for TlsSocket<P> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if !ready!(self.poll_begun(cx))? {
            return Poll::Ready(Ok(0));
        }
        match &mut self.stage {
            TlsStage::Open { stream, .. } => {
                // Session tickets and alerts of TLS are written now, because the next write may be much later.
                if stream.connection().wants_write()
                    && let Poll::Ready(Err(error)) = stream.poll_flush(cx)
                {
                    return Poll::Ready(Err(error));
                }
                match ready!(stream.poll_read(cx, buffer)) {
                    // Many clients end without `close_notify`. This cannot truncate a request unnoticed, because each
                    // request has its length (RFC 9112 §9.8).
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => Poll::Ready(Ok(0)),
                    done => Poll::Ready(done),
                }
            }
            TlsStage::PlainHttp { socket, answer, sent, shut, discarded } => {
                while let Some(rest) = answer.get(*sent..).filter(|rest| !rest.is_empty()) {
                    match ready!(socket.poll_write(cx, &[IoSlice::new(rest)]))? {
                        0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                        count => *sent += count,
                    }
                }
                if !mem::replace(shut, true) {
                    ready!(socket.poll_shutdown(cx))?;
                }
                // The rest of the request is read, because a reset could destroy the answer (RFC 9112
                // §9.6). The core does not get these bytes, so its deadline for a request head limits this.
                loop {
                    match ready!(socket.poll_read(cx, buffer))? {
                        0 => return Poll::Ready(Ok(0)),
                        count => *discarded += count,
                    }
                    if *discarded > DISCARD_BYTES_MAX {
                        return Poll::Ready(Err(ErrorKind::InvalidData.into()));
                    }
                }
            }
            TlsStage::Silent(_) | TlsStage::Handshake(_) | TlsStage::Failed => {
                Poll::Ready(Err(ErrorKind::NotConnected.into()))
            }
        }
    }

    /// Ready when the kernel has all bytes that are reported as written. If encrypted bytes were reported earlier,
    /// neither the core's limits nor its stall timer would cover them.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_begun(cx))?;
        let TlsStage::Open { stream, unflushed } = &mut self.stage else {
            return Poll::Ready(Err(ErrorKind::NotConnected.into()));
        };
        if *unflushed == 0 {
            *unflushed = stream.connection().writer().write_vectored(pieces)?;
        }
        // Until the flush is complete, the core offers the same bytes again, possibly followed by more.
        ready!(stream.poll_flush(cx))?;
        Poll::Ready(Ok(mem::take(unflushed)))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stage {
            TlsStage::Open { stream, .. } => stream.poll_shutdown(cx),
            TlsStage::PlainHttp { socket, .. } => socket.poll_shutdown(cx),
            // No byte was sent, so closing immediately loses nothing.
            TlsStage::Silent(_) | TlsStage::Handshake(_) | TlsStage::Failed => {
                Poll::Ready(Err(ErrorKind::NotConnected.into()))
            }
        }
    }
}

/// Sends `close_notify` if that is possible without waiting. Without it, the peer's TLS library would report a
/// truncated connection.
impl<P: TlsUpgrade> Drop for TlsSocket<P> {
    fn drop(&mut self) {
        if let TlsStage::Open { stream, .. } = &mut self.stage {
            let _ = stream.poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}
