//! The command as a process of an operating system: its environment, signals, exit statuses, descriptors and files.
#![cfg(unix)]

mod environment;
mod restarts;
mod support;
