//! Ranges of addresses, as in `10.0.0.0/8`.
//!
//! Knows: how a range is written and what lies in it. Does not know: what a range is for.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

/// A range of IP addresses: `10.0.0.0/8`, `2001:db8::/32`, or a single address.
///
/// An IPv4 address that is written as an IPv6 one (`::ffff:10.0.0.1`) is the IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    first: IpAddr,
    bits: u8,
}

/// Why a text is no [`Cidr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CidrError {
    /// What stands in front of the slash is no IP address.
    Address,
    /// The length of the prefix is no number, or more than the address has bits.
    Prefix,
    /// The address has bits set that the prefix does not cover: a range or a single address?
    HostBits,
}

impl fmt::Display for CidrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "an address range is written as in 10.0.0.0/8 or 2001:db8::/32",
            Self::Prefix => "the length of a prefix is at most 32 for IPv4 and 128 for IPv6",
            Self::HostBits => "the address of a range has bits set behind its prefix",
        })
    }
}

impl core::error::Error for CidrError {}

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
        // Peers are compared in their canonical form, so the range has to be in it as well.
        Ok(match (first.to_canonical(), bits.checked_sub(96)) {
            (canonical @ IpAddr::V4(_), Some(rest)) if first.is_ipv6() => {
                Self { first: canonical, bits: rest }
            }
            _ => Self { first, bits },
        })
    }
}

impl Cidr {
    /// Whether the address lies in the range.
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

/// The first `bits` of `width`.
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
    fn ranges() {
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
    fn texts_that_are_none() {
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
