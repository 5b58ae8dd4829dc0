//! A listening Unix socket and its file.
//!
//! Knows: whether a socket file is in use, and when it may be replaced and removed.
//! Does not know: what is served on it.
//!
//! Decision: the socket is created in a directory of mode 0700, and linked into place. Between
//! `bind` and `chmod` every user whom the umask admits could connect, and the umask belongs to
//! the whole process. A link is used because, unlike a rename, it fails if another file has
//! appeared meanwhile.

use core::time::Duration;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::{process, thread};

/// Probe timeout: a server that has not refused a connection by then is considered alive.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// A listening Unix socket, and its file if this crate has created it.
#[derive(Debug)]
pub(super) struct UnixListenSocket {
    pub(super) socket: UnixListener,
    pub(super) file: Option<SocketFile>,
}

/// The file of a listening socket. Dropping this removes the file if it still belongs to the socket.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    id: FileId,
}

/// The device and inode of a file.
type FileId = (u64, u64);

impl UnixListenSocket {
    /// Listens at `path`. Users to whom `mode` gives write access can connect. Fails with
    /// [`ErrorKind::AddrInUse`] if a server listens at `path`, and with [`ErrorKind::AlreadyExists`] if
    /// the file is not a socket.
    pub(super) fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        // The socket is first bound at a shorter path. So a path that is too long would not fail below, but no client
        // could connect to it.
        SocketAddr::from_pathname(path)?;
        let stale = find_stale(path)?;
        // Between `bind` and `chmod`, the umask would determine which users can connect. So the socket is
        // bound in a directory that other users cannot enter, and is moved afterwards.
        let directory = PrivateDirectory::beside(path)?;
        let inside = directory.0.join("s");
        let socket = UnixListener::bind(&inside)?;
        fs::set_permissions(&inside, Permissions::from_mode(mode))?;
        let id = file_id(&inside)?;
        if let Some(stale) = stale
            && file_id(path).is_ok_and(|id| id == stale)
        {
            fs::remove_file(path)?;
            log::info!(
                event = "socket_file_removed",
                path:% = path.display();
                "removed {}, on which no process was listening",
                path.display()
            );
        }
        // Unlike a rename, a link fails if another process has created a file there meanwhile. Some file
        // systems do not support links.
        match fs::hard_link(&inside, path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(in_use(path)),
            Err(_) => fs::rename(&inside, path)?,
        }
        // The file must be found at the end, also if the process has changed its working directory.
        let path = std::path::absolute(path)?;
        Ok(Self { socket, file: Some(SocketFile { path, id }) })
    }

    /// A socket whose file, if there is one, belongs to another program and is not removed.
    pub(super) const fn bound_elsewhere(socket: UnixListener) -> Self {
        Self { socket, file: None }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if file_id(&self.path).is_ok_and(|id| id == self.id) {
            // There is no caller to return an error to.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn file_id(path: &Path) -> io::Result<FileId> {
    fs::symlink_metadata(path).map(|data| (data.dev(), data.ino()))
}

fn in_use(path: &Path) -> io::Error {
    let text = format!("a server is listening on {} already", path.display());
    io::Error::new(ErrorKind::AddrInUse, text)
}

/// The socket at `path` on which no process listens; `None` if there is no file. Any other file is an
/// error.
fn find_stale(path: &Path) -> io::Result<Option<FileId>> {
    let data = match fs::symlink_metadata(path) {
        Ok(data) => data,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !data.file_type().is_socket() {
        let text = format!("{} exists and is not a socket", path.display());
        return Err(io::Error::new(ErrorKind::AlreadyExists, text));
    }
    // Connecting blocks if a server hangs and its backlog is full, so another thread connects.
    let (sender, connected) = mpsc::channel();
    let path_to_probe = path.to_path_buf();
    thread::Builder::new().name("mcp-sse probe".into()).spawn(move || {
        // The receiver is dropped after the timeout.
        let _ = sender.send(UnixStream::connect(path_to_probe).map(drop));
    })?;
    match connected.recv_timeout(ANSWER_WITHIN) {
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
            Ok(Some((data.dev(), data.ino())))
        }
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
        // The server may be alive. A process without the permission to connect must not remove the file.
        Ok(Err(error)) => Err(error),
        Ok(Ok(())) | Err(_) => Err(in_use(path)),
    }
}

/// A directory that only this user can enter. Dropping it removes the directory.
struct PrivateDirectory(PathBuf);

impl PrivateDirectory {
    /// Creates a directory on the file system of `path`. Its name is short, because the length of a socket's path is
    /// limited.
    fn beside(path: &Path) -> io::Result<Self> {
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let mut number = process::id();
        loop {
            let directory = parent.join(format!(".{number:x}"));
            match DirBuilder::new().mode(0o700).create(&directory) {
                Ok(()) => return Ok(Self(directory)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    number = number.wrapping_add(1);
                }
                Err(error) => {
                    let text =
                        format!("cannot create a directory in {}: {error}", parent.display());
                    return Err(io::Error::new(error.kind(), text));
                }
            }
        }
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        // The directory contains the socket only if it was not moved.
        let _ = fs::remove_file(self.0.join("s"));
        let _ = fs::remove_dir(&self.0);
    }
}
