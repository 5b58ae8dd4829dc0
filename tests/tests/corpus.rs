//! Runs the fuzz targets on the inputs of the corpus and on mutations of them, and on findings in
//! `fuzz/artifacts`.

use std::path::{Path, PathBuf};
use std::{fs, panic};

use mcp_sse_tests::fuzz::TARGETS;
use mcp_sse_tests::sim;

/// Mutations of each input. They do not repeat the fuzzer's work, but keep its code working.
const MUTATIONS: usize = 24;

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

/// Runs every input of a target and some mutations of it, and reports all findings.
fn replay(name: &str) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let kept = files(&format!("corpus/{name}"));
    assert!(!kept.is_empty() && kept.len() <= 100, "{name} has {} inputs", kept.len());
    let mut findings = Vec::new();
    let mut check = |path: &Path, mutation: usize, input: &[u8]| {
        if panic::catch_unwind(|| target(input)).is_err() {
            findings.push(format!("{}, {mutation}: {}", path.display(), input.escape_ascii()));
            if name == "ops" {
                // Runs it once more with a trace, which prints the last steps.
                let _ = panic::catch_unwind(|| sim::run_ops(input));
            }
        }
    };
    for path in kept {
        let input = fs::read(&path).expect("a file");
        for mutation in 0..=MUTATIONS {
            check(&path, mutation, &mutate(&input, mutation));
        }
    }
    // Findings of the fuzzer on this machine that are not fixed yet.
    for path in files(&format!("artifacts/{name}")) {
        check(&path, 0, &fs::read(&path).expect("a file"));
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

/// Returns the input itself for mutation 0; otherwise with an octet changed, removed or doubled, or
/// truncated.
fn mutate(input: &[u8], mutation: usize) -> Vec<u8> {
    let mut input = input.to_vec();
    if mutation == 0 || input.is_empty() {
        return input;
    }
    // The position is spread over the input, and the same in each run.
    let at = mutation.wrapping_mul(0x9e37_79b9) % input.len();
    match mutation % 5 {
        0 => drop(input.remove(at)),
        1 => input.insert(at, input[at]),
        2 => input[at] = b"\r\n\0 :;,\xff"[mutation / 5 % 8],
        3 => input[at] ^= 1 << (mutation / 5),
        _ => input.truncate(at),
    }
    input
}

#[test]
fn every_fuzz_target_has_a_program_a_corpus_and_a_test() {
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
