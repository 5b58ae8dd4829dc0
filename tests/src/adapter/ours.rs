//! The adapters of this workspace.

use std::io;

use super::{Adapter, HandlerThread, Job, Listen, on_threads};

/// Every adapter of the workspace.
pub const ALL: [Adapter; 2] = [SMOL, TOKIO];

/// The adapter with this name.
#[must_use]
pub fn named(name: &str) -> Option<Adapter> {
    ALL.into_iter().find(|adapter| adapter.name == name)
}

/// The future that runs a job, by the calls that the crates of all adapters have.
macro_rules! serve {
    ($adapter:ident, $job:expr) => {{
        let Job {
            listen,
            workers,
            config,
            authorize,
            handler,
            handler_thread,
            bound,
            handle,
            dropped,
        } = $job;
        let listener = match listen {
            Listen::Tcp(socket) => $adapter::Listener::from_std(socket, config),
            Listen::Tls(socket, tls) => $adapter::Listener::from_std(socket, config).tls(tls),
            Listen::Bind(address) => {
                let listener = $adapter::Listener::bind(address, config)?;
                // The test that started the server receives it.
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
            Listen::Passed(sockets) => $adapter::Listener::from_std_sockets(sockets, config)?,
            Listen::PassedUnix(sockets) => {
                $adapter::Listener::from_std_unix_sockets(sockets, config)?
            }
            Listen::Unix(path, None) => $adapter::Listener::bind_unix(path, config)?,
            Listen::Unix(path, Some(mode)) => {
                $adapter::Listener::bind_unix_with_mode(path, mode, config)?
            }
            Listen::UnixTls(path, tls) => $adapter::Listener::bind_unix(path, config)?.tls(tls),
        };
        // The handle is made before the workers are set, to test that it reaches all of them.
        let early = listener.handle();
        let mut listener = listener.workers(workers)?;
        if let Some((authorize, cache)) = authorize {
            listener = listener.verdict_cache(cache).authorize(move |head| authorize(head))?;
        }
        // The test that started the server waits for it.
        let _ = handle.send(early);
        let served = async move {
            match handler_thread {
                HandlerThread::Local if workers == 1 => {
                    listener.serve_local(move |session| handler(session)).await
                }
                HandlerThread::Local => {
                    listener.serve_on_workers(move |session| handler(session)).await
                }
                HandlerThread::Own => listener.serve(on_threads(handler)).await,
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

/// Runs a job by `mcp-sse-tokio`, on the runtime that polls the future.
///
/// # Errors
///
/// The errors of the adapter.
pub async fn on_tokio(job: Job) -> io::Result<()> {
    serve!(mcp_sse_tokio, job).await
}
