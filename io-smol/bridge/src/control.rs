//! The socket between the bridge and a server's [guard](super::guard).
//!
//! Knows: the bytes on the socket. Does not know: when they are sent, or what follows from them.
//!
//! The socket is the guard's stdin. Before the bridge starts the guard, it sends the reading end of the server's
//! stdin into the socket; later it may send [`KILL`]. When the server has exited, the guard sends one byte, the
//! server's exit status, before it ends the processes that the server has left behind. Each end notices on the
//! socket when the process at the other end has ended.
//!
//! Decision: the server's exit status is sent on this socket and is not the guard's own exit status. The guard exits
//! seconds later if processes that the server left behind do not react to SIGTERM, and it may be killed. Lines on
//! stderr were the alternative, but other processes write there as well. The server's stdin is passed on this socket
//! (`SCM_RIGHTS`) because `std::process::Command` passes no more than three descriptors without `unsafe` code.

use core::mem::MaybeUninit;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Sent by the bridge: the guard has to kill all processes that the server has started.
pub(super) const KILL: u8 = b'K';
/// The byte that accompanies the server's stdin, because a descriptor cannot be sent without a byte.
const INPUT: u8 = b'I';

/// Creates a pair of sockets, the first for the bridge and the second for the guard. The server's stdin `input` is
/// already sent to the guard.
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

/// Receives the server's stdin from the guard's socket. Child processes do not inherit the descriptor.
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
