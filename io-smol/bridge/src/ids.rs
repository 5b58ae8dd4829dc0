//! Whether an answer's id is that of a request, for servers that do not give ids back as they came.
//!
//! Knows: how ids are compared where their spelling or their type has changed on the way.
//! Does not know: whose requests they are.
//!
//! The official clients number their requests and compare by value (TypeScript: `Number(response.id)`),
//! so that servers that answer `4.0` or `"4"` to the request 4 work where they are started by a client.
//! They have to work behind the bridge too. Its clients choose ids freely, so an exact match goes first, then a match
//! by value among ids of the same type, then a match by value among all; each only if it is the only one.

use std::borrow::Cow;

use mcp_sse_core::jsonrpc::same_id;

/// The longest id of a request that is passed on, as JSON: it is kept until the answer.
pub(super) const ID_BYTES_MAX: usize = 4 << 10;
/// No longer id is taken for a number, as JSON: a client may have many long ones, and every one is compared with every
/// answer that matches none.
const NUMBER_BYTES_MAX: usize = 64;
/// The largest integer up to which each is a double of its own.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

fn is_string(raw: &str) -> bool {
    raw.starts_with('"')
}

/// The number that a raw id is, or that its text spells.
fn value(raw: &str) -> Option<f64> {
    if raw.len() > NUMBER_BYTES_MAX {
        return None;
    }
    let text = if is_string(raw) {
        Cow::Owned(serde_json::from_str::<String>(raw).ok()?)
    } else {
        Cow::Borrowed(raw)
    };
    // `parse` knows "inf" and "nan" as well.
    let spelled = text.trim();
    let digits = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
    if !spelled.chars().all(digits) {
        return None;
    }
    spelled.parse().ok().filter(|value: &f64| value.is_finite())
}

/// Which of `asked`, raw ids of requests, an answer with the raw id `answered` is to.
pub(super) fn find<'a>(
    asked: impl Iterator<Item = &'a str> + Clone,
    answered: &str,
) -> Option<usize> {
    if let Some(at) = asked.clone().position(|id| same_id(id, answered)) {
        return Some(at);
    }
    let sought = value(answered)?;
    let only = |same_type: bool| {
        let mut found = asked.clone().enumerate().filter(|(_, id)| {
            (!same_type || is_string(id) == is_string(answered)) && value(id) == Some(sought)
        });
        let (at, first) = found.next()?;
        // If a client uses an id twice, its requests are answered in order.
        found.all(|(_, id)| same_id(id, first)).then_some(at)
    };
    only(true).or_else(|| only(false))
}

/// The number that a raw id or token stands for, where all that were given out are integers.
pub(super) fn number(raw: &str) -> Option<u64> {
    if let Ok(number) = raw.parse() {
        return Some(number);
    }
    let value = value(raw).filter(|value| (0.0..=EXACT_MAX).contains(value))?;
    (value.fract() == 0.0).then_some(value as u64)
}

/// The raw id as every reader takes it: a string, or an integer written as one. `None` if it is neither.
pub(super) fn canonical(raw: &str) -> Option<Cow<'_, str>> {
    if is_string(raw) {
        return Some(Cow::Borrowed(raw));
    }
    if !raw.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return None;
    }
    if !raw.contains(['.', 'e', 'E']) {
        return Some(Cow::Borrowed(raw));
    }
    let value = value(raw).filter(|value| value.abs() <= EXACT_MAX && value.fract() == 0.0)?;
    Some(Cow::Owned((value as i64).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(asked: &[&str], answered: &str, expected: Option<usize>) {
        assert_eq!(find(asked.iter().copied(), answered), expected, "{answered} among {asked:?}");
    }

    #[test]
    fn answer_matches_request_by_spelling_then_by_value() {
        check(&["3", "4"], "4", Some(1));
        check(&["3", "4"], "4.0", Some(1));
        check(&["1", "10"], "1e1", Some(1));
        check(&["3", "5"], r#""5""#, Some(1));
        check(&["3", r#""5""#], "5", Some(1));
        check(&["3", r#""5""#], "5.0", Some(1));
        check(&["9007199254740993", "1"], "9007199254740992", Some(0));
        check(&[r#""\u0061""#], r#""a""#, Some(0));
        check(&["0"], "-0.0", Some(0));
    }

    #[test]
    fn id_match_prefers_exact_then_same_type() {
        check(&["5", r#""5""#], r#""5""#, Some(1));
        check(&[r#""5""#, "5"], "5", Some(1));
        check(&[r#""5""#, "5"], "5.0", Some(1));
        check(&[r#""5""#, "5"], r#""5.0""#, Some(0));
    }

    #[test]
    fn id_ambiguous_or_unknown_matches_no_request() {
        check(&[r#""5""#, r#""05""#], "5", None);
        check(&["5"], "6", None);
        check(&["5"], "5.5", None);
        check(&[r#""inf""#, r#""nan""#], "1e999", None);
        check(&[r#""""#], "0", None);
        check(&["1", "1"], "1.0", Some(0));
        let spelled = |len: usize| format!("\"{:>len$}\"", 5, len = len - 2);
        check(&[&spelled(NUMBER_BYTES_MAX)], "5", Some(0));
        check(&[&spelled(NUMBER_BYTES_MAX + 1)], "5", None);
        check(&[], "1", None);
    }

    #[test]
    fn numbers_and_canonical_ids() {
        let numbers = ["7", "7.0", r#""7""#, "70e-1", "18446744073709551615"].map(number);
        assert_eq!(numbers, [Some(7), Some(7), Some(7), Some(7), Some(u64::MAX)]);
        assert_eq!(["-7", "7.5", "true", r#""x""#, "1e99", ""].map(number), [None; 6]);
        let raw = ["4.0", "1e1", "4", r#""4.0""#, "4.5", "true", "null", "1e99"];
        let read = raw.map(|raw| canonical(raw).map(Cow::into_owned));
        let expected = [Some("4"), Some("10"), Some("4"), Some(r#""4.0""#), None, None, None, None];
        assert_eq!(read, expected.map(|id| id.map(str::to_owned)));
    }
}
