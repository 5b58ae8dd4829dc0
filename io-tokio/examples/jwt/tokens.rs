//! Verifies JSON Web Tokens.

use core::time::Duration;

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, get_current_timestamp};
use mcp_sse_tokio::{Decision, Principal, Refusal, RequestHead, Verdict};

/// The shortest secret that RFC 7518 section 3.2 allows for HS256.
const SECRET_BYTES_MIN: usize = 32;

/// Verifies tokens of one issuer for one audience, which are signed with one key and one algorithm.
pub(crate) struct Tokens {
    key: DecodingKey,
    validation: Validation,
}

#[derive(serde::Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
}

impl Tokens {
    /// Accepts tokens that are signed with a secret that the issuer and this server share.
    pub(crate) fn hs256(secret: &[u8], issuer: &str, audience: &str) -> Result<Self, Error> {
        if secret.len() < SECRET_BYTES_MIN {
            let text = format!("the secret is shorter than {SECRET_BYTES_MIN} bytes");
            return Err(ErrorKind::Provider(text).into());
        }
        Ok(Self::new(Algorithm::HS256, DecodingKey::from_secret(secret), issuer, audience))
    }

    /// Accepts tokens that are signed with an RSA key. `pem` is the public key.
    pub(crate) fn rs256(pem: &[u8], issuer: &str, audience: &str) -> Result<Self, Error> {
        Ok(Self::new(Algorithm::RS256, DecodingKey::from_rsa_pem(pem)?, issuer, audience))
    }

    fn new(algorithm: Algorithm, key: DecodingKey, issuer: &str, audience: &str) -> Self {
        // Only the algorithm of the key is accepted, whatever algorithm a token's header names.
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        validation.validate_nbf = true;
        Self { key, validation }
    }

    /// Decides whether a request may proceed.
    pub(crate) fn decide(&self, head: &RequestHead) -> Decision {
        let Some(token) = head.bearer_token() else {
            return Verdict::Refuse(Refusal::Unauthenticated).into();
        };
        match decode::<Claims>(token, &self.key, &self.validation) {
            Ok(token) => {
                let left = token.claims.exp.saturating_sub(get_current_timestamp());
                let principal = Principal::new(&token.claims.sub);
                Decision::new(Verdict::Allow(principal)).valid_for(Duration::from_secs(left))
            }
            Err(error) => {
                // The server also logs refusals, at level info and at most one line a second.
                log::debug!("a token was refused: {error}");
                Verdict::Refuse(Refusal::InvalidToken).into()
            }
        }
    }
}
