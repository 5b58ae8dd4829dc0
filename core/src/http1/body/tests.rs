use super::*;
use crate::testing::{Random, every_way};
use alloc::string::String;
use alloc::vec::Vec;
use std::format;

const LIMITS: BodyLimits =
    BodyLimits { body_bytes_max: 30, extension_bytes_max: 12, trailer_bytes_max: 20 };
const UNLIMITED: BodyLimits = BodyLimits {
    body_bytes_max: u64::MAX,
    extension_bytes_max: usize::MAX,
    trailer_bytes_max: usize::MAX,
};

/// The content so far, and `Ok(Some(consumed))` for a complete body, `Ok(None)` for a body that may
/// continue, or the error.
type Trace = (Vec<u8>, Result<Option<usize>, Error>);

fn decode(framing: Framing, pieces: &[&[u8]], limits: &BodyLimits) -> Trace {
    run(BodyDecoder::new(framing), pieces, limits)
}

fn run(mut decoder: BodyDecoder, pieces: &[&[u8]], limits: &BodyLimits) -> Trace {
    let mut content = Vec::new();
    let mut before = 0;
    let mut done = decoder.is_done();
    for piece in pieces {
        let progress = decoder.decode(piece, limits, &mut |slice| {
            assert!(!slice.is_empty(), "an empty slice of content");
            content.extend_from_slice(slice);
        });
        match progress {
            Ok(progress) => {
                assert!(progress.done || progress.consumed == piece.len(), "stopped early");
                assert!(!done || progress.consumed == 0, "went on after the end");
                before += progress.consumed;
                done = progress.done;
                assert_eq!(decoder.is_done(), done);
            }
            Err(fault) => {
                let again = decoder.decode(b"0\r\n\r\n", limits, &mut |_| panic!("more content"));
                assert_eq!(again, Err(fault), "forgot its refusal");
                return (content, Err(fault));
            }
        }
    }
    (content, Ok(done.then_some(before)))
}

#[track_caller]
fn trace(framing: Framing, input: &[u8], limits: &BodyLimits) -> Trace {
    let found = every_way(input, |pieces| decode(framing, pieces, limits));
    if found.1 != Ok(None) {
        for tail in [&b"GET"[..], b"0\r\n\r\n", b"\0"] {
            assert_eq!(decode(framing, &[&[input, tail].concat()], limits), found, "with a tail");
        }
    }
    found
}

/// Checks that `input` is a complete chunked body with this content, and that all of it is
/// consumed.
#[track_caller]
fn accept(input: impl AsRef<[u8]>, content: &str) {
    let input = input.as_ref();
    let expected = (content.as_bytes().to_vec(), Ok(Some(input.len())));
    assert_eq!(trace(Framing::Chunked, input, &LIMITS), expected, "{}", input.escape_ascii());
}

/// Checks that the *last* octet of `input`, and none before it, is refused.
#[track_caller]
fn refuse(input: impl AsRef<[u8]>, fault: Error) {
    let input = input.as_ref();
    assert_eq!(trace(Framing::Chunked, input, &LIMITS).1, Err(fault), "{}", input.escape_ascii());
    let before = trace(Framing::Chunked, &input[..input.len() - 1], &LIMITS);
    assert_eq!(before.1, Ok(None), "{} is late", input.escape_ascii());
}

#[test]
fn body_of_length_zero_is_done_at_once() {
    for framing in [Framing::Empty, Framing::Length(0)] {
        assert_eq!(BodyDecoder::new(framing).declared(), Some(0));
        assert!(BodyDecoder::new(framing).is_done());
        assert_eq!(trace(framing, b"", &LIMITS), (Vec::new(), Ok(Some(0))));
        assert_eq!(trace(framing, b"GET /", &LIMITS), (Vec::new(), Ok(Some(0))));
    }
}

#[test]
fn body_of_declared_length_ends_after_that_many_bytes() {
    let five = Framing::Length(5);
    assert_eq!(BodyDecoder::new(five).declared(), Some(5));
    assert_eq!(trace(five, b"hello", &LIMITS), (b"hello".to_vec(), Ok(Some(5))));
    assert_eq!(trace(five, b"hell", &LIMITS), (b"hell".to_vec(), Ok(None)));
    assert_eq!(trace(five, b"", &LIMITS), (Vec::new(), Ok(None)));
    assert_eq!(trace(five, b"\0\r\n\xff ", &LIMITS), (b"\0\r\n\xff ".to_vec(), Ok(Some(5))));
    let most = [b'x'; 30];
    assert_eq!(trace(Framing::Length(30), &most, &LIMITS), (most.to_vec(), Ok(Some(30))));
    // A declared length over the limit is refused before any content arrives.
    for length in [31, u64::MAX] {
        let refused = (Vec::new(), Err(Error::BodyTooLarge));
        assert_eq!(decode(Framing::Length(length), &[b""], &LIMITS), refused);
        assert_eq!(trace(Framing::Length(length), &most, &LIMITS), refused);
    }
    assert_eq!(trace(Framing::Length(u64::MAX), b"a", &UNLIMITED), (b"a".to_vec(), Ok(None)));
    // `declared` does not change while the body is decoded.
    let mut decoder = BodyDecoder::new(five);
    decoder.decode(b"hello", &LIMITS, &mut |_| ()).unwrap();
    assert_eq!(decoder.declared(), Some(5));
}

#[test]
fn body_without_framing_is_never_done() {
    let decoder = BodyDecoder::until_end;
    assert!(decoder().ends_with_input() && !decoder().is_done());
    assert_eq!(decoder().declared(), None);
    for framing in [Framing::Empty, Framing::Length(1), Framing::Chunked] {
        assert!(!BodyDecoder::new(framing).ends_with_input());
    }
    let unframed = |input: &[u8]| every_way(input, |pieces| run(decoder(), pieces, &LIMITS));
    for content in [&b""[..], b"0\r\n\r\n", b"5\r\nhello", &[b'x'; 30]] {
        assert_eq!(unframed(content), (content.to_vec(), Ok(None)));
    }
    assert_eq!(unframed(&[b'x'; 31]), ([b'x'; 30].to_vec(), Err(Error::BodyTooLarge)));
}

#[test]
fn content_of_chunks_is_joined() {
    assert_eq!(BodyDecoder::new(Framing::Chunked).declared(), None);
    accept("0\r\n\r\n", "");
    accept("0000000000000000\r\n\r\n", "");
    accept("5\r\nhello\r\n0\r\n\r\n", "hello");
    accept("1\r\nh\r\n4\r\nello\r\n0\r\n\r\n", "hello");
    accept("a\r\n0123456789\r\n0\r\n\r\n", "0123456789");
    accept("A\r\n0123456789\r\n00\r\n\r\n", "0123456789");
    accept("00000000000000f\r\n0123456789abcde\r\n0\r\n\r\n", "0123456789abcde");
    accept("2\r\n\r\n\r\n0\r\n\r\n", "\r\n");
    let part = decode(Framing::Chunked, &[b"5\r\nhel"], &LIMITS);
    assert_eq!(part, (b"hel".to_vec(), Ok(None)));
}

#[test]
fn invalid_chunk_size_is_refused() {
    refuse("\r", Error::MalformedChunk);
    refuse(" ", Error::MalformedChunk);
    refuse("\t", Error::MalformedChunk);
    refuse("+", Error::MalformedChunk);
    refuse("-", Error::MalformedChunk);
    refuse(";", Error::MalformedChunk);
    refuse("g", Error::MalformedChunk);
    refuse("0x", Error::MalformedChunk);
    refuse("1_", Error::MalformedChunk);
    refuse("1.", Error::MalformedChunk);
    refuse("5,", Error::MalformedChunk);
    refuse("5\0", Error::MalformedChunk);
    refuse(b"5\x80", Error::MalformedChunk);
    refuse("00000000000000005", Error::MalformedChunk);
    refuse("fffffffffffffffff", Error::MalformedChunk);
    refuse("5 ", Error::MalformedChunk);
    refuse("\n", Error::BadLineEnd);
    refuse("5\n", Error::BadLineEnd);
    refuse("5\r\r", Error::BadLineEnd);
    refuse("5\rh", Error::BadLineEnd);
    refuse("0\n", Error::BadLineEnd);
}

#[test]
fn chunk_data_without_crlf_after_it_is_refused() {
    refuse("1\r\nab", Error::MalformedChunk);
    refuse("1\r\na0", Error::MalformedChunk);
    refuse("1\r\na ", Error::MalformedChunk);
    refuse("1\r\na\n", Error::BadLineEnd);
    refuse("1\r\na\r\r", Error::BadLineEnd);
    refuse("1\r\na\r0", Error::BadLineEnd);
    refuse("1\r\na\r\n\r", Error::MalformedChunk);
}

#[test]
fn chunk_size_of_u64_max_is_accepted() {
    let input = b"ffffffffffffffff\r\nabc";
    assert_eq!(trace(Framing::Chunked, input, &UNLIMITED), (b"abc".to_vec(), Ok(None)));
}

#[test]
fn chunk_extensions_follow_the_grammar_without_white_space() {
    for extension in [
        ";a",
        ";a=b",
        ";a=\"b\"",
        ";a=\"\"",
        ";a;b=c",
        ";a=\"b\";c",
        ";a=\"\\\"\"",
        ";a=\"\\\\\"",
        ";a=\"; \t=\"",
        ";a=\"\u{e9}\"",
        ";a=\"\\\u{e9}\"",
    ] {
        accept(format!("1{extension}\r\na\r\n0\r\n\r\n"), "a");
        accept(format!("1\r\na\r\n0{extension}\r\n\r\n"), "a");
    }
    for extension in [
        ";\r",
        ";;",
        ";=",
        ";a=\r",
        ";a=;",
        ";a==",
        // White space outside quotes is refused: around the semicolon, around the equals sign, and
        // before the line end.
        " ",
        "\t",
        "; ",
        ";\t",
        ";a ",
        ";a\t",
        ";a= ",
        ";a=\t",
        ";a=b ",
        ";a=b\t",
        ";a=\"b\" ",
        ";a;b=\"c\"\t",
        ";a=b=",
        ";a=\"b\"c",
        ";a=\"b\"=",
        ";a=b\"",
        ";\"",
        ";a=\"\r",
        ";a=\"\0",
        ";a=\"\x7f",
        ";a=\"\\\0",
        ";a=\"\\\r",
        ";a,",
        ";a=,",
        ";a\0",
        ";a=\u{7f}",
        ";(",
    ] {
        refuse(format!("1{extension}"), Error::MalformedChunk);
    }
    for extension in [";\n", ";a\n", ";a=\n", ";a=b\n", ";a=\"\n", ";a=\"b\"\n", ";a=\"\\\n"] {
        refuse(format!("1{extension}"), Error::BadLineEnd);
    }
    refuse("1;a\r\r", Error::BadLineEnd);
}

#[test]
fn extensions_over_extension_bytes_max_in_total_are_refused() {
    accept("1;34567890abc\r\na\r\n0\r\n\r\n", "a");
    refuse("1;34567890abcd", Error::ChunkExtensionsTooLarge);
    refuse("1;a;b;c;d;e;f;", Error::ChunkExtensionsTooLarge);
    accept("1;2345\r\na\r\n1;2345\r\nb\r\n0;a\r\n\r\n", "ab");
    refuse("1;2345\r\na\r\n1;2345\r\nb\r\n0;ab", Error::ChunkExtensionsTooLarge);
    // The digits of sizes and the line ends do not count as extensions.
    accept("0000000000000001;34567890abc\r\na\r\n0000000000000000\r\n\r\n", "a");
    let none = BodyLimits { extension_bytes_max: 0, ..LIMITS };
    assert_eq!(trace(Framing::Chunked, b"0\r\n\r\n", &none).1, Ok(Some(5)));
    assert_eq!(trace(Framing::Chunked, b"0;", &none).1, Err(Error::ChunkExtensionsTooLarge));
}

#[test]
fn trailers_are_validated_and_discarded() {
    accept("0\r\na: b\r\n\r\n", "");
    accept("1\r\na\r\n0\r\na:\r\nb: c\r\n\r\n", "a");
    accept("0\r\nContent-Length: 5\r\n\r\n", ""); // dropped, so it frames nothing
    refuse("0\r\n ", Error::MalformedField);
    refuse("0\r\n:", Error::MalformedField);
    refuse("0\r\na ", Error::MalformedField);
    refuse("0\r\na\r", Error::MalformedField);
    refuse("0\r\na: \0", Error::MalformedField);
    refuse("0\r\na: b\r\n\t", Error::MalformedField);
    refuse("0\r\n\n", Error::BadLineEnd);
    refuse("0\r\n\r\r", Error::BadLineEnd);
    refuse("0\r\na: b\n", Error::BadLineEnd);
    refuse("0\r\na: b\r\r", Error::BadLineEnd);
    assert_eq!(trace(Framing::Chunked, b"0\r\na: b\r\n", &LIMITS).1, Ok(None));
}

#[test]
fn trailers_over_trailer_bytes_max_are_refused() {
    accept("0\r\na: 34567890abcdefg\r\n\r\n", "");
    accept("0\r\na: 3456\r\nb: 3456\r\n\r\n", "");
    // The excess byte is detected only where the final CRLF would have to begin.
    refuse("0\r\na: 34567890abcdefgh\r\n\r\n", Error::TrailersTooLarge);
    refuse("0\r\na: 34567890abcdefghijkl", Error::TrailersTooLarge);
    // Extensions do not count.
    accept("0;34567890abc\r\na: 34567890abcdefg\r\n\r\n", "");
    let none = BodyLimits { trailer_bytes_max: 0, ..LIMITS };
    assert_eq!(trace(Framing::Chunked, b"0\r\n\r\n", &none).1, Ok(Some(5)));
    assert_eq!(trace(Framing::Chunked, b"0\r\na:\r\n\r\n", &none).1, Err(Error::TrailersTooLarge));
    // The number of trailer fields has no limit of its own.
    let many = format!("0\r\n{}\r\n", "a:\r\n".repeat(300));
    assert_eq!(trace(Framing::Chunked, many.as_bytes(), &UNLIMITED).1, Ok(Some(many.len())));
}

#[test]
fn content_over_body_bytes_max_is_refused() {
    let thirty = "x".repeat(30);
    accept(format!("1e\r\n{thirty}\r\n0\r\n\r\n"), &thirty);
    accept(format!("1\r\nx\r\n1d\r\n{}\r\n0\r\n\r\n", &thirty[1..]), &thirty);
    // The error comes at the byte that exceeds the limit, after all content before it was passed
    // on.
    let over = format!("1f\r\n{thirty}y");
    refuse(&over, Error::BodyTooLarge);
    let seen = trace(Framing::Chunked, over.as_bytes(), &LIMITS).0;
    assert_eq!(seen, thirty.as_bytes());
    refuse(format!("1e\r\n{thirty}\r\n1\r\ny"), Error::BodyTooLarge);
    refuse(format!("ffffffffffffffff\r\n{thirty}y"), Error::BodyTooLarge);
    let none = BodyLimits { body_bytes_max: 0, ..LIMITS };
    assert_eq!(trace(Framing::Chunked, b"0\r\n\r\n", &none).1, Ok(Some(5)));
    assert_eq!(trace(Framing::Chunked, b"1\r\na", &none).1, Err(Error::BodyTooLarge));
    assert_eq!(decode(Framing::Length(1), &[b""], &none).1, Err(Error::BodyTooLarge));
}

#[test]
fn default_limits_are_those_of_the_specification() {
    let limits = BodyLimits::default();
    let result_of = |input: String| decode(Framing::Chunked, &[input.as_bytes()], &limits).1;
    let (body, other) = (4 * 1024 * 1024, 16 * 1024);
    assert_eq!(decode(Framing::Length(body), &[b""], &limits).1, Ok(None));
    assert_eq!(decode(Framing::Length(body + 1), &[b""], &limits).1, Err(Error::BodyTooLarge));
    let extension = |bytes| format!("0;{}", "x".repeat(bytes - 1));
    assert_eq!(result_of(extension(other)), Ok(None));
    assert_eq!(result_of(extension(other + 1)), Err(Error::ChunkExtensionsTooLarge));
    let trailer = |bytes| format!("0\r\na:{}\r\n\r\n", "x".repeat(bytes - 4));
    assert_eq!(result_of(trailer(other)), Ok(Some(other + 5)));
    assert_eq!(result_of(trailer(other + 1)), Err(Error::TrailersTooLarge));
}

#[test]
fn limit_lowered_below_the_received_content_refuses_the_next_byte() {
    let none = BodyLimits { body_bytes_max: 0, ..LIMITS };
    let chunked = BodyDecoder::new(Framing::Chunked);
    let length = BodyDecoder::new(Framing::Length(30));
    for mut decoder in [chunked, length, BodyDecoder::until_end()] {
        decoder.decode(b"5\r\nhe", &LIMITS, &mut |_| ()).unwrap();
        let fault = decoder.decode(b"llo", &none, &mut |_| panic!("more content"));
        assert_eq!(fault, Err(Error::BodyTooLarge));
    }
}

#[test]
fn content_is_passed_on_in_the_largest_slices() {
    let mut slices = Vec::new();
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    for input in ["5\r\nhello\r\n6\r\n wo", "rld\r\n0\r\n\r\n"] {
        decoder
            .decode(input.as_bytes(), &LIMITS, &mut |slice| slices.push(slice.to_vec()))
            .unwrap();
    }
    assert_eq!(slices, [b"hello".to_vec(), b" wo".to_vec(), b"rld".to_vec()]);
}

/// An independent, simple parser of the same grammar: the content and length of a complete body, or
/// `None`.
fn reference_decode(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    // One character for each octet.
    let text: String = input.iter().map(|&octet| octet as char).collect();
    let mut rest: &str = &text;
    let mut content = Vec::new();
    let latin = |text: &str| text.chars().map(|c| c as u8).collect::<Vec<_>>();
    loop {
        let (line, after) = rest.split_once("\r\n")?;
        let digits = line.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(line.len());
        if !(1..=16).contains(&digits) || !reference_extensions_are_valid(&line[digits..]) {
            return None;
        }
        let size = u64::from_str_radix(&line[..digits], 16).ok()?;
        rest = after;
        if size == 0 {
            break;
        }
        let octets: Vec<char> = rest.chars().take(usize::try_from(size).ok()?).collect();
        if octets.len() as u64 != size {
            return None;
        }
        let bytes: usize = octets.iter().map(|c| c.len_utf8()).sum();
        content.extend(latin(&rest[..bytes]));
        rest = rest[bytes..].strip_prefix("\r\n")?;
    }
    loop {
        let (line, after) = rest.split_once("\r\n")?;
        rest = after;
        if line.is_empty() {
            return Some((content, input.len() - rest.chars().count()));
        }
        let (name, value) = line.split_once(':')?;
        if !reference_is_token(name) || value.chars().any(|c| (c < ' ' && c != '\t') || c == '\x7f')
        {
            return None;
        }
    }
}

fn reference_is_token(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
}

fn reference_extensions_are_valid(mut text: &str) -> bool {
    while !text.is_empty() {
        let Some(rest) = text.strip_prefix(';') else { return false };
        let end = rest.find(['=', ';']).unwrap_or(rest.len());
        if !reference_is_token(&rest[..end]) {
            return false;
        }
        text = &rest[end..];
        let Some(rest) = text.strip_prefix('=') else { continue };
        if let Some(mut quoted) = rest.strip_prefix('"') {
            loop {
                let mut chars = quoted.chars();
                let Some(mut next) = chars.next() else { return false };
                if next == '"' {
                    text = chars.as_str();
                    break;
                }
                if next == '\\' {
                    match chars.next() {
                        Some(escaped) => next = escaped,
                        None => return false,
                    }
                }
                if (next < ' ' && next != '\t') || next == '\x7f' {
                    return false;
                }
                quoted = chars.as_str();
            }
        } else {
            let end = rest.find(';').unwrap_or(rest.len());
            if !reference_is_token(&rest[..end]) {
                return false;
            }
            text = &rest[end..];
        }
    }
    true
}

#[test]
fn decoder_agrees_with_the_naive_parser_on_mutated_input() {
    let seeds: [&[u8]; 6] = [
        b"5\r\nhello\r\n0\r\n\r\n",
        b"3;a=b;c\r\nabc\r\n2 ; d = \"e;\\\"\"\r\n\r\n\r\n0\r\n\r\n",
        b"00a\r\n0123456789\r\n1\r\n\n\r\n000;x\r\nA: b\r\nC:\r\n\r\nGET",
        b"0;a=\"\xe9\\\xe9\"\r\nX-Sum: \xff\r\n\r\n",
        b"F\r\n5\r\nhello\r\n0\r\n\r\n\r\n0\r\n\r\n0\r\n\r\n",
        b"1\t;\ta\t;b=c ;d\r\nx\r\n1;e=\"\"\r\ny\r\n0\r\n\r\n",
    ];
    let octets = b"\r\n\r\n ;=\"\\\t:0159afG\0\x7f\x80\xff";
    let mut random = Random::seeded(3);
    let mut accepted = 0;
    for _ in 0..60_000 {
        let seed = *random.pick(&seeds);
        let input = random.mutate(seed, octets);
        let whole = decode(Framing::Chunked, &[&input], &UNLIMITED);
        let pieces = random.cut(&input);
        let cut = decode(Framing::Chunked, &pieces, &UNLIMITED);
        assert_eq!(whole, cut, "cut {}", input.escape_ascii());
        let found = match whole {
            (content, Ok(Some(consumed))) => Some((content, consumed)),
            _ => None,
        };
        assert_eq!(found, reference_decode(&input), "{}", input.escape_ascii());
        accepted += usize::from(found.is_some());
        // With limits the result must not depend on the split either.
        let whole = decode(Framing::Chunked, &[&input], &LIMITS);
        assert_eq!(whole, decode(Framing::Chunked, &pieces, &LIMITS), "{}", input.escape_ascii());
    }
    assert!((5_000..50_000).contains(&accepted), "{accepted} accepted: this tests one side only");
}

#[test]
fn decoder_consumes_nothing_after_the_end() {
    let mut decoder = BodyDecoder::new(Framing::Length(2));
    let mut sink = |_: &[u8]| {};
    let limits = BodyLimits::default();
    let whole = decoder.decode(b"abGET", &limits, &mut sink).unwrap();
    assert_eq!(whole, Progress { consumed: 2, done: true });
    let more = decoder.decode(b"GET", &limits, &mut sink).unwrap();
    assert_eq!(more, Progress { consumed: 0, done: true });
}

#[test]
fn limit_of_usize_max_does_not_overflow() {
    let limits = BodyLimits {
        body_bytes_max: u64::MAX,
        extension_bytes_max: usize::MAX,
        trailer_bytes_max: usize::MAX,
    };
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    let mut sink = |_: &[u8]| {};
    decoder.decode(b"1;a", &limits, &mut sink).unwrap();
    // As if the most octets of extensions that a `usize` can count had been received.
    decoder.overhead = usize::MAX;
    decoder.decode(b"b=c\r\nx\r\n0\r\n", &limits, &mut sink).unwrap();
    // The same for trailers: here one more octet is allowed, and the next is not.
    decoder.overhead = usize::MAX - 1;
    let fault = decoder.decode(b"A: b\r\n\r\n", &limits, &mut sink);
    assert_eq!(fault, Err(Error::TrailersTooLarge));
}
