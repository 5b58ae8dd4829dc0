//! The simulator: several connections, checked against the model.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mcp_sse_fuzz::fuzz::ops(input));
