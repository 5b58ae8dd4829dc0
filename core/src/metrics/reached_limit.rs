//! Which limit was reached when something was refused.
//!
//! Knows: the limit that stands behind each fault, and the limits that share a fault with others.
//! Does not know: when a limit is reached.

use crate::error::Fault;

macro_rules! reached_limits {
    ($( $name:ident = $limit:literal; )+) => {
        /// A limit whose fault does not tell which limit it was. It is counted besides the fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum ReachedLimit {
            $( $name, )+
        }

        impl ReachedLimit {
            pub(super) const ALL: &'static [Self] = &[ $( Self::$name, )+ ];

            /// The name of the field of [`Limits`](crate::Limits).
            pub(super) const fn name(self) -> &'static str {
                match self { $( Self::$name => $limit, )+ }
            }
        }
    };
}

reached_limits! {
    // `Fault::RateLimited`
    SessionRate = "posts_rate_per_session";
    PrincipalRate = "posts_rate_per_principal";
    // `Fault::Busy`
    InboundMessages = "inbound_messages_max";
    InboundBytes = "inbound_bytes_max";
    InFlight = "in_flight_max";
    Forwarded = "forwarded_max";
    // `Fault::Busy` for a forwarded post. For others it is `Fault::BodiesFull`.
    ForwardedBodies = "bodies_bytes_max";
    // `Fault::Stalled` of a peer whose queue was ended for others. A stream that finds no room is
    // `Fault::QueuesFull`.
    Queues = "queues_bytes_max";
    // `Fault::NotJson`
    Nesting = "nesting_max";
}

/// The only limit that can be the reason for a fault; `None` if there is none, or several.
pub(super) const fn limit_of(fault: Fault) -> Option<&'static str> {
    Some(match fault {
        Fault::ChunkExtensionsTooLarge => "extension_bytes_max",
        Fault::TrailersTooLarge => "trailer_bytes_max",
        Fault::HeadTooLarge => "head_bytes_max",
        Fault::TooManyFields => "fields_max",
        Fault::TargetTooLong => "target_bytes_max",
        Fault::BodyTooLarge => "body_bytes_max",
        Fault::StreamInput => "stream_input_bytes_max",
        Fault::SessionRateLimited => "sessions_rate_per_address",
        Fault::ConnectionsFull => "connections_max",
        Fault::ConnectionsPerAddressFull => "connections_per_address_max",
        Fault::StreamsFull => "connections_reserve",
        Fault::SessionsFull => "sessions_max",
        Fault::SessionsPerAddressFull => "sessions_per_address_max",
        Fault::SessionsPerPrincipalFull => "sessions_per_principal_max",
        Fault::BodiesFull => "bodies_bytes_max",
        Fault::BodiesPerAddressFull => "bodies_bytes_per_address_max",
        Fault::QueuesFull => "queues_bytes_max",
        Fault::EventsFull => "events_max",
        // Several limits, which `ReachedLimit` tells apart.
        Fault::Busy | Fault::RateLimited | Fault::NotJson => return None,
        // No request is refused: one connection is closed for another.
        Fault::ConnectionEvicted => return None,
        Fault::BadLineEnd
        | Fault::TooManyEmptyLines
        | Fault::MalformedRequestLine
        | Fault::MalformedTarget
        | Fault::MalformedField
        | Fault::UnsupportedVersion
        | Fault::UnknownMethod
        | Fault::SchemeMismatch
        | Fault::MissingHost
        | Fault::DuplicateHost
        | Fault::InvalidHost
        | Fault::InvalidContentLength
        | Fault::ConflictingFraming
        | Fault::InvalidTransferEncoding
        | Fault::UnsupportedTransferCoding
        | Fault::MalformedChunk
        | Fault::UnsupportedExpectation
        | Fault::HostNotAllowed
        | Fault::OriginNotAllowed
        | Fault::HttpsRequired
        | Fault::MalformedForwarded
        | Fault::DuplicateCredentials
        | Fault::Unauthorized
        | Fault::Forbidden
        | Fault::NotFound
        | Fault::MethodNotAllowed
        | Fault::NotAcceptable
        | Fault::UnsupportedMediaType
        | Fault::UnsupportedContentEncoding
        | Fault::LengthRequired
        | Fault::MissingSessionId
        | Fault::UnknownSession
        | Fault::Misrouted
        | Fault::NotJsonRpc
        | Fault::HeadTimeout
        | Fault::BodyTimeout
        | Fault::DecisionTimeout
        | Fault::Undecided
        | Fault::ConnectionIdle
        | Fault::Stalled
        | Fault::Truncated
        | Fault::EntropyUnavailable
        | Fault::ShuttingDown => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of a fault names the limit, and so does the counter.
    #[test]
    fn limit_of_a_fault_is_the_one_that_its_text_names() {
        for &fault in Fault::ALL {
            let named =
                fault.text().split_once("(limit ").map(|(_, rest)| rest.trim_end_matches(')'));
            if let (Some(named), true) = (named, fault != Fault::ConnectionEvicted) {
                assert_eq!(limit_of(fault), Some(named), "{fault:?}");
            }
        }
    }
}
