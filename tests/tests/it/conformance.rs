//! What both adapters have to do alike.

use mcp_sse_tests::adapter::{self, Adapter};

mcp_sse_tests::conformance!(
    smol: mcp_sse_tests::adapter::SMOL,
    tokio: mcp_sse_tests::adapter::TOKIO,
    tokio_threads: crate::conformance::TOKIO_THREADS,
);

/// The same on a runtime of several threads, where timers and sockets are somebody else's work.
const TOKIO_THREADS: Adapter = Adapter {
    name: "tokio_threads",
    run: |job| {
        let runtime =
            ::tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(adapter::on_tokio(job))
    },
};
