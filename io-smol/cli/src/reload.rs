//! Reading certificates and tokens again while the server runs: after SIGHUP, and when their files have changed.
//!
//! Knows: how a change of a file is noticed, and what is replaced then. Does not know: the format of the files.
//!
//! Decision: the metadata of the files is compared in each interval. Notifications of the file system were considered,
//! but they are lost on network file systems and in some containers. Besides, files are often replaced by replacing a
//! link to their directory (Kubernetes does so), and each such link would have to be watched.
//!
//! Decision: size, modification time, inode and the time of the last change of the metadata are compared, because a
//! tool may restore the modification time. Links are followed, so a link with a new target counts as a change.
//!
//! Decision: if files cannot be used, what was read before stays in use. The files are read again in each interval
//! until they can be used, because a certificate and its key are two files, which do not change at the same moment.
//! The error is logged if the files have changed or the error is a new one, and not in each interval.
//!
//! Decision: the metadata of files that have changed is compared again after a short pause, because a file with tokens
//! that is not completely written may be valid, and lack tokens. Files that have changed during the pause are read in
//! the next interval. After SIGHUP there is no pause, because the sender knows that the files are complete.

use core::time::Duration;
use std::fs;
#[cfg(unix)]
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::{io, thread};

use mcp_sse_demo::options::ServeFlags;
#[cfg(feature = "tls")]
use mcp_sse_smol::Tls;
use mcp_sse_smol::{Handle, ReplaceTokensError};

#[cfg(unix)]
use crate::service_manager::ServiceManager;

/// A file that changes within this time is still being written.
const SETTLED_AFTER: Duration = Duration::from_millis(250);

/// The files that the flags name, as they were before they were first read. Make this before.
#[derive(Debug)]
pub(crate) struct WatchedFiles {
    #[cfg(feature = "tls")]
    certificate: FileSet,
    tokens: FileSet,
}

impl WatchedFiles {
    pub(crate) fn of(serve: &ServeFlags) -> Self {
        Self {
            #[cfg(feature = "tls")]
            certificate: FileSet::new(serve.tls_files().into_iter().flatten()),
            tokens: FileSet::new(serve.token_file()),
        }
    }
}

/// What is replaced when files have changed.
pub(crate) struct Replaceable {
    pub(crate) serve: ServeFlags,
    pub(crate) server: Handle,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Tls>,
    #[cfg(unix)]
    pub(crate) manager: ServiceManager,
}

/// Starts the thread that reads the files again. It does so at once for each `()` that is sent.
///
/// # Errors
///
/// Returns an error if the thread cannot be started.
pub(crate) fn start(files: WatchedFiles, replaceable: Replaceable) -> io::Result<Sender<()>> {
    let (sender, requests) = channel();
    thread::Builder::new()
        .name("reload".into())
        .spawn(move || Reloader { files, replaceable }.run(&requests))?;
    Ok(sender)
}

struct Reloader {
    files: WatchedFiles,
    replaceable: Replaceable,
}

impl Reloader {
    fn run(&mut self, requests: &Receiver<()>) {
        let interval = self.replaceable.serve.reload_interval().filter(|_| !self.is_empty());
        loop {
            let request = match interval {
                Some(interval) => requests.recv_timeout(interval),
                None => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match request {
                Ok(()) => self.reload(),
                Err(RecvTimeoutError::Timeout) => self.read_files(false),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn is_empty(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.files.certificate.is_empty() && self.files.tokens.is_empty();
        #[cfg(not(feature = "tls"))]
        self.files.tokens.is_empty()
    }

    /// Reads the files whether they have changed or not.
    fn reload(&mut self) {
        #[cfg(unix)]
        self.replaceable.manager.reloading();
        if self.is_empty() {
            log::info!(
                event = "no_files_to_read";
                "there is nothing to read again: neither --tls-cert nor --auth-token-file is given"
            );
        } else {
            self.read_files(true);
        }
        #[cfg(unix)]
        self.replaceable.manager.reloaded();
    }

    /// Reads the files that have changed, or all of them.
    fn read_files(&mut self, all: bool) {
        let Replaceable { serve, server, .. } = &self.replaceable;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.replaceable.tls {
            self.files.certificate.read("the certificate", all, || {
                let read = serve.tls().map_err(|error| error.to_string())?;
                read.iter().for_each(|new| tls.replace(new));
                Ok("new connections use it")
            });
        }
        self.files.tokens.read("the token file", all, || {
            let tokens = serve.tokens().map_err(|error| error.to_string())?;
            let Some(tokens) = tokens else { return Ok("it has no tokens") };
            match smol::block_on(server.replace_tokens(tokens)) {
                Ok(()) => Ok("sessions of removed tokens end"),
                // The server has ended, and so will this program.
                Err(ReplaceTokensError::Stopped) => Ok("the server has ended"),
                Err(error) => Err(error.to_string()),
            }
        });
    }
}

/// Files that are read together.
#[derive(Debug)]
struct FileSet {
    paths: Vec<PathBuf>,
    /// The files when they were last read.
    seen: Vec<Option<Fingerprint>>,
    /// Why they could not be used then.
    failed: Option<String>,
}

/// What changes with a file's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    size: u64,
    modified: Option<std::time::SystemTime>,
    /// The device, the inode, and the seconds and nanoseconds of the last change of the metadata.
    #[cfg(unix)]
    identity: (u64, u64, i64, i64),
}

impl Fingerprint {
    /// The fingerprint of the file; `None` if it does not exist or cannot be looked at.
    fn of(path: &Path) -> Option<Self> {
        let data = fs::metadata(path).ok()?;
        Some(Self {
            size: data.len(),
            modified: data.modified().ok(),
            #[cfg(unix)]
            identity: (data.dev(), data.ino(), data.ctime(), data.ctime_nsec()),
        })
    }
}

impl FileSet {
    fn new<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let paths: Vec<PathBuf> = paths.into_iter().map(Path::to_owned).collect();
        let seen = fingerprints(&paths);
        Self { paths, seen, failed: None }
    }

    fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Whether the files are still the same after `pause`.
    fn have_settled(&self, before: &[Option<Fingerprint>], pause: impl FnOnce()) -> bool {
        pause();
        fingerprints(&self.paths) == before
    }

    /// Calls `read` if the files have changed or could not be used, or if `anyway` is true. `read` returns what
    /// follows from the new contents, or why they cannot be used.
    fn read(
        &mut self,
        what: &str,
        anyway: bool,
        read: impl FnOnce() -> Result<&'static str, String>,
    ) {
        if self.is_empty() {
            return;
        }
        // The files are looked at before they are read. If they change in between, they are read again.
        let now = fingerprints(&self.paths);
        let changed = now != self.seen;
        if !(anyway || changed || self.failed.is_some()) {
            return;
        }
        if changed && !anyway && !self.have_settled(&now, || thread::sleep(SETTLED_AFTER)) {
            return;
        }
        self.seen = now;
        let failed = read();
        match &failed {
            Ok(so) => log::info!(event = "files_read"; "{what} was read again: {so}"),
            Err(error) if anyway || changed || self.failed.as_ref() != Some(error) => {
                log::error!(
                    event = "files_faulty";
                    "{error}. What was read before stays in use, and {what} is tried again"
                );
            }
            Err(_) => {}
        }
        self.failed = failed.err();
    }
}

fn fingerprints(paths: &[PathBuf]) -> Vec<Option<Fingerprint>> {
    paths.iter().map(|path| Fingerprint::of(path)).collect()
}

#[cfg(test)]
mod tests {
    use mcp_sse_tests::scratch::Scratch;

    use super::*;

    #[test]
    fn files_that_are_being_written_have_not_settled() {
        let scratch = Scratch::new();
        let path = scratch.file("tokens", "alice:alpha");
        let files = FileSet::new([&*path]);
        let before = fingerprints(&files.paths);
        assert!(files.have_settled(&before, || ()));
        let more = || fs::write(&path, "alice:alpha-123456\nbob:beta-1234567").expect("a file");
        assert!(!files.have_settled(&before, more));
    }
}
