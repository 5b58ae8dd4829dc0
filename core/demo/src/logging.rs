//! The log on stderr: lines of text, or JSON objects for programs that collect logs.
//!
//! Knows: how a record with its keys and values becomes one line. Does not know: which records there are; the
//! guide `guide::logs` of the adapters lists them.
//!
//! Control characters of whatever a record contains are escaped in both formats, because they could end a line or
//! control a terminal. A key whose value is null has no value in this record, and is left out.
//!
//! Decision: text has the sentence first and `key=value` behind it, so that a person reads the one and `grep` finds
//! the other. Keys in front of the sentence were considered; the sentence would then begin at another column in each
//! line.

use core::fmt::Write as _;
use std::io::Write as _;
use std::time::SystemTime;

use clap::ValueEnum;
use env_logger::Builder;
use env_logger::fmt::ConfigurableFormat;
use log::kv::{self, Key, VisitSource, VisitValue};
use log::{LevelFilter, Record};
use serde_json::{Map, Value};

/// The format of a line of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people: a sentence, and behind it keys and values.
    #[default]
    Text,
    /// A JSON object with the members time, level, target and message, and one for each key.
    Json,
}

/// Starts logging to stderr: records of `level` and of more severe levels, in the format `format`.
///
/// # Panics
///
/// Panics if a logger was set before.
pub fn init(level: LevelFilter, format: Format) {
    let mut builder = Builder::new();
    builder.filter_level(level);
    match format {
        Format::Text => {
            let head = ConfigurableFormat::default();
            builder.format(move |out, record| {
                let mut line = Record::builder();
                line.level(record.level()).target(record.target());
                head.format(out, &line.args(format_args!("{}", text(record))).build())
            });
        }
        Format::Json => {
            builder.format(|out, record| writeln!(out, "{}", json(record, SystemTime::now())));
        }
    }
    builder.init();
}

/// The sentence of a record, and behind it its keys and values.
fn text(record: &Record<'_>) -> String {
    let mut line = String::new();
    push_escaped(&mut line, &record.args().to_string());
    for (key, value) in pairs(record) {
        line.push(' ');
        push_escaped(&mut line, &key);
        line.push('=');
        match value.as_str() {
            Some(text) if is_plain(text) => line.push_str(text),
            // A quoted string of Rust escapes control characters, quotes and backslashes.
            Some(text) => line.push_str(&format!("{text:?}")),
            None => line.push_str(&value.to_string()),
        }
    }
    line
}

/// Whether a value is readable without quotes.
fn is_plain(text: &str) -> bool {
    let special = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '=' | '\\');
    !text.is_empty() && !text.contains(special)
}

fn push_escaped(line: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
}

fn json(record: &Record<'_>, now: SystemTime) -> String {
    let mut members = Map::new();
    let mut add = |name: &str, value: Value| members.insert(name.into(), value);
    add("time", humantime::format_rfc3339_millis(now).to_string().into());
    add("level", record.level().as_str().to_ascii_lowercase().into());
    add("target", record.target().into());
    add("message", record.args().to_string().into());
    for (mut key, value) in pairs(record) {
        // A key of another crate may have the name of a member.
        while members.contains_key(&key) {
            key.push('_');
        }
        members.insert(key, value);
    }
    let object = Value::from(members).to_string();
    let mut line = String::with_capacity(object.len());
    for c in object.chars() {
        // JSON need not escape U+007F to U+009F, which some terminals obey.
        if c.is_control() {
            let _ = write!(line, "\\u{:04x}", u32::from(c));
        } else {
            line.push(c);
        }
    }
    line
}

/// The keys and values of a record, in their order, without those that are null.
fn pairs(record: &Record<'_>) -> Vec<(String, Value)> {
    let mut pairs = Pairs(Vec::new());
    // A source of another crate may fail; what it has shown before is kept.
    let _ = record.key_values().visit(&mut pairs);
    pairs.0
}

struct Pairs(Vec<(String, Value)>);

impl<'kvs> VisitSource<'kvs> for Pairs {
    fn visit_pair(&mut self, key: Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        let mut read = ReadValue(Value::Null);
        value.visit(&mut read)?;
        if !read.0.is_null() {
            self.0.push((key.to_string(), read.0));
        }
        Ok(())
    }
}

/// Makes a JSON value of a value: a number or a truth value of the same, and a string of anything else.
struct ReadValue(Value);

impl<'v> VisitValue<'v> for &mut ReadValue {
    fn visit_any(&mut self, value: kv::Value<'_>) -> Result<(), kv::Error> {
        self.0 = value.to_string().into();
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        // JSON has no infinities.
        self.0 = if value.is_finite() { value.into() } else { value.to_string().into() };
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_str(&mut self, value: &str) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use log::Level;
    use log::kv::{Source, ToValue};
    use mcp_sse_core::{LineThrottle, Peer, Principal, Time, TraceParent};
    use serde_json::json as object;

    use super::*;

    /// The two lines of a record.
    fn lines(sentence: &str, keys: &[(&str, kv::Value<'_>)]) -> (String, Value) {
        let args = format_args!("{sentence}");
        let keys = Some(&keys as &dyn Source);
        let mut record = Record::builder();
        record.level(Level::Warn).target("a::b").key_values(&keys);
        let record = record.args(args).build();
        let (text, json) = (text(&record), json(&record, SystemTime::UNIX_EPOCH));
        for line in [&text, &json] {
            assert!(!line.contains(char::is_control), "{line:?}");
        }
        (text, serde_json::from_str(&json).expect("one object"))
    }

    #[track_caller]
    fn check(value: impl ToValue, text: &str, json: Value) {
        let (line, members) = lines("It is so.", &[("key", value.to_value())]);
        assert_eq!(line, format!("It is so. key={text}"));
        assert_eq!(members["key"], json);
    }

    #[test]
    fn values_by_their_types() {
        check(404_u16, "404", object!(404));
        check(u64::MAX, "18446744073709551615", object!(u64::MAX));
        check(-3, "-3", object!(-3));
        check(1.5, "1.5", object!(1.5));
        check(f64::INFINITY, "inf", object!("inf"));
        check(true, "true", object!(true));
        check("plain", "plain", object!("plain"));
        check("404", "404", object!("404"));
        check("", r#""""#, object!(""));
        check("two words", r#""two words""#, object!("two words"));
        check("a=b", r#""a=b""#, object!("a=b"));
        check(r#"a"b\"#, r#""a\"b\\""#, object!(r#"a"b\"#));
        check("né", "né", object!("né"));
        check("two\nlines", r#""two\nlines""#, object!("two\nlines"));
        check(
            "\u{1b}[31m\u{7f}\u{9b}",
            r#""\u{1b}[31m\u{7f}\u{9b}""#,
            object!("\u{1b}[31m\u{7f}\u{9b}"),
        );
        check(kv::Value::from_display(&"1 2"), r#""1 2""#, object!("1 2"));
        check(Peer::local(), "local", object!("local"));
        check(Principal::new("al ice"), r#""al ice""#, object!("al ice"));
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        check(TraceParent::parse(parent.as_bytes()), parent, object!(parent));
    }

    #[test]
    fn key_without_a_value_is_left_out() {
        let mut throttle = LineThrottle::new();
        let at = |micros| Time::from_micros(micros);
        let none = throttle.tell(at(0));
        assert!(throttle.tell(at(1)).is_none());
        let one = throttle.tell(at(1_000_000));
        let keys = [
            ("session", None::<u8>.to_value()),
            ("none", none.to_value()),
            ("suppressed", one.to_value()),
        ];
        let (text, members) = lines("It is so.", &keys);
        assert_eq!(text, "It is so. suppressed=1");
        assert_eq!(members.as_object().expect("an object").len(), 5);
        assert_eq!(members["suppressed"], object!(1));
    }

    #[test]
    fn json_record_has_its_own_members_whatever_its_keys_are() {
        let keys = [("message", 1.to_value()), ("time", 2.to_value()), ("event", "e".to_value())];
        let (_, members) = lines("two\nlines, \"quoted\"\u{85}", &keys);
        let expected = object!({
            "time": "1970-01-01T00:00:00.000Z",
            "level": "warn",
            "target": "a::b",
            "message": "two\nlines, \"quoted\"\u{85}",
            "event": "e",
            "message_": 1,
            "time_": 2,
        });
        assert_eq!(members, expected);
    }

    #[test]
    fn control_characters_of_a_sentence_are_escaped() {
        let (text, _) = lines("a\nb\u{1b}[2J\tc\u{9b}", &[("k\n", 1.to_value())]);
        assert_eq!(text, r"a\nb\u{1b}[2J\tc\u{9b} k\n=1");
    }
}
