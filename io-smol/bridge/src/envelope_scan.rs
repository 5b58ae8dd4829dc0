//! Scans text that may be incomplete or invalid JSON for a message's envelope: what kind of message it was, and its
//! id.
//!
//! Knows: the names of the members of the outermost object, and the value of `id`.
//! Does not know: any other value.

use mcp_sse_core::jsonrpc::code;
use serde_json::value::RawValue;

use super::ids::{self, ID_BYTES_MAX};
use super::printed::{Classified, LostAnswer, UnreadableRequest};

/// A scan of one text, which may be fed in pieces. Its memory is bounded by the longest id, however long the text is.
#[derive(Debug, Default)]
pub(super) struct EnvelopeScan {
    /// The number of open brackets. A `u64`, because a line that is too long may have any length.
    depth: u64,
    string: bool,
    escaped: bool,
    /// The outermost object has ended.
    done: bool,
    /// What is collected in `text`: a key, the value of `id`, or nothing.
    reads: ScanTarget,
    text: Vec<u8>,
    id: Option<Box<str>>,
    has_version: bool,
    has_method: bool,
    has_outcome: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ScanTarget {
    #[default]
    Nothing,
    Key,
    Id,
}

impl EnvelopeScan {
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
                    self.reads = ScanTarget::Key;
                }
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    self.end_member();
                    self.done = true;
                }
            }
            b':' if self.depth == 1 && self.reads == ScanTarget::Key => self.end_key(),
            b',' if self.depth == 1 => {
                self.end_member();
                self.reads = ScanTarget::Key;
            }
            _ => {
                self.string = byte == b'"';
                self.keep(byte);
            }
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.depth == 1 && self.reads != ScanTarget::Nothing && self.text.len() <= ID_BYTES_MAX {
            self.text.push(byte);
        }
    }

    fn end_key(&mut self) {
        self.reads = ScanTarget::Nothing;
        match self.text.trim_ascii() {
            br#""id""# => self.reads = ScanTarget::Id,
            br#""jsonrpc""# => self.has_version = true,
            br#""method""# => self.has_method = true,
            br#""result""# | br#""error""# => self.has_outcome = true,
            _ => {}
        }
        self.text.clear();
    }

    fn end_member(&mut self) {
        if self.reads == ScanTarget::Id {
            let raw: Option<&RawValue> = serde_json::from_slice(&self.text).ok();
            let id = raw.filter(|raw| raw.get().len() <= ID_BYTES_MAX);
            self.id = id.and_then(|raw| ids::canonical(raw.get())).map(Into::into);
        }
        self.reads = ScanTarget::Nothing;
        self.text.clear();
    }

    /// Whether the kind of message and its id are known, so that further text cannot change them.
    pub(super) const fn is_conclusive(&self) -> bool {
        self.has_version && (self.has_outcome || self.has_method) && self.id.is_some()
    }

    /// The answer or the server's request that the text was, if it was one. `why` is the reason why it cannot be
    /// passed on.
    pub(super) fn found(&self, why: &str) -> Option<Classified> {
        let (id, why) = (self.id.clone(), || why.to_owned().into());
        match (self.has_method, self.has_outcome, id) {
            _ if !self.has_version => None,
            (false, true, id) => {
                Some(Classified::LostAnswer(LostAnswer { id, why: why(), error: None }))
            }
            // Only at the end of the object is it certain that no `method` follows.
            (false, false, id @ Some(_)) if self.done => {
                Some(Classified::LostAnswer(LostAnswer { id, why: why(), error: None }))
            }
            (true, false, Some(id)) => Some(Classified::UnreadableRequest(UnreadableRequest {
                id,
                code: code::PARSE_ERROR,
                why: why(),
            })),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unclosed_brackets_do_not_overflow_the_depth() {
        let mut scan = EnvelopeScan { depth: u32::MAX.into(), ..EnvelopeScan::default() };
        scan.feed(b"[[[[");
        assert!(!scan.is_conclusive());
    }

    #[test]
    fn scan_finds_the_id_in_pieces_of_any_size() {
        let text = r#"{"jsonrpc": "2.0", "result" : {"id":9,"a":["]\"",{"x":"}"}]}, "id" : "z,}" "#;
        for size in 1..20 {
            let mut scan = EnvelopeScan::default();
            text.as_bytes().chunks(size).for_each(|piece| scan.feed(piece));
            assert!(!scan.is_conclusive(), "the value of the id may continue");
            scan.feed(b"}");
            assert!(scan.is_conclusive());
            let Some(Classified::LostAnswer(lost)) = scan.found("x") else { panic!("{scan:?}") };
            assert_eq!(lost.id.as_deref(), Some(r#""z,}""#));
        }
        let mut scan = EnvelopeScan::default();
        scan.feed(br#"{"jsonrpc":"2.0","id":4,"res"#);
        assert_eq!(scan.found("x"), None, "a method may follow");
    }
}
