//! Tests of the command `mcp-sse bridge` with servers that are shell scripts.
#![cfg(target_os = "linux")] // The tests look for processes in /proc.

mod check;
mod ends;
mod environment;
mod isolation;
mod order;
mod servers;
mod shared;
mod strange;
mod support;
