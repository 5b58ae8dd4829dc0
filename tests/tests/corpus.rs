//! The fuzz targets, on the inputs that are kept and on neighbours of them.

use std::path::Path;
use std::{fs, panic};

use mcp_sse_tests::fuzz::TARGETS;

/// Neighbours tried of each input: the fuzzer's work is not repeated here, its code is kept working.
const NEIGHBOURS: usize = 24;

#[test]
fn every_input_that_is_kept_and_some_like_it() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, target) in TARGETS {
        let entries = fs::read_dir(corpus.join(name)).expect("a folder of inputs for each target");
        let paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        assert!(!paths.is_empty() && paths.len() <= 100, "{name} has {} inputs", paths.len());
        for path in paths {
            let input = fs::read(&path).expect("a file");
            for neighbour in 0..=NEIGHBOURS {
                let input = like(&input, neighbour);
                let judged = panic::catch_unwind(|| target(&input));
                assert!(
                    judged.is_ok(),
                    "{name}: {}, {neighbour}: {}",
                    path.display(),
                    input.escape_ascii()
                );
            }
        }
    }
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
fn every_target_has_a_program_and_a_folder() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let names = |folder: &str| {
        let entries = fs::read_dir(fuzz.join(folder)).expect("a folder");
        let stem = |path: &Path| path.file_stem().map(|name| name.to_string_lossy().into_owned());
        let mut names: Vec<_> =
            entries.filter_map(|entry| stem(&entry.expect("an entry").path())).collect();
        names.sort_unstable();
        names
    };
    let targets: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
}
