//! The command as a process of an operating system: its environment, signals, exit statuses, descriptors and files.
#![cfg(unix)]

mod environment;
mod logs;
mod metrics;
mod restarts;
#[cfg(feature = "tls")]
mod rotation;
mod service_manager;
mod signals;
mod support;
