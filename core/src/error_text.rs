//! Makes an error of a type that has a text.

/// Implements `Error` for a type, and `Display`, which writes the text that `$text` gives for a
/// reference to a value.
macro_rules! error_text {
    ($name:ty, $text:expr) => {
        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                let text: fn(&Self) -> &'static str = $text;
                f.write_str(text(self))
            }
        }

        impl core::error::Error for $name {}
    };
}
pub(crate) use error_text;
