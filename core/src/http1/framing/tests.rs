use super::*;
use alloc::vec::Vec;

const VERSIONS: [Version; 2] = [Version::Http10, Version::Http11];

/// What one `Transfer-Encoding` field alone means on HTTP/1.1.
const CODINGS: &[(&str, Result<Framing, Fault>)] = &[
    ("chunked", Ok(Framing::Chunked)),
    ("CHUNKED", Ok(Framing::Chunked)),
    (" \tChunked\t ", Ok(Framing::Chunked)),
    ("gzip", Err(Fault::UnsupportedTransferCoding)),
    ("identity", Err(Fault::UnsupportedTransferCoding)),
    ("xchunked", Err(Fault::UnsupportedTransferCoding)),
    ("chunked2", Err(Fault::UnsupportedTransferCoding)),
    ("", Err(Fault::InvalidTransferEncoding)),
    (",", Err(Fault::InvalidTransferEncoding)),
    ("chunked,", Err(Fault::InvalidTransferEncoding)),
    (",chunked", Err(Fault::InvalidTransferEncoding)),
    ("gzip, chunked", Err(Fault::InvalidTransferEncoding)),
    ("chunked, gzip", Err(Fault::InvalidTransferEncoding)),
    ("chunked, chunked", Err(Fault::InvalidTransferEncoding)),
    ("chunked chunked", Err(Fault::InvalidTransferEncoding)),
    ("chunked;a=b", Err(Fault::InvalidTransferEncoding)),
    ("\"chunked\"", Err(Fault::InvalidTransferEncoding)),
    ("\x0bchunked", Err(Fault::InvalidTransferEncoding)),
    ("chunked\0", Err(Fault::InvalidTransferEncoding)),
    ("ch\u{fc}nked", Err(Fault::InvalidTransferEncoding)),
];

/// What one `Content-Length` field alone means.
const LENGTHS: &[(&str, Result<Framing, Fault>)] = &[
    ("0", Ok(Framing::Length(0))),
    ("5", Ok(Framing::Length(5))),
    (" \t5\t ", Ok(Framing::Length(5))),
    ("05", Err(Fault::InvalidContentLength)),
    ("00", Err(Fault::InvalidContentLength)),
    ("0000000000000000005", Err(Fault::InvalidContentLength)),
    ("9999999999999999999", Ok(Framing::Length(9_999_999_999_999_999_999))),
    ("00000000000000000005", Err(Fault::InvalidContentLength)),
    ("18446744073709551616", Err(Fault::InvalidContentLength)),
    ("99999999999999999999", Err(Fault::InvalidContentLength)),
    ("", Err(Fault::InvalidContentLength)),
    (" ", Err(Fault::InvalidContentLength)),
    ("+5", Err(Fault::InvalidContentLength)),
    ("-0", Err(Fault::InvalidContentLength)),
    ("-5", Err(Fault::InvalidContentLength)),
    ("0x5", Err(Fault::InvalidContentLength)),
    ("5,5", Err(Fault::InvalidContentLength)),
    ("5, 5", Err(Fault::InvalidContentLength)),
    ("5 5", Err(Fault::InvalidContentLength)),
    ("5,", Err(Fault::InvalidContentLength)),
    ("5.0", Err(Fault::InvalidContentLength)),
    ("5e0", Err(Fault::InvalidContentLength)),
    ("1_000", Err(Fault::InvalidContentLength)),
    ("five", Err(Fault::InvalidContentLength)),
    ("\x0b5", Err(Fault::InvalidContentLength)),
    ("\u{665}", Err(Fault::InvalidContentLength)),
    ("/", Err(Fault::InvalidContentLength)),
    (":", Err(Fault::InvalidContentLength)),
];

/// What the combination means, from what each field alone means: the rules, once more and in other
/// words.
fn expected(
    version: Version,
    codings: &[&(&str, Result<Framing, Fault>)],
    lengths: &[&(&str, Result<Framing, Fault>)],
) -> Result<Framing, Fault> {
    match (codings.len(), lengths.len()) {
        (0, 0) => Ok(Framing::Empty),
        (0, 1) => lengths[0].1,
        (0, _) => Err(Fault::InvalidContentLength),
        (1, 0) if version == Version::Http11 => codings[0].1,
        (_, 0) => Err(Fault::InvalidTransferEncoding),
        _ => Err(Fault::ConflictingFraming),
    }
}

/// No field, each field, each pair of fields.
fn up_to_two<T>(all: &[T]) -> Vec<Vec<&T>> {
    let mut sets = Vec::from([Vec::new()]);
    sets.extend(all.iter().map(|one| Vec::from([one])));
    sets.extend(all.iter().flat_map(|a| all.iter().map(move |b| Vec::from([a, b]))));
    sets
}

#[test]
fn every_combination() {
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
fn three_are_no_better_than_two() {
    let five: &[u8] = b"5";
    let chunked: &[u8] = b"chunked";
    for version in VERSIONS {
        assert_eq!(framing(version, [], [five; 3]), Err(Fault::InvalidContentLength));
        assert_eq!(framing(version, [chunked; 3], []), Err(Fault::InvalidTransferEncoding));
    }
}
