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
/// What ends an excerpt that was cut.
const CUT: &str = "…";
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

    /// The text without secrets and characters that control a terminal.
    pub(crate) fn scrub(&self, text: &str) -> String {
        let whole =
            self.0.iter().fold(text.to_owned(), |text, secret| text.replace(&**secret, MASK));
        let mut parts = whole.split(CUT).map(|part| self.without_cut_secret(part));
        let mut masked = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            masked.push_str(CUT);
            masked.push_str(part);
        }
        masked.chars().map(|c| if is_invisible(c) { ' ' } else { c }).collect()
    }

    /// The text without the beginning of a secret at its end, which an excerpt may have cut.
    fn without_cut_secret<'t>(&self, text: &'t str) -> &'t str {
        let cut = |secret: &String| {
            let ends = (SECRET_BYTES_MIN..secret.len()).rev();
            let begun = ends.filter_map(|end| secret.get(..end));
            begun.into_iter().find_map(|begun| text.strip_suffix(begun))
        };
        let shortest = self.0.iter().filter_map(cut).min_by_key(|left| left.len());
        shortest.unwrap_or(text)
    }
}

/// Whether a terminal does not show the character, but changes something because of it: control characters, and those
/// that turn the direction of the text after them.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The beginning of a server's text on one line, in quotes, or words for an empty text.
pub(crate) fn excerpt(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.is_empty() {
        return "no text".into();
    }
    let mut short: String = words.chars().take(EXCERPT_CHARS_MAX).collect();
    if short.len() < words.len() {
        short.push_str(CUT);
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
    fn secret_that_an_excerpt_has_cut_is_replaced() {
        let mut secrets = Secrets::default();
        secrets.add("hunter22-hunter22");
        for shown in 0..=17 {
            let text = format!("{}hunter22-hunter22 {}", "a".repeat(200 - shown), "b".repeat(9));
            let scrubbed = secrets.scrub(&excerpt(&text));
            assert!(!scrubbed.contains("hunt"), "{shown}: {scrubbed}");
        }
    }

    #[test]
    fn direction_of_text_cannot_be_turned() {
        assert_eq!(Secrets::default().scrub("a\u{202e}b\u{2066}c\u{85}"), "a b c ");
    }

    #[test]
    fn long_text_is_cut_and_empty_text_is_named() {
        assert_eq!(excerpt(" a\r\n b "), "\"a b\"");
        assert_eq!(excerpt("\n"), "no text");
        assert_eq!(excerpt(&"ä".repeat(300)).chars().count(), EXCERPT_CHARS_MAX + 3);
    }
}
