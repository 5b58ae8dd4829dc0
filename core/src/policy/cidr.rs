//! IP address ranges in CIDR notation, such as `10.0.0.0/8` (RFC 4632, RFC 4291 §2.3).
//!
//! Knows: how a range is written and which addresses are in it. Does not know: what a range is used
//! for.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

use crate::error_text::error_text;

/// A range of IP addresses: `10.0.0.0/8`, `2001:db8::/32`, or a single address.
///
/// It is parsed from text. An IPv4-mapped IPv6 address (`::ffff:10.0.0.1`) counts as the IPv4
/// address, in a range and in [`contains`](Self::contains).
///
/// ```
/// use mcp_sse_core::Cidr;
///
/// let range: Cidr = "10.0.0.0/8".parse()?;
/// assert!(range.contains("10.1.2.3".parse()?));
/// assert!(!range.contains("192.0.2.1".parse()?));
/// assert!("10.0.0.1/8".parse::<Cidr>().is_err()); // has bits after its prefix
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    first: IpAddr,
    bits: u8,
}

/// Why a text is not a [`Cidr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CidrError {
    /// The text before the slash is not an IP address.
    Address,
    /// The prefix length is not a number, or is greater than the number of bits of the address.
    Prefix,
    /// The address has bits set after the prefix, so it is unclear whether a range or a single
    /// address is meant.
    HostBits,
}

error_text!(CidrError, |error| match error {
    CidrError::Address => "an address range is written like 10.0.0.0/8 or 2001:db8::/32",
    CidrError::Prefix => "a prefix length is at most 32 for IPv4 and 128 for IPv6",
    CidrError::HostBits => "the address of a range has bits set after its prefix",
});

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| CidrError::Address)?;
        let width = width(first);
        let bits = match prefix {
            None => width,
            Some(digits) => {
                let plain = (1..=3).contains(&digits.len())
                    && digits.bytes().all(|octet| octet.is_ascii_digit());
                let bits = digits.parse().ok().filter(|&bits| plain && bits <= width);
                bits.ok_or(CidrError::Prefix)?
            }
        };
        if bits_of(first) & !mask(bits, width) != 0 {
            return Err(CidrError::HostBits);
        }
        // Peer addresses are compared in canonical form, so a range of IPv4-mapped addresses
        // becomes an IPv4 range.
        Ok(match (first.to_canonical(), bits.checked_sub(96)) {
            (canonical @ IpAddr::V4(_), Some(rest)) if first.is_ipv6() => {
                Self { first: canonical, bits: rest }
            }
            _ => Self { first, bits },
        })
    }
}

impl Cidr {
    /// Whether `address` is in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4()
            && (bits_of(address) ^ bits_of(self.first)) & mask(self.bits, width(self.first)) == 0
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

const fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// A mask of the first `bits` of `width` bits.
fn mask(bits: u8, width: u8) -> u128 {
    let rest = u32::from(width - bits);
    let all = if width == 32 { u128::from(u32::MAX) } else { u128::MAX };
    u128::MAX.checked_shl(rest).unwrap_or(0) & all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, inside: &[&str], outside: &[&str]) {
        let range: Cidr = text.parse().unwrap();
        for address in inside {
            assert!(range.contains(address.parse().unwrap()), "{address} is in {text}");
        }
        for address in outside {
            assert!(!range.contains(address.parse().unwrap()), "{address} is not in {text}");
        }
    }

    #[test]
    fn range_contains_exactly_its_addresses() {
        check(
            "10.0.0.0/8",
            &["10.0.0.0", "10.255.255.255", "::ffff:10.1.1.1"],
            &["11.0.0.0", "::a"],
        );
        check("192.0.2.7", &["192.0.2.7"], &["192.0.2.6", "192.0.2.8"]);
        check("192.0.2.6/31", &["192.0.2.6", "192.0.2.7"], &["192.0.2.5", "192.0.2.8"]);
        check("0.0.0.0/0", &["0.0.0.0", "255.255.255.255"], &["::", "2001:db8::1"]);
        check("::/0", &["::", "2001:db8::1"], &["192.0.2.1", "::ffff:192.0.2.1"]);
        check("2001:db8::/32", &["2001:db8::", "2001:db8:ffff::1"], &["2001:db9::", "192.0.2.1"]);
        check("::1", &["::1"], &["::2", "127.0.0.1"]);
        check("::ffff:10.0.0.0/104", &["10.1.2.3"], &["11.1.2.3"]);
    }

    #[test]
    fn invalid_range_is_refused_with_its_mistake() {
        let refuse = |text: &str| text.parse::<Cidr>().unwrap_err();
        for text in ["", "/8", "localhost", "10.0.0/8", "10.0.0.0.0", "[::1]", "10.0.0.1:80"] {
            assert_eq!(refuse(text), CidrError::Address, "{text}");
        }
        for text in ["10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/x", "::/256"] {
            assert_eq!(refuse(text), CidrError::Prefix, "{text}");
        }
        for text in ["10.0.0.1/8", "2001:db8::1/64", "128.0.0.0/0"] {
            assert_eq!(refuse(text), CidrError::HostBits, "{text}");
        }
    }
}
