//! The log on stderr: lines of text, or JSON objects for programs that collect logs.

use std::io::Write;
use std::time::SystemTime;

use clap::ValueEnum;
use env_logger::Builder;
use log::{LevelFilter, Record};

/// The format of a line of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people.
    #[default]
    Text,
    /// A JSON object with the members time, level, target and message.
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
    if format == Format::Json {
        builder.format(|out, record| writeln!(out, "{}", json(record, SystemTime::now())));
    }
    builder.init();
}

fn json(record: &Record<'_>, now: SystemTime) -> String {
    serde_json::json!({
        "time": humantime::format_rfc3339_millis(now).to_string(),
        "level": record.level().as_str().to_ascii_lowercase(),
        "target": record.target(),
        "message": record.args().to_string(),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use log::Level;

    use super::*;

    #[test]
    fn json_log_record_is_one_line() {
        let record = Record::builder()
            .level(Level::Warn)
            .target("a::b")
            .args(format_args!("two\nlines, \"quoted\""))
            .build();
        assert_eq!(
            json(&record, SystemTime::UNIX_EPOCH),
            r#"{"level":"warn","message":"two\nlines, \"quoted\"","target":"a::b","time":"1970-01-01T00:00:00.000Z"}"#
        );
    }
}
