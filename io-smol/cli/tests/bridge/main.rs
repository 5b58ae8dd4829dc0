//! `mcp-sse bridge`, the whole command, with servers that are scripts of the shell.
#![cfg(target_os = "linux")] // What is left of processes is looked for in /proc.

mod check;
mod ends;
mod environment;
mod isolation;
mod order;
mod servers;
mod shared;
mod strange;
mod support;
