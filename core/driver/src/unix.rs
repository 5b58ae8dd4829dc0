//! A listening Unix socket with its file.
//!
//! Knows: whose a socket file is, and when it may be replaced and removed.
//! Does not know: what is served on it.

use core::time::Duration;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::{process, thread};

/// How long a server may take to take a connection before it counts as one that lives.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// A listening Unix socket, and the file by which it is found.
#[derive(Debug)]
pub(super) struct UnixListenSocket {
    /// The listening socket.
    pub(super) socket: UnixListener,
    /// Its file.
    pub(super) file: SocketFile,
}

/// The file of a listening socket: removed when this is dropped, unless it has become another's.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    id: FileId,
}

/// Device and inode.
type FileId = (u64, u64);

impl UnixListenSocket {
    /// Listens at `path`, for those whom `mode` lets write to it.
    ///
    /// # Errors
    ///
    /// Those of binding; [`ErrorKind::AddrInUse`] if a server listens there, and
    /// [`ErrorKind::AlreadyExists`] if what is there is not a socket.
    pub(super) fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        // It would be made under a shorter name, and nobody could connect to it.
        SocketAddr::from_pathname(path)?;
        let stale = find_stale(path)?;
        // Between `bind` and `chmod` anybody may connect whom the umask lets; so it is made where
        // nobody can get at it, and moved.
        let room = PrivateRoom::beside(path)?;
        let inside = room.0.join("s");
        let socket = UnixListener::bind(&inside)?;
        fs::set_permissions(&inside, Permissions::from_mode(mode))?;
        let id = file_id(&inside)?;
        if let Some(stale) = stale
            && file_id(path).is_ok_and(|id| id == stale)
        {
            fs::remove_file(path)?;
            log::info!("removed {}, on which nobody listened any more", path.display());
        }
        // A link fails where something is, which somebody else may have put there meanwhile; a file
        // system without links has to do with less.
        match fs::hard_link(&inside, path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(in_use(path)),
            Err(_) => fs::rename(&inside, path)?,
        }
        // What is removed at the end is this file, wherever the process has gone by then.
        let path = std::path::absolute(path)?;
        Ok(Self { socket, file: SocketFile { path, id } })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if file_id(&self.path).is_ok_and(|id| id == self.id) {
            // Nobody can be told.
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

/// The socket that nobody listens on at `path`; `None` if there is nothing.
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
    // A server that hangs with its backlog full would keep whoever connects waiting.
    let (sender, connected) = mpsc::channel();
    let there = path.to_path_buf();
    thread::Builder::new().name("mcp-sse looks".into()).spawn(move || {
        // Whoever asked may have given up.
        let _ = sender.send(UnixStream::connect(there).map(drop));
    })?;
    match connected.recv_timeout(ANSWER_WITHIN) {
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
            Ok(Some((data.dev(), data.ino())))
        }
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
        // It may be alive; who may not ask may not remove it either.
        Ok(Err(error)) => Err(error),
        Ok(Ok(())) | Err(_) => Err(in_use(path)),
    }
}

/// A directory that only this user can enter, for as long as this lives.
struct PrivateRoom(PathBuf);

impl PrivateRoom {
    /// On the same file system as `path`; with a short name, since a socket's may not be long.
    fn beside(path: &Path) -> io::Result<Self> {
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let mut number = process::id();
        loop {
            let room = parent.join(format!(".{number:x}"));
            match DirBuilder::new().mode(0o700).create(&room) {
                Ok(()) => return Ok(Self(room)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    number = number.wrapping_add(1);
                }
                Err(error) => {
                    let text = format!("cannot make a directory in {}: {error}", parent.display());
                    return Err(io::Error::new(error.kind(), text));
                }
            }
        }
    }
}

impl Drop for PrivateRoom {
    fn drop(&mut self) {
        // What was moved is gone from it already.
        let _ = fs::remove_file(self.0.join("s"));
        let _ = fs::remove_dir(&self.0);
    }
}
