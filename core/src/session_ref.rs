//! What a post says of the session that it is for.
//!
//! Knows: the parts that are compared. Does not know: the sessions, or how they are compared (see
//! `session`).

use crate::principal::Principal;
use crate::route::Service;
use crate::token::SessionToken;

/// A session as a post names it: by its token, at a service, on behalf of a principal. The session may
/// be another shard's.
#[derive(Clone, Debug)]
pub(crate) struct SessionRef {
    pub(crate) token: SessionToken,
    pub(crate) service: Service,
    pub(crate) principal: Option<Principal>,
}
