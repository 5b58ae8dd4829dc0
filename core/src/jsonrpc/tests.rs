use super::*;
use crate::testing::Random;
use alloc::format;
use alloc::vec;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// The expected result of parsing a body.
#[derive(Debug, PartialEq)]
enum Expected<'a> {
    /// The raw id and the method.
    Request(&'a str, &'a str),
    Notification(&'a str),
    Response(&'a str),
    Parse,
    Invalid,
}

use Expected::{Invalid as Refused, Notification, Parse, Request, Response};

fn summary<'a>(envelope: Result<&'a Envelope<'_>, &Invalid>) -> Expected<'a> {
    match envelope {
        Ok(Envelope { kind: Kind::Request, id: Some(id), method: Some(method) }) => {
            Request(id, method)
        }
        Ok(Envelope { kind: Kind::Notification, id: None, method: Some(method) }) => {
            Notification(method)
        }
        Ok(Envelope { kind: Kind::Response, id: Some(id), method: None }) => Response(id),
        Ok(other) => panic!("an impossible envelope: {other:?}"),
        Err(Invalid::Parse(_)) => Parse,
        Err(Invalid::Request(_)) => Refused,
    }
}

#[track_caller]
fn check_bytes(body: &[u8], expected: Expected<'_>) {
    let read = Envelope::read(body, Some(NESTING_MAX));
    assert_eq!(summary(read.as_ref()), expected, "{read:?}");
    if let Err(invalid) = &read {
        assert!(!invalid.reason().is_empty());
        assert_eq!(invalid.code(), if expected == Parse { -32700 } else { -32600 });
    }
    // `Message::read` must agree with `Envelope::read`, and must return the body without copying
    // it.
    let copy = body.to_vec();
    let address = copy.as_ptr();
    let returned = match (Message::read(copy, Some(NESTING_MAX)), read) {
        (Ok(message), Ok(envelope)) => {
            assert_eq!(message.kind(), envelope.kind);
            assert_eq!(message.id(), envelope.id);
            assert_eq!(message.method(), envelope.method.as_deref());
            assert_eq!((message.body(), message.text().as_bytes()), (body, body));
            message.into_body()
        }
        (Err((invalid, returned)), Err(same)) => {
            assert_eq!(invalid, same);
            returned
        }
        (owned, borrowed) => panic!("{owned:?} but {borrowed:?}"),
    };
    assert_eq!((returned.as_slice(), returned.as_ptr()), (body, address), "copied");
}

#[track_caller]
fn check(body: &str, expected: Expected<'_>) {
    check_bytes(body.as_bytes(), expected);
}

#[test]
fn valid_message_has_its_kind_id_and_method() {
    check(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, Request("1", "ping"));
    check(r#"{"jsonrpc":"2.0","method":"a/b"}"#, Notification("a/b"));
    check(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, Response("1"));
    check(r#"{"jsonrpc":"2.0","id":1,"result":null}"#, Response("1"));
    check(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"no"}}"#, Response("1"));
    // Members may come in any order, with white space between tokens, and with unknown members.
    check(r#"{"method":"m","id":7,"jsonrpc":"2.0"}"#, Request("7", "m"));
    check(
        " \t\r\n{ \"id\" :\t7 ,\r\n\"method\":\"m\", \"jsonrpc\":\"2.0\" }\r\n ",
        Request("7", "m"),
    );
    check(r#"{"jsonrpc":"2.0","id":7,"method":"m","extra":[{}],"":0}"#, Request("7", "m"));
    check(
        r#"{"params":{"id":2,"method":"x","jsonrpc":"1"},"jsonrpc":"2.0","id":7,"method":"m"}"#,
        Request("7", "m"),
    );
    check(r#"{"jsonrpc":"2.0","method":"m","params":null}"#, Notification("m"));
    check(r#"{"jsonrpc":"2.0","method":""}"#, Notification(""));
    // Names and strings are compared after decoding.
    check(r#"{"json\u0072pc":"2\u002e0","\u0069d":7,"meth\u006Fd":"m"}"#, Request("7", "m"));
    check(r#"{"jsonrpc":"2.0","method":"a\/b\n\"\u00e9\ud83d\ude00"}"#, Notification("a/b\n\"é😀"));
    check("{\"jsonrpc\":\"2.0\",\"method\":\"é😀\u{2028}\"}", Notification("é😀\u{2028}"));
    check(r#"{"jsonrpc":"2.0","method":"\u0000"}"#, Notification("\0"));
}

#[test]
fn id_is_kept_as_raw_text() {
    let long = format!("\"{}\"", "x".repeat(4096));
    for id in [
        "0",
        "-0",
        "-1",
        "1",
        "9007199254740993",
        "-9007199254740993",
        "18446744073709551616",
        "123456789012345678901234567890123456789012345678901234567890",
        r#""""#,
        r#""1""#,
        r#""😀""#,
        r#""\ud83d\ude00""#,
        r#""\u0000""#,
        r#""\"\\\/\b\f\n\r\t""#,
        r#""null""#,
        r#"" x ""#,
        r#""1.5e9""#,
        r#""\ud800""#,
        "\"\u{2028}\u{2029}\u{85}\"",
        &long,
    ] {
        check(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#), Request(id, "m"));
        check(&format!(r#"{{"jsonrpc":"2.0","result":0,"id" : {id} }}"#), Response(id));
    }
    for id in [
        "null",
        "true",
        "false",
        "1.0",
        "0.5",
        "1e3",
        "1E3",
        "-1.5",
        "1e400",
        "[]",
        "[1]",
        "{}",
        r#"{"id":1}"#,
    ] {
        check(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#), Refused);
        check(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":0}}"#), Refused);
    }
    for id in ["01", "+1", "-", "1.", ".5", "0x1", "NaN", "'a'", "\"a", "\"\n\"", r#""\x""#, ""] {
        check(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#), Parse);
    }
}

#[test]
fn text_that_is_not_one_json_value_is_a_parse_error() {
    check("", Parse);
    check(" \r\n", Parse);
    check("{", Parse);
    check("{}}", Parse);
    check("nul", Parse);
    check(r#"{"jsonrpc":"2.0","method":"m"} x"#, Parse);
    check(r#"{"jsonrpc":"2.0","method":"m"}{"jsonrpc":"2.0","method":"m"}"#, Parse);
    check("{\"jsonrpc\":\"2.0\",\"method\":\"m\"}\0", Parse);
    check("{\"jsonrpc\":\"2.0\",\"method\":\"m\"}\u{a0}", Parse);
    check("\u{c}{\"jsonrpc\":\"2.0\",\"method\":\"m\"}", Parse);
    check("\u{feff}{\"jsonrpc\":\"2.0\",\"method\":\"m\"}", Parse);
    check(r#"{"jsonrpc":"2.0","method":"m",}"#, Parse);
    check(r#"{"jsonrpc":"2.0" "method":"m"}"#, Parse);
    check(r#"{"jsonrpc":"2.0",method:"m"}"#, Parse);
    check(r#"{"jsonrpc":"2.0","method":"m"/**/}"#, Parse);
    check("{\"jsonrpc\":\"2.0\",\"method\":\"a\nb\"}", Parse);
    check(r#"{"jsonrpc":"2.0","method":"m","params":[1,]}"#, Parse);
    check(r#"{"jsonrpc":"2.0","method":"m","params":[}"#, Parse);
    check(r#"{"jsonrpc":"2.0","method":"m","params":"\u12"}"#, Parse);
    check(r#"[1,2"#, Parse);
    check(r#"[] []"#, Parse);
    // Invalid UTF-8: a single continuation byte, an overlong form, a surrogate, a code point above
    // U+10FFFF, a truncated sequence. The last body is UTF-16.
    for bad in [&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x80"] {
        let body = [br#"{"jsonrpc":"2.0","method":"m","params":[""#, bad, br#""]}"#].concat();
        check_bytes(&body, Parse);
    }
    check_bytes(b"\xfe\xff\0{\0}", Parse);
}

#[test]
fn json_that_is_not_a_message_is_an_invalid_request() {
    for body in ["0", "null", "true", r#""x""#, " -1.5 ", "[]", "[[]]", "{}", " [ 1e400 ] "] {
        check(body, Refused);
    }
    check(r#"[{"jsonrpc":"2.0","method":"m"}]"#, Refused);
    // The version.
    check(r#"{"method":"m"}"#, Refused);
    for version in ["2.0", "2", "null", r#""1.0""#, r#""2""#, r#""2.00""#, r#"["2.0"]"#, r#""""#] {
        check(&format!(r#"{{"jsonrpc":{version},"id":1,"method":"m"}}"#), Refused);
    }
    check(r#"{"JSONRPC":"2.0","method":"m"}"#, Refused);
    // The method.
    for method in ["null", "0", "{}", r#"["m"]"#, "true"] {
        check(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":{method}}}"#), Refused);
    }
    check(r#"{"jsonrpc":"2.0","id":1,"Method":"m"}"#, Refused);
    check(r#"{"jsonrpc":"2.0","id":1,"method ":"m"}"#, Refused);
    // The kind of the message.
    check(r#"{"jsonrpc":"2.0"}"#, Refused);
    check(r#"{"jsonrpc":"2.0","id":1}"#, Refused);
    check(r#"{"jsonrpc":"2.0","result":0}"#, Refused);
    check(r#"{"jsonrpc":"2.0","error":{}}"#, Refused);
    check(r#"{"jsonrpc":"2.0","id":1,"result":0,"error":{}}"#, Refused);
    check(r#"{"jsonrpc":"2.0","id":1,"result":0,"error":null}"#, Refused);
    check(r#"{"jsonrpc":"2.0","id":1,"method":"m","result":0}"#, Refused);
    check(r#"{"jsonrpc":"2.0","method":"m","error":{}}"#, Refused);
    // A member that occurs twice, with the same value or another.
    check(r#"{"jsonrpc":"2.0","jsonrpc":"2.0","method":"m"}"#, Refused);
    check(r#"{"jsonrpc":"2.0","id":1,"id":1,"method":"m"}"#, Refused);
    check(r#"{"jsonrpc":"2.0","id":1,"\u0069d":2,"method":"m"}"#, Refused);
    check(r#"{"jsonrpc":"2.0","method":"m","meth\u006fd":"m"}"#, Refused);
    check(r#"{"jsonrpc":"2.0","id":null,"id":1,"method":"m"}"#, Refused);
    // A syntax error takes precedence over an invalid member.
    check(r#"{"jsonrpc":"1.0","id":null,"id":[],"method":0,"result":0"#, Parse);
    check(r#"{"jsonrpc":"1.0"} x"#, Parse);
    check(r#"[{"jsonrpc":"2.0","method":"m"}"#, Parse);
}

/// A message with the given nesting; its own object is the first level.
fn nested(depth: usize, open: &str, close: &str) -> String {
    let (open, close) = (open.repeat(depth - 1), close.repeat(depth - 1));
    format!(r#"{{"jsonrpc":"2.0","method":"m","params":{open}0{close}}}"#)
}

#[test]
fn nesting_over_the_limit_is_a_parse_error() {
    check(&nested(128, "[", "]"), Notification("m"));
    check(&nested(129, "[", "]"), Parse);
    check(&nested(128, r#"{"a":"#, "}"), Notification("m"));
    check(&nested(129, r#"{"a":"#, "}"), Parse);
    // Brackets that are closed again and brackets in strings do not count.
    let wide = format!(r#"{{"jsonrpc":"2.0","method":"m","params":[{}0]}}"#, "[],".repeat(1000));
    check(&wide, Notification("m"));
    let text =
        format!(r#"{{"jsonrpc":"2.0","method":"m","params":["\\\"{}\\"]}}"#, "[{".repeat(200));
    check(&text, Notification("m"));
    let behind = format!(r#"{{"jsonrpc":"2.0","method":"m","params":["\"\\",{}"#, "[".repeat(200));
    check(&behind, Parse);

    let read = |body: &str, max| summary(Envelope::read(body.as_bytes(), max).as_ref()) == Parse;
    assert!(read(&nested(2, "[", "]"), Some(1)) && !read(&nested(2, "[", "]"), Some(2)));
    assert!(read(&nested(1, "", ""), Some(0)));
    assert!(!read(&nested(100_000, "[", "]"), None), "unlimited, and no stack is used up");
    assert!(!read(&nested(100_000, r#"{"":"#, "}"), None));
}

#[test]
fn worst_case_bodies_take_linear_time() {
    // The test has no time limit: quadratic time would take hours at these sizes.
    let mega = 1 << 20;
    let member = |i: usize| format!(r#""k{i}":{i},"#);
    let keys: String = (0..20_000).map(member).collect();
    let ids = r#""id":1,"#.repeat(100_000);
    let big = "x".repeat(4 * mega);
    let quotes = r#"\""#.repeat(mega);
    let escapes = r"\u0041".repeat(mega);
    check(&"[".repeat(mega), Parse);
    check(&r#"{"a":"#.repeat(mega), Parse);
    check(&"\"".repeat(mega), Parse);
    check(&"\\".repeat(mega), Parse);
    check(&format!(r#"{{{keys}"jsonrpc":"2.0","method":"m"}}"#), Notification("m"));
    check(&format!(r#"{{{ids}"jsonrpc":"2.0","method":"m"}}"#), Refused);
    check(&format!(r#"{{"jsonrpc":"2.0","method":"m","params":["{big}"]}}"#), Notification("m"));
    check(&format!(r#"{{"jsonrpc":"2.0","method":"m","params":["{quotes}"]}}"#), Notification("m"));
    check(&format!(r#"{{"jsonrpc":"2.0","method":"{big}"}}"#), Notification(&big));
    check(&format!(r#"{{"jsonrpc":"2.0","method":"{escapes}"}}"#), Notification(&"A".repeat(mega)));
    check(
        &format!(r#"{{"jsonrpc":"2.0","id":"{escapes}","result":0}}"#),
        Response(&format!("\"{escapes}\"")),
    );
    check(&format!(r#"{{"{big}":0,"jsonrpc":"2.0","method":"m"}}"#), Notification("m"));
    check(
        &format!(r#"{{"jsonrpc":"2.0","method":"m","params":[{}]}}"#, "9".repeat(mega)),
        Notification("m"),
    );
}

#[test]
fn unpaired_surrogates_and_huge_numbers_do_not_panic() {
    for value in
        [r#""\ud800""#, r#""\udc00\ud800""#, r#""\u0000""#, "1e400", "-1e-400", r#""\ud800x""#]
    {
        for body in [
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":[{value}]}}"#),
            format!(r#"{{"jsonrpc":"2.0","id":{value},"method":"m"}}"#),
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":{value}}}"#),
            format!(r#"{{"jsonrpc":{value},"id":1,"method":"m"}}"#),
            format!(r#"{{"jsonrpc":"2.0","method":"m",{value}:0}}"#),
        ] {
            let _ = summary(Envelope::read(body.as_bytes(), None).as_ref());
        }
    }
    check(r#"{"jsonrpc":"2.0","method":"\ud800"}"#, Refused);
    check(r#"{"jsonrpc":"2.0","method":"m","params":["\ud800",1e400]}"#, Notification("m"));
}

#[test]
fn error_texts_describe_the_mistake() {
    #[track_caller]
    fn check(body: &str, expected: &str) {
        assert_eq!(Envelope::read(body.as_bytes(), Some(2)).unwrap_err().to_string(), expected);
    }
    check("\u{feff}{}", "Parse error: the text starts with a byte order mark");
    check(
        "[[[",
        "Parse error: arrays and objects are nested too deep at byte 2 (limit nesting_max)",
    );
    check("{\n\"a\":}", "Parse error: unexpected octet at byte 6");
    check("[{}]", "Invalid Request: batches are not supported");
    check("7", "Invalid Request: a message is an object");
    check("{}", "Invalid Request: jsonrpc must be the string \"2.0\"");
    check(r#"{"id":1,"id":1}"#, "Invalid Request: more than one id");
    check(r#"{"jsonrpc":"2.0","id":null}"#, "Invalid Request: an id is a string or an integer");
    check(r#"{"jsonrpc":"2.0","result":0}"#, "Invalid Request: a response without an id");
}

#[test]
fn same_id_compares_after_decoding() {
    #[track_caller]
    fn check(a: &str, b: &str, expected: bool) {
        assert_eq!(same_id(a, b), expected, "{a} {b}");
        assert_eq!(same_id(b, a), expected, "{b} {a}");
    }
    check("1", "1", true);
    check("0", "-0", true);
    check("1", "-1", false);
    check("1", "\"1\"", false);
    check("9007199254740993", "9007199254740992", false);
    check(r#""a""#, r#""a""#, true);
    check(r#""a""#, r#""\u0061""#, true);
    check(r#""a""#, r#""A""#, false);
    check(r#""a""#, r#""ab""#, false);
    check(r#""""#, r#""a""#, false);
    check(r#""""#, "0", false);
    check(r#""😀""#, r#""\uD83D\ude00""#, true);
    check(r#""\ud83d""#, r#""\ud83d""#, true);
    check(r#""\ud83d""#, r#""\ud83e""#, false);
    check(r#""\ud83dx""#, r#""\ud83d\u0078""#, true);
    check(r#""\ud83d\ud83d\ude00""#, r#""\ud83d😀""#, true);
    check(r#""A\udc00""#, r#""\u0041\udc00""#, true);
    check(r#""/\"\\""#, r#""\/\u0022\u005c""#, true);
    check(r#""\b\f\n\r\t""#, r#""\u0008\u000c\u000a\u000d\u0009""#, true);
    check("\"\u{2028}\"", r#""\u2028""#, true);
    check("0", "\"", false);
    check(r#""\u""#, r#""\u00""#, true); // No JSON; only must not panic.
}

#[test]
fn cancelled_id_is_some_only_for_a_cancel_notification() {
    #[track_caller]
    fn check(body: &str, expected: Option<&str>) {
        let message = Message::read(body.into(), None).unwrap();
        assert_eq!(message.cancelled_id(), expected);
    }
    let of = |params: &str| {
        format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{params}}}"#)
    };
    check(&of(r#"{"requestId":7}"#), Some("7"));
    check(&of(" {\"reason\":\"\",\t\"requestId\" : \"a\\n\" }"), Some(r#""a\n""#));
    check(&of(r#"{"request\u0049d":7}"#), Some("7"));
    check(&of(r#"{"requestId":7,"requestId":8}"#), Some("8"));
    check(&of(r#"{"x":{"requestId":7}}"#), None);
    check(&of(r#"{"requestid":7}"#), None);
    check(&of(r#"{"requestId":null}"#), None);
    check(&of(r#"{"requestId":1.5}"#), None);
    check(&of(r#"{"requestId":{}}"#), None);
    check(&of("{}"), None);
    check(&of(r#"["requestId",7]"#), None);
    check(&of("null"), None);
    check(&of(r#""requestId""#), None);
    check(r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#, None);
    check(
        r#"{"jsonrpc":"2.0","method":"notifications\/cancelled","params":{"requestId":7}}"#,
        Some("7"),
    );
    check(r#"{"jsonrpc":"2.0","method":"notifications/other","params":{"requestId":7}}"#, None);
    // A request of that name expects a response like any other.
    check(
        r#"{"jsonrpc":"2.0","id":1,"method":"notifications/cancelled","params":{"requestId":7}}"#,
        None,
    );
    check(r#"{"jsonrpc":"2.0","id":1,"result":0,"params":{"requestId":7}}"#, None);
}

#[test]
fn error_body_is_a_response_with_code_and_message() {
    #[track_caller]
    fn check(id: Option<&str>, message: &str, expected: &str) {
        let body = String::from_utf8(error_body(id, code::SERVER_BUSY, message)).unwrap();
        assert_eq!(body, expected);
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["error"]["message"], message);
    }
    check(
        None,
        "server busy",
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"server busy"}}"#,
    );
    check(
        Some(r#""\u0061""#),
        "a \"b\" \\ \n\u{1} {é}",
        r#"{"jsonrpc":"2.0","id":"\u0061","error":{"code":-32000,"message":"a \"b\" \\ \n\u0001 {é}"}}"#,
    );
    let big = "9007199254740993000";
    let body = error_body(Some(big), code::INTERNAL_ERROR, "");
    let read = Envelope::read(&body, None);
    assert_eq!(summary(read.as_ref()), Response(big));
}

#[test]
fn debug_and_error_texts_omit_the_body() {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"token":"hunter2"}}"#;
    let message = Message::read(body.into(), None).unwrap();
    let shown = format!("{message:?}");
    assert!(shown.contains("\"m\"") && !shown.contains("hunter2"), "{shown}");
    let (invalid, _) = Message::read(r#"{"hunter2"x}"#.into(), None).unwrap_err();
    let shown = format!("{invalid:?} {invalid}");
    assert!(shown.contains("Parse error: ") && !shown.contains("hunter2"), "{shown}");
}

/// The members of an object in order, including repeated ones, parsed by serde_json.
struct MembersInOrder(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for MembersInOrder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = MembersInOrder;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MembersInOrder, A::Error> {
                let mut pairs = vec![];
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(MembersInOrder(pairs))
            }
        }
        deserializer.deserialize_map(All)
    }
}

/// An independent, simple implementation of the same rules: the kind, id and method, or the error
/// code.
fn reference_read(body: &str) -> Result<(Kind, Option<Value>, Option<String>), i32> {
    if serde_json::from_str::<Value>(body).is_err() {
        return Err(-32700);
    }
    let Ok(MembersInOrder(pairs)) = serde_json::from_str(body) else { return Err(-32600) };
    let all =
        |key: &str| pairs.iter().filter(|(k, _)| k == key).map(|(_, v)| v).collect::<Vec<_>>();
    let [version, id, method, result, error] =
        ["jsonrpc", "id", "method", "result", "error"].map(all);
    let once = version.len() == 1 && id.len() <= 1 && method.len() <= 1;
    // serde_json parses -0 as a floating-point number.
    let whole = |number: &serde_json::Number| {
        number.as_f64() == Some(0.0) || !number.to_string().contains(['.', 'e', 'E'])
    };
    let good = |id: &&Value| id.is_string() || id.as_number().is_some_and(whole);
    if !once || version[0] != "2.0" || !id.iter().all(good) || !method.iter().all(|m| m.is_string())
    {
        return Err(-32600);
    }
    let kind = match (method.len(), id.len(), result.is_empty(), error.is_empty()) {
        (1, 1, true, true) => Kind::Request,
        (1, 0, true, true) => Kind::Notification,
        (0, 1, false, true) | (0, 1, true, false) => Kind::Response,
        _ => return Err(-32600),
    };
    let method = method.first().and_then(|m| m.as_str()).map(String::from);
    Ok((kind, id.first().map(|&id| id.clone()), method))
}

fn random_body(random: &mut Random) -> String {
    let mut body = String::from("{");
    let mut comma = "";
    let mut put = |random: &mut Random, key: &str, values: &[&str]| {
        let value = *random.pick(values);
        let space = *random.pick(&["", "", "", " ", "\r\n\t"]);
        body.push_str(&format!("{comma}{space}\"{key}\"{space}:{space}{value}{space}"));
        comma = ",";
    };
    let mut keys = vec!["jsonrpc"];
    match random.below(8) {
        0..3 => keys.extend(["id", "method", "params"]),
        3..5 => keys.extend(["method", "params"]),
        5 => keys.extend(["id", "result"]),
        6 => keys.extend(["id", "error"]),
        _ => keys.clear(),
    }
    for _ in 0..random.below(3) / 2 {
        let more = ["jsonrpc", "id", "method", "result", "error", "Id", "i\\u0064", "x", "params"];
        keys.push(*random.pick(&more));
    }
    let start = random.below(keys.len().max(1));
    keys.rotate_left(start);
    for key in keys {
        let values: &[&str] = match key {
            "jsonrpc" => &[r#""2.0""#, r#""2.0""#, r#""2.0""#, r#""2.\u0030""#, "2.0", r#""1.0""#],
            "id" | "i\\u0064" => {
                &["0", "-7", "123", r#""""#, r#""a\n\u0041""#, "\"é\"", "1.5", "null"]
            }
            "method" => {
                &[r#""m""#, r#""tools/call""#, r#""a\/b""#, r#""\ud83d\ude00""#, "\"😀\"", "5"]
            }
            _ => &[
                "{}",
                "[]",
                "0",
                "null",
                r#"{"id":[{"method":"x"},"]}\""]}"#,
                r#""\\""#,
                "[[],{}]",
            ],
        };
        put(random, key, values);
    }
    body.push('}');
    body
}

#[test]
fn envelope_agrees_with_serde_json_on_random_bodies() {
    let mut random = Random::seeded(22);
    let mut seen = [0; 5];
    for round in 0..20_000 {
        let mut body = random_body(&mut random).into_bytes();
        if round % 3 == 0 {
            let at = random.below(body.len());
            match random.below(3) {
                0 => body[at] = b"{}[],:\"\\ 0a.e-"[random.below(14)],
                1 => body.insert(at, b"{}[],:\"\\ 0a.e-"[random.below(14)]),
                _ => body.truncate(at),
            }
        }
        let Ok(body) = String::from_utf8(body) else { continue };
        if round % 3 == 0 && body.contains(r"\ud") {
            // The mutation may have left an unpaired surrogate, which serde_json refuses in any
            // position.
            continue;
        }
        let ours = Envelope::read(body.as_bytes(), Some(NESTING_MAX));
        let same = match (&ours, reference_read(&body)) {
            (Ok(envelope), Ok((kind, id, method))) => {
                let read_id = envelope.id.map(|id| serde_json::from_str::<Value>(id).unwrap());
                (envelope.kind, read_id, envelope.method.as_deref())
                    == (kind, id, method.as_deref())
            }
            (Err(invalid), Err(code)) => invalid.code() == code,
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
        };
        assert!(same, "{body}\n{ours:?}\n{:?}", reference_read(&body));
        seen[match ours {
            Ok(Envelope { kind, .. }) => kind as usize,
            Err(Invalid::Parse(_)) => 3,
            Err(Invalid::Request(_)) => 4,
        }] += 1;
    }
    assert!(seen.iter().all(|&count| count > 500), "the generator is lopsided: {seen:?}");
}

#[test]
fn params_are_deserialized_or_described_as_invalid() {
    use alloc::collections::BTreeMap;

    #[track_caller]
    fn check(members: &str, expected: Result<&[(&str, i32)], &str>) {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"a"{members}}}"#);
        let message = Message::read(body.into_bytes(), None).unwrap();
        let read = message.params::<BTreeMap<String, i32>>();
        match (read, expected) {
            (Ok(read), Ok(expected)) => {
                let expected = expected.iter().map(|(name, value)| ((*name).into(), *value));
                assert_eq!(read, expected.collect());
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (read, _) => panic!("{read:?}"),
        }
    }
    check(r#","params":{"a":1,"b":-2}"#, Ok(&[("a", 1), ("b", -2)]));
    check(r#","params":{}"#, Ok(&[]));
    check("", Ok(&[]));
    check(r#","p\u0061rams":{"a":1}"#, Ok(&[("a", 1)]));
    check(r#","params":{"a":1},"params":{"b":2}"#, Ok(&[("b", 2)]));
    check(r#","params":[1]"#, Err("Invalid params: invalid type: sequence"));
    check(r#","params":null"#, Err("Invalid params: invalid type: null"));
    check(r#","params":{"a":"1"}"#, Err("Invalid params: invalid type: string"));
}
