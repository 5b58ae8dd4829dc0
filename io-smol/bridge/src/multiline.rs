//! Joins lines that may be one JSON text, because some servers pretty-print their messages.
//!
//! Knows: how many brackets are open after a line. Does not know: what the text means.

/// The lines of what may be one JSON text.
#[derive(Debug, Default)]
pub(super) struct MultilineText {
    text: Vec<u8>,
    depth: usize,
}

pub(super) enum MultilineStep {
    /// Brackets are open: more lines have to follow.
    Incomplete,
    /// All brackets are closed: the text may be JSON.
    Complete(Vec<u8>),
    /// The text is too long, or no JSON text begins like this.
    NotJson(Vec<u8>),
}

impl MultilineText {
    /// Whether a text has begun and is incomplete.
    pub(super) const fn is_open(&self) -> bool {
        !self.text.is_empty()
    }

    /// Adds a line. A text begins with a bracket, and ends when all brackets are closed. No JSON string continues on
    /// the next line.
    pub(super) fn add(&mut self, line: Vec<u8>, bytes_max: usize) -> MultilineStep {
        let depth = depth_behind(self.depth, &line);
        if self.text.is_empty() {
            self.text = line;
        } else {
            self.text.push(b'\n');
            self.text.extend(line);
        }
        match depth {
            Some(0) => MultilineStep::Complete(self.take()),
            Some(depth) if self.text.len() <= bytes_max => {
                self.depth = depth;
                MultilineStep::Incomplete
            }
            Some(_) | None => MultilineStep::NotJson(self.take()),
        }
    }

    fn take(&mut self) -> Vec<u8> {
        self.depth = 0;
        core::mem::take(&mut self.text)
    }

    /// Removes and returns the lines of an incomplete text.
    pub(super) fn clear(&mut self) -> Option<Vec<u8>> {
        let text = self.take();
        if text.is_empty() { None } else { Some(text) }
    }
}

/// The number of brackets that are open after `line`, if `depth` were open before it. `None` if no JSON text has such
/// a line.
fn depth_behind(mut depth: usize, line: &[u8]) -> Option<usize> {
    let (mut string, mut escaped) = (false, false);
    for byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if string => escaped = true,
            b'"' => string = !string,
            _ if string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    if string { None } else { Some(depth) }
}
