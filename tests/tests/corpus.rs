//! The fuzz targets, on the inputs that are kept and on neighbours of them; and on findings that lie about.

use std::path::{Path, PathBuf};
use std::{fs, panic};

use mcp_sse_tests::fuzz::TARGETS;
use mcp_sse_tests::sim;

/// Neighbours tried of each input: the fuzzer's work is not repeated here, its code is kept working.
const NEIGHBOURS: usize = 24;

macro_rules! replayed {
    ($($target:ident),+ $(,)?) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target));
            }
        )+

        const REPLAYED: &[&str] = &[$(stringify!($target)),+];
    };
}

replayed!(bytes, chunked, head, jsonrpc, ops, sse_roundtrip, token);

/// Every input that is kept and some like it; all that are findings are told.
fn replay(name: &str) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let kept = files(&format!("corpus/{name}"));
    assert!(!kept.is_empty() && kept.len() <= 100, "{name} has {} inputs", kept.len());
    let mut findings = Vec::new();
    let mut judge = |path: &Path, neighbour: usize, input: &[u8]| {
        if panic::catch_unwind(|| target(input)).is_err() {
            findings.push(format!("{}, {neighbour}: {}", path.display(), input.escape_ascii()));
            if name == "ops" {
                // Once more, with its last steps.
                let _ = panic::catch_unwind(|| sim::run_ops(input));
            }
        }
    };
    for path in kept {
        let input = fs::read(&path).expect("a file");
        for neighbour in 0..=NEIGHBOURS {
            judge(&path, neighbour, &like(&input, neighbour));
        }
    }
    // What the fuzzer found here and nobody has dealt with.
    for path in files(&format!("artifacts/{name}")) {
        judge(&path, 0, &fs::read(&path).expect("a file"));
    }
    assert!(findings.is_empty(), "{name}: {} findings:\n{}", findings.len(), findings.join("\n"));
}

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(folder);
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort_unstable();
    paths
}

/// The input itself for 0; others with an octet changed, removed or doubled, or the end cut off.
fn like(input: &[u8], neighbour: usize) -> Vec<u8> {
    let mut input = input.to_vec();
    if neighbour == 0 || input.is_empty() {
        return input;
    }
    // Spread over the input, and the same in each run.
    let at = neighbour.wrapping_mul(0x9e37_79b9) % input.len();
    match neighbour % 5 {
        0 => drop(input.remove(at)),
        1 => input.insert(at, input[at]),
        2 => input[at] = b"\r\n\0 :;,\xff"[neighbour / 5 % 8],
        3 => input[at] ^= 1 << (neighbour / 5),
        _ => input.truncate(at),
    }
    input
}

/// None is forgotten.
#[test]
fn every_target_has_a_program_a_folder_and_a_test() {
    let names = |folder: &str| {
        let stem =
            |path: &PathBuf| path.file_stem().map(|name| name.to_string_lossy().into_owned());
        files(folder).iter().filter_map(stem).collect::<Vec<_>>()
    };
    let targets: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
    assert_eq!(REPLAYED, targets);
}
