//! Session tokens.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mcp_sse_fuzz::fuzz::token(input));
