//! Decides where a request's body ends. Request smuggling is an attack on this decision.
//!
//! Knows: RFC 9112 §6. Where it lets a server accept or refuse, this module refuses.
//! Does not know: the body itself (see `body`), or any field but `Content-Length` and
//! `Transfer-Encoding`.

use super::error::Error;
use super::octets;
use super::start_line::Version;

/// How the body of a request is delimited (RFC 9112 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Neither `Content-Length` nor `Transfer-Encoding` was sent: there is no body (RFC 9112 §6.3,
    /// rule 7).
    Empty,
    /// The number of bytes given by `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked` was sent.
    Chunked,
}

/// Decides how a body is delimited.
///
/// `transfer_encodings` and `content_lengths` yield the values of all `Transfer-Encoding` and all
/// `Content-Length` fields of the request, in order. Optional white space around a value is
/// ignored.
///
/// The method is not a parameter: RFC 9112 §6.3 frames requests of every method alike, and a server
/// that treated `GET` differently would disagree with the proxies in front of it.
///
/// # Errors
///
/// - [`Error::ConflictingFraming`]: both fields were sent (RFC 9112 §6.1 permits a server to
///   refuse).
/// - [`Error::InvalidTransferEncoding`]: the field is repeated, a list, empty, not a token, or was
///   sent with HTTP/1.0. HTTP/1.0 does not define the field, and HTTP/1.0 proxies forward it
///   without interpreting it.
/// - [`Error::UnsupportedTransferCoding`]: there is exactly one coding, and it is not `chunked`.
/// - [`Error::InvalidContentLength`]: there is more than one field, or its value is not 1 to 19
///   digits without leading zeros. A number of 20 digits can overflow 64 bits. RFC 9112 §6.3
///   permits either to merge equal repetitions or to refuse them. RFC 9110 §8.6 permits leading
///   zeros, but no client sends them, and some parsers read them as octal.
///
/// # Examples
///
/// ```
/// use mcp_sse_core::http1::{Error, Framing, Version, framing};
///
/// let length: &[u8] = b"12";
/// assert_eq!(framing(Version::Http11, [], [length]), Ok(Framing::Length(12)));
/// let chunked: &[u8] = b"chunked";
/// assert_eq!(framing(Version::Http11, [chunked], []), Ok(Framing::Chunked));
/// let both = framing(Version::Http11, [chunked], [length]);
/// assert_eq!(both, Err(Error::ConflictingFraming));
/// ```
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
            parse_length(trim(length)).map(Framing::Length).ok_or(Error::InvalidContentLength)
        }
    }
}

fn parse_length(digits: &[u8]) -> Option<u64> {
    let leading_zero = digits.len() > 1 && digits.first() == Some(&b'0');
    if leading_zero || !(1..=19).contains(&digits.len()) {
        return None;
    }
    digits.iter().try_fold(0_u64, |length, &octet| {
        let digit = char::from(octet).to_digit(10)?;
        length.checked_mul(10)?.checked_add(digit.into())
    })
}

/// Removes optional white space (RFC 9110 §5.6.3), which is SP and HTAB only, from both ends.
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests;
