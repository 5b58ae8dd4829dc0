//! JSON-RPC envelopes, compared with a JSON library.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mcp_sse_fuzz::fuzz::jsonrpc(input));
