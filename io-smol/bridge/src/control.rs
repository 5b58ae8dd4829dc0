//! The socket between the bridge and a server's [guard](super::guard).
//!
//! Knows: the bytes that pass on it. Does not know: when they are sent, and what follows.
//!
//! The bridge puts the reading end of the server's stdin in before the guard is started, whose own stdin
//! this socket is; [`KILL`] may follow. The guard sends one byte, the status with which the server has ended, before
//! it has ended what the server left behind. The socket is closed when the process at the other end has ended.
//!
//! Decision: a status has a way of its own, because the guard's exit comes later, up to seconds if helpers
//! of the server do not heed SIGTERM, and because the guard may be killed. Standard library and `unsafe`-free
//! code can hand down three descriptors and no fourth; so the server's stdin is passed on this socket
//! (SCM_RIGHTS). Lines on stderr were the alternative: helpers write there too.

use core::mem::MaybeUninit;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// The bridge tells the guard to kill all that the server started, now.
pub(super) const KILL: u8 = b'K';
/// What comes with the server's stdin: a descriptor cannot be sent alone.
const INPUT: u8 = b'I';

/// A socket for the bridge, and one for the guard in which the server's stdin waits to be taken.
pub(super) fn pair(input: OwnedFd) -> io::Result<(UnixStream, UnixStream)> {
    let (bridge, guard) = UnixStream::pair()?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [input.as_fd()];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        unreachable!("there is room for one descriptor");
    }
    rustix::net::sendmsg(&bridge, &[IoSlice::new(&[INPUT])], &mut ancillary, SendFlags::empty())?;
    Ok((bridge, guard))
}

/// Takes the server's stdin out of the guard's socket. Children do not inherit it.
pub(super) fn take_input(guard: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(guard, &mut bytes, &mut ancillary, RecvFlags::empty())?;
    let input = ancillary.drain().find_map(|message| {
        let RecvAncillaryMessage::ScmRights(mut descriptors) = message else { return None };
        descriptors.next()
    });
    let input = input.ok_or(io::ErrorKind::InvalidData)?;
    rustix::io::fcntl_setfd(&input, rustix::io::FdFlags::CLOEXEC)?;
    Ok(input)
}
