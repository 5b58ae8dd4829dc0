//! Bearer credentials (RFC 6750), and tokens that are part of the configuration.
//!
//! Knows: the `Authorization` field, the grammar of tokens, and a comparison whose duration does not
//! depend on the secret. Does not know: how a refusal is answered.
//!
//! Decision: tokens are padded to one length, and not hashed. The presented token is compared with
//! every token to its end, so the time depends on the number of tokens and on the longest one. A
//! digest costs more than a thousand such comparisons, and would hide nothing else.
//!
//! Decision: credentials of another scheme count as no credentials, and are answered with a plain
//! challenge. Two `Authorization` fields are 400 `invalid_request` (RFC 6750 §3.1).

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::hint::black_box;

use crate::error::Fault;
use crate::principal::Principal;

/// A set of bearer tokens, each of which belongs to a principal. Use it with
/// [`Authorization::Static`](crate::Authorization::Static).
///
/// A clone shares the tokens. `Debug` prints their number only.
///
///
/// ```
/// # use mcp_sse_core::{Authorization, Config, StaticTokens};
/// let tokens = StaticTokens::builder()
///     .token("alice", "s3cr3t-for-alice")
///     .token("bob", "s3cr3t-for-bob")
///     .build()?;
/// let config = Config::builder().authorization(Authorization::Static(tokens)).build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct StaticTokens(Arc<Table>);

/// All tokens in one allocation, each padded with zeros to the length of the longest. No token
/// contains a zero, so two tokens are equal exactly if their padded forms are.
struct Table {
    padded: Box<[u8]>,
    width: usize,
    principals: Box<[Principal]>,
}

impl StaticTokens {
    /// The largest number of tokens. Every request is compared with all of them.
    pub const TOKENS_MAX: usize = 1_024;
    /// The largest length of a token in bytes.
    pub const TOKEN_BYTES_MAX: usize = 512;

    /// Makes an empty builder.
    pub fn builder() -> StaticTokensBuilder {
        StaticTokensBuilder { tokens: Vec::new(), error: None }
    }

    /// The number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.principals.len()
    }

    /// Always false: [`build`](StaticTokensBuilder::build) refuses an empty set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.principals.is_empty()
    }

    /// The position of the presented token, and the principal to whom it belongs.
    ///
    /// The presented token is compared with every token in full length, whatever earlier
    /// comparisons gave, so the duration depends on the configuration only. This holds for a
    /// presented token of any length. Hashing the tokens first was considered: a hash costs more
    /// than a thousand comparisons and hides nothing that padding does not.
    pub(crate) fn find(&self, presented: &[u8]) -> Option<(usize, &Principal)> {
        let Table { padded, width, principals } = &*self.0;
        let mut room = [0; Self::TOKEN_BYTES_MAX];
        let candidate = room.get_mut(..*width).unwrap_or_default();
        for (to, from) in candidate.iter_mut().zip(presented) {
            *to = *from;
        }
        // These two properties would be lost by padding.
        let no_token = usize::from(presented.len() > *width || presented.contains(&0));
        let mut found = 0;
        for (at, token) in padded.chunks_exact(*width).enumerate() {
            let differs = token.iter().zip(&*candidate).fold(0, |sum, (a, b)| {
                #[cfg(test)]
                crate::testing::step();
                sum | (a ^ b)
            });
            let differs = usize::from(black_box(differs)) | no_token;
            // A mask of all ones if nothing differs.
            found |= usize::from(differs == 0).wrapping_neg() & (at + 1);
        }
        let position = black_box(found).checked_sub(1)?;
        Some((position, principals.get(position)?))
    }

    /// For each token, the position of the same token of the same principal in `other`.
    ///
    /// This comparison is between tokens of the operator, and its duration is no secret.
    pub(crate) fn positions_in(&self, other: &Self) -> Vec<Option<usize>> {
        let known: BTreeMap<(&[u8], &str), usize> =
            other.entries().enumerate().map(|(position, entry)| (entry, position)).collect();
        self.entries().map(|entry| known.get(&entry).copied()).collect()
    }

    /// Each token without its padding, with the name of its principal.
    fn entries(&self) -> impl Iterator<Item = (&[u8], &str)> {
        let tokens = self.0.padded.chunks_exact(self.0.width).map(|padded| {
            let end = padded.iter().position(|&octet| octet == 0).unwrap_or(padded.len());
            padded.get(..end).unwrap_or_default()
        });
        tokens.zip(self.0.principals.iter().map(Principal::name))
    }
}

impl fmt::Debug for StaticTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticTokens({} tokens)", self.len())
    }
}

/// A builder of [`StaticTokens`]. The first invalid token is reported by [`build`](Self::build).
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct StaticTokensBuilder {
    tokens: Vec<(Principal, String)>,
    error: Option<StaticTokensError>,
}

impl fmt::Debug for StaticTokensBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticTokensBuilder({} tokens)", self.tokens.len())
    }
}

impl StaticTokensBuilder {
    /// Adds a token of the named principal. A principal may have several tokens, for example an old
    /// and a new one while clients change over.
    ///
    /// `token` must have the form of RFC 6750 §2.1: letters, digits and `-._~+/`, then any number
    /// of `=`.
    pub fn token(mut self, principal: &str, token: &str) -> Self {
        if let Err(error) = self.validate(principal, token) {
            self.error.get_or_insert(error);
        } else {
            self.tokens.push((Principal::new(principal), token.into()));
        }
        self
    }

    fn validate(&self, principal: &str, token: &str) -> Result<(), StaticTokensError> {
        let name = || String::from(principal);
        if principal.is_empty() {
            Err(StaticTokensError::NoPrincipal)
        } else if token.is_empty() {
            Err(StaticTokensError::Empty { principal: name() })
        } else if !is_token68(token.as_bytes()) {
            Err(StaticTokensError::Invalid { principal: name() })
        } else if token.len() > StaticTokens::TOKEN_BYTES_MAX {
            Err(StaticTokensError::TooLong { principal: name() })
        } else if self.tokens.len() == StaticTokens::TOKENS_MAX {
            Err(StaticTokensError::TooMany)
        } else if let Some((first, _)) = self.tokens.iter().find(|(_, known)| known == token) {
            Err(StaticTokensError::Duplicate { first: first.name().into(), second: name() })
        } else {
            Ok(())
        }
    }

    /// Makes the set of tokens.
    ///
    /// # Errors
    ///
    /// [`StaticTokensError`] for the first invalid token, naming its principal, or if there is no
    /// token.
    ///
    /// ```
    /// # use mcp_sse_core::{StaticTokens, StaticTokensError};
    /// let error = StaticTokens::builder().token("alice", "").build().unwrap_err();
    /// assert_eq!(error, StaticTokensError::Empty { principal: "alice".into() });
    /// ```
    pub fn build(self) -> Result<StaticTokens, StaticTokensError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let width = self.tokens.iter().map(|(_, token)| token.len()).max();
        let width = width.ok_or(StaticTokensError::None)?;
        let mut padded = alloc::vec![0; width * self.tokens.len()];
        for (place, (_, token)) in padded.chunks_exact_mut(width).zip(&self.tokens) {
            for (to, from) in place.iter_mut().zip(token.bytes()) {
                *to = from;
            }
        }
        let principals = self.tokens.into_iter().map(|(principal, _)| principal).collect();
        Ok(StaticTokens(Arc::new(Table { padded: padded.into_boxed_slice(), width, principals })))
    }
}

/// Why a set of tokens cannot be used. It names the principal and never contains a token.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StaticTokensError {
    /// There are no tokens, so every request would be refused.
    None,
    /// The name of a principal is empty.
    NoPrincipal,
    /// A token is empty.
    Empty {
        /// The principal of the token.
        principal: String,
    },
    /// A token contains a character that RFC 6750 §2.1 does not allow. Letters, digits and `-._~+/`
    /// are allowed, then any number of `=`.
    Invalid {
        /// The principal of the token.
        principal: String,
    },
    /// A token is longer than [`StaticTokens::TOKEN_BYTES_MAX`].
    TooLong {
        /// The principal of the token.
        principal: String,
    },
    /// The same token was added twice.
    Duplicate {
        /// The principal to whom it was added first.
        first: String,
        /// The principal to whom it was added again.
        second: String,
    },
    /// There are more than [`StaticTokens::TOKENS_MAX`] tokens.
    TooMany,
}

impl fmt::Display for StaticTokensError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("there are no tokens, so every request would be refused"),
            Self::NoPrincipal => f.write_str("a token has no principal"),
            Self::Empty { principal } => write!(f, "the token of {principal:?} is empty"),
            Self::Invalid { principal } => write!(
                f,
                "the token of {principal:?} must be letters, digits and '-._~+/', optionally followed by '='"
            ),
            Self::TooLong { principal } => write!(
                f,
                "the token of {principal:?} is longer than {} characters",
                StaticTokens::TOKEN_BYTES_MAX
            ),
            Self::Duplicate { first, second } => {
                write!(f, "{first:?} and {second:?} have the same token")
            }
            Self::TooMany => write!(f, "there are more than {} tokens", StaticTokens::TOKENS_MAX),
        }
    }
}

impl core::error::Error for StaticTokensError {}

/// Whether `text` is a `b64token` (RFC 6750 §2.1), which is `token68` of RFC 9110 §11.2.
fn is_token68(text: &[u8]) -> bool {
    let end = text.iter().rposition(|&octet| octet != b'=').map_or(0, |last| last + 1);
    let body = text.get(..end).unwrap_or_default();
    !body.is_empty()
        && body.iter().all(|octet| octet.is_ascii_alphanumeric() || b"-._~+/".contains(octet))
}

/// The bearer token in the values of all `Authorization` fields of a request: the text after the
/// scheme `Bearer`. It may not have the form of a token; it then equals none. `None` if there is no
/// field, or if it has another scheme, which is treated the same (RFC 6750 §3.1).
///
/// # Errors
///
/// [`Fault::DuplicateCredentials`] if there is more than one field, because it is undefined which
/// one applies.
pub(crate) fn bearer_token<'a>(
    mut fields: impl Iterator<Item = &'a [u8]>,
) -> Result<Option<&'a [u8]>, Fault> {
    let Some(value) = fields.next() else { return Ok(None) };
    if fields.next().is_some() {
        return Err(Fault::DuplicateCredentials);
    }
    let end = value.iter().position(|&octet| octet == b' ').unwrap_or(value.len());
    let (scheme, token) = value.split_at(end);
    Ok(scheme.eq_ignore_ascii_case(b"bearer").then(|| token.trim_ascii_start()))
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::ToString;

    use super::*;

    #[track_caller]
    fn check(fields: &[&str], expected: Result<Option<&[u8]>, Fault>) {
        assert_eq!(bearer_token(fields.iter().map(|f| f.as_bytes())), expected, "{fields:?}");
    }

    #[test]
    fn bearer_credentials_are_read_from_a_single_field() {
        check(&[], Ok(None));
        check(&["Bearer abc"], Ok(Some(b"abc")));
        check(&["bEARER   abc="], Ok(Some(b"abc=")));
        check(&["Bearer a b"], Ok(Some(b"a b")));
        check(&["Bearer"], Ok(Some(b"")));
        check(&["Bearerabc"], Ok(None));
        check(&["Bearer\tabc"], Ok(None));
        check(&["Basic YTpi"], Ok(None));
        check(&[""], Ok(None));
        check(&["Bearer a", "Bearer a"], Err(Fault::DuplicateCredentials));
        check(&["Basic a", "Bearer a"], Err(Fault::DuplicateCredentials));
    }

    #[test]
    fn token_identifies_its_principal_and_no_other_text_does() {
        let tokens = StaticTokens::builder()
            .token("alice", "alpha")
            .token("bob", "beta")
            .token("alice", "alpha-2==")
            .build()
            .unwrap();
        let principal_of =
            |token: &str| tokens.find(token.as_bytes()).map(|(_, principal)| principal.name());
        assert_eq!(principal_of("alpha"), Some("alice"));
        assert_eq!(principal_of("alpha-2=="), Some("alice"));
        assert_eq!(principal_of("beta"), Some("bob"));
        for bad in ["", "alph", "alphaa", "Alpha", "beta\0", "beta ", "alpha-2==="] {
            assert_eq!(principal_of(bad), None, "{bad:?}");
        }
        assert_eq!(principal_of(&"x".repeat(10_000)), None);
        assert_eq!(principal_of(&("alpha-2==".to_string() + &"\0".repeat(600))), None);
    }

    #[test]
    fn token_is_known_from_other_tokens_if_its_principal_is_the_same() {
        let of = |all: &[(&str, &str)]| {
            let add = |tokens: StaticTokensBuilder, (principal, token): &(&str, &str)| {
                tokens.token(principal, token)
            };
            all.iter().fold(StaticTokens::builder(), add).build().unwrap()
        };
        let before = of(&[("alice", "one"), ("bob", "two"), ("alice", "three")]);
        let after = of(&[
            ("alice", "three"),
            ("carol", "two"),
            ("alice", "a-longer-one"),
            ("alice", "one"),
        ]);
        assert_eq!(after.positions_in(&before), [Some(2), None, None, Some(0)]);
        assert_eq!(before.positions_in(&before), [Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn token_is_compared_with_every_known_one_in_whole() {
        let tokens = StaticTokens::builder()
            .token("alice", "alpha")
            .token("bob", "beta")
            .token("carol", "gamma-gamma")
            .build()
            .unwrap();
        // The first token, one in the middle, the last; then a prefix, one octet changed, one octet
        // more, an empty token, and a token with a zero.
        for presented in
            ["alpha", "beta", "gamma-gamma", "alph", "blpha", "gamma-gamma=", "", "beta\0"]
        {
            let (steps, _) =
                crate::testing::steps_in(|| tokens.find(presented.as_bytes()).is_some());
            assert_eq!(steps, 3 * 11, "{presented:?}: three tokens, padded to eleven octets");
        }
    }

    #[test]
    fn all_of_1024_tokens_are_found() {
        let mut builder = StaticTokens::builder();
        for at in 0..StaticTokens::TOKENS_MAX {
            builder = builder.token(&format!("p{at}"), &format!("token-{at:x}"));
        }
        let tokens = builder.clone().build().unwrap();
        for at in 0..StaticTokens::TOKENS_MAX {
            let (position, found) = tokens.find(format!("token-{at:x}").as_bytes()).unwrap();
            assert_eq!((position, found.name()), (at, &*format!("p{at}")));
        }
        assert_eq!(builder.token("p", "more").build().unwrap_err(), StaticTokensError::TooMany);
    }

    #[test]
    fn invalid_token_is_refused_without_printing_it() {
        let refuse = |principal: &str, token: &str| {
            let error = StaticTokens::builder().token("a", "twice").token(principal, token).build();
            let text = error.unwrap_err().to_string();
            assert!(token.len() < 3 || !text.contains(token), "{text}");
            text
        };
        assert!(refuse("", "x").contains("no principal"));
        assert!(refuse("bob", "").contains("\"bob\" is empty"));
        for token in ["a b", "ä", "a,b", "\"q\"", "=", "a=b", "tab\t", "semi;"] {
            assert!(refuse("bob", token).contains("must be letters"), "{token}");
        }
        assert!(refuse("bob", "twice").contains("\"a\" and \"bob\" have the same"));
        assert!(refuse("bob", &"x".repeat(513)).contains("longer than 512"));
        assert_eq!(StaticTokens::builder().build().unwrap_err(), StaticTokensError::None);
    }

    #[test]
    fn debug_omits_the_tokens() {
        let builder = StaticTokens::builder().token("alice", "hunter2");
        let text = format!("{builder:?} {:?}", builder.clone().build().unwrap());
        assert!(!text.contains("hunter2"), "{text}");
    }
}
