use super::*;
use alloc::vec;

#[track_caller]
fn check(class: u8, allowed: impl Fn(u8) -> bool) {
    for octet in 0..=u8::MAX {
        assert_eq!(is(octet, class), allowed(octet), "octet {octet:#04x}");
    }
}

#[test]
fn every_class_matches_its_rfc_definition() {
    check(TOKEN, |o| {
        o.is_ascii_alphanumeric() || (o.is_ascii() && "!#$%&'*+-.^_`|~".contains(o as char))
    });
    check(TARGET, |o| (0x21..=0x7e).contains(&o) && !br##""#<>\^`{|}"##.contains(&o));
    check(VALUE, |o| o == 9 || (0x20..=0x7e).contains(&o) || o >= 0x80);
    check(QUOTED, |o| matches!(o, 9 | 0x20 | 0x21 | 0x23..=0x5b | 0x5d..=0x7e | 0x80..=0xff));
    check(UNRESERVED, |o| o.is_ascii_alphanumeric() || b"-._~".contains(&o));
}

#[test]
fn run_of_value_ends_at_the_first_octet_outside_value() {
    for len in 0..70 {
        for at in 0..len {
            for bad in [0, b'\n', b'\r', 0x1f, 0x7f] {
                let mut input = vec![b'v'; len];
                input[at] = bad;
                assert_eq!(run_of_value(&input), at);
            }
            for good in [b'\t', b' ', 0x80, 0xff] {
                let mut input = vec![b'v'; len];
                input[at] = good;
                assert_eq!(run_of_value(&input), len);
            }
        }
    }
}

/// [`run_of_value`] would be correct but slow if no block were recognised, so blocks are tested on
/// their own.
#[test]
fn block_is_value_only_if_every_octet_is() {
    for octet in 0..=u8::MAX {
        for at in 0..16 {
            let mut block = [b'v'; 16];
            block[at] = octet;
            assert_eq!(is_block_of_value(&block), is(octet, VALUE), "octet {octet:#04x} at {at}");
        }
        assert_eq!(is_block_of_value(&[octet; 16]), is(octet, VALUE), "octets {octet:#04x}");
    }
}
