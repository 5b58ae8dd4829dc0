//! Tests of the wire contract over real sockets, and of documents against the code.

mod addresses;
mod authorize;
mod conformance;
mod documents;
mod guard;
mod guard_table;
mod handle;
mod http;
mod jwt;
mod limits;
mod log_events;
mod metrics;
mod names;
mod passed_sockets;
mod post;
mod round_trips;
mod routes;
mod sdk;
mod sdk_0_10;
mod serving;
mod stream;
mod tls;
mod tower;
mod trace;
mod unix;
mod workers;

use mcp_sse_tests::adapter::Fixture;
use mcp_sse_tests::{limits, timeouts};
