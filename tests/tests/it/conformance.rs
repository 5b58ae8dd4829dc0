//! The conformance suite on both adapters.

use mcp_sse_tests::adapter::{self, Adapter};

mcp_sse_tests::conformance!(
    smol: mcp_sse_tests::adapter::SMOL,
    tokio: mcp_sse_tests::adapter::TOKIO,
    tokio_threads: crate::conformance::TOKIO_THREADS,
);

/// The tokio adapter on a multi-thread runtime, where another thread drives timers and sockets.
const TOKIO_THREADS: Adapter = Adapter {
    name: "tokio_threads",
    run: |job| {
        let runtime =
            ::tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(adapter::on_tokio(job))
    },
};
