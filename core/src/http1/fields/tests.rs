use super::*;
use crate::testing::every_way;

/// Scans `input`, split in every way. `Ok(Some(consumed))` means a complete section, `Ok(None)` a
/// section that may continue.
#[track_caller]
fn check(input: &[u8], expected: Result<Option<usize>, Error>) {
    let found = every_way(input, |pieces| {
        let mut lines = FieldLines::default();
        let mut before = 0;
        for piece in pieces {
            match lines.scan(piece, 3)? {
                Scan::Partial => before += piece.len(),
                Scan::Complete { consumed } => return Ok(Some(before + consumed)),
            }
        }
        Ok(None)
    });
    assert_eq!(found, expected, "{}", input.escape_ascii());
}

#[test]
fn valid_field_lines_are_scanned_to_the_blank_line() {
    check(b"\r\n", Ok(Some(2)));
    check(b"a: b\r\n\r\n", Ok(Some(8)));
    check(b"a:\r\n\r\n", Ok(Some(6)));
    check(b"a:b \t\r\n\r\ntail", Ok(Some(9)));
    check(b"!#$%&'*+-.^_`|~09azAZ: x\r\n\r\n", Ok(Some(28)));
    check(b"a: \x80\xff \"q\" \\\r\n\r\n", Ok(Some(15)));
    check(b"a: b\r\n", Ok(None));
    check(b"a: b\r\n\r", Ok(None));
    check(b"a", Ok(None));
    check(b"", Ok(None));
}

#[test]
fn invalid_field_name_is_refused() {
    check(b": v\r\n\r\n", Err(Error::MalformedField));
    check(b" a: v\r\n\r\n", Err(Error::MalformedField));
    check(b"\ta: v\r\n\r\n", Err(Error::MalformedField));
    check(b"a : v\r\n\r\n", Err(Error::MalformedField));
    check(b"a\t: v\r\n\r\n", Err(Error::MalformedField));
    check(b"a b: v\r\n\r\n", Err(Error::MalformedField));
    check(b"a(b): v\r\n\r\n", Err(Error::MalformedField));
    check(b"a\x80: v\r\n\r\n", Err(Error::MalformedField));
    check(b"a\0: v\r\n\r\n", Err(Error::MalformedField));
    check(b"no colon\r\n\r\n", Err(Error::MalformedField));
    check(b"nocolon\r\n\r\n", Err(Error::MalformedField));
}

#[test]
fn invalid_field_value_is_refused() {
    check(b"a: b\0\r\n\r\n", Err(Error::MalformedField));
    check(b"a: \x0b\r\n\r\n", Err(Error::MalformedField));
    check(b"a: \x0c\r\n\r\n", Err(Error::MalformedField));
    check(b"a: \x1b[31m\r\n\r\n", Err(Error::MalformedField));
    check(b"a: \x7f\r\n\r\n", Err(Error::MalformedField));
    check(b"a: 0123456789abcdef0123456789\x01bcdef\r\n\r\n", Err(Error::MalformedField));
    // Obsolete folding: white space where a name should begin.
    check(b"a: b\r\n c\r\n\r\n", Err(Error::MalformedField));
    check(b"a: b\r\n\tc\r\n\r\n", Err(Error::MalformedField));
}

#[test]
fn line_end_other_than_crlf_is_refused() {
    check(b"a: b\n\r\n", Err(Error::BadLineEnd));
    check(b"a: b\r\r\n\r\n", Err(Error::BadLineEnd));
    check(b"a: b\rc: d\r\n\r\n", Err(Error::BadLineEnd));
    check(b"a: b\r\n\n", Err(Error::BadLineEnd));
    check(b"a: b\r\n\rx", Err(Error::BadLineEnd));
    check(b"a\n: b\r\n\r\n", Err(Error::BadLineEnd));
    check(b"\n", Err(Error::BadLineEnd));
    check(b"\r\r\n", Err(Error::BadLineEnd));
}

#[test]
fn fields_over_fields_max_are_refused() {
    check(b"a:\r\nb:\r\nc:\r\n\r\n", Ok(Some(14)));
    check(b"a:\r\nb:\r\nc:\r\nd", Err(Error::TooManyFields));
    // An octet that cannot begin a field is reported as malformed, not as one field too many.
    check(b"a:\r\nb:\r\nc:\r\n d", Err(Error::MalformedField));
}
