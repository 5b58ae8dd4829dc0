//! Finds the request that an answer belongs to, also when the server has changed the spelling or the type of its id.
//!
//! Knows: how ids are compared. Does not know: which client sent a request.
//!
//! The official clients number their requests and compare ids by value (TypeScript: `Number(response.id)`). So a
//! server that answers the request 4 with the id `4.0` or `"4"` works when a client starts it directly, and it has to
//! work behind the bridge too. Clients of the bridge choose ids freely, so an exact match is preferred. Without one,
//! the only match by value among ids of the same type is taken, or else the only match by value among all ids.

use std::borrow::Cow;

use mcp_sse_core::jsonrpc::same_id;

/// The longest id of a request, in bytes of JSON. It is limited because each id is stored until the answer.
pub(super) const ID_BYTES_MAX: usize = 4 << 10;
/// The longest id that is compared by value, in bytes of JSON. It is limited because an answer without an exact match
/// is compared with every request, and a client may have many requests with long ids.
const NUMBER_BYTES_MAX: usize = 64;
/// 2^53: an `f64` represents every integer up to this one exactly.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

fn is_string(raw: &str) -> bool {
    raw.starts_with('"')
}

/// The value of a raw id that is a number, or a string that contains a number.
fn value(raw: &str) -> Option<f64> {
    if raw.len() > NUMBER_BYTES_MAX {
        return None;
    }
    let text = if is_string(raw) {
        Cow::Owned(serde_json::from_str::<String>(raw).ok()?)
    } else {
        Cow::Borrowed(raw)
    };
    // `parse` would also accept "inf" and "nan".
    let spelled = text.trim();
    let digits = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
    if !spelled.chars().all(digits) {
        return None;
    }
    spelled.parse().ok().filter(|value: &f64| value.is_finite())
}

/// The position in `asked`, the raw ids of requests, of the request that an answer with the raw id `answered` belongs
/// to.
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
        // If a client uses an id twice, its requests are answered in the order in which they were sent.
        found.all(|(_, id)| same_id(id, first)).then_some(at)
    };
    only(true).or_else(|| only(false))
}

/// The integer that a raw id or progress token stands for. For ids that the bridge has chosen, which are all
/// integers.
pub(super) fn number(raw: &str) -> Option<u64> {
    if let Ok(number) = raw.parse() {
        return Some(number);
    }
    let value = value(raw).filter(|value| (0.0..=EXACT_MAX).contains(value))?;
    (value.fract() == 0.0).then_some(value as u64)
}

/// The raw id in a form that every JSON-RPC library accepts: a string, or an integer without a fraction or exponent.
/// `None` if the value is neither.
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
    fn ids_are_read_by_value_and_made_canonical() {
        let numbers = ["7", "7.0", r#""7""#, "70e-1", "18446744073709551615"].map(number);
        assert_eq!(numbers, [Some(7), Some(7), Some(7), Some(7), Some(u64::MAX)]);
        assert_eq!(["-7", "7.5", "true", r#""x""#, "1e99", ""].map(number), [None; 6]);
        let raw = ["4.0", "1e1", "4", r#""4.0""#, "4.5", "true", "null", "1e99"];
        let read = raw.map(|raw| canonical(raw).map(Cow::into_owned));
        let expected = [Some("4"), Some("10"), Some("4"), Some(r#""4.0""#), None, None, None, None];
        assert_eq!(read, expected.map(|id| id.map(str::to_owned)));
    }
}
