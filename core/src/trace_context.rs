//! The position of a request in a distributed trace, as its client states it (W3C Trace Context).
//!
//! Knows: the value of the field `traceparent`. Does not know: `tracestate`, `baggage`, or how traces are
//! recorded.
//!
//! Decision: an invalid value is ignored, and so are all values if a request has several, as the W3C
//! requires. A request is never refused because of its trace. A valid value is passed on unchanged: an
//! application that records a span chooses the id of that span. `tracestate` is not kept with a message,
//! because its length is the client's choice and each message would need memory for it; the `tracestate`
//! of a session's GET is among the fields of its head.

use core::fmt;

/// A parsed `traceparent`: the trace that a request belongs to, and the client's position in it.
///
/// [`Message::traceparent`](crate::jsonrpc::Message::traceparent) is that of a post, and
/// [`RequestHead::traceparent`](crate::RequestHead::traceparent) that of a GET. It is 25 bytes and `Copy`, and
/// prints as the field's value in version `00`.
///
/// ```
/// use mcp_sse_core::TraceParent;
///
/// let value = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let parent = TraceParent::parse(value.as_bytes()).expect("a valid value");
/// assert_eq!(parent.trace_id()[..2], [0x4b, 0xf9]);
/// assert_eq!(parent.parent_id()[..2], [0x00, 0xf0]);
/// assert!(parent.is_sampled());
/// assert_eq!(parent.to_string(), value);
/// assert_eq!(TraceParent::parse(b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace_id: [u8; 16],
    parent_id: [u8; 8],
    flags: u8,
}

/// The flag of [`TraceParent::is_sampled`], the only one that every version has.
const SAMPLED: u8 = 1;

impl TraceParent {
    /// Parses the value of a `traceparent` field, without white space around it.
    ///
    /// Returns `None` for what the W3C calls invalid: another form than `00-`, 32 hexadecimal digits, `-`, 16
    /// digits, `-` and 2 digits, all in lower case; a trace id or parent id of zeros alone; version `ff`. A later
    /// version may have more behind a further `-`; of its flags only the sampled flag is kept.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let ([version], rest) = hex(value)?;
        let (trace_id, rest) = hex(rest.strip_prefix(b"-")?)?;
        let (parent_id, rest) = hex(rest.strip_prefix(b"-")?)?;
        let ([flags], rest) = hex(rest.strip_prefix(b"-")?)?;
        let flags = match (version, rest) {
            (0, []) => flags,
            (1..=0xfe, [] | [b'-', ..]) => flags & SAMPLED,
            _ => return None,
        };
        let valid = trace_id != [0; 16] && parent_id != [0; 8];
        valid.then_some(Self { trace_id, parent_id, flags })
    }

    /// Parses the values of all `traceparent` fields of a request. There must be exactly one.
    pub(crate) fn of_fields<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let value = values.next()?;
        if values.next().is_some() { None } else { Self::parse(value) }
    }

    /// The id of the whole trace; not all zeros.
    #[must_use]
    pub const fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// The id of the client's span, which is the parent of a span of the server; not all zeros.
    #[must_use]
    pub const fn parent_id(&self) -> [u8; 8] {
        self.parent_id
    }

    /// The flags, as one octet.
    #[must_use]
    pub const fn flags(&self) -> u8 {
        self.flags
    }

    /// Whether the client may have recorded its part of the trace.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// The name of the field.
pub(crate) const FIELD: &str = "traceparent";

/// Takes `N` octets in lower-case hexadecimal digits off the front of `text`.
fn hex<const N: usize>(text: &[u8]) -> Option<([u8; N], &[u8])> {
    let (digits, rest) = text.split_at_checked(2 * N)?;
    let mut octets = [0; N];
    for (octet, pair) in octets.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *octet = digit(*high)? << 4 | digit(*low)?;
    }
    Some((octets, rest))
}

const fn digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        self.trace_id.iter().try_for_each(|octet| write!(f, "{octet:02x}"))?;
        f.write_str("-")?;
        self.parent_id.iter().try_for_each(|octet| write!(f, "{octet:02x}"))?;
        write!(f, "-{:02x}", self.flags)
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceParent({self})")
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;
    use crate::testing::Random;

    const IDS: &str = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";

    #[track_caller]
    fn check(value: &str, expected: Option<&str>) {
        let parsed = TraceParent::parse(value.as_bytes()).map(|parent| parent.to_string());
        assert_eq!(parsed.as_deref(), expected, "{value}");
    }

    #[test]
    fn values_of_version_00() {
        for flags in ["00", "01", "02", "03", "ff"] {
            let value = alloc::format!("00-{IDS}-{flags}");
            check(&value, Some(&value));
        }
        for value in [
            "",
            "00",
            "00-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01,",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0A",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-g1",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00F067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47366-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            check(value, None);
        }
    }

    #[test]
    fn later_version_is_read_as_far_as_it_is_known() {
        let sampled = alloc::format!("00-{IDS}-01");
        for version in ["01", "cc", "fe"] {
            for (tail, expected) in [
                ("-01", Some("01")),
                ("-01-what the future will be like", Some("01")),
                ("-01-", Some("01")),
                ("-ff", Some("01")),
                ("-fe", Some("00")),
                ("-01.what", None),
                ("-0", None),
                ("", None),
            ] {
                let value = alloc::format!("{version}-{IDS}{tail}");
                let expected = expected.map(|flags| alloc::format!("00-{IDS}-{flags}"));
                check(&value, expected.as_deref());
            }
        }
        check(&sampled.replacen("00", "ff", 1), None);
        check(&(sampled.replacen("00", "ff", 1) + "-x"), None);
    }

    #[test]
    fn repeated_field_is_ignored() {
        let value = alloc::format!("00-{IDS}-01");
        let of = |count| TraceParent::of_fields([value.as_bytes(); 2].into_iter().take(count));
        assert_eq!([0, 1, 2].map(|count| of(count).is_some()), [false, true, false]);
    }

    #[test]
    fn mutated_value_is_refused_or_prints_as_itself() {
        let mut random = Random::seeded(3);
        for _ in 0..20_000 {
            let value = alloc::format!("00-{IDS}-01");
            let value = random.mutate(value.as_bytes(), b"0123456789abcdefABCDEFg-");
            if let Some(parent) = TraceParent::parse(&value)
                && value.starts_with(b"00")
            {
                assert_eq!(parent.to_string().as_bytes(), value);
            }
        }
    }
}
