//! The log macros in the sources of all crates are those of the tables in `guide/logs.md`: each event with its level and
//! its keys, in their order.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const GUIDE: &str = include_str!("../../../core/driver/src/guide/logs.md");

/// The sources whose events the guide lists. Examples and tests log what they like.
const SOURCES: [&str; 7] = [
    "core/src",
    "core/driver/src",
    "core/demo/src",
    "io-smol/src",
    "io-smol/bridge/src",
    "io-smol/cli/src",
    "io-tokio/src",
];

/// The levels and the keys of an event.
#[derive(Debug, PartialEq)]
struct Shape {
    level: String,
    keys: Vec<String>,
}

/// The events in the tables of the guide.
fn documented() -> BTreeMap<String, Shape> {
    let unquoted = |text: &str| -> Vec<String> {
        text.split('`').skip(1).step_by(2).map(String::from).collect()
    };
    let mut events = BTreeMap::new();
    let mut in_events = false;
    for line in GUIDE.lines() {
        in_events = line.starts_with("| event |") || (in_events && line.starts_with('|'));
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let (true, [_, name, level, keys, _]) = (in_events, &cells[..])
            && let [name] = &unquoted(name)[..]
        {
            let shape = Shape { level: (*level).into(), keys: unquoted(keys) };
            assert_eq!(events.insert(name.clone(), shape), None, "{name} is listed twice");
        }
    }
    events
}

/// All Rust files below `directory`, without those of unit tests.
fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        if path.is_dir() && name != "tests" {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The text up to the parenthesis that closes the one before it, and whether each octet is outside of nested brackets
/// and of strings.
fn arguments(text: &str) -> (&str, Vec<bool>) {
    let (mut depth, mut quoted, mut escaped) = (0_u32, false, false);
    let mut outside = Vec::new();
    for (at, octet) in text.bytes().enumerate() {
        let opens = !quoted && matches!(octet, b'(' | b'[' | b'{');
        let closes = !quoted && matches!(octet, b')' | b']' | b'}');
        if closes && depth == 0 {
            return (&text[..at], outside);
        }
        outside.push(depth == 0 && !quoted);
        depth = depth + u32::from(opens) - u32::from(closes);
        quoted ^= octet == b'"' && !escaped;
        escaped = quoted && octet == b'\\' && !escaped;
    }
    panic!("a macro does not end: {}", &text[..text.len().min(80)]);
}

/// The pieces of `text` between octets `separator` that are outside of brackets and strings.
fn split<'t>(text: &'t str, outside: &[bool], separator: u8) -> Vec<&'t str> {
    let separates = |&(at, octet): &(usize, u8)| octet == separator && outside[at];
    let mut from = 0;
    let mut pieces = Vec::new();
    for (at, _) in text.bytes().enumerate().filter(separates) {
        pieces.push(&text[from..at]);
        from = at + 1;
    }
    pieces.push(&text[from..]);
    pieces
}

/// The event of one call of a log macro, and its shape.
fn event_of(level: &str, arguments: &str, outside: &[bool]) -> Result<(String, Shape), String> {
    let halves = split(arguments, outside, b';');
    let [keys, _sentence] = halves[..] else { return Err("it has no keys".into()) };
    let mut parts = split(keys, outside, b',');
    parts.retain(|part| !part.trim().is_empty() && !part.trim().starts_with("target:"));
    let level = match level {
        "log" => {
            parts.remove(0);
            "two levels"
        }
        level => level,
    };
    let named = parts.iter().map(|part| part.split_once('=').unwrap_or((part, "")));
    // A key may say how its value is captured: `error:% = error`.
    let mut named = named.map(|(key, value)| (key.split(':').next().unwrap_or(key).trim(), value));
    let Some(("event", value)) = named.next() else { return Err("event is not first".into()) };
    let name = value.trim().trim_matches('"').to_owned();
    let keys = named.map(|(key, _)| key.to_owned()).collect();
    Ok((name, Shape { level: level.into(), keys }))
}

#[test]
fn log_macros_are_those_of_the_guide() {
    let documented = documented();
    assert!(documented.len() > 60, "{} events in the tables", documented.len());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut files = Vec::new();
    SOURCES.iter().for_each(|source| rust_files(&root.join(source), &mut files));
    let (mut found, mut faults) = (BTreeMap::new(), Vec::new());
    for path in files {
        let text = fs::read_to_string(&path).expect("a file");
        // Without comments, among which are examples.
        let code: Vec<_> =
            text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let code = code.join("\n");
        for (at, _) in code.match_indices("log::") {
            let Some((level, rest)) = code[at + 5..].split_once("!(") else { continue };
            if !["error", "warn", "info", "debug", "trace", "log"].contains(&level) {
                continue;
            }
            let (text, outside) = arguments(rest);
            let place = || format!("{}: {}", path.display(), &text[..text.len().min(120)]);
            match event_of(level, text, &outside) {
                Err(fault) => faults.push(format!("{fault}: {}", place())),
                Ok((name, shape)) => match documented.get(&name) {
                    None => faults.push(format!("{name} is not in the guide: {}", place())),
                    Some(row) => {
                        let same_level = row.level == shape.level
                            || (shape.level == "two levels" && row.level.contains(" or "));
                        if !same_level || row.keys != shape.keys {
                            faults.push(format!("{name} is {shape:?}, and in the guide {row:?}"));
                        }
                        found.insert(name, ());
                    }
                },
            }
        }
    }
    let missing = documented.keys().filter(|name| !found.contains_key(*name));
    faults.extend(missing.map(|name| format!("{name} is in the guide, and nothing logs it")));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_key_of_the_tables_that_several_events_have_is_explained() {
    let (_, rest) = GUIDE.split_once("\n## Keys\n").expect("a section");
    let (section, _) = rest.split_once("\n## ").expect("another section");
    let explained: Vec<_> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .flat_map(|line| line.split(" | ").next().unwrap_or_default().split("`, `"))
        .map(|key| key.trim_end_matches('`').to_owned())
        .collect();
    let mut counts = BTreeMap::<String, usize>::new();
    for key in documented().into_values().flat_map(|shape| shape.keys) {
        *counts.entry(key).or_default() += 1;
    }
    for (key, count) in counts {
        assert!(count < 5 || explained.contains(&key), "{key} is in {count} events");
    }
    assert!(explained.contains(&"traceparent".into()), "{explained:?}");
}
