//! Request heads.

use mcp_sse_core::http1::Error;
use mcp_sse_core::http1::{FieldStorage, Framing, Head, HeadLimits, HeadScanner, Scan};

use super::cut;

/// The first byte decides how the rest, a head and what may follow it, is cut. Checks that the cuts
/// change nothing, and that a naive reader reads an accepted head alike.
pub fn head(input: &[u8]) {
    let Some((&how, said)) = input.split_first() else { return };
    let whole = scan(cut(0, said));
    assert_eq!(whole, scan(cut(how.max(1), said)), "the cuts changed something");
    let Ok(Some(end)) = whole else { return };
    let head = &said[..end];
    assert_eq!(scan(cut(0, head)), whole, "what follows a head does not belong to it");
    let mut storage = FieldStorage::new();
    if let Ok(parsed) = Head::parse(head, &mut storage) {
        check(&parsed, head);
    }
}

fn scan<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Option<usize>, Error> {
    let limits = HeadLimits { head_bytes_max: 1_024, fields_max: 12, target_bytes_max: 256 };
    let (mut scanner, mut before) = (HeadScanner::new(), 0);
    for piece in pieces {
        if let Scan::Complete { consumed } = scanner.scan(piece, &limits)? {
            return Ok(Some(before + consumed));
        }
        before += piece.len();
    }
    Ok(None)
}

/// Compares a parsed head with the lines of its text.
fn check(head: &Head<'_>, bytes: &[u8]) {
    assert!(!bytes.windows(2).any(|two| two[1] == b'\n' && two[0] != b'\r'), "a bare LF");
    assert!(!bytes.windows(2).any(|two| two[0] == b'\r' && two[1] != b'\n'), "a bare CR");
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.trim_start_matches("\r\n").split("\r\n");
    let words: Vec<_> = lines.next().expect("a request line").split(' ').collect();
    let [method, target, version] = words[..] else { panic!("{} words", words.len()) };
    assert_eq!(method, head.method().as_str());
    assert!(version.starts_with("HTTP/1.") && version.len() == "HTTP/1.1".len());
    assert!(target.contains(head.target().query.unwrap_or_default()));
    assert!(target.contains(head.target().path) || head.target().path == "/");

    let spaces = [' ', '\t'];
    let fields: Vec<_> = lines
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_once(':').expect("a colon"))
        .map(|(name, value)| (name, value.trim_matches(spaces).to_owned()))
        .collect();
    let found =
        head.fields().map(|(name, value)| (name, String::from_utf8_lossy(value).into_owned()));
    assert!(found.eq(fields.iter().cloned()), "other fields");

    let all = |wanted: &str| {
        let named = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        named.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    match (head.framing(), &all("content-length")[..], &all("transfer-encoding")[..]) {
        (Framing::Empty, [], []) => {}
        (Framing::Length(length), [said], []) => assert_eq!(*said, length.to_string()),
        (Framing::Chunked, [], [coding]) => assert!(coding.eq_ignore_ascii_case("chunked")),
        other => panic!("framed in two ways: {other:?}"),
    }
    assert!(all("host").len() <= 1, "two hosts");
    if head.host().is_none() {
        assert_eq!(version, "HTTP/1.0", "no host");
    }
}
