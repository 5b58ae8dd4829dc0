//! Session tokens: what identifies a session on the wire.
//!
//! Knows: a token consists of a shard (16 bits), a slot (32 bits) and a secret (144 bits), written
//! as 32 base64url characters after an optional instance prefix; secrets are compared in constant
//! time.
//! Does not know: sessions. A session is found by indexing with the slot. Nothing is hashed, so no
//! client can cause hash collisions.

use core::fmt;
use core::hint::black_box;

use crate::entropy::{Entropy, EntropyUnavailable};
use crate::error_text::error_text;
use crate::instance_id::InstanceId;

/// The number of a shard: one [`Server`](crate::Server) of several that serve one address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

const SECRET_LEN: usize = 18;
const TOKEN_LEN: usize = 24;

/// A secret of 144 bits that only the session's client knows. It is never printed.
#[derive(Clone)]
pub(crate) struct Secret([u8; SECRET_LEN]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// A value that no session has. It is compared if there is no session, so that an unknown
    /// session takes as long as a wrong secret.
    pub(crate) const DECOY: Self = Self([0; SECRET_LEN]);

    pub(crate) fn draw(
        entropy: &mut (dyn Entropy + Send + 'static),
    ) -> Result<Self, EntropyUnavailable> {
        let mut secret = [0; SECRET_LEN];
        entropy.fill(&mut secret)?;
        if secret == Self::DECOY.0 {
            // A source that returns only zeros does not work, and zeros are the decoy.
            return Err(EntropyUnavailable);
        }
        Ok(Self(secret))
    }

    /// Whether the secrets are equal, compared in constant time.
    pub(crate) fn matches(&self, other: &Self) -> bool {
        let difference = self.0.iter().zip(&other.0).fold(0, |sum, (a, b)| {
            #[cfg(test)]
            crate::testing::step();
            sum | (a ^ b)
        });
        black_box(difference) == 0
    }
}

/// Why a text is not a session token of this server. The post is answered like one to an unknown
/// session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// The text is not 32 base64url characters, or what is before them is not an instance id and a
    /// dot.
    Malformed,
    /// The token has the prefix of this other instance, or with `None` it has no prefix although one
    /// is configured.
    OtherInstance(Option<InstanceId>),
}

error_text!(TokenError, |error| match error {
    TokenError::Malformed => "not a session token",
    TokenError::OtherInstance(_) => "a session token of another instance",
});

/// A session token: 24 bytes, written as 32 base64url characters. It identifies a session on the
/// wire and proves that a client may post to it.
///
/// `Debug` prints the shard and the slot but not the secret.
///
/// ```
/// use mcp_sse_core::{SessionToken, ShardId};
///
/// let text = b"AAEAAAACAAAAAAAAAAAAAAAAAAAAAAAA";
/// let token = SessionToken::parse(text)?;
/// assert_eq!(token.shard(), ShardId(1));
/// assert_eq!(&token.encode(), text);
/// assert_eq!(format!("{token:?}"), "SessionToken(1:2, ..)");
/// # Ok::<(), mcp_sse_core::TokenError>(())
/// ```
#[derive(Clone)]
pub struct SessionToken {
    shard: ShardId,
    slot: u32,
    secret: Secret,
}

impl SessionToken {
    /// The length of a token as text in bytes, without an instance prefix.
    pub const TEXT_LEN: usize = 32;

    pub(crate) const fn new(shard: ShardId, slot: u32, secret: Secret) -> Self {
        Self { shard, slot, secret }
    }

    /// A token that no session has. It is looked up if a text is not a token.
    pub(crate) const UNUSED: Self = Self::new(ShardId(0), u32::MAX, Secret::DECOY);

    /// Parses a token without an instance prefix.
    ///
    /// # Errors
    ///
    /// [`TokenError::Malformed`] if `text` is not 32 base64url characters.
    pub fn parse(text: &[u8]) -> Result<Self, TokenError> {
        let text: &[u8; Self::TEXT_LEN] = text.try_into().map_err(|_| TokenError::Malformed)?;
        let mut bytes = [0; TOKEN_LEN];
        for (triple, quad) in bytes.chunks_exact_mut(3).zip(text.chunks_exact(4)) {
            let mut bits = 0;
            for &character in quad {
                bits = bits << 6 | sextet(character).ok_or(TokenError::Malformed)?;
            }
            triple.copy_from_slice(bits.to_be_bytes().get(1..).unwrap_or_default());
        }
        let [s0, s1, i0, i1, i2, i3, secret @ ..] = bytes;
        Ok(Self {
            shard: ShardId(u16::from_be_bytes([s0, s1])),
            slot: u32::from_be_bytes([i0, i1, i2, i3]),
            secret: Secret(secret),
        })
    }

    /// Parses a token after the prefix `<instance>.`, or without a prefix if `instance` is `None`.
    ///
    /// # Errors
    ///
    /// [`TokenError::OtherInstance`] if the token has the prefix of another instance, or none
    /// although `instance` is `Some`; [`TokenError::Malformed`] if the text contains no token, or
    /// has a prefix that is not an instance id.
    ///
    /// ```
    /// use mcp_sse_core::{InstanceId, SessionToken, TokenError};
    ///
    /// let (east, west) = (InstanceId::parse(b"east-1"), InstanceId::parse(b"west-1"));
    /// let text = b"east-1.AAEAAAACAAAAAAAAAAAAAAAAAAAAAAAA";
    /// assert!(SessionToken::parse_for(text, east).is_ok());
    /// let error = SessionToken::parse_for(text, west).unwrap_err();
    /// assert_eq!(error, TokenError::OtherInstance(east));
    /// ```
    pub fn parse_for(text: &[u8], instance: Option<InstanceId>) -> Result<Self, TokenError> {
        let (named, bare) = match text.iter().position(|&octet| octet == b'.') {
            Some(dot) => {
                let (prefix, rest) = text.split_at(dot);
                let named = InstanceId::parse(prefix).ok_or(TokenError::Malformed)?;
                (Some(named), rest.get(1..).unwrap_or_default())
            }
            None => (None, text),
        };
        let token = Self::parse(bare)?;
        if named == instance { Ok(token) } else { Err(TokenError::OtherInstance(named)) }
    }

    /// The shard that owns the session.
    #[must_use]
    pub const fn shard(&self) -> ShardId {
        self.shard
    }

    pub(crate) const fn slot(&self) -> u32 {
        self.slot
    }

    pub(crate) const fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The token as text, without an instance prefix. The text contains the secret: give it only to
    /// the session's client.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::TEXT_LEN] {
        let mut bytes = [0; TOKEN_LEN];
        let parts = self.shard.0.to_be_bytes().into_iter().chain(self.slot.to_be_bytes());
        for (to, from) in bytes.iter_mut().zip(parts.chain(self.secret.0)) {
            *to = from;
        }
        let mut text = [0; Self::TEXT_LEN];
        for (quad, triple) in text.chunks_exact_mut(4).zip(bytes.chunks_exact(3)) {
            let bits = triple.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte));
            for (at, character) in quad.iter_mut().enumerate() {
                let sextet = bits >> (18 - 6 * at) & 63;
                *character = ALPHABET.get(sextet as usize).copied().unwrap_or_default();
            }
        }
        text
    }
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionToken({}:{}, ..)", self.shard, self.slot)
    }
}

/// The base64url alphabet (RFC 4648 §5).
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

const fn sextet(character: u8) -> Option<u32> {
    Some(match character {
        b'A'..=b'Z' => character - b'A',
        b'a'..=b'z' => character - b'a' + 26,
        b'0'..=b'9' => character - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    } as u32)
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::ToString;

    use super::*;
    use crate::testing::Random;

    fn token(seed: u64) -> SessionToken {
        let mut random = Random::seeded(seed);
        let secret = Secret::draw(&mut random).unwrap();
        SessionToken::new(ShardId(random.next() as u16), random.next() as u32, secret)
    }

    #[track_caller]
    fn check(text: &[u8], instance: Option<&str>, expected: Result<(u16, u32), TokenError>) {
        let read =
            SessionToken::parse_for(text, instance.and_then(|id| InstanceId::parse(id.as_bytes())));
        assert_eq!(read.map(|t| (t.shard.0, t.slot)), expected);
    }

    #[test]
    fn encoded_token_is_parsed_to_the_same_token() {
        for seed in 0..500 {
            let token = token(seed);
            let read = SessionToken::parse(&token.encode()).unwrap();
            assert_eq!((read.shard, read.slot), (token.shard, token.slot));
            assert!(read.secret.matches(&token.secret));
        }
    }

    #[test]
    fn token_is_parsed_only_with_the_expected_prefix() {
        let good = b"AAEAAAACAAAAAAAAAAAAAAAAAAAAAAAA";
        let other = |name: &str| Err(TokenError::OtherInstance(InstanceId::parse(name.as_bytes())));
        check(good, None, Ok((1, 2)));
        check(b"a1.AAEAAAACAAAAAAAAAAAAAAAAAAAAAAAA", Some("a1"), Ok((1, 2)));
        check(b"a1.AAEAAAACAAAAAAAAAAAAAAAAAAAAAAAA", Some("a2"), other("a1"));
        check(b"a1.AAEAAAACAAAAAAAAAAAAAAAAAAAAAAAA", Some("a"), other("a1"));
        check(b"a.AAEAAAACAAAAAAAAAAAAAAAAAAAAAAAA", Some("a1"), other("a"));
        check(b"a1.AAEAAAACAAAAAAAAAAAAAAAAAAAAAAAA", None, other("a1"));
        check(good, Some("a1"), Err(TokenError::OtherInstance(None)));
        for prefix in ["", "A1", "a_1", "a1.a1", "abcdefghijklmnopq"] {
            let text = format!("{prefix}.AAEAAAACAAAAAAAAAAAAAAAAAAAAAAAA");
            check(text.as_bytes(), None, Err(TokenError::Malformed));
            check(text.as_bytes(), Some("a1"), Err(TokenError::Malformed));
        }
        check(b"", None, Err(TokenError::Malformed));
        check(b"AAEAAAACAAAAAAAAAAAAAAAAAAAAAAA", None, Err(TokenError::Malformed));
        check(b"AAEAAAACAAAAAAAAAAAAAAAAAAAAAAAAA", None, Err(TokenError::Malformed));
        check(b"AAEAAAACAAAAAAAAAAAAAAAAAAAAAAA=", None, Err(TokenError::Malformed));
        check(b"AAEAAAACAAAAAAAAAAAA+AAAAAAAAAAA", None, Err(TokenError::Malformed));
        check(b"AAEAAAACAAAAAAAAAAAA/AAAAAAAAAAA", None, Err(TokenError::Malformed));
        check(b"a1.short", Some("a1"), Err(TokenError::Malformed));
    }

    #[test]
    fn secret_with_one_wrong_bit_does_not_match() {
        let token = token(3);
        for bit in 0..SECRET_LEN * 8 {
            let mut other = token.secret.clone();
            other.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!token.secret.matches(&other), "bit {bit}");
            // Two wrong bits in the same position must not cancel out.
            other.0[(bit / 8 + 1) % SECRET_LEN] ^= 1 << (bit % 8);
            assert!(!token.secret.matches(&other), "bit {bit} of two octets");
        }
    }

    #[test]
    fn debug_omits_the_secret() {
        let token = token(4);
        let text = alloc::string::String::from_utf8(token.encode().to_vec()).unwrap();
        assert!(!format!("{token:?}").contains(&text[8..12]));
        assert_eq!(format!("{:?}", token.secret), "Secret(..)");
    }

    #[test]
    fn debug_shows_shard_and_slot() {
        let token = SessionToken::parse(b"AAEAAAACAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
        assert_eq!(format!("{token:?} {}", token.shard()), "SessionToken(1:2, ..) 1");
        assert_eq!(token.slot(), 2);
        assert_eq!(TokenError::Malformed.to_string(), "not a session token");
        let other = TokenError::OtherInstance(None).to_string();
        assert_eq!(other, "a session token of another instance");
    }

    #[test]
    fn secret_of_zeros_is_refused() {
        struct Zeros;
        impl Entropy for Zeros {
            fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
                dest.fill(0);
                Ok(())
            }
        }
        assert!(Secret::draw(&mut Zeros).is_err());
    }
}
