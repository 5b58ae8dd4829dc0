//! Events, encoded and decoded, compared with a naive reader.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mcp_sse_fuzz::fuzz::sse_roundtrip(input));
