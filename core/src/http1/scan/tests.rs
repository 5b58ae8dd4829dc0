use super::*;
use crate::testing::{Random, every_way};
use alloc::string::String;
use alloc::vec::Vec;
use std::format;

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 400, fields_max: 4, target_bytes_max: 20 };

/// Scans `pieces`: the length of the complete head, `None` for a head that may continue, or the
/// error.
fn scan(pieces: &[&[u8]], limits: &HeadLimits) -> Result<Option<usize>, Error> {
    let mut scanner = HeadScanner::new();
    let mut before = 0;
    for piece in pieces {
        match scanner.scan(piece, limits) {
            Ok(Scan::Partial) => before += piece.len(),
            Ok(Scan::Complete { consumed }) => {
                assert!(scanner.is_idle(), "not ready for the next head");
                return Ok(Some(before + consumed));
            }
            Err(fault) => {
                assert_eq!(scanner.scan(b"\r\n\r\n", limits), Err(fault), "forgot its refusal");
                assert_eq!(scanner.scan(b"", limits), Err(fault), "forgot its refusal");
                return Err(fault);
            }
        }
    }
    Ok(None)
}

/// The result for `input`, which must be the same for every split, and with more bytes after it if
/// it is final.
#[track_caller]
fn result_of(input: &[u8], limits: &HeadLimits) -> Result<Option<usize>, Error> {
    let found = every_way(input, |pieces| scan(pieces, limits));
    if found != Ok(None) {
        for tail in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0", b"\n", b" "] {
            assert_eq!(scan(&[&[input, tail].concat()], limits), found, "with a tail");
        }
    }
    found
}

/// Checks that `input` is one complete head.
#[track_caller]
fn accept(input: &str) {
    assert_eq!(result_of(input.as_bytes(), &LIMITS), Ok(Some(input.len())), "{input:?}");
}

/// Checks that the *last* octet of `input`, and none before it, is refused.
#[track_caller]
fn refuse(input: impl AsRef<[u8]>, fault: Error) {
    let input = input.as_ref();
    assert_eq!(result_of(input, &LIMITS), Err(fault), "{}", input.escape_ascii());
    let before = &input[..input.len() - 1];
    assert_eq!(result_of(before, &LIMITS), Ok(None), "{} is late", input.escape_ascii());
}

#[test]
fn scanner_is_at_most_24_bytes() {
    assert!(size_of::<HeadScanner>() <= 24, "{}", size_of::<HeadScanner>());
}

#[test]
fn valid_head_is_accepted() {
    accept("GET / HTTP/1.1\r\n\r\n");
    accept("GET / HTTP/1.0\r\n\r\n");
    accept("GET / HTTP/1.2\r\n\r\n");
    accept("GET / HTTP/1.9\r\n\r\n");
    accept("POST /m?id=%00 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n");
    accept("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    accept("M!#$%&'*+-.^_`|~ -._~:/?[]@!$&'()*+, HTTP/1.1\r\n\r\n");
    accept("GET ;=%azAZ09 HTTP/1.1\r\nA: \u{e9}\t \r\n\r\n");
}

#[test]
fn input_of_another_protocol_is_refused_at_its_first_invalid_octet() {
    refuse(b"\x16", Error::MalformedRequestLine); // a TLS hello
    refuse(b"\0", Error::MalformedRequestLine);
    refuse(b"\x80", Error::MalformedRequestLine);
    refuse(b"\xef", Error::MalformedRequestLine); // a byte order mark
    refuse(b"{", Error::MalformedRequestLine);
    refuse(b"SSH-2.0-OpenSSH_9", Error::UnknownMethod);
    refuse(b"PRI * HTTP/2", Error::UnsupportedVersion);
    refuse(b"GET http://a/\r", Error::MalformedRequestLine); // HTTP/0.9
}

#[test]
fn more_than_four_empty_lines_before_a_request_are_refused() {
    accept("\r\nGET / HTTP/1.1\r\n\r\n");
    accept("\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    refuse("\r\n\r\n\r\n\r\n\r", Error::TooManyEmptyLines);
    refuse("\n", Error::BadLineEnd);
    refuse("\r\r", Error::BadLineEnd);
    refuse("\rG", Error::BadLineEnd);
    refuse("\r\n ", Error::MalformedRequestLine);
}

#[test]
fn scanner_is_idle_until_the_method_begins() {
    let mut scanner = HeadScanner::new();
    for (input, idle) in [("", true), ("\r", true), ("\n\r\n", true), ("G", false), ("ET", false)] {
        assert_eq!(scanner.scan(input.as_bytes(), &LIMITS), Ok(Scan::Partial));
        assert_eq!(scanner.is_idle(), idle, "{input:?}");
    }
}

#[test]
fn white_space_other_than_one_space_in_the_request_line_is_refused() {
    refuse(" ", Error::MalformedRequestLine);
    refuse("GET  ", Error::MalformedRequestLine);
    refuse("GET /  ", Error::MalformedRequestLine);
    refuse("GET / HTTP/1.1 ", Error::MalformedRequestLine);
    for white in ["\t", "\x0b", "\x0c"] {
        refuse(white, Error::MalformedRequestLine);
        refuse(format!("GET{white}"), Error::MalformedRequestLine);
        refuse(format!("GET {white}"), Error::MalformedTarget);
        refuse(format!("GET /{white}"), Error::MalformedTarget);
        refuse(format!("GET / {white}"), Error::MalformedRequestLine);
        refuse(format!("GET / HTTP/1.1{white}"), Error::MalformedRequestLine);
    }
}

#[test]
fn invalid_method_is_refused() {
    refuse("GE\0", Error::MalformedRequestLine);
    refuse("G@", Error::MalformedRequestLine);
    refuse("GET\r", Error::MalformedRequestLine);
    refuse("GET\n", Error::BadLineEnd);
    refuse("ABCDEFGHIJKLMNOPQ", Error::UnknownMethod);
    accept("ABCDEFGHIJKLMNOP / HTTP/1.1\r\n\r\n");
    accept("get / HTTP/1.1\r\n\r\n"); // known to be unknown when it is parsed
}

#[test]
fn octet_not_allowed_in_a_target_is_refused() {
    for octet in 0..=u8::MAX {
        let input = [b"GET /", &[octet][..]].concat();
        match octet {
            b' ' => {}
            b'\n' => refuse(input, Error::BadLineEnd),
            b'\r' => refuse(input, Error::MalformedRequestLine),
            b'"' | b'#' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x7f => {
                refuse(input, Error::MalformedTarget);
            }
            0..b' ' | 0x80.. => refuse(input, Error::MalformedTarget),
            _ => assert_eq!(result_of(&input, &LIMITS), Ok(None)),
        }
    }
}

#[test]
fn version_other_than_http_1_is_refused() {
    for version in ["HTTP/0", "HTTP/2", "HTTP/3", "HTTP/9"] {
        refuse(format!("GET / {version}"), Error::UnsupportedVersion);
    }
    for version in [
        "h",
        "HTTP/1.1x",
        "HTTPS",
        "HTTP/1,",
        "HTTP/1.x",
        "HTTP/1.1\t",
        "HTTP/11",
        "HTTP/.",
        "HTTP 1",
        "HTTP/1.10",
        "HTTP/x",
        "HTTP\\",
        "HTTP/+",
        "HTTP/1\r",
        "ICY",
        "\0",
    ] {
        let wrong = version.char_indices().find(|&(at, _)| {
            scan(&[format!("GET / {}", &version[..=at]).as_bytes()], &LIMITS).is_err()
        });
        let (at, _) = wrong.expect(version);
        refuse(format!("GET / {}", &version[..=at]), Error::MalformedRequestLine);
    }
    refuse("GET / HTTP/1.1\n", Error::BadLineEnd);
    refuse("GET / HTTP/1.1\r\r", Error::BadLineEnd);
    refuse("GET / HTTP/1.1\rH", Error::BadLineEnd);
    refuse("GET / HTTP/\n", Error::BadLineEnd);
}

#[test]
fn invalid_field_line_after_the_request_line_is_refused() {
    let line = "GET / HTTP/1.1\r\n";
    refuse(format!("{line} "), Error::MalformedField);
    refuse(format!("{line}\n"), Error::BadLineEnd);
    refuse(format!("{line}\r\r"), Error::BadLineEnd);
    refuse(format!("{line}Host "), Error::MalformedField);
    refuse(format!("{line}A: b\r\n "), Error::MalformedField);
    refuse(format!("{line}A: b\0"), Error::MalformedField);
    refuse(format!("{line}A: b\n"), Error::BadLineEnd);
    refuse(format!("{line}A: b\r\r"), Error::BadLineEnd);
    refuse(format!("{line}:"), Error::MalformedField);
}

#[test]
fn head_target_and_fields_over_their_limits_are_refused() {
    // The head has exactly the longest length, and then one byte more.
    let head = |value: usize| format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "v".repeat(value));
    let fixed = head(0).len();
    accept(&head(LIMITS.head_bytes_max - fixed));
    let long = head(LIMITS.head_bytes_max - fixed + 1);
    refuse(&long, Error::HeadTooLarge);
    refuse(&head(4 * LIMITS.head_bytes_max)[..=LIMITS.head_bytes_max], Error::HeadTooLarge);
    // Empty lines count too.
    let long = format!("\r\n{}", head(LIMITS.head_bytes_max - fixed - 1));
    refuse(&long, Error::HeadTooLarge);

    // The target.
    let target = |bytes: usize| format!("GET /{} HTTP/1.1\r\n\r\n", "t".repeat(bytes - 1));
    accept(&target(LIMITS.target_bytes_max));
    let long = target(LIMITS.target_bytes_max + 1);
    refuse(&long[..4 + LIMITS.target_bytes_max + 1], Error::TargetTooLong);

    // The fields.
    let fields = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
    accept(&fields(4));
    refuse(&fields(5)[..fields(4).len() - 1], Error::TooManyFields);
}

#[test]
fn default_zero_and_excessive_limits_are_applied() {
    let head = |fields: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a:\r\n".repeat(fields));
    // A limit above the capacity of `Head` is lowered to it.
    let generous = HeadLimits { fields_max: 1000, ..HeadLimits::default() };
    assert_eq!(scan(&[head(128).as_bytes()], &generous), Ok(Some(head(128).len())));
    assert_eq!(scan(&[head(129).as_bytes()], &generous), Err(Error::TooManyFields));
    let default = HeadLimits::default();
    assert_eq!(scan(&[head(100).as_bytes()], &default), Ok(Some(head(100).len())));
    assert_eq!(scan(&[head(101).as_bytes()], &default), Err(Error::TooManyFields));
    // The defaults are those of the specification.
    let fixed = "GET / HTTP/1.1\r\nA:\r\n\r\n".len();
    let head = |bytes| format!("GET / HTTP/1.1\r\nA:{}\r\n\r\n", "v".repeat(bytes - fixed));
    assert_eq!(scan(&[head(16 * 1024).as_bytes()], &default), Ok(Some(16 * 1024)));
    assert_eq!(scan(&[head(16 * 1024 + 1).as_bytes()], &default), Err(Error::HeadTooLarge));
    let target = |bytes| format!("GET {}", "/".repeat(bytes));
    assert_eq!(scan(&[target(8 * 1024).as_bytes()], &default), Ok(None));
    assert_eq!(scan(&[target(8 * 1024 + 1).as_bytes()], &default), Err(Error::TargetTooLong));
    // A limit of zero allows nothing.
    let none = HeadLimits { head_bytes_max: 0, fields_max: 0, target_bytes_max: 0 };
    assert_eq!(scan(&[b""], &none), Ok(None));
    assert_eq!(scan(&[b"G"], &none), Err(Error::HeadTooLarge));
    let none = HeadLimits { head_bytes_max: 100, ..none };
    assert_eq!(scan(&[b"GET /"], &none), Err(Error::TargetTooLong));
    let none = HeadLimits { target_bytes_max: 100, ..none };
    assert_eq!(scan(&[b"GET / HTTP/1.1\r\nA"], &none), Err(Error::TooManyFields));
    let head = "GET / HTTP/1.1\r\n\r\n";
    assert_eq!(scan(&[head.as_bytes()], &none), Ok(Some(head.len())));
}

#[test]
fn scanner_is_ready_for_the_next_head_after_a_complete_one() {
    let mut input =
        "GET /1 HTTP/1.1\r\nA: b\r\n\r\n\r\nGET /2 HTTP/1.1\r\n\r\nPOST /3 HTTP/1.1\r\n\r\n";
    let mut scanner = HeadScanner::new();
    let mut heads = Vec::new();
    while let Ok(Scan::Complete { consumed }) = scanner.scan(input.as_bytes(), &LIMITS) {
        let (head, rest) = input.split_at(consumed);
        heads.push(head.trim_start().split(' ').nth(1).unwrap());
        input = rest;
    }
    assert_eq!(heads, ["/1", "/2", "/3"]);
    assert_eq!(input, "");
    // The limits apply to each head separately.
    let pieces = [&b"GET /456789 HTTP/1.1\r\nA: "[..], b"b\r\n\r\n"];
    for _ in 0..LIMITS.head_bytes_max {
        assert_eq!(scanner.scan(pieces[0], &LIMITS), Ok(Scan::Partial));
        let whole = Scan::Complete { consumed: pieces[1].len() };
        assert_eq!(scanner.scan(pieces[1], &LIMITS), Ok(whole));
    }
}

/// An independent, simple parser of the same grammar: the length of a complete head, or `None`.
fn reference_scan(input: &[u8]) -> Option<usize> {
    let mut start = 0;
    while start < 8 && input[start..].starts_with(b"\r\n") {
        start += 2;
    }
    let len = start + input[start..].windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    // One character for each octet.
    let text: String = input[start..len - 4].iter().map(|&octet| octet as char).collect();
    let mut lines = text.split("\r\n");
    let words: Vec<&str> = lines.next()?.split(' ').collect();
    let [method, target, version] = words[..] else { return None };
    let token = |text: &str| {
        !text.is_empty()
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
    };
    let target_is_right = (1..=LIMITS.target_bytes_max).contains(&target.len())
        && target.chars().all(|c| c.is_ascii_graphic() && !"\"#<>\\^`{|}".contains(c));
    let version_is_right = version.len() == 8
        && version.starts_with("HTTP/1.")
        && version.ends_with(|c: char| c.is_ascii_digit());
    let fields: Vec<&str> = lines.collect();
    let fields_are_right = fields.len() <= LIMITS.fields_max
        && fields.iter().all(|line| {
            line.split_once(':').is_some_and(|(name, value)| {
                token(name) && !value.chars().any(|c| (c < ' ' && c != '\t') || c == '\x7f')
            })
        });
    let all = token(method)
        && method.len() <= 16
        && target_is_right
        && version_is_right
        && fields_are_right
        && len <= LIMITS.head_bytes_max;
    all.then_some(len)
}

#[test]
fn scanner_agrees_with_the_naive_parser_on_mutated_input() {
    let seeds: [&[u8]; 5] = [
        b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /messages?session_id=a HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}",
        b"\r\n\r\nOPTIONS * HTTP/1.7\r\nA: b\r\nC:\t\xe9\r\n\r\n",
        b"CONNECT [::1]:80 HTTP/1.1\r\nHost: a\r\nB: c\r\nD: e\r\nF: g\r\n\r\nGET",
        b"GET http://a:1/b?c=d HTTP/2.0\r\n\r\n",
    ];
    let octets = b"\r\n\r\n :\t\0/.1H?%a\x7f\x80\xff\"";
    let mut random = Random::seeded(1);
    let mut accepted = 0;
    for _ in 0..60_000 {
        let seed = *random.pick(&seeds);
        let input = random.mutate(seed, octets);
        let whole = scan(&[&input], &LIMITS);
        let pieces = random.cut(&input);
        assert_eq!(whole, scan(&pieces, &LIMITS), "cut {}", input.escape_ascii());
        assert_eq!(whole.ok().flatten(), reference_scan(&input), "{}", input.escape_ascii());
        accepted += usize::from(matches!(whole, Ok(Some(_))));
    }
    assert!((5_000..50_000).contains(&accepted), "{accepted} accepted: this tests one side only");
}
