//! A message, and beside it a descriptor (SCM_RIGHTS, unix(7)): what arrives is one of the receiver's own, for the
//! same open file. It works between processes and, in the same way, between threads.

use std::{
    io::{IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Sends a message over a socket, with a descriptor where there is one.
///
/// # Errors
/// Those of sendmsg(2).
pub fn send(over: impl AsFd, message: &[IoSlice<'_>], descriptor: Option<impl AsFd>) -> nix::Result<()> {
    let descriptors = descriptor.as_ref().map(|fd| [fd.as_fd().as_raw_fd()]);
    let rights = descriptors.as_ref().map(|fds| [ControlMessage::ScmRights(fds)]);
    let rights = rights.as_ref().map_or(&[][..], |rights| rights);
    sendmsg::<()>(over.as_fd().as_raw_fd(), message, rights, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}

/// Receives a message and its descriptor, which is lost where this process has no room for it. Says how long the
/// message is; nothing is the end.
///
/// # Errors
/// Those of recvmsg(2).
#[allow(unsafe_code)]
pub fn receive(
    over: impl AsFd,
    message: &mut [IoSliceMut<'_>],
    flags: MsgFlags,
) -> nix::Result<(usize, Option<OwnedFd>)> {
    let mut rights = nix::cmsg_space!([RawFd; 1]);
    let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(over.as_fd().as_raw_fd(), message, Some(&mut rights), flags)?;
    let descriptor = received.cmsgs().ok().and_then(|mut messages| {
        messages.find_map(|message| {
            // SAFETY: the kernel has just made the descriptor for this message.
            unsafe { descriptor_in(message) }
        })
    });
    Ok((received.bytes, descriptor))
}

/// # Safety
/// The descriptor in it has to be nobody else's.
#[allow(unsafe_code)]
unsafe fn descriptor_in(message: ControlMessageOwned) -> Option<OwnedFd> {
    let ControlMessageOwned::ScmRights(descriptors) = message else { return None };
    // SAFETY: as of the caller.
    descriptors.first().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) })
}
