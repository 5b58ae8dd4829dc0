//! The members of one JSON object that a message's envelope consists of.
//!
//! Knows: which members those are. Does not know: what makes a message of them (see the module
//! above), or how JSON is read (see `grammar`).

use super::grammar::{Flaw, Shape, walk};
use super::string::spells;

/// The white space of RFC 8259 section 2. `char::is_whitespace` knows many more.
pub(crate) const JSON_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// The members of an envelope, raw and not yet judged.
///
/// Outbound frames read no further than this: what an application sends is its own business, as long
/// as it is one JSON object.
#[derive(Debug, Default)]
pub(crate) struct Outline<'a> {
    pub(super) version: Option<&'a str>,
    pub(super) id: Option<&'a str>,
    pub(super) method: Option<&'a str>,
    pub(super) result: Option<&'a str>,
    pub(super) error: Option<&'a str>,
    /// The first of `jsonrpc`, `id` and `method` that came again. The last value is kept then.
    pub(super) duplicate: Option<Key>,
}

/// A key of the outermost object that must not come twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Version,
    Id,
    Method,
}

/// Why a text has no outline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoOutline {
    /// It is not one JSON text within the nesting allowed.
    Syntax(Flaw),
    /// It is a JSON array.
    Array,
    /// It is a JSON string, number, boolean or null.
    Scalar,
}

impl<'a> Outline<'a> {
    /// Keys are compared decoded and exactly: `"Method"` is another key, `"\u006dethod"` is not.
    pub(crate) fn read(text: &'a str, nesting_max: Option<usize>) -> Result<Self, NoOutline> {
        let mut outline = Self::default();
        let shape = walk(text, nesting_max, |key, raw| {
            let (member, key) = if spells(key, "jsonrpc") {
                (&mut outline.version, Some(Key::Version))
            } else if spells(key, "id") {
                (&mut outline.id, Some(Key::Id))
            } else if spells(key, "method") {
                (&mut outline.method, Some(Key::Method))
            } else if spells(key, "result") {
                // Nothing hangs on these being there once.
                (&mut outline.result, None)
            } else if spells(key, "error") {
                (&mut outline.error, None)
            } else {
                return;
            };
            if member.replace(raw).is_some() {
                outline.duplicate = outline.duplicate.or(key);
            }
        });
        match shape.map_err(NoOutline::Syntax)? {
            Shape::Object => Ok(outline),
            Shape::Array => Err(NoOutline::Array),
            Shape::Scalar => Err(NoOutline::Scalar),
        }
    }

    /// The raw id, if the object has the members of a response.
    pub(crate) fn answered_id(&self) -> Option<&'a str> {
        let outcome = self.result.or(self.error);
        if self.method.is_none() && outcome.is_some() { self.id } else { None }
    }
}

/// The raw value of the last member called `name` of the object `text`; `None` if there is none or
/// `text` is no object.
pub(super) fn member<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut found = None;
    let note = |key, raw| found = if spells(key, name) { Some(raw) } else { found };
    walk(text, None, note).ok()?;
    found
}
