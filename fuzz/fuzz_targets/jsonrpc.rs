//! The envelope's reader, against a library's tree.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mcp_sse_fuzz::fuzz::jsonrpc(input));
