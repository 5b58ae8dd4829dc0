//! Puts lines together that may be one JSON text, as some servers print theirs for people.
//!
//! Knows: which brackets are open behind a line. Does not know: what the text means.

/// Lines that may be one JSON text.
#[derive(Debug, Default)]
pub(super) struct MultilineText {
    text: Vec<u8>,
    depth: usize,
}

pub(super) enum MultilineStep {
    /// More lines are to come.
    Incomplete,
    /// All brackets are closed: it may be JSON.
    Complete(Vec<u8>),
    /// No JSON text goes on like this, or it is too long.
    NotJson(Vec<u8>),
}

impl MultilineText {
    /// Whether a text has begun.
    pub(super) const fn is_open(&self) -> bool {
        !self.text.is_empty()
    }

    /// Adds a line. A text begins with a bracket, and ends when all are closed; JSON has no line ends
    /// inside strings.
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

    /// Takes out what has begun, which was no JSON text.
    pub(super) fn clear(&mut self) -> Option<Vec<u8>> {
        let text = self.take();
        if text.is_empty() { None } else { Some(text) }
    }
}

/// How many brackets are open behind a line that begins inside so many; `None` if no JSON text can go
/// on like this.
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
