//! The checks in front of every route: pure functions of a request head and a door.
//!
//! Knows: which hosts, origins and media types may pass. Does not know: state, I/O, or what happens
//! to those who may not.

pub(crate) mod authority;
pub(crate) mod host;
pub(crate) mod media;
pub(crate) mod origin;
