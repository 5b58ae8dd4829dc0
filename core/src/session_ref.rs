//! The session that a post names.
//!
//! Knows: the parts that identify a session. Does not know: which sessions exist, or how the parts
//! are compared (see `session`).

use crate::principal::Principal;
use crate::route::Service;
use crate::token::SessionToken;

/// The session that a post is for, as the post names it: a token, the service of its path, and its
/// principal. The session may belong to another shard or may not exist.
#[derive(Clone, Debug)]
pub(crate) struct SessionRef {
    pub(crate) token: SessionToken,
    pub(crate) service: Service,
    pub(crate) principal: Option<Principal>,
}
