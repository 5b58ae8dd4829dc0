//! What adapters share about TLS: certificates, and all that can happen before a handshake is done.
//!
//! Knows: PEM files and what is wrong with them; when a connection speaks TLS, and what to tell one
//! that does not; that a byte is written when the kernel has it, and not when it is encrypted.
//! Does not know: sockets, or how a handshake is driven; an adapter lends both, by the crate that
//! puts rustls on its runtime.
//!
//! A handshake takes place inside the reads of a connection that the core has accepted already. So
//! nothing waits for it, it counts against every limit on connections, and its deadline is the one
//! that a request head has.

use core::fmt;
use core::mem;
use core::task::{Context, Poll, Waker, ready};
use std::fs;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

/// The one protocol spoken here (RFC 7301).
const ALPN: &[u8] = b"http/1.1";
/// The first byte of every TLS connection: a handshake record (RFC 8446 §5.1).
const HANDSHAKE: u8 = 0x16;
/// What is read, and thrown away, of a peer that does not speak TLS.
const DISCARD_BYTES_MAX: usize = 64 << 10;

/// A certificate with its key, and how TLS is spoken: TLS 1.2 and 1.3, ALPN `http/1.1`.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    lines: Arc<Lines>,
}

/// What the log says about peers that do not get through a handshake: a line a second for each.
#[derive(Default)]
struct Lines {
    not_tls: LogThrottle,
    failed: LogThrottle,
}

impl Tls {
    /// Reads a certificate chain, the server's own certificate first, and its private key: PEM, the
    /// key in PKCS #8, PKCS #1 or SEC 1.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or does not have what it should, or the two do not belong together.
    pub fn from_pem_files(
        cert_path: impl AsRef<Path>,
        key_path: impl AsRef<Path>,
    ) -> Result<Self, TlsError> {
        let (cert_path, key_path) = (cert_path.as_ref(), key_path.as_ref());
        let (cert, key) = (File::Certificate(cert_path), File::Key(key_path));
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
            None if contains(&key_pem, b"-----BEGIN ENCRYPTED PRIVATE KEY-----") => {
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
            // A key that cannot tell its public half is given the benefit of the doubt.
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

    /// Takes a configuration that was made elsewhere, for client certificates, several names,
    /// certificates that change, or another provider of cryptography. Its list of ALPN protocols is
    /// replaced: only `http/1.1` is spoken here.
    #[must_use]
    pub fn from_config(config: Arc<ServerConfig>) -> Self {
        let mut config = Arc::unwrap_or_clone(config);
        config.alpn_protocols = vec![ALPN.to_vec()];
        Self { config: Arc::new(config), lines: Arc::default() }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(..)")
    }
}

/// One of the two files, for what is said about it.
#[derive(Clone, Copy)]
enum File<'a> {
    Certificate(&'a Path),
    Key(&'a Path),
}

impl File<'_> {
    fn read(self) -> Result<Vec<u8>, TlsError> {
        let (Self::Certificate(path) | Self::Key(path)) = self;
        fs::read(path).map_err(|error| self.error(TlsProblem::Unreadable(error)))
    }

    fn error(self, problem: TlsProblem) -> TlsError {
        let (what, path) = match self {
            Self::Certificate(path) => ("certificate", path),
            Self::Key(path) => ("key", path),
        };
        TlsError { what, path: path.into(), problem }
    }
}

/// Not by the error's own words, which repeat the line that is wrong.
const fn pem_problem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section does not end",
        pem::Error::IllegalSectionStart { .. } => "a section does not begin with a line of its own",
        pem::Error::Base64Decode(_) => "a section is not base64",
        pem::Error::SectionTooLarge => "a section is too large",
        pem::Error::Io(_) | pem::Error::NoItemsFound | _ => "a section cannot be read",
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

/// Why [`Tls::from_pem_files`] did not give a [`Tls`]. Displays as a sentence with the file's name in
/// it, and nothing of what is in the file.
#[derive(Debug)]
pub struct TlsError {
    what: &'static str,
    path: PathBuf,
    problem: TlsProblem,
}

impl TlsError {
    /// The file that is to blame.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong with it.
    #[must_use]
    pub const fn problem(&self) -> &TlsProblem {
        &self.problem
    }
}

/// What is wrong with a file.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsProblem {
    /// It is missing, or may not be read.
    Unreadable(io::Error),
    /// What looks like PEM in it is broken, in this way.
    NotPem(&'static str),
    /// There is no certificate in it.
    NoCertificate,
    /// There is no private key in it.
    NoKey,
    /// The private key is encrypted, and nobody can be asked for its password.
    EncryptedKey,
    /// The certificate or key is broken, or of a kind that is not supported.
    Unusable(String),
    /// The key is not that of the certificate in this file.
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
        match &self.problem {
            TlsProblem::Unreadable(error) => Some(error),
            TlsProblem::NotPem(_)
            | TlsProblem::NoCertificate
            | TlsProblem::NoKey
            | TlsProblem::EncryptedKey
            | TlsProblem::Unusable(_)
            | TlsProblem::KeyMismatch(_) => None,
        }
    }
}

/// An adapter's plain stream, which can be looked at and handed to a handshake.
pub trait Upgrade: Socket + Sized {
    /// A handshake under way.
    type Handshake: Future<Output = io::Result<Self::Secure>> + Unpin;
    /// What it ends in.
    type Secure: Secure;

    /// The first byte that has come, which stays where it is; `None` at the end.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<u8>>>;

    /// Begins the server's part of a handshake.
    fn handshake(self, config: Arc<ServerConfig>) -> Self::Handshake;
}

/// An adapter's TLS stream.
pub trait Secure {
    /// Its state machine.
    fn connection(&mut self) -> &mut ServerConnection;

    /// Reads decrypted bytes; zero of them at the peer's `close_notify`.
    ///
    /// # Errors
    ///
    /// Any error ends the connection, but [`ErrorKind::UnexpectedEof`], which is an end without
    /// `close_notify`.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Hands everything that is encrypted to the kernel.
    ///
    /// # Errors
    ///
    /// Any error ends the connection.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Says `close_notify`, and shuts this side of the plain stream down.
    ///
    /// # Errors
    ///
    /// Any error ends the connection.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// A [`Socket`] that is to speak TLS.
pub struct Secured<P: Upgrade> {
    stage: Stage<P>,
    tls: Tls,
    peer: Peer,
}

enum Stage<P: Upgrade> {
    /// Nothing has come yet.
    Silent(P),
    Handshake(P::Handshake),
    Open {
        stream: P::Secure,
        /// Bytes that were taken and encrypted, and have not all reached the kernel.
        owed: usize,
    },
    /// The peer does not speak TLS, and is told so.
    Plain {
        socket: P,
        answer: Vec<u8>,
        sent: usize,
        shut: bool,
        discarded: usize,
    },
    /// Between two stages, and after a handshake that failed.
    Failed,
}

impl<P: Upgrade> Secured<P> {
    /// An accepted stream on which nothing was said yet.
    pub fn new(socket: P, tls: &Tls, peer: Peer) -> Self {
        Self { stage: Stage::Silent(socket), tls: tls.clone(), peer }
    }

    /// Gets to the stage in which bytes are exchanged, one way or the other; false if the peer has
    /// left before.
    fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            match &mut self.stage {
                Stage::Open { .. } | Stage::Plain { .. } => return Poll::Ready(Ok(true)),
                Stage::Failed => return Poll::Ready(Err(ErrorKind::NotConnected.into())),
                Stage::Silent(socket) => {
                    let Some(first) = ready!(socket.poll_first(cx))? else {
                        return Poll::Ready(Ok(false));
                    };
                    let Stage::Silent(socket) = mem::replace(&mut self.stage, Stage::Failed) else {
                        continue;
                    };
                    self.stage = if first == HANDSHAKE {
                        Stage::Handshake(socket.handshake(self.tls.config.clone()))
                    } else {
                        if let Some(unsaid) = self.tls.lines.not_tls.tell() {
                            let peer = &self.peer;
                            log::info!("{peer} does not speak TLS, as this port does{unsaid}");
                        }
                        let answer = not_plain();
                        Stage::Plain { socket, answer, sent: 0, shut: false, discarded: 0 }
                    };
                }
                Stage::Handshake(handshake) => {
                    let done = ready!(core::pin::Pin::new(handshake).poll(cx));
                    self.stage = Stage::Failed;
                    match done {
                        Ok(stream) => self.stage = Stage::Open { stream, owed: 0 },
                        Err(error) => {
                            // Leaving in the middle is nobody's mistake; all else is worth a look.
                            if error.kind() == ErrorKind::InvalidData
                                && let Some(unsaid) = self.tls.lines.failed.tell()
                            {
                                let peer = &self.peer;
                                log::info!("{peer}: the TLS handshake failed: {error}{unsaid}");
                            }
                            return Poll::Ready(Err(error));
                        }
                    }
                }
            }
        }
    }
}

/// What somebody who speaks HTTP to a port of HTTPS is told.
fn not_plain() -> Vec<u8> {
    let response = Response {
        status: 400,
        fields: &[],
        content_type: Some("text/plain"),
        body: b"this port speaks TLS: use https instead of http\n",
    };
    let date = HttpDate::from_unix(Clock::start().unix_seconds());
    response.render(Some(&date), Persistence::Close, false)
}

impl<P: Upgrade> Socket for Secured<P> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if !ready!(self.poll_begun(cx))? {
            return Poll::Ready(Ok(0));
        }
        match &mut self.stage {
            Stage::Open { stream, .. } => {
                // What TLS itself has to say, tickets and alerts, waits for nobody's write.
                if stream.connection().wants_write()
                    && let Poll::Ready(Err(error)) = stream.poll_flush(cx)
                {
                    return Poll::Ready(Err(error));
                }
                match ready!(stream.poll_read(cx, buffer)) {
                    // Many end without `close_notify`. That hides nothing: a request knows its own
                    // length (RFC 9112 §9.8).
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => Poll::Ready(Ok(0)),
                    done => Poll::Ready(done),
                }
            }
            Stage::Plain { socket, answer, sent, shut, discarded } => {
                while let Some(rest) = answer.get(*sent..).filter(|rest| !rest.is_empty()) {
                    match ready!(socket.poll_write(cx, &[IoSlice::new(rest)]))? {
                        0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                        count => *sent += count,
                    }
                }
                if !mem::replace(shut, true) {
                    ready!(socket.poll_shutdown(cx))?;
                }
                // As with every refusal: a reset would destroy the answer (RFC 9112 §9.6). The core
                // hears nothing of these bytes, so that its deadline for a head is the end of it.
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
            Stage::Silent(_) | Stage::Handshake(_) | Stage::Failed => {
                Poll::Ready(Err(ErrorKind::NotConnected.into()))
            }
        }
    }

    /// Ready when the kernel has every byte that is counted: what is encrypted and not sent would
    /// look like written to the core, and neither its limits nor its stall timer would see it.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_begun(cx))?;
        let Stage::Open { stream, owed } = &mut self.stage else {
            return Poll::Ready(Err(ErrorKind::NotConnected.into()));
        };
        if *owed == 0 {
            *owed = stream.connection().writer().write_vectored(pieces)?;
        }
        // Until it is flushed the same bytes are offered again, as the first of perhaps more.
        ready!(stream.poll_flush(cx))?;
        Poll::Ready(Ok(mem::take(owed)))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stage {
            Stage::Open { stream, .. } => stream.poll_shutdown(cx),
            Stage::Plain { socket, .. } => socket.poll_shutdown(cx),
            // Nothing was said, so nothing can be lost by closing at once.
            Stage::Silent(_) | Stage::Handshake(_) | Stage::Failed => {
                Poll::Ready(Err(ErrorKind::NotConnected.into()))
            }
        }
    }
}

/// Says `close_notify` if the socket takes it now: a stream that just ends is closed without a
/// shutdown, which is an end by TCP, and a cut to TLS.
impl<P: Upgrade> Drop for Secured<P> {
    fn drop(&mut self) {
        if let Stage::Open { stream, .. } = &mut self.stage {
            let _ = stream.poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl<P: Upgrade> fmt::Debug for Secured<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Silent(_) => "silent",
            Stage::Handshake(_) => "handshake",
            Stage::Open { .. } => "open",
            Stage::Plain { .. } => "plain",
            Stage::Failed => "failed",
        };
        f.debug_struct("Secured").field("peer", &self.peer).field("stage", &stage).finish()
    }
}
