//! Any bytes on one connection, cut anywhere.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mcp_sse_fuzz::fuzz::bytes(input));
