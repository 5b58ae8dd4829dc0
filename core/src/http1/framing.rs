//! Where a request's body ends: the one decision that request smuggling is about.
//!
//! Knows: RFC 9112 §6, with every choice it leaves turned into a refusal.
//! Does not know: the body itself (see `body`), or any field but the two that matter.

use super::error::Error;
use super::octets;
use super::start_line::Version;

/// How a request's body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Neither field was sent: there is no body (RFC 9112 §6.3, rule 7).
    Empty,
    /// `Content-Length` said so.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Decides how a body is delimited, from the values of all `Transfer-Encoding` fields and of all
/// `Content-Length` fields.
///
/// The method plays no part: RFC 9112 §6.3 frames every request alike, and a server that thought
/// otherwise of `GET` would disagree with whatever stands in front of it.
///
/// # Errors
///
/// - [`Error::ConflictingFraming`]: both fields are there (RFC 9112 §6.1 allows to refuse).
/// - [`Error::InvalidTransferEncoding`]: the field is repeated, a list, empty, no token, or came
///   with HTTP/1.0, whose senders do not know it and whose proxies forward it blindly.
/// - [`Error::UnsupportedTransferCoding`]: one coding, and not `chunked`.
/// - [`Error::InvalidContentLength`]: not exactly one field of 1 to 19 digits without leading zeros.
///   (20 digits can overflow 64 bits. Equal repetitions may be merged, says RFC 9112 §6.3, or refused.
///   RFC 9110 §8.6 allows leading zeros; no client sends them, and readers that take them for octal do
///   exist.)
pub fn framing<'a>(
    version: Version,
    transfer_encodings: impl IntoIterator<Item = &'a [u8]>,
    content_lengths: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Framing, Error> {
    let mut transfer_encodings = transfer_encodings.into_iter();
    let mut content_lengths = content_lengths.into_iter();
    match (transfer_encodings.next(), content_lengths.next()) {
        (None, None) => Ok(Framing::Empty),
        (Some(_), Some(_)) => Err(Error::ConflictingFraming),
        (Some(coding), None) => {
            if version == Version::Http10 || transfer_encodings.next().is_some() {
                return Err(Error::InvalidTransferEncoding);
            }
            let coding = trim(coding);
            if coding.eq_ignore_ascii_case(b"chunked") {
                Ok(Framing::Chunked)
            } else if octets::is_token(coding) {
                Err(Error::UnsupportedTransferCoding)
            } else {
                Err(Error::InvalidTransferEncoding)
            }
        }
        (None, Some(length)) => {
            if content_lengths.next().is_some() {
                return Err(Error::InvalidContentLength);
            }
            length_of(trim(length)).map(Framing::Length).ok_or(Error::InvalidContentLength)
        }
    }
}

fn length_of(digits: &[u8]) -> Option<u64> {
    let leading_zero = digits.len() > 1 && digits.first() == Some(&b'0');
    if leading_zero || !(1..=19).contains(&digits.len()) {
        return None;
    }
    digits.iter().try_fold(0_u64, |length, &octet| {
        if !octet.is_ascii_digit() {
            return None;
        }
        length.checked_mul(10)?.checked_add(u64::from(octet - b'0'))
    })
}

/// Removes optional white space (RFC 9110 §5.6.3), which is SP and HTAB and nothing else.
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests;
