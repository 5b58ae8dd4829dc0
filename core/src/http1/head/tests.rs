use super::super::fields::Scan;
use super::super::scan::{HeadLimits, HeadScanner};
use super::*;
use crate::testing::Random;
use std::{format, vec};

/// Scans and parses one head, and returns what `look` reads from it. The scanner must accept the
/// head, so that only the parser can refuse it.
#[track_caller]
fn read<T>(text: &[u8], look: impl FnOnce(&Head<'_>) -> T) -> Result<T, Error> {
    let scan = HeadScanner::new().scan(text, &HeadLimits::default());
    assert_eq!(scan, Ok(Scan::Complete { consumed: text.len() }), "{}", text.escape_ascii());
    let mut storage = FieldStorage::new();
    Head::parse(text, &mut storage).map(|head| look(&head))
}

/// Like `read`, for a request line and fields without the blank line.
#[track_caller]
fn check<T: PartialEq + fmt::Debug>(
    text: &str,
    look: impl FnOnce(&Head<'_>) -> T,
    expected: Result<T, Error>,
) {
    assert_eq!(read(format!("{text}\r\n\r\n").as_bytes(), look), expected, "{text:?}");
}

const LINE: &str = "POST /m HTTP/1.1\r\nHost: a";
const OLD: &str = "POST /m HTTP/1.0";

#[test]
fn head_gives_every_part_of_a_valid_request() {
    let text = b"\r\nPOST /m?id=x HTTP/1.1\r\nhOST: a:80\r\nContent-Length:\t7 \r\nX: \r\nX: b\xff c\r\n\r\n";
    let checked = read(text, |head| {
        assert_eq!(head.method(), Method::Post);
        assert_eq!(head.version(), Version::Http11);
        assert_eq!(head.target().path, "/m");
        assert_eq!(head.target().query, Some("id=x"));
        assert_eq!(head.framing(), Framing::Length(7));
        assert_eq!(head.host(), Some("a:80"));
        assert!(head.keep_alive());
        assert!(!head.expects_continue());
        assert_eq!(head.field("HOST"), Some(&b"a:80"[..]));
        assert_eq!(head.field("x"), Some(&b""[..]));
        assert_eq!(head.field("y"), None);
        let named: vec::Vec<_> = head.fields_named("X").collect();
        assert_eq!(named, [&b""[..], b"b\xff c"]);
        let all: vec::Vec<_> = head.fields().collect();
        assert_eq!(
            all,
            [("hOST", &b"a:80"[..]), ("Content-Length", b"7"), ("X", b""), ("X", b"b\xff c")]
        );
    });
    assert_eq!(checked, Ok(()));
}

#[test]
fn method_outside_the_known_set_is_refused() {
    for &method in Method::ALL {
        check(&format!("{method} / HTTP/1.1\r\nHost: a"), |head| head.method(), Ok(method));
    }
    for name in ["get", "Get", "G", "GETT", "BREW", "PRI", "!", "ABCDEFGHIJKLMNOP"] {
        check(
            &format!("{name} / HTTP/1.1\r\nHost: a"),
            |head| head.method(),
            Err(Error::UnknownMethod),
        );
    }
}

#[test]
fn minor_versions_above_1_are_read_as_http_11() {
    for minor in 1..=9 {
        let text = format!("GET /a?b HTTP/1.{minor}\r\nHost: a\r\nB: c");
        check(&text, |head| head.version(), Ok(Version::Http11));
        check(&text, |head| head.target().query == Some("b"), Ok(true));
        check(&text, |head| head.fields().len(), Ok(2));
    }
    check(OLD, |head| head.version(), Ok(Version::Http10));
    check(OLD, |head| head.fields().len(), Ok(0));
    check("\r\n\r\nGET / HTTP/1.2\r\nHost: a", |head| head.fields().len(), Ok(1));
}

/// httparse validates the request line again for the versions that it supports, should the bytes
/// not have been scanned.
#[test]
fn unscanned_control_octet_in_the_target_is_refused_up_to_http_11() {
    for (minor, expected) in
        [(0, Err(Error::MalformedField)), (1, Err(Error::MalformedField)), (2, Ok("/\0"))]
    {
        let text = format!("GET /\0 HTTP/1.{minor}\r\nHost: a\r\n\r\n");
        let mut storage = FieldStorage::new();
        let found = Head::parse(text.as_bytes(), &mut storage).map(|head| head.target().path);
        assert_eq!(found, expected, "HTTP/1.{minor}");
    }
}

#[test]
fn fields_beyond_the_storage_are_an_error() {
    for minor in [1, 2] {
        let fields = "A: b\r\n".repeat(99);
        let text = format!("GET / HTTP/1.{minor}\r\n{fields}Host: a");
        check(&text, |head| head.fields().len(), Ok(100));
        // More fields than a scanner accepts are an error, not a panic.
        let text = format!("{text}\r\n{}\r\n", "A: b\r\n".repeat(29));
        let mut storage = FieldStorage::new();
        assert!(Head::parse(text.as_bytes(), &mut storage).is_err());
    }
}

#[test]
fn host_must_be_valid_and_occur_once() {
    #[track_caller]
    fn host(text: &str, expected: Result<Option<&str>, Error>) {
        let found =
            read(format!("{text}\r\n\r\n").as_bytes(), |head| head.host().map(vec::Vec::from));
        assert_eq!(found, expected.map(|host| host.map(vec::Vec::from)), "{text:?}");
    }
    host("GET / HTTP/1.1\r\nHost: a:80", Ok(Some("a:80")));
    host("GET / HTTP/1.1\r\nHost:a \t", Ok(Some("a")));
    host("GET / HTTP/1.1\r\nA: b", Err(Error::MissingHost));
    host("GET / HTTP/1.1\r\nHost: a\r\nhost: a", Err(Error::DuplicateHost));
    host("GET / HTTP/1.1\r\nHost: a b", Err(Error::InvalidHost));
    host("GET / HTTP/1.1\r\nHost:", Err(Error::InvalidHost));
    host("GET / HTTP/1.1\r\nHost: a:65536", Err(Error::InvalidHost));
    host("GET / HTTP/1.0", Ok(None));
    host("GET / HTTP/1.0\r\nHost: a", Ok(Some("a")));
    host("GET / HTTP/1.0\r\nHost: a\r\nHost: a", Err(Error::DuplicateHost));
    host("GET / HTTP/1.0\r\nHost: /", Err(Error::InvalidHost));
    // The target's authority replaces the value of `Host`, but the field must still be present.
    host("GET http://b/ HTTP/1.1\r\nHost: a", Ok(Some("b")));
    host("GET http://b/ HTTP/1.0", Ok(Some("b")));
    host("GET http://b/ HTTP/1.1", Err(Error::MissingHost));
    host("GET http://b/ HTTP/1.1\r\nHost: ", Err(Error::InvalidHost));
    host("GET http://b/ HTTP/1.1\r\nHost: b\r\nHost: b", Err(Error::DuplicateHost));
    host("CONNECT b:1 HTTP/1.1\r\nHost: a", Ok(Some("b:1")));
    host("OPTIONS * HTTP/1.1\r\nHost: a", Ok(Some("a")));
}

#[test]
fn framing_follows_content_length_and_transfer_encoding() {
    let chunked = format!("{LINE}\r\nTransfer-Encoding: chunked");
    check(LINE, |head| head.framing(), Ok(Framing::Empty));
    check(&chunked, |head| head.framing(), Ok(Framing::Chunked));
    check(&format!("{LINE}\r\ncontent-length: 0"), |head| head.framing(), Ok(Framing::Length(0)));
    let twice = format!("{LINE}\r\nContent-Length: 5\r\nContent-Length: 5");
    check(&twice, |head| head.framing(), Err(Error::InvalidContentLength));
    let both = format!("{chunked}\r\nContent-Length: 5");
    check(&both, |head| head.framing(), Err(Error::ConflictingFraming));
    let old = format!("{OLD}\r\nTransfer-Encoding: chunked");
    check(&old, |head| head.framing(), Err(Error::InvalidTransferEncoding));
    let newer = "POST /m HTTP/1.2\r\nHost: a\r\nTransfer-Encoding: CHUNKED";
    check(newer, |head| head.framing(), Ok(Framing::Chunked));
    let gzip = format!("{LINE}\r\nTransfer-Encoding: gzip");
    check(&gzip, |head| head.framing(), Err(Error::UnsupportedTransferCoding));
}

#[test]
fn framing_error_takes_precedence_over_other_errors() {
    let bad = "Content-Length: +5";
    for (line, otherwise) in [
        ("POST /m HTTP/1.1", Error::MissingHost),
        ("POST /m HTTP/1.1\r\nHost: a\r\nHost: b", Error::DuplicateHost),
        ("POST /m HTTP/1.1\r\nHost: a b", Error::InvalidHost),
        ("POST * HTTP/1.1\r\nHost: a", Error::MalformedTarget),
        ("post /m HTTP/1.1\r\nHost: a", Error::UnknownMethod),
    ] {
        check(line, |_| (), Err(otherwise));
        check(&format!("{line}\r\n{bad}"), |_| (), Err(Error::InvalidContentLength));
        check(&format!("{line}\r\nExpect: x"), |_| (), Err(otherwise));
    }
    // A malformed request is reported before an unsupported one.
    check("post https://a/ HTTP/1.1", |_| (), Err(Error::MissingHost));
}

#[test]
fn keep_alive_follows_version_and_connection_options() {
    for (connection, new, old) in [
        ("A: b", true, false),
        ("Connection: close", false, false),
        ("Connection: CLOSE", false, false),
        ("Connection: keep-alive", true, true),
        ("connection: Keep-Alive", true, true),
        ("Connection: upgrade, keep-alive", true, true),
        ("Connection: a,close ,b", false, false),
        ("Connection: keep-alive, close", false, false),
        ("Connection: keep-alive\r\nConnection: close", false, false),
        ("Connection: a\r\nConnection:\tkeep-alive\t", true, true),
        ("Connection: closed, xclose, close-x, clos e", true, false),
        ("Connection:", true, false),
        ("Connection: ,,", true, false),
        ("Proxy-Connection: close, keep-alive", true, false),
        ("Keep-Alive: timeout=5", true, false),
        ("Upgrade: h2c\r\nConnection: Upgrade", true, false),
    ] {
        check(&format!("{LINE}\r\n{connection}"), |head| head.keep_alive(), Ok(new));
        check(&format!("{OLD}\r\n{connection}"), |head| head.keep_alive(), Ok(old));
    }
}

#[test]
fn expectation_other_than_100_continue_is_refused() {
    let refused = Err(Error::UnsupportedExpectation);
    for (expect, waits, result) in [
        ("A: b", false, Ok(())),
        ("Expect: 100-continue", true, Ok(())),
        ("expect: 100-Continue", true, Ok(())),
        ("Expect: 100-continue, 100-CONTINUE", true, Ok(())),
        ("Expect: 100-continue\r\nExpect: 100-continue", true, Ok(())),
        ("Expect: x", false, refused),
        ("Expect: 100-continue, x", false, refused),
        ("Expect: 100-continue\r\nExpect: x", false, refused),
        ("Expect: 100-continue;a=b", false, refused),
        ("Expect: 100", false, refused),
        ("Expect:", false, refused),
    ] {
        let look = |head: &Head<'_>| (head.expects_continue(), head.check_expectation());
        let body = "Content-Length: 5";
        check(&format!("{LINE}\r\n{expect}\r\n{body}"), look, Ok((waits, result)));
        let chunked = "Transfer-Encoding: chunked";
        check(&format!("{LINE}\r\n{expect}\r\n{chunked}"), look, Ok((waits, result)));
        // There is no body to wait for.
        check(&format!("{LINE}\r\n{expect}"), look, Ok((false, result)));
        check(&format!("{LINE}\r\n{expect}\r\nContent-Length: 0"), look, Ok((false, result)));
        // HTTP/1.0 ignores expectations.
        check(&format!("{OLD}\r\n{expect}\r\n{body}"), look, Ok((false, Ok(()))));
    }
}

#[test]
fn content_coding_other_than_identity_is_refused() {
    let refused = Err(Error::UnsupportedContentEncoding);
    for (coding, result) in [
        ("A: b", Ok(())),
        ("Content-Encoding: identity", Ok(())),
        ("content-encoding: Identity", Ok(())),
        ("Content-Encoding: gzip", refused),
        ("Content-Encoding: identity, gzip", refused),
        ("Content-Encoding: identity\r\nContent-Encoding: br", refused),
        ("Content-Encoding:", refused),
    ] {
        let look = |head: &Head<'_>| head.check_content_encoding();
        check(&format!("{LINE}\r\n{coding}\r\nContent-Length: 5"), look, Ok(result));
        check(&format!("{LINE}\r\n{coding}\r\nTransfer-Encoding: chunked"), look, Ok(result));
        check(&format!("{LINE}\r\n{coding}\r\nContent-Length: 0"), look, Ok(Ok(())));
        check(&format!("{LINE}\r\n{coding}"), look, Ok(Ok(())));
    }
}

#[test]
fn debug_omits_query_and_field_values() {
    let text = b"GET /m?id=secret HTTP/1.1\r\nHost: a\r\nAuthorization: secret\r\n\r\n";
    let printed = read(text, |head| format!("{head:?}")).unwrap();
    assert!(printed.contains("/m") && !printed.contains("secret"), "{printed}");
    assert_eq!(format!("{:?}", FieldStorage::new()), "FieldStorage(..)");
}

#[test]
fn scanned_head_is_never_refused_for_its_syntax() {
    let seeds: [&[u8]; 4] = [
        b"POST /m?id=a HTTP/1.1\r\nHost: localhost:80\r\nContent-Length: 12\r\n\r\n",
        b"GET http://a/b HTTP/1.3\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\nA:\r\n\r\n",
        b"\r\nOPTIONS * HTTP/1.0\r\nConnection: keep-alive, x\r\nHost: a\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nB: \xe9\r\n\r\n",
    ];
    let octets = b"\r\n :\t,/.1H?%a\x80[]@*";
    let mut random = Random::seeded(2);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..40_000 {
        let seed = *random.pick(&seeds);
        let input = random.mutate(seed, octets);
        let mut scanner = HeadScanner::new();
        let scan = scanner.scan(&input, &HeadLimits::default());
        let Ok(Scan::Complete { consumed }) = scan else {
            // A server never parses bytes that the scanner refused. It must not panic nevertheless.
            let _ = Head::parse(&input, &mut FieldStorage::new()).map(|head| head.keep_alive());
            continue;
        };
        let text = &input[..consumed];
        match Head::parse(text, &mut FieldStorage::new()) {
            Ok(head) => {
                read += 1;
                // Each line after the request line, except the blank line, is one field.
                let lines = text.windows(2).filter(|two| two == b"\r\n").count();
                let empty =
                    text.split(|&octet| octet == b'\n').take_while(|line| line == b"\r").count();
                assert_eq!(head.fields().len() + 2 + empty, lines, "{}", text.escape_ascii());
                assert!(head.host().is_some() || head.version() == Version::Http10);
            }
            Err(fault) => {
                refused += 1;
                assert!(
                    !matches!(fault, Error::MalformedField | Error::MalformedRequestLine),
                    "{fault:?}: {}",
                    text.escape_ascii()
                );
            }
        }
    }
    assert!(read > 5_000 && refused > 5_000, "{read} read, {refused} refused");
}
