//! Collects the members of a JSON object that make up a message's envelope.
//!
//! Knows: which members those are. Does not know: which combinations of them are valid messages
//! (see `jsonrpc`), or the grammar of JSON (see `grammar`).

use super::grammar::{Shape, SyntaxError, walk};
use super::string::spells;

/// The white space of JSON (RFC 8259 §2). `char::is_whitespace` accepts more characters.
pub(crate) const JSON_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// The raw members of an envelope, not yet validated.
///
/// Only inbound messages are validated further. An outbound frame need only be one JSON object.
#[derive(Debug, Default)]
pub(crate) struct Outline<'a> {
    pub(super) version: Option<&'a str>,
    pub(super) id: Option<&'a str>,
    pub(super) method: Option<&'a str>,
    pub(super) result: Option<&'a str>,
    pub(super) error: Option<&'a str>,
    /// The mistake that the first of `jsonrpc`, `id` and `method` to occur a second time is. The
    /// field above has the last value.
    pub(super) duplicate: Option<&'static str>,
}

impl<'a> Outline<'a> {
    /// Collects the members of `text`. Names are compared exactly, after escapes are decoded:
    /// `"Method"` is another name than `method`, `"\u006dethod"` is the same.
    ///
    /// A text that is not an object has no members.
    pub(crate) fn read(
        text: &'a str,
        nesting_max: Option<usize>,
    ) -> Result<(Self, Shape), SyntaxError> {
        let mut outline = Self::default();
        let shape = walk(text, nesting_max, |key, raw| {
            let (member, repeated) = if spells(key, "jsonrpc") {
                (&mut outline.version, Some("more than one jsonrpc member"))
            } else if spells(key, "id") {
                (&mut outline.id, Some("more than one id"))
            } else if spells(key, "method") {
                (&mut outline.method, Some("more than one method"))
            } else if spells(key, "result") {
                // A repeated `result` or `error` is harmless, because only its presence matters
                // here.
                (&mut outline.result, None)
            } else if spells(key, "error") {
                (&mut outline.error, None)
            } else {
                return;
            };
            if member.replace(raw).is_some() {
                outline.duplicate = outline.duplicate.or(repeated);
            }
        });
        shape.map(|shape| (outline, shape))
    }

    /// The raw id if the object has the members of a response, otherwise `None`.
    pub(crate) fn answered_id(&self) -> Option<&'a str> {
        let outcome = self.result.or(self.error);
        if self.method.is_none() && outcome.is_some() { self.id } else { None }
    }
}

/// The raw value of the last member called `name` of the object `text`; `None` if there is none or
/// if `text` is not an object.
pub(super) fn member<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut found = None;
    let note = |key, raw| found = if spells(key, name) { Some(raw) } else { found };
    walk(text, None, note).ok()?;
    found
}
