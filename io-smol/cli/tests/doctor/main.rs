//! The commands `doctor` and `health`, against good servers and against servers that are broken in one way each.
#![cfg(unix)]

mod broken;
#[cfg(feature = "tls")]
mod certificates;
mod good;
mod health;
mod output;
mod scripted;
mod support;
