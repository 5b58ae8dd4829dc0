//! How types of this crate appear as values of log records.
//!
//! Knows: these types and `log`'s `ToValue`. Does not know: which records there are (see `guide::logs` of the
//! adapters), or how a logger writes them.
//!
//! Decision: records are made with the macros of `log`, and each event always has the same keys. A key
//! without a value in one record (a request without a principal) has the value null, which the logger of the
//! command leaves out. A list of keys whose length differs was considered; it would need a macro of this
//! project, which neither editors nor readers know.

use log::kv::{ToValue, Value};

use crate::event::{ConnId, SessionId};
use crate::http1::Method;
use crate::line_throttle::SuppressedLines;
use crate::peer::Peer;
use crate::principal::Principal;
use crate::token::ShardId;
use crate::trace_context::TraceParent;

macro_rules! displayed {
    ($($name:ident)+) => {$(
        impl ToValue for $name {
            fn to_value(&self) -> Value<'_> {
                Value::from_display(self)
            }
        }
    )+};
}

displayed! { ConnId SessionId Peer TraceParent }

impl ToValue for Principal {
    fn to_value(&self) -> Value<'_> {
        self.name().to_value()
    }
}

impl ToValue for Method {
    fn to_value(&self) -> Value<'_> {
        self.as_str().into()
    }
}

impl ToValue for ShardId {
    fn to_value(&self) -> Value<'_> {
        self.0.to_value()
    }
}

impl ToValue for SuppressedLines {
    /// The number of lines that were left out, or null if there were none.
    fn to_value(&self) -> Value<'_> {
        if self.0 == 0 { Value::null() } else { self.0.to_value() }
    }
}
