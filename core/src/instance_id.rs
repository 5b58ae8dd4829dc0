//! Instance ids. An instance id names one of several processes that serve the same URL.
//!
//! Knows: which texts are instance ids. Does not know: session tokens, which may begin with an
//! instance id (see `token`), or how a load balancer uses the id.
//!
//! Decision: an id is a value of 17 bytes instead of a `String`. So the id that a misrouted post
//! names can be kept for the log without an allocation.

use core::fmt;

/// The name of one process of several that serve the same URL: 1 to 16 characters of `a-z0-9-`.
///
/// ```
/// use mcp_sse_core::InstanceId;
///
/// assert_eq!(InstanceId::parse(b"eu-1").unwrap().as_str(), "eu-1");
/// assert_eq!(InstanceId::parse(b"EU 1"), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct InstanceId {
    len: u8,
    text: [u8; Self::LEN_MAX],
}

impl InstanceId {
    /// The largest number of characters.
    pub const LEN_MAX: usize = 16;

    /// Parses an instance id. Returns `None` if `text` does not consist of 1 to 16 characters of
    /// `a-z0-9-`.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let is_valid = |octet: &u8| matches!(octet, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let mut id = Self { len: u8::try_from(text.len()).ok()?, text: [0; Self::LEN_MAX] };
        id.text.get_mut(..text.len())?.copy_from_slice(text);
        (!text.is_empty() && text.iter().all(is_valid)).then_some(id)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let text = self.text.get(..usize::from(self.len)).unwrap_or_default();
        core::str::from_utf8(text).unwrap_or_default()
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstanceId({})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    #[test]
    fn id_is_1_to_16_characters_of_lower_case_letters_digits_and_hyphens() {
        for text in ["a", "a1", "eu-west-1", "0", "-", "abcdefghijklmnop"] {
            let id = InstanceId::parse(text.as_bytes()).expect(text);
            assert_eq!(
                (id.as_str(), format!("{id} {id:?}")),
                (text, format!("{text} InstanceId({text})"))
            );
        }
        for text in ["", "A1", "a_1", "a.b", "a 1", "é", "a\n", "abcdefghijklmnopq"] {
            assert_eq!(InstanceId::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(InstanceId::parse(&[b'a'; 256]), None);
        assert_eq!(InstanceId::parse(&[b'a'; 257]), None);
    }

    #[test]
    fn ids_are_equal_if_their_texts_are() {
        let id = |text: &str| InstanceId::parse(text.as_bytes());
        assert_eq!(id("a1"), id("a1"));
        assert_ne!(id("a"), id("a1"));
        assert_ne!(id("a1"), id("a2"));
    }
}
