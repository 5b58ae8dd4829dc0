use super::*;
use alloc::vec::Vec;

const VERSIONS: [Version; 2] = [Version::Http10, Version::Http11];

/// The expected framing for one `Transfer-Encoding` field on HTTP/1.1.
const CODINGS: &[(&str, Result<Framing, Error>)] = &[
    ("chunked", Ok(Framing::Chunked)),
    ("CHUNKED", Ok(Framing::Chunked)),
    (" \tChunked\t ", Ok(Framing::Chunked)),
    ("gzip", Err(Error::UnsupportedTransferCoding)),
    ("identity", Err(Error::UnsupportedTransferCoding)),
    ("xchunked", Err(Error::UnsupportedTransferCoding)),
    ("chunked2", Err(Error::UnsupportedTransferCoding)),
    ("", Err(Error::InvalidTransferEncoding)),
    (",", Err(Error::InvalidTransferEncoding)),
    ("chunked,", Err(Error::InvalidTransferEncoding)),
    (",chunked", Err(Error::InvalidTransferEncoding)),
    ("gzip, chunked", Err(Error::InvalidTransferEncoding)),
    ("chunked, gzip", Err(Error::InvalidTransferEncoding)),
    ("chunked, chunked", Err(Error::InvalidTransferEncoding)),
    ("chunked chunked", Err(Error::InvalidTransferEncoding)),
    ("chunked;a=b", Err(Error::InvalidTransferEncoding)),
    ("\"chunked\"", Err(Error::InvalidTransferEncoding)),
    ("\x0bchunked", Err(Error::InvalidTransferEncoding)),
    ("chunked\0", Err(Error::InvalidTransferEncoding)),
    ("ch\u{fc}nked", Err(Error::InvalidTransferEncoding)),
];

/// The expected framing for one `Content-Length` field.
const LENGTHS: &[(&str, Result<Framing, Error>)] = &[
    ("0", Ok(Framing::Length(0))),
    ("5", Ok(Framing::Length(5))),
    (" \t5\t ", Ok(Framing::Length(5))),
    ("05", Err(Error::InvalidContentLength)),
    ("00", Err(Error::InvalidContentLength)),
    ("0000000000000000005", Err(Error::InvalidContentLength)),
    ("9999999999999999999", Ok(Framing::Length(9_999_999_999_999_999_999))),
    ("00000000000000000005", Err(Error::InvalidContentLength)),
    ("18446744073709551616", Err(Error::InvalidContentLength)),
    ("99999999999999999999", Err(Error::InvalidContentLength)),
    ("", Err(Error::InvalidContentLength)),
    (" ", Err(Error::InvalidContentLength)),
    ("+5", Err(Error::InvalidContentLength)),
    ("-0", Err(Error::InvalidContentLength)),
    ("-5", Err(Error::InvalidContentLength)),
    ("0x5", Err(Error::InvalidContentLength)),
    ("5,5", Err(Error::InvalidContentLength)),
    ("5, 5", Err(Error::InvalidContentLength)),
    ("5 5", Err(Error::InvalidContentLength)),
    ("5,", Err(Error::InvalidContentLength)),
    ("5.0", Err(Error::InvalidContentLength)),
    ("5e0", Err(Error::InvalidContentLength)),
    ("1_000", Err(Error::InvalidContentLength)),
    ("five", Err(Error::InvalidContentLength)),
    ("\x0b5", Err(Error::InvalidContentLength)),
    ("\u{665}", Err(Error::InvalidContentLength)),
    ("/", Err(Error::InvalidContentLength)),
    (":", Err(Error::InvalidContentLength)),
];

/// The expected framing for a combination of fields, derived from what each field alone means. It
/// states the rules independently of the implementation.
fn expected(
    version: Version,
    codings: &[&(&str, Result<Framing, Error>)],
    lengths: &[&(&str, Result<Framing, Error>)],
) -> Result<Framing, Error> {
    match (codings.len(), lengths.len()) {
        (0, 0) => Ok(Framing::Empty),
        (0, 1) => lengths[0].1,
        (0, _) => Err(Error::InvalidContentLength),
        (1, 0) if version == Version::Http11 => codings[0].1,
        (_, 0) => Err(Error::InvalidTransferEncoding),
        _ => Err(Error::ConflictingFraming),
    }
}

/// All combinations of no field, one field and two fields.
fn up_to_two<T>(all: &[T]) -> Vec<Vec<&T>> {
    let mut sets = Vec::from([Vec::new()]);
    sets.extend(all.iter().map(|one| Vec::from([one])));
    sets.extend(all.iter().flat_map(|a| all.iter().map(move |b| Vec::from([a, b]))));
    sets
}

#[test]
fn framing_of_every_combination_of_fields_follows_the_rules() {
    let mut combinations = 0;
    for version in VERSIONS {
        for codings in &up_to_two(CODINGS) {
            for lengths in &up_to_two(LENGTHS) {
                let found = framing(
                    version,
                    codings.iter().map(|(value, _)| value.as_bytes()),
                    lengths.iter().map(|(value, _)| value.as_bytes()),
                );
                let expected = expected(version, codings, lengths);
                assert_eq!(found, expected, "{version:?} {codings:?} {lengths:?}");
                combinations += 1;
            }
        }
    }
    assert_eq!(combinations, 2 * (1 + 20 + 400) * (1 + 28 + 784));
}

#[test]
fn field_sent_three_times_is_refused() {
    let five: &[u8] = b"5";
    let chunked: &[u8] = b"chunked";
    for version in VERSIONS {
        assert_eq!(framing(version, [], [five; 3]), Err(Error::InvalidContentLength));
        assert_eq!(framing(version, [chunked; 3], []), Err(Error::InvalidTransferEncoding));
    }
}
