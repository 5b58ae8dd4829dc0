//! Reads what a server prints as the official clients do, where the strict reader does not take it.
//!
//! Knows: what servers print that is not quite JSON or not quite JSON-RPC, what of it has a meaning all
//! the same, and which answer or request something is that cannot be passed on.
//! Does not know: lines, who waits for what.
//!
//! The child is the operator's own program, and works where a client starts it directly. So what the
//! official clients take is taken, and made what they make of it: invalid UTF-8 is replaced by U+FFFD
//! (TypeScript decodes so), a byte order mark is passed over, NaN and Infinity, which Python's `json`
//! prints, become `null` (the client in Python takes them as they are, one in TypeScript does not, and
//! JSON has no other value for them), `null` for a member that does not belong there counts as absent,
//! the last of several members of one name counts, an id is an integer by value. Raw control characters
//! in strings are refused by all of them; as they can mean nothing else, they are escaped. Two objects
//! on one line are taken apart. What has no such meaning is not guessed at: its request is told that its
//! answer cannot be passed on, and why; and so is the server of a request of its own. A line that does not
//! begin with a bracket is never searched for a message, because servers log what they send and receive.

use core::fmt;
use std::borrow::Cow;

use mcp_sse_core::jsonrpc::{Kind, Message, code, error_body};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::ids::{self, ID_BYTES_MAX};

/// So many members has an object that is looked at closely; a message has six at most. More would be
/// kept in many times the memory of their text.
const MEMBERS_MAX: usize = 1_024;

/// An answer of a server that cannot be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The raw id that it has, if one can be read.
    pub id: Option<Box<str>>,
    /// Why it cannot.
    pub why: Cow<'static, str>,
    /// The raw error, if it is one and lacks nothing but the id.
    pub error: Option<Box<str>>,
}

/// A request of a server that cannot be passed on. The server waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The raw id, of 4 KiB at most.
    pub id: Box<str>,
    /// What kind of mistake it is, as JSON-RPC has it.
    pub code: i32,
    /// Why it cannot.
    pub why: Cow<'static, str>,
}

impl Unread {
    /// What the server is answered.
    pub(super) fn answer(&self) -> Vec<u8> {
        let why = format!("the request cannot be passed on: {}", self.why);
        error_body(Some(&self.id), self.code, &why)
    }
}

/// What a value is that a server printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    Message(Message),
    Lost(Lost),
    Unread(Unread),
    /// Nothing that anybody waits for, for this reason. `object` says whether it is a JSON object.
    Refused {
        why: Cow<'static, str>,
        object: bool,
    },
}

/// Makes of one value that was printed what it means.
pub(super) fn judge(text: &str) -> Judged {
    // Many are messages as soon as they are JSON.
    match Message::read(text.as_bytes().to_vec(), None) {
        Ok(message) => match lost_message(&message) {
            Some(lost) => Judged::Lost(lost),
            None => Judged::Message(message),
        },
        Err((invalid, _)) => judge_members(text, invalid.to_string().into()),
    }
}

/// Looks at a message once more: the strict reader does not look at what is inside `error`.
pub(super) fn lost_message(message: &Message) -> Option<Lost> {
    if message.kind() != Kind::Response || !message.text().contains("\"error\"") {
        return None;
    }
    let members = Members::read(message.text())?;
    let outcome = members.last("result").is_some() || members.present("error").is_some();
    let id = message.id().map(Into::into);
    (!outcome).then(|| Lost { id, why: NEITHER.into(), error: None })
}

const NEITHER: &str = "it has neither a result nor an error";

fn judge_members(text: &str, invalid: Cow<'static, str>) -> Judged {
    let Some(members) = Members::read(text) else {
        let mut scan = Scan::default();
        scan.feed(text.as_bytes());
        return scan.found(&invalid).unwrap_or(Judged::Refused { why: invalid, object: false });
    };
    let refused = |why| Judged::Refused { why, object: true };
    let id = members.present("id").map(ids::canonical);
    let (result, error) = (members.last("result").is_some(), members.present("error"));
    // An id that is no id makes a request none, and it is no notification either.
    let strange_id = matches!(id, Some(None));
    let id = id.flatten();
    if members.present("method").is_some() {
        let real_result = members.present("result").is_some();
        let text = members.rebuilt(id.as_deref(), |name| match name {
            // Some write every member that they know, and null for what there is not.
            "result" => !real_result,
            "error" => error.is_none(),
            _ => false,
        });
        return match Message::read(text.into_bytes(), None) {
            Ok(message) if !strange_id => Judged::Message(message),
            Ok(_) => refused(invalid),
            // What servers log may have a method and an id, and no version of JSON-RPC.
            Err((why, _)) => match id.filter(|id| id.len() <= ID_BYTES_MAX) {
                Some(id) if members.last("jsonrpc").is_some() => Judged::Unread(Unread {
                    id: id.into(),
                    code: code::INVALID_REQUEST,
                    why: why.to_string().into(),
                }),
                _ => refused(invalid),
            },
        };
    }
    let outcome = result || members.last("error").is_some();
    if members.last("jsonrpc").is_none() || (!outcome && id.is_none()) {
        return refused(invalid);
    }
    let lost = |why, error: Option<&str>| {
        let id = id.as_deref().map(Into::into);
        Judged::Lost(Lost { id, why, error: error.map(Into::into) })
    };
    let real_result = members.present("result").is_some();
    match (real_result, error) {
        (true, Some(_)) => return lost("it has both a result and an error".into(), None),
        (_, None) if !result => return lost(NEITHER.into(), None),
        _ => {}
    }
    if members.version().as_deref() != Some("2.0") {
        return lost(invalid, None);
    }
    if id.is_none() {
        return lost("it has no id".into(), error);
    }
    let text = members.rebuilt(id.as_deref(), |name| match name {
        "method" => true,
        "error" => error.is_none(),
        "result" => error.is_some(),
        _ => false,
    });
    match Message::read(text.into_bytes(), None) {
        Ok(message) => Judged::Message(message),
        Err((invalid, _)) => lost(invalid.to_string().into(), None),
    }
}

/// The members of an object, in order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    if members.len() == MEMBERS_MAX {
                        return Err(A::Error::custom("too many members"));
                    }
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl<'a> Members<'a> {
    fn read(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The last of this name: the one that the official clients see.
    fn last(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, raw)| raw.get())
    }

    /// The same, unless it is null.
    fn present(&self, name: &str) -> Option<&'a str> {
        self.last(name).filter(|raw| *raw != "null")
    }

    fn version(&self) -> Option<String> {
        serde_json::from_str(self.last("jsonrpc")?).ok()
    }

    /// The object once more: with this id, without those members that `left_out` says, and with each
    /// member of the envelope once.
    fn rebuilt(&self, id: Option<&str>, left_out: impl Fn(&str) -> bool) -> String {
        let envelope = ["jsonrpc", "method", "result", "error"];
        let mut text = String::from("{");
        let mut put = |key: &str, raw: &str| {
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(
                &serde_json::to_string(key).expect("invariant: any text is a JSON string"),
            );
            text.push(':');
            text.push_str(raw);
        };
        for (at, (key, raw)) in self.0.iter().enumerate() {
            let again = || self.0.iter().skip(at + 1).any(|(later, _)| later == key);
            if key == "id" || left_out(key) || (envelope.contains(&&**key) && again()) {
                continue;
            }
            put(key, raw.get());
            if let (true, Some(id)) = (key == "jsonrpc", id) {
                put("id", id);
            }
        }
        text.push('}');
        text
    }
}

/// Shows `each` the members of a JSON array, in order and as they are found. Returns false if the text is
/// none.
pub(super) fn each_in_array<'a>(text: &'a str, each: impl FnMut(&'a str)) -> bool {
    struct Array<F>(F);
    impl<'de, F: FnMut(&'de str)> Visitor<'de> for Array<F> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }
        fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
            while let Some(raw) = seq.next_element::<&'de RawValue>()? {
                (self.0)(raw.get());
            }
            Ok(())
        }
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_seq(Array(each)).is_ok() && reader.end().is_ok()
}

/// How the value at the beginning of a text ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum First<'a> {
    /// Here. The value is JSON, if it is nothing worse than what is put right here.
    Ends { value: Cow<'a, str>, end: usize },
    /// Not in this text, where brackets are open.
    Open,
    /// Not in this text, where a string is open: JSON cannot go on like this.
    Cut,
}

/// Finds the end of the array or object that `text` begins with, and puts right what has one meaning
/// only.
pub(super) fn first_value(text: &str) -> First<'_> {
    let bytes = text.as_bytes();
    let mut value = String::new();
    let (mut depth, mut string, mut escaped) = (0_usize, false, false);
    let (mut at, mut done) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        let mut replace = |range: core::ops::Range<usize>, instead: &str| {
            value.push_str(text.get(done..range.start).unwrap_or_default());
            value.push_str(instead);
            done = range.end;
        };
        match byte {
            _ if escaped => escaped = false,
            b'\\' if string => escaped = true,
            b'"' => string = !string,
            0..0x20 if string => {
                replace(at..at + 1, if byte < 0x10 { r"\u000" } else { r"\u001" });
                value.extend(char::from_digit(u32::from(byte & 0xf), 0x10));
            }
            _ if string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    let end = at + 1;
                    let rest = text.get(done..end).unwrap_or_default();
                    if done == 0 {
                        return First::Ends { value: Cow::Borrowed(rest), end };
                    }
                    value.push_str(rest);
                    return First::Ends { value: Cow::Owned(value), end };
                }
            }
            b'N' | b'I' => {
                let rest = text.get(at..).unwrap_or_default();
                let word = ["NaN", "Infinity"].into_iter().find(|word| rest.starts_with(word));
                let len = word.map_or(1, str::len);
                if word.is_some() && !bytes.get(at + len).is_some_and(u8::is_ascii_alphanumeric) {
                    let minus = usize::from(at > 0 && bytes.get(at - 1) == Some(&b'-'));
                    replace(at - minus..at + len, "null");
                }
                at += len - 1;
            }
            _ => {}
        }
        at += 1;
    }
    if string { First::Cut } else { First::Open }
}

/// Reads the envelope of what may be neither whole nor JSON, in pieces and in little memory.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Nothing bounds how long a line is that is passed over.
    depth: u64,
    string: bool,
    escaped: bool,
    /// It has ended.
    done: bool,
    /// A key is being read, or the value of `id`.
    reads: Reads,
    text: Vec<u8>,
    id: Option<Box<str>>,
    has_version: bool,
    has_method: bool,
    has_outcome: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reads {
    #[default]
    Nothing,
    Key,
    Id,
}

impl Scan {
    pub(super) fn feed(&mut self, piece: &[u8]) {
        for byte in piece {
            if self.done {
                return;
            }
            self.step(*byte);
        }
    }

    fn step(&mut self, byte: u8) {
        if self.string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.string = false,
                _ => {}
            }
            return self.keep(byte);
        }
        match byte {
            b'{' | b'[' => {
                self.keep(byte);
                self.depth += 1;
                if self.depth == 1 {
                    self.reads = Reads::Key;
                }
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    self.end_member();
                    self.done = true;
                }
            }
            b':' if self.depth == 1 && self.reads == Reads::Key => self.end_key(),
            b',' if self.depth == 1 => {
                self.end_member();
                self.reads = Reads::Key;
            }
            _ => {
                self.string = byte == b'"';
                self.keep(byte);
            }
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.depth == 1 && self.reads != Reads::Nothing && self.text.len() <= ID_BYTES_MAX {
            self.text.push(byte);
        }
    }

    fn end_key(&mut self) {
        self.reads = Reads::Nothing;
        match self.text.trim_ascii() {
            br#""id""# => self.reads = Reads::Id,
            br#""jsonrpc""# => self.has_version = true,
            br#""method""# => self.has_method = true,
            br#""result""# | br#""error""# => self.has_outcome = true,
            _ => {}
        }
        self.text.clear();
    }

    fn end_member(&mut self) {
        if self.reads == Reads::Id {
            let raw: Option<&RawValue> = serde_json::from_slice(&self.text).ok();
            let id = raw.filter(|raw| raw.get().len() <= ID_BYTES_MAX);
            self.id = id.and_then(|raw| ids::canonical(raw.get())).map(Into::into);
        }
        self.reads = Reads::Nothing;
        self.text.clear();
    }

    /// Whether nothing that comes can say more about whose answer it is.
    pub(super) const fn is_sure(&self) -> bool {
        self.has_version && (self.has_outcome || self.has_method) && self.id.is_some()
    }

    /// The answer, or the request of the server's, that this was, if it was one.
    pub(super) fn found(&self, why: &str) -> Option<Judged> {
        let (id, why) = (self.id.clone(), || why.to_owned().into());
        match (self.has_method, self.has_outcome, id) {
            _ if !self.has_version => None,
            (false, true, id) => Some(Judged::Lost(Lost { id, why: why(), error: None })),
            // Before its end it may have become a request of the server's.
            (false, false, id @ Some(_)) if self.done => {
                Some(Judged::Lost(Lost { id, why: why(), error: None }))
            }
            (true, false, Some(id)) => {
                Some(Judged::Unread(Unread { id, code: code::PARSE_ERROR, why: why() }))
            }
            _ => None,
        }
    }
}

/// What is answered to the request `id` instead of an answer that cannot be passed on.
pub(super) fn lost_body(id: &str, why: &str, error: Option<&str>) -> Vec<u8> {
    match error {
        Some(error) => format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#).into_bytes(),
        None => {
            let why = format!("the server's answer cannot be passed on: {why}");
            error_body(Some(id), code::INTERNAL_ERROR, &why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(text: &str) -> String {
        match first_value(text) {
            First::Ends { value, end } => format!("{value}|{}", &text[end..]),
            other @ (First::Open | First::Cut) => format!("{other:?}"),
        }
    }

    #[test]
    fn value_is_cut_off_and_put_right() {
        assert_eq!(first(r#"{"a":[1,"}"]} {"b"}"#), r#"{"a":[1,"}"]}| {"b"}"#);
        let text = r#"{"a":NaN,"b":[-Infinity, Infinity],"NaN":"NaN \"NaN","c":-NaN}"#;
        let right = r#"{"a":null,"b":[null, null],"NaN":"NaN \"NaN","c":null}|"#;
        assert_eq!(first(text), right);
        assert_eq!(first("{\"a\":\"x\ty\u{0}é\u{7f}\"}"), "{\"a\":\"x\\u0009y\\u0000é\u{7f}\"}|");
        assert_eq!(first("{\"a\":NaNs,\"b\":None}"), "{\"a\":NaNs,\"b\":None}|");
        assert_eq!(first("{\t\"a\":1\t}"), "{\t\"a\":1\t}|");
        assert_eq!((&*first("{\"a\":["), &*first("{\"a")), ("Open", "Cut"));
    }

    #[track_caller]
    fn check_message(printed: &str, message: &str) {
        let judged = judge(printed);
        let Judged::Message(read) = &judged else { panic!("{printed}: {judged:?}") };
        assert_eq!(read.text(), message);
    }

    #[track_caller]
    fn check_lost(printed: &str, id: Option<&str>, why: &str) {
        let judged = judge(printed);
        let Judged::Lost(lost) = &judged else { panic!("{printed}: {judged:?}") };
        assert_eq!(lost.id.as_deref(), id, "{printed}");
        assert!(lost.why.contains(why), "{printed}: {}", lost.why);
    }

    #[track_caller]
    fn check_refused(printed: &str) {
        assert!(matches!(judge(printed), Judged::Refused { .. }), "{printed}");
    }

    #[test]
    fn nulls_that_do_not_belong_there_are_left_out() {
        let result = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        check_message(r#"{"jsonrpc":"2.0","id":1,"result":{},"error":null}"#, result);
        check_message(r#"{"jsonrpc":"2.0","error":null,"id":1,"method":null,"result":{}}"#, result);
        let error = r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}"#;
        check_message(
            r#"{"result":null,"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}"#,
            error,
        );
        let null = r#"{"jsonrpc":"2.0","id":1,"result":null}"#;
        check_message(null, null);
        check_message(r#"{"jsonrpc":"2.0","id":1,"result":null,"error":null}"#, null);
        let note = r#"{"jsonrpc":"2.0","method":"m"}"#;
        check_message(r#"{"jsonrpc":"2.0","id":null,"method":"m"}"#, note);
        check_message(r#"{"jsonrpc":"2.0","method":"m","result":null,"error":null}"#, note);
    }

    #[test]
    fn ids_are_integers_by_value_and_last_member_counts() {
        let four = r#"{"jsonrpc":"2.0","id":4,"result":{}}"#;
        check_message(r#"{"jsonrpc":"2.0","id":4.0,"result":{}}"#, four);
        check_message(r#"{"jsonrpc":"2.0","id":40e-1,"result":{}}"#, four);
        check_message(r#"{"jsonrpc":"2.0","id":9,"id":4,"result":{}}"#, four);
        check_message(r#"{"id":4,"jsonrpc":"1.0","jsonrpc":"2.0","result":{}}"#, four);
        let asks = r#"{"jsonrpc":"2.0","id":4,"method":"m"}"#;
        check_message(r#"{"jsonrpc":"2.0","id":4.0,"method":"m"}"#, asks);
    }

    #[test]
    fn answers_without_a_meaning_are_told_apart_from_what_nobody_waits_for() {
        check_lost(r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, Some("1"), "both");
        check_lost(r#"{"jsonrpc":"2.0","id":1,"error":null}"#, Some("1"), "neither");
        check_lost(r#"{"jsonrpc":"2.0","id":1}"#, Some("1"), "neither");
        check_lost(r#"{"jsonrpc":"1.0","id":1,"result":{}}"#, Some("1"), "jsonrpc must be");
        check_lost(r#"{"jsonrpc":"2.0","id":1,"result":{x}}"#, Some("1"), "Parse error");
        check_lost(r#"{"jsonrpc":"2.0","result":{'id':7},"id":"a"}"#, Some(r#""a""#), "Parse");
        check_lost(r#"{"jsonrpc":"2.0","id":1.5,"result":{}}"#, None, "no id");
        check_lost(r#"{"jsonrpc":"2.0","id":[1],"result":{}}"#, None, "no id");
        check_lost(r#"{"jsonrpc":"2.0","id":None,"result":{}}"#, None, "Parse error");
        check_refused("{}");
        check_refused(r#"{"id":1,"result":{}}"#);
        check_refused(r#"{"level":"info","id":1,"error":"e","x":y}"#);
        check_refused(r#"{"jsonrpc":"2.0"}"#);
        check_refused(r#"{"jsonrpc":"2.0","id":1.5,"method":"m"}"#);
        let error = judge(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"?"}}"#);
        let Judged::Lost(Lost { id: None, error: Some(error), .. }) = error else {
            panic!("{error:?}")
        };
        assert_eq!(&*error, r#"{"code":-32700,"message":"?"}"#);
    }

    #[track_caller]
    fn check_unread(printed: &str, id: &str, code: i32) {
        let judged = judge(printed);
        let Judged::Unread(unread) = &judged else { panic!("{printed}: {judged:?}") };
        assert_eq!((&*unread.id, unread.code), (id, code));
    }

    #[test]
    fn request_that_cannot_be_read_is_told_apart_by_its_id() {
        let (request, parse) = (code::INVALID_REQUEST, code::PARSE_ERROR);
        check_unread(r#"{"jsonrpc":"2.0","id":1,"method":"m","params":x}"#, "1", parse);
        check_unread(r#"{"jsonrpc":"2.0","id":1,"method":"m","result":{}}"#, "1", request);
        check_unread(r#"{"jsonrpc":"1.0","id":"a","method":"m"}"#, r#""a""#, request);
        check_unread(r#"{"jsonrpc":"2.0","id":4.0,"method":["m"]}"#, "4", request);
        // What is logged is not asked, and too long an id is not kept.
        check_refused(r#"{"level":"info","id":1,"method":"GET"}"#);
        check_refused(r#"{"jsonrpc":"1.0","method":"m"}"#);
        let long = format!(r#"{{"jsonrpc":"1.0","id":"{}","method":"m"}}"#, "i".repeat(5_000));
        check_refused(&long);
    }

    /// Members that mean something, each with many others behind it.
    #[test]
    fn object_with_many_members_is_judged_in_one_pass() {
        let many = |member: &str| member.repeat(300_000);
        let (results, others) = (many(r#""result":null,"#), many(r#""x":1,"#));
        let text = format!(r#"{{{results}{others}"jsonrpc":"2.0","id":null,"method":"m","y":1}}"#);
        let judged =
            mcp_sse_tests::within(mcp_sse_tests::TEST_MAX, "what it is", move || judge(&text));
        assert!(!matches!(judged, Judged::Lost(_)), "{judged:?}");
    }

    #[test]
    fn brackets_without_end_are_no_more_than_many() {
        let mut scan = Scan { depth: u32::MAX.into(), ..Scan::default() };
        scan.feed(b"[[[[");
        assert!(!scan.is_sure());
    }

    #[test]
    fn id_is_found_in_any_piece_of_what_is_no_message() {
        let text = r#"{"jsonrpc": "2.0", "result" : {"id":9,"a":["]\"",{"x":"}"}]}, "id" : "z,}" "#;
        for size in 1..20 {
            let mut scan = Scan::default();
            text.as_bytes().chunks(size).for_each(|piece| scan.feed(piece));
            assert!(!scan.is_sure(), "the id may go on");
            scan.feed(b"}");
            assert!(scan.is_sure());
            let Some(Judged::Lost(lost)) = scan.found("x") else { panic!("{scan:?}") };
            assert_eq!(lost.id.as_deref(), Some(r#""z,}""#));
        }
        let mut scan = Scan::default();
        scan.feed(br#"{"jsonrpc":"2.0","id":4,"res"#);
        assert_eq!(scan.found("x"), None, "it may be a request");
    }
}
