//! The session that a post names, and the instance or shard that has it.
//!
//! Knows: the parts that identify a session. Does not know: which sessions exist, or how the parts
//! are compared (see `session`).

use core::fmt;

use crate::instance_id::InstanceId;
use crate::principal::Principal;
use crate::route::Service;
use crate::token::{SessionToken, ShardId};

/// The session that a post is for, as the post names it: a token, the service of its path, and its
/// principal. The session may belong to another shard or may not exist.
#[derive(Clone, Debug)]
pub(crate) struct SessionRef {
    pub(crate) token: SessionToken,
    pub(crate) service: Service,
    pub(crate) principal: Option<Principal>,
}

/// What the token of a misrouted post names instead of this instance and shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misrouting {
    /// Another process, or none although this one has an instance id.
    Instance(Option<InstanceId>),
    /// A shard to which nothing forwards.
    Shard(ShardId),
}

/// A misrouting and the names of who received the post, for the log.
#[derive(Debug)]
pub(crate) struct ExplainedMisrouting {
    pub(crate) misrouting: Misrouting,
    pub(crate) own_instance: Option<InstanceId>,
    pub(crate) own_shard: ShardId,
}

impl fmt::Display for ExplainedMisrouting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.misrouting {
            Misrouting::Shard(named) => {
                let own = self.own_shard;
                return write!(f, "the session is of shard {named}, and this is shard {own}");
            }
            Misrouting::Instance(Some(named)) => {
                write!(f, "the session is of instance {named}")?;
            }
            Misrouting::Instance(None) => f.write_str("the session id names no instance")?,
        }
        match self.own_instance {
            Some(own) => write!(f, ", and this is instance {own}"),
            None => f.write_str(", and this server has no instance id"),
        }
    }
}
