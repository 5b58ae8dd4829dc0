//! Classifies one JSON value that a server has printed, as leniently as the official clients read it.
//!
//! Knows: how servers deviate from JSON-RPC, how their output is understood, and which answer or request a value is
//! that cannot be passed on. Does not know: lines (see `output`), or which client sent a request.
//!
//! Decision: the server is the operator's own program, and works when a client starts it directly. So the bridge
//! accepts what the official clients accept, with the same meaning:
//!
//! - Invalid UTF-8 is replaced by U+FFFD, as TypeScript decodes it. A byte order mark is ignored.
//! - NaN and Infinity, which Python's `json` prints, become `null`. The Python client accepts them, the TypeScript
//!   client does not, and JSON has no other value for them.
//! - A member that is `null` and does not belong into the message counts as absent. Of several members with the same
//!   name the last counts. An id may be any number whose value is an integer.
//! - Raw control characters in strings are refused by all clients. They are escaped here, because they can have no
//!   other meaning.
//! - Several objects on one line are several messages.
//!
//! Nothing else is guessed. If an answer cannot be passed on, the client gets an error with the reason; if a request
//! of the server cannot be passed on, the server gets one. A line that does not begin with a bracket is never
//! searched for a message, because servers log the messages that they send and receive.

use core::fmt;
use std::borrow::Cow;

use mcp_sse_core::jsonrpc::{Kind, Message, code};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::envelope_scan::EnvelopeScan;
use super::ids::{self, ID_BYTES_MAX};
use super::printed::{Classified, LostAnswer, UnreadableRequest};

/// The most members of an object that is classified by its members. A message has at most six. The number is limited
/// because a stored member takes many times the memory of its text.
const MEMBERS_MAX: usize = 1_024;

/// Classifies one value that a server has printed.
pub(super) fn classify(text: &str) -> Classified {
    // Most values are valid messages.
    match Message::read(text.as_bytes().to_vec(), None) {
        Ok(message) => match lost_answer(&message) {
            Some(lost) => Classified::LostAnswer(lost),
            None => Classified::Message(message),
        },
        Err((invalid, _)) => classify_members(text, invalid.to_string().into()),
    }
}

/// Returns a [`LostAnswer`] if `message` is a response with neither a result nor an error. [`Message::read`] accepts
/// such a response if it has `"error": null`.
pub(super) fn lost_answer(message: &Message) -> Option<LostAnswer> {
    if message.kind() != Kind::Response || !message.text().contains("\"error\"") {
        return None;
    }
    let members = MessageMembers::read(message.text())?;
    let outcome = members.last("result").is_some() || members.present("error").is_some();
    let id = message.id().map(Into::into);
    (!outcome).then(|| LostAnswer { id, why: NEITHER.into(), error: None })
}

const NEITHER: &str = "it has neither a result nor an error";

fn classify_members(text: &str, invalid: Cow<'static, str>) -> Classified {
    let Some(members) = MessageMembers::read(text) else {
        let mut scan = EnvelopeScan::default();
        scan.feed(text.as_bytes());
        let found = scan.found(&invalid);
        return found.unwrap_or(Classified::NotAMessage { why: invalid, object: false });
    };
    if members.present("method").is_some() {
        classify_call(&members, invalid)
    } else {
        classify_answer(&members, invalid)
    }
}

/// Classifies an object with a `method`: a request or a notification.
fn classify_call(members: &MessageMembers<'_>, invalid: Cow<'static, str>) -> Classified {
    let not_a_message = |why| Classified::NotAMessage { why, object: true };
    let id = members.present("id").map(ids::canonical);
    // An object with an invalid id is neither a request nor a notification.
    let strange_id = matches!(id, Some(None));
    let id = id.flatten();
    let has_result = members.present("result").is_some();
    let has_error = members.present("error").is_some();
    let text = members.rebuilt(id.as_deref(), |name| match name {
        // Some servers write every member, with `null` for those that are absent.
        "result" => !has_result,
        "error" => !has_error,
        _ => false,
    });
    match Message::read(text.into_bytes(), None) {
        Ok(message) if !strange_id => Classified::Message(message),
        Ok(_) => not_a_message(invalid),
        // A log line in JSON may have `method` and `id`, but it has no `jsonrpc`.
        Err((why, _)) => match id.filter(|id| id.len() <= ID_BYTES_MAX) {
            Some(id) if members.last("jsonrpc").is_some() => {
                let (code, why) = (code::INVALID_REQUEST, why.to_string().into());
                Classified::UnreadableRequest(UnreadableRequest { id: id.into(), code, why })
            }
            _ => not_a_message(invalid),
        },
    }
}

/// Classifies an object without a `method`, which is a response or not a message.
fn classify_answer(members: &MessageMembers<'_>, invalid: Cow<'static, str>) -> Classified {
    let id = members.present("id").and_then(ids::canonical);
    let (has_result, error) = (members.last("result").is_some(), members.present("error"));
    let has_outcome = has_result || members.last("error").is_some();
    if members.last("jsonrpc").is_none() || (!has_outcome && id.is_none()) {
        return Classified::NotAMessage { why: invalid, object: true };
    }
    let lost = |why, error: Option<&str>| {
        let id = id.as_deref().map(Into::into);
        Classified::LostAnswer(LostAnswer { id, why, error: error.map(Into::into) })
    };
    match (members.present("result"), error) {
        (Some(_), Some(_)) => return lost("it has both a result and an error".into(), None),
        (_, None) if !has_result => return lost(NEITHER.into(), None),
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
        Ok(message) => Classified::Message(message),
        Err((invalid, _)) => lost(invalid.to_string().into(), None),
    }
}

/// The members of an object, in their order.
struct MessageMembers<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for MessageMembers<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = MessageMembers<'de>;
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
                Ok(MessageMembers(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl<'a> MessageMembers<'a> {
    fn read(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The last member of this name: the one that the official clients see.
    fn last(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, raw)| raw.get())
    }

    /// The last member of this name, if it is not `null`.
    fn present(&self, name: &str) -> Option<&'a str> {
        self.last(name).filter(|raw| *raw != "null")
    }

    fn version(&self) -> Option<String> {
        serde_json::from_str(self.last("jsonrpc")?).ok()
    }

    /// The object as JSON text with the id `id`, without the members for which `left_out` returns true. Of members of
    /// the envelope that are repeated, only the last is kept.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_message(printed: &str, message: &str) {
        let classified = classify(printed);
        let Classified::Message(read) = &classified else { panic!("{printed}: {classified:?}") };
        assert_eq!(read.text(), message);
    }

    #[track_caller]
    fn check_lost(printed: &str, id: Option<&str>, why: &str) {
        let classified = classify(printed);
        let Classified::LostAnswer(lost) = &classified else { panic!("{printed}: {classified:?}") };
        assert_eq!(lost.id.as_deref(), id, "{printed}");
        assert!(lost.why.contains(why), "{printed}: {}", lost.why);
    }

    #[track_caller]
    fn check_refused(printed: &str) {
        assert!(matches!(classify(printed), Classified::NotAMessage { .. }), "{printed}");
    }

    #[test]
    fn null_members_are_left_out() {
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
    fn id_is_integer_by_value_and_last_member_counts() {
        let four = r#"{"jsonrpc":"2.0","id":4,"result":{}}"#;
        check_message(r#"{"jsonrpc":"2.0","id":4.0,"result":{}}"#, four);
        check_message(r#"{"jsonrpc":"2.0","id":40e-1,"result":{}}"#, four);
        check_message(r#"{"jsonrpc":"2.0","id":9,"id":4,"result":{}}"#, four);
        check_message(r#"{"id":4,"jsonrpc":"1.0","jsonrpc":"2.0","result":{}}"#, four);
        let asks = r#"{"jsonrpc":"2.0","id":4,"method":"m"}"#;
        check_message(r#"{"jsonrpc":"2.0","id":4.0,"method":"m"}"#, asks);
    }

    #[test]
    fn invalid_answer_is_lost_and_other_object_is_no_message() {
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
        let error =
            classify(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"?"}}"#);
        let Classified::LostAnswer(LostAnswer { id: None, error: Some(error), .. }) = error else {
            panic!("{error:?}")
        };
        assert_eq!(&*error, r#"{"code":-32700,"message":"?"}"#);
    }

    #[track_caller]
    fn check_unread(printed: &str, id: &str, code: i32) {
        let classified = classify(printed);
        let Classified::UnreadableRequest(unread) = &classified else {
            panic!("{printed}: {classified:?}")
        };
        assert_eq!((&*unread.id, unread.code), (id, code));
    }

    #[test]
    fn unreadable_request_is_classified_by_its_id() {
        let (request, parse) = (code::INVALID_REQUEST, code::PARSE_ERROR);
        check_unread(r#"{"jsonrpc":"2.0","id":1,"method":"m","params":x}"#, "1", parse);
        check_unread(r#"{"jsonrpc":"2.0","id":1,"method":"m","result":{}}"#, "1", request);
        check_unread(r#"{"jsonrpc":"1.0","id":"a","method":"m"}"#, r#""a""#, request);
        check_unread(r#"{"jsonrpc":"2.0","id":4.0,"method":["m"]}"#, "4", request);
        // A log line is not a request, and an id that is too long is not stored.
        check_refused(r#"{"level":"info","id":1,"method":"GET"}"#);
        check_refused(r#"{"jsonrpc":"1.0","method":"m"}"#);
        let long = format!(r#"{{"jsonrpc":"1.0","id":"{}","method":"m"}}"#, "i".repeat(5_000));
        check_refused(&long);
    }

    /// Repeated members of the envelope, each followed by many others.
    #[test]
    fn object_with_many_members_is_classified_in_one_pass() {
        let many = |member: &str| member.repeat(300_000);
        let (results, others) = (many(r#""result":null,"#), many(r#""x":1,"#));
        let text = format!(r#"{{{results}{others}"jsonrpc":"2.0","id":null,"method":"m","y":1}}"#);
        let classified =
            mcp_sse_tests::within(mcp_sse_tests::TEST_MAX, "what it is", move || classify(&text));
        assert!(!matches!(classified, Classified::LostAnswer(_)), "{classified:?}");
    }
}
