//! The adapters of this workspace.

use std::io;

use super::{Adapter, Job, Listen, Place, on_threads};

/// Every adapter there is.
pub const ALL: [Adapter; 2] = [SMOL, TOKIO];

/// The adapter of that name.
#[must_use]
pub fn named(name: &str) -> Option<Adapter> {
    ALL.into_iter().find(|adapter| adapter.name == name)
}

/// Serves a job by the calls that every adapter's crate has; a future that its runtime is to run.
macro_rules! serve {
    ($adapter:ident, $job:expr) => {{
        let Job { listen, workers, config, authorize, handler, place, bound, handle, dropped } =
            $job;
        let listener = match listen {
            Listen::Tcp(socket) => $adapter::Listener::from_std(socket, config),
            Listen::Tls(socket, tls) => $adapter::Listener::from_std(socket, config).tls(tls),
            Listen::Bind(address) => {
                let listener = $adapter::Listener::bind(address, config)?;
                // Whoever started the server reads it.
                let _ = bound.send(listener.local_addr()?);
                listener
            }
            Listen::BindAll(addresses, tls) => {
                let listener = $adapter::Listener::bind(&addresses[..], config)?;
                let _ = bound.send(listener.local_addr()?);
                match tls {
                    Some(tls) => listener.tls(tls),
                    None => listener,
                }
            }
            Listen::Unix(path, None) => $adapter::Listener::bind_unix(path, config)?,
            Listen::Unix(path, Some(mode)) => {
                $adapter::Listener::bind_unix_with_mode(path, mode, config)?
            }
            Listen::UnixTls(path, tls) => $adapter::Listener::bind_unix(path, config)?.tls(tls),
        };
        // Before there are workers, so that it is tried that they come to know of it.
        let early = listener.handle();
        let mut listener = listener.workers(workers)?;
        if let Some((authorize, cache)) = authorize {
            listener = listener.verdict_cache(cache).authorize(move |head| authorize(head))?;
        }
        // Whoever started the server waits for it.
        let _ = handle.send(early);
        let served = async move {
            match place {
                Place::Local if workers == 1 => {
                    listener.serve_local(move |session| handler(session)).await
                }
                Place::Local => listener.serve_on_workers(move |session| handler(session)).await,
                Place::Apart => listener.serve(on_threads(handler)).await,
            }
        };
        let drop = async move {
            let _ = dropped.recv().await;
            Ok(())
        };
        futures_lite::future::or(served, drop)
    }};
}

/// `mcp-sse-smol`.
pub const SMOL: Adapter =
    Adapter { name: "smol", run: |job| async_io::block_on(serve!(mcp_sse_smol, job)) };

/// `mcp-sse-tokio`.
pub const TOKIO: Adapter = Adapter {
    name: "tokio",
    run: |job| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(on_tokio(job))
    },
};

/// Runs a job by `mcp-sse-tokio`, on whatever runtime polls it.
///
/// # Errors
///
/// Those of the adapter.
pub async fn on_tokio(job: Job) -> io::Result<()> {
    serve!(mcp_sse_tokio, job).await
}
