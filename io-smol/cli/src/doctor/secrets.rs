//! Text from elsewhere, made fit for printing.
//!
//! Knows: what must not be printed: secrets that were given or received, and control characters. Does not know: where
//! the text comes from. Every text of the output passes through here.

/// The shortest value that is replaced, in bytes. Shorter ones are not secrets, and would blot out ordinary words.
const SECRET_BYTES_MIN: usize = 4;
/// Words of values that are no secrets themselves, in lower case.
const PUBLIC_WORDS: [&str; 4] = ["basic", "bearer", "digest", "token"];
/// What replaces a secret.
const MASK: &str = "…";
/// The longest part of a server's text that is printed, in characters.
const EXCERPT_CHARS_MAX: usize = 200;

/// The values that no output contains.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    /// Adds a value, and its words, because a server may repeat a token without its scheme.
    pub(crate) fn add(&mut self, value: &str) {
        for part in core::iter::once(value).chain(value.split([' ', ',', ';', '='])) {
            let part = part.trim_matches(['"', ' ']);
            if PUBLIC_WORDS.contains(&&*part.to_ascii_lowercase()) {
                continue;
            }
            if part.len() >= SECRET_BYTES_MIN && !self.0.iter().any(|known| known == part) {
                self.0.push(part.to_owned());
            }
        }
        // A value may contain another one.
        self.0.sort_by_key(|value| core::cmp::Reverse(value.len()));
    }

    /// The text without secrets and control characters.
    pub(crate) fn scrub(&self, text: &str) -> String {
        let masked =
            self.0.iter().fold(text.to_owned(), |text, secret| text.replace(&**secret, MASK));
        masked.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// The beginning of a server's text on one line, in quotes, or words for an empty text.
pub(crate) fn excerpt(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.is_empty() {
        return "no text".into();
    }
    let mut short: String = words.chars().take(EXCERPT_CHARS_MAX).collect();
    if short.len() < words.len() {
        short.push('…');
    }
    format!("\"{short}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_control_characters_are_replaced() {
        let mut secrets = Secrets::default();
        secrets.add("Bearer abcd-token");
        secrets.add("abcd");
        secrets.add("no");
        let scrubbed = secrets.scrub("Bearer realm, not abcd-token\u{1b}[2J, no");
        assert_eq!(scrubbed, "Bearer realm, not … [2J, no");
    }

    #[test]
    fn long_text_is_cut_and_empty_text_is_named() {
        assert_eq!(excerpt(" a\r\n b "), "\"a b\"");
        assert_eq!(excerpt("\n"), "no text");
        assert_eq!(excerpt(&"ä".repeat(300)).chars().count(), EXCERPT_CHARS_MAX + 3);
    }
}
