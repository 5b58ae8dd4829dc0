//! Servers on stdio, served over HTTP+SSE.

pub mod mux;
