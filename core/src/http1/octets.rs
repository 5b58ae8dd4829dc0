//! Character classes: one table of 256 entries for every grammar of this codec.
//!
//! Knows: the character classes of RFC 9110 §5.5 and §5.6 and of RFC 3986 §2.
//! Does not know: in which position of a message an octet was found.

/// `tchar` (RFC 9110 §5.6.2): methods, field names, chunk extension names, codings.
pub(super) const TOKEN: u8 = 1;
/// Octets of a request target: visible ASCII except `"#<>\^{|}` and the backtick, which RFC 3986 §2
/// allows nowhere in a URI. (`#` begins a fragment, which is never sent.)
pub(super) const TARGET: u8 = 1 << 1;
/// Octets of a field value: HTAB, SP, VCHAR and obs-text (RFC 9110 §5.5). The second half of a
/// quoted-pair (RFC 9110 §5.6.4) is the same set.
pub(super) const VALUE: u8 = 1 << 2;
/// `qdtext` (RFC 9110 §5.6.4): a field value's octets without the quote and the backslash.
pub(super) const QUOTED: u8 = 1 << 3;
/// `unreserved` (RFC 3986 §2.3): the characters of a registered name, as `authority` narrows it.
pub(super) const UNRESERVED: u8 = 1 << 4;

static CLASSES: [u8; 256] = classes();

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time, where a panic is an error")]
const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let octet = index as u8;
        let mut class = 0;
        let alphanumeric = octet.is_ascii_alphanumeric();
        if alphanumeric || contains(b"!#$%&'*+-.^_`|~", octet) {
            class |= TOKEN;
        }
        if alphanumeric || contains(b"-._~", octet) {
            class |= UNRESERVED;
        }
        if octet.is_ascii_graphic() && !contains(b"\"#<>\\^`{|}", octet) {
            class |= TARGET;
        }
        if octet == b'\t' || (octet >= b' ' && octet != 0x7f) {
            class |= VALUE;
            if !contains(b"\"\\", octet) {
                class |= QUOTED;
            }
        }
        table[index] = class;
        index += 1;
    }
    table
}

/// Whether `octet` is in `octets`, at compile time.
const fn contains(mut octets: &[u8], octet: u8) -> bool {
    while let [first, rest @ ..] = octets {
        if *first == octet {
            return true;
        }
        octets = rest;
    }
    false
}

/// Whether `octet` belongs to `class`.
#[inline]
#[expect(clippy::indexing_slicing, reason = "the table has an entry for every octet")]
pub(super) fn is(octet: u8, class: u8) -> bool {
    CLASSES[usize::from(octet)] & class != 0
}

/// How many octets at the start of `input` belong to `class`.
#[inline]
pub(super) fn run(input: &[u8], class: u8) -> usize {
    input.iter().position(|&octet| !is(octet, class)).unwrap_or(input.len())
}

/// Like [`run`] for [`VALUE`], but 16 octets at a time, because most of a head is field values.
#[inline]
pub(super) fn run_of_value(input: &[u8]) -> usize {
    let mut rest = input;
    while let Some((block, behind)) = rest.split_first_chunk() {
        if !is_block_of_value(block) {
            break;
        }
        rest = behind;
    }
    input.len() - rest.len() + run(rest, VALUE)
}

/// Whether all octets of the block belong to [`VALUE`]. The loop has no early exit, so that it
/// compiles to a few vector instructions.
#[inline]
fn is_block_of_value(block: &[u8; 16]) -> bool {
    block.iter().fold(true, |clean, &octet| {
        clean & (((octet >= b' ') & (octet != 0x7f)) | (octet == b'\t'))
    })
}

/// Whether `input` is one token (RFC 9110 §5.6.2). A token is never empty.
pub(crate) fn is_token(input: &[u8]) -> bool {
    !input.is_empty() && run(input, TOKEN) == input.len()
}

#[cfg(test)]
mod tests;
