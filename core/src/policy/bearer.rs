//! Bearer credentials (RFC 6750), and tokens that are known beforehand.
//!
//! Knows: the `Authorization` field, the grammar of tokens, and a comparison whose time tells nothing
//! about what it is compared with. Does not know: how a refusal reads.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::hint::black_box;

use crate::error::Fault;
use crate::principal::Principal;

/// Bearer tokens that are known beforehand, each of a principal:
/// [`Authorization::Static`](crate::Authorization::Static). Cheap to clone, and prints no token.
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

/// All tokens end to end, each padded with zeros to the length of the longest: no token has a zero in
/// it, so equal when padded is equal.
struct Table {
    padded: Box<[u8]>,
    width: usize,
    principals: Box<[Principal]>,
}

impl StaticTokens {
    /// The most tokens there may be. Each request is compared with all of them.
    pub const TOKENS_MAX: usize = 1_024;
    /// The longest token.
    pub const TOKEN_BYTES_MAX: usize = 512;

    /// Starts without tokens.
    pub fn builder() -> StaticTokensBuilder {
        StaticTokensBuilder { tokens: Vec::new(), error: None }
    }

    /// How many tokens there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.principals.len()
    }

    /// Never: there is at least one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.principals.is_empty()
    }

    /// Whose the presented token is.
    ///
    /// Every token is compared, in whole, whatever came of those before it, and so is a presented one
    /// of a length that none has: the time depends on the configuration alone. It is not hashed first,
    /// which would cost more than a thousand comparisons and hide nothing that padding does not.
    pub(crate) fn principal(&self, presented: &[u8]) -> Option<&Principal> {
        let Table { padded, width, principals } = &*self.0;
        let mut room = [0; Self::TOKEN_BYTES_MAX];
        let candidate = room.get_mut(..*width).unwrap_or_default();
        for (to, from) in candidate.iter_mut().zip(presented) {
            *to = *from;
        }
        // What padding would hide.
        let no_token = usize::from(presented.len() > *width || presented.contains(&0));
        let mut found = 0;
        for (at, token) in padded.chunks_exact(*width).enumerate() {
            let differs = token.iter().zip(&*candidate).fold(0, |sum, (a, b)| {
                #[cfg(test)]
                crate::testing::step();
                sum | (a ^ b)
            });
            let differs = usize::from(black_box(differs)) | no_token;
            // All ones where nothing differs.
            found |= usize::from(differs == 0).wrapping_neg() & (at + 1);
        }
        principals.get(black_box(found).checked_sub(1)?)
    }
}

impl fmt::Debug for StaticTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticTokens({} tokens)", self.len())
    }
}

/// Collects tokens; the first one that cannot be used is what [`build`](Self::build) reports.
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
    /// One more token, of the principal named. A principal may have several: the old and the new one,
    /// while one replaces the other.
    pub fn token(mut self, principal: &str, token: &str) -> Self {
        if let Err(error) = self.admit(principal, token) {
            self.error.get_or_insert(error);
        } else {
            self.tokens.push((Principal::new(principal), token.into()));
        }
        self
    }

    fn admit(&self, principal: &str, token: &str) -> Result<(), StaticTokensError> {
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

    /// The tokens.
    ///
    /// # Errors
    ///
    /// What was wrong with the first bad one, by the name of its principal; or that there are none.
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

/// Why tokens cannot be used. Says whose, and never what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StaticTokensError {
    /// There are none, so nobody could ever pass.
    None,
    /// A token without a principal.
    NoPrincipal,
    /// An empty token.
    Empty {
        /// Whose.
        principal: String,
    },
    /// A token with octets that none may have (RFC 6750 section 2.1): letters, digits and `-._~+/`,
    /// then perhaps `=`.
    Invalid {
        /// Whose.
        principal: String,
    },
    /// A token longer than [`StaticTokens::TOKEN_BYTES_MAX`].
    TooLong {
        /// Whose.
        principal: String,
    },
    /// The same token twice.
    Duplicate {
        /// Whose it was first.
        first: String,
        /// Whose it is to be as well.
        second: String,
    },
    /// More than [`StaticTokens::TOKENS_MAX`].
    TooMany,
}

impl fmt::Display for StaticTokensError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("there are no tokens, so nobody could pass"),
            Self::NoPrincipal => f.write_str("a token has no principal"),
            Self::Empty { principal } => write!(f, "the token of {principal:?} is empty"),
            Self::Invalid { principal } => write!(
                f,
                "the token of {principal:?} must be letters, digits and '-._~+/', then perhaps '='"
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

/// `b64token` of RFC 6750 section 2.1, which is `token68` of RFC 9110 section 11.2.
fn is_token68(text: &[u8]) -> bool {
    let end = text.iter().rposition(|&octet| octet != b'=').map_or(0, |last| last + 1);
    let body = text.get(..end).unwrap_or_default();
    !body.is_empty()
        && body.iter().all(|octet| octet.is_ascii_alphanumeric() || b"-._~+/".contains(octet))
}

/// What the `Authorization` fields of a request present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credentials<'a> {
    /// Nothing, or something of another scheme: as if there were nothing (RFC 6750 section 3.1).
    None,
    /// This, as far as its scheme goes. Whether it is a token at all is for the comparison to say.
    Bearer(&'a [u8]),
}

impl<'a> Credentials<'a> {
    /// # Errors
    ///
    /// [`Fault::DuplicateCredentials`]: which of several would count is anybody's guess.
    pub(crate) fn read(mut fields: impl Iterator<Item = &'a [u8]>) -> Result<Self, Fault> {
        let Some(value) = fields.next() else { return Ok(Self::None) };
        if fields.next().is_some() {
            return Err(Fault::DuplicateCredentials);
        }
        let end = value.iter().position(|&octet| octet == b' ').unwrap_or(value.len());
        let (scheme, token) = value.split_at(end);
        if scheme.eq_ignore_ascii_case(b"bearer") {
            Ok(Self::Bearer(token.trim_ascii_start()))
        } else {
            Ok(Self::None)
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::ToString;

    use super::*;

    #[track_caller]
    fn check(fields: &[&str], expected: Result<Credentials<'_>, Fault>) {
        assert_eq!(Credentials::read(fields.iter().map(|f| f.as_bytes())), expected, "{fields:?}");
    }

    #[test]
    fn credentials() {
        check(&[], Ok(Credentials::None));
        check(&["Bearer abc"], Ok(Credentials::Bearer(b"abc")));
        check(&["bEARER   abc="], Ok(Credentials::Bearer(b"abc=")));
        check(&["Bearer a b"], Ok(Credentials::Bearer(b"a b")));
        check(&["Bearer"], Ok(Credentials::Bearer(b"")));
        check(&["Bearerabc"], Ok(Credentials::None));
        check(&["Bearer\tabc"], Ok(Credentials::None));
        check(&["Basic YTpi"], Ok(Credentials::None));
        check(&[""], Ok(Credentials::None));
        check(&["Bearer a", "Bearer a"], Err(Fault::DuplicateCredentials));
        check(&["Basic a", "Bearer a"], Err(Fault::DuplicateCredentials));
    }

    #[test]
    fn whose_token_it_is() {
        let tokens = StaticTokens::builder()
            .token("alice", "alpha")
            .token("bob", "beta")
            .token("alice", "alpha-2==")
            .build()
            .unwrap();
        let whose = |token: &str| tokens.principal(token.as_bytes()).map(Principal::name);
        assert_eq!(whose("alpha"), Some("alice"));
        assert_eq!(whose("alpha-2=="), Some("alice"));
        assert_eq!(whose("beta"), Some("bob"));
        for bad in ["", "alph", "alphaa", "Alpha", "beta\0", "beta ", "alpha-2==="] {
            assert_eq!(whose(bad), None, "{bad:?}");
        }
        assert_eq!(whose(&"x".repeat(10_000)), None);
        assert_eq!(whose(&("alpha-2==".to_string() + &"\0".repeat(600))), None);
    }

    #[test]
    fn token_is_compared_with_every_known_one_in_whole() {
        let tokens = StaticTokens::builder()
            .token("alice", "alpha")
            .token("bob", "beta")
            .token("carol", "gamma-gamma")
            .build()
            .unwrap();
        // The first, one in the middle, the last; a beginning, one octet off, one too many, nothing.
        for presented in
            ["alpha", "beta", "gamma-gamma", "alph", "blpha", "gamma-gamma=", "", "beta\0"]
        {
            let (steps, _) =
                crate::testing::steps_in(|| tokens.principal(presented.as_bytes()).is_some());
            assert_eq!(steps, 3 * 11, "{presented:?}: three tokens, padded to eleven octets");
        }
    }

    #[test]
    fn every_one_of_many_is_found() {
        let mut builder = StaticTokens::builder();
        for at in 0..StaticTokens::TOKENS_MAX {
            builder = builder.token(&format!("p{at}"), &format!("token-{at:x}"));
        }
        let tokens = builder.clone().build().unwrap();
        for at in 0..StaticTokens::TOKENS_MAX {
            let found = tokens.principal(format!("token-{at:x}").as_bytes()).unwrap();
            assert_eq!(found.name(), format!("p{at}"));
        }
        assert_eq!(builder.token("p", "more").build().unwrap_err(), StaticTokensError::TooMany);
    }

    #[test]
    fn tokens_that_are_none() {
        let refuse = |principal: &str, token: &str| {
            let error = StaticTokens::builder().token("a", "twice").token(principal, token).build();
            let said = error.unwrap_err().to_string();
            assert!(token.len() < 3 || !said.contains(token), "{said}");
            said
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
    fn prints_no_token() {
        let builder = StaticTokens::builder().token("alice", "hunter2");
        let text = format!("{builder:?} {:?}", builder.clone().build().unwrap());
        assert!(!text.contains("hunter2"), "{text}");
    }
}
