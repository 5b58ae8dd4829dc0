//! The server over real sockets, held against the wire contract.

mod accept;
mod guard;
mod handle;
mod http;
mod journeys;
mod post;
mod routes;
mod sdk;
mod sdk_0_10;
mod shutdown;
mod stream;
mod tls;
mod tower;
mod unix;
mod workers;

use mcp_sse_core::{Config, ConfigBuilder, Limits, Timeouts};
use mcp_sse_tests::adapter::{Adapter, Server};
use mcp_sse_tests::client::Stream;
use mcp_sse_tests::handlers;

/// A server that echoes, and on it a session that must not notice what its neighbours do.
struct Room {
    server: Server,
    bystander: Stream,
}

impl Room {
    fn new(on: &Adapter, config: Config) -> Self {
        let server = Server::start(on, config, handlers::echo());
        let bystander = Stream::open(server.address());
        Self { server, bystander }
    }
}

/// The defaults with other limits.
fn limits(change: impl FnOnce(&mut Limits)) -> ConfigBuilder {
    let mut limits = Limits::default();
    change(&mut limits);
    Config::builder().limits(limits)
}

/// The defaults with other deadlines.
fn timeouts(change: impl FnOnce(&mut Timeouts)) -> ConfigBuilder {
    let mut timeouts = Timeouts::default();
    change(&mut timeouts);
    Config::builder().timeouts(timeouts)
}
