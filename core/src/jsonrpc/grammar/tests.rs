use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::*;
use crate::testing::Random;

#[track_caller]
fn check(text: &str, expected: Result<Shape, SyntaxError>) {
    assert_eq!(walk(text, Some(4), |_, _| {}), expected, "{text}");
    if !matches!(expected, Err(SyntaxError::TooDeep(_))) {
        let library = serde_json::from_str::<&serde_json::value::RawValue>(text);
        assert_eq!(library.is_ok(), expected.is_ok(), "the library differs on {text}");
    }
}

#[test]
fn texts_are_accepted_or_refused_at_the_first_invalid_byte() {
    use Shape::{Array, Object, Scalar};
    use SyntaxError::{TooDeep, Unexpected, UnexpectedEnd};
    check("{}", Ok(Object));
    check(" { } \n", Ok(Object));
    check("[]", Ok(Array));
    check("[[],{}]", Ok(Array));
    check(r#"{"a":[1,2,{"b":null}],"c":"d"}"#, Ok(Object));
    check("1", Ok(Scalar));
    check("-0", Ok(Scalar));
    check("-0.5e+10", Ok(Scalar));
    check("1e400", Ok(Scalar));
    check("true", Ok(Scalar));
    check("null ", Ok(Scalar));
    check(r#""\ud800\u0000\"\\\/\b\f\n\r\t""#, Ok(Scalar));
    check("\"\u{7f}\u{2028}é\"", Ok(Scalar));
    check("", Err(UnexpectedEnd(0)));
    check("  ", Err(UnexpectedEnd(2)));
    check("{", Err(UnexpectedEnd(1)));
    check("[1,]", Err(Unexpected(3)));
    check("[,1]", Err(Unexpected(1)));
    check("{,}", Err(Unexpected(1)));
    check(r#"{"a":1,}"#, Err(Unexpected(7)));
    check(r#"{"a"}"#, Err(Unexpected(4)));
    check(r#"{"a" 1}"#, Err(Unexpected(5)));
    check(r#"{"a"#, Err(UnexpectedEnd(3)));
    check(r#"{"a":"#, Err(UnexpectedEnd(5)));
    check(r#"{"a":]"#, Err(Unexpected(5)));
    check(r#"{1:2}"#, Err(Unexpected(1)));
    check("[1}", Err(Unexpected(2)));
    check(r#"{"a":1]"#, Err(Unexpected(6)));
    check("[1 2]", Err(Unexpected(3)));
    check("{} {}", Err(Unexpected(3)));
    check("1 2", Err(Unexpected(2)));
    check("]", Err(Unexpected(0)));
    check("01", Err(Unexpected(1)));
    check("+1", Err(Unexpected(0)));
    check("-", Err(UnexpectedEnd(1)));
    check("-a", Err(Unexpected(1)));
    check("1.", Err(UnexpectedEnd(2)));
    check(".5", Err(Unexpected(0)));
    check("1e", Err(UnexpectedEnd(2)));
    check("1e+", Err(UnexpectedEnd(3)));
    check("tru", Err(UnexpectedEnd(3)));
    check("trux", Err(Unexpected(3)));
    check("NaN", Err(Unexpected(0)));
    check("\"\n\"", Err(Unexpected(1)));
    check(r#""\x""#, Err(Unexpected(2)));
    check(r#""\u12g4""#, Err(Unexpected(5)));
    check(r#""\"#, Err(UnexpectedEnd(2)));
    check(r#""abc"#, Err(UnexpectedEnd(4)));
    check("\u{feff}{}", Err(Unexpected(0)));
    check("{}\u{b}", Err(Unexpected(2)));
    check("[[[[]]]]", Ok(Array));
    check("[[[[[]]]]]", Err(TooDeep(4)));
}

#[test]
fn only_members_of_the_outermost_object_are_reported() {
    let mut noted = Vec::new();
    let text = r#" {"a" : {"b":[1,{"c":2}]} , "\u0062":"x" ,"a":-1e5,"d":[ ] }"#;
    walk(text, None, |key, value| noted.push((key, value))).unwrap();
    let expected = [
        (r#""a""#, r#"{"b":[1,{"c":2}]}"#),
        (r#""\u0062""#, r#""x""#),
        (r#""a""#, "-1e5"),
        (r#""d""#, "[ ]"),
    ];
    assert_eq!(noted, expected);
    walk(r#"[{"a":1}]"#, None, |_, _| panic!("not an object's member")).unwrap();
}

#[test]
fn nesting_of_any_depth_is_parsed_without_recursion() {
    for depth in [127, 128, 129, 256, 257, 1_000_000] {
        let mut text = String::new();
        for level in 0..depth {
            text.push_str(if level % 3 == 0 { "[" } else { "{\"k\":" });
        }
        assert!(walk(&text, Some(128), |_, _| {}).is_err(), "{depth}");
        text.push('0');
        for level in (0..depth).rev() {
            text.push(if level % 3 == 0 { ']' } else { '}' });
        }
        assert_eq!(walk(&text, None, |_, _| {}), Ok(Shape::Array), "{depth}");
        assert_eq!(walk(&text, Some(128), |_, _| {}).is_ok(), depth <= 128, "{depth}");
        // A closing bracket of the wrong kind is found at both ends of the nesting.
        for at in [1, depth] {
            let mut wrong = text.clone().into_bytes();
            let end = wrong.len() - at;
            wrong[end] ^= b']' ^ b'}';
            assert!(walk(core::str::from_utf8(&wrong).unwrap(), None, |_, _| {}).is_err());
        }
    }
}

/// The texts are made of random pieces of JSON. Most are invalid.
#[test]
fn parser_agrees_with_serde_json_on_random_texts() {
    const PIECES: [&str; 22] = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"a\"",
        "\"\\n\"",
        "\"",
        "\\",
        "0",
        "-1",
        "1.5e3",
        ".",
        "e",
        "true",
        "null",
        " ",
        "\n",
        "{\"a\":1}",
        "[0]",
        "é",
    ];
    let mut random = Random::seeded(5);
    let mut good = 0;
    for _ in 0..300_000 {
        let count = 1 + random.below(7);
        let text: String = (0..count).map(|_| PIECES[random.below(PIECES.len())]).collect();
        let library = serde_json::from_str::<&serde_json::value::RawValue>(&text);
        let ours = walk(&text, None, |_, _| {});
        assert_eq!(ours.is_ok(), library.is_ok(), "{text:?}: {ours:?} {library:?}");
        good += u32::from(ours.is_ok());
    }
    assert!(good > 1_000, "the generator hits too rarely: {good}");
}

#[test]
fn syntax_error_text_has_the_position() {
    assert_eq!(format!("{}", SyntaxError::Unexpected(7)), "unexpected octet at byte 7");
}
