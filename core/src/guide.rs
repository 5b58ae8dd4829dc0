//! Guides to the core: how to drive it, and what its limits mean.
//!
//! The guides to the adapters (handlers, authentication, TLS, workers, proxies, axum) are in the module
//! `guide` of each adapter.

/// Driving the core from an event loop of your own.
///
#[doc = include_str!("guide/event_loop.md")]
pub mod event_loop {}

/// Every limit and deadline, with its default and with what happens when it is reached.
///
#[doc = include_str!("guide/limits.md")]
pub mod limits {}
