//! Serves a [`CommandService`] until a termination signal.
//!
//! Knows: the limit on descriptors, where to listen, the banner, and how a server is stopped.
//! Does not know: what is served.

use core::net::{IpAddr, SocketAddr};
use std::io::{self, Write};

use mcp_sse_core::ConfigBuilder;
use mcp_sse_demo::banner::Banner;
use mcp_sse_demo::options::{FlagError, ListenAddress, ServeFlags};
use mcp_sse_demo::signals;
use mcp_sse_smol::prometheus::prometheus_client::registry::Registry;
use mcp_sse_smol::{Config, Handle, Listener, Session};

use crate::failure::Failure;
use crate::metrics::MetricsFlags;

/// What a command serves: the demo or bridged servers.
pub(crate) trait CommandService: Clone + Send + Sync + 'static {
    /// Adds the services to the banner.
    fn describe<'g>(&self, banner: Banner<'g>) -> Banner<'g> {
        banner
    }

    /// Is called once before the first session.
    fn begin(&self, _server: &Handle) {}

    /// Adds metrics to those of the server.
    fn register_metrics(&self, _: &mut Registry) {}

    /// Returns a function that is called in addition when the server is aborted.
    fn aborter(&self) -> impl Fn() + Send + 'static {
        || {}
    }

    /// Serves one session.
    fn serve(self, session: Session, server: Handle) -> impl Future<Output = ()> + 'static;
}

/// The demo, a server for trying out clients.
#[derive(Clone)]
pub(crate) struct Demo;

impl CommandService for Demo {
    fn serve(self, session: Session, server: Handle) -> impl Future<Output = ()> + 'static {
        mcp_sse_demo::serve(session, server)
    }
}

/// A configuration, a line for the log if its limits were lowered, and how metrics are served.
pub(crate) struct Prepared {
    pub(crate) config: Config,
    lowered: Option<String>,
    metrics: MetricsFlags,
}

/// Builds a configuration whose limits fit the process's limit on descriptors. The service takes `once` descriptors,
/// and `per_session` for each session besides its connection.
pub(crate) fn prepare(
    options: &ServeFlags,
    metrics: &MetricsFlags,
    builder: ConfigBuilder,
    once: u64,
    per_session: u32,
) -> Result<Prepared, Failure> {
    metrics.check()?;
    let once = once + metrics.descriptors();
    let build = |builder: ConfigBuilder| builder.build().map_err(FlagError::Setting);
    let config = build(builder.clone())?;
    #[cfg(unix)]
    let (config, lowered) = {
        use mcp_sse_bridge::descriptors;
        descriptors::raise();
        let reserved = descriptors::ReservedDescriptors { once, per_session };
        let (limits, lowered) = descriptors::fit(config.limits(), options.workers(), reserved);
        (build(builder.limits(limits))?, lowered)
    };
    #[cfg(not(unix))]
    let lowered = {
        let _ = (options, once, per_session);
        None
    };
    Ok(Prepared { config, lowered, metrics: metrics.clone() })
}

/// Listens at the address in `options`, and serves sessions until a termination signal.
pub(crate) fn serve_until_stopped(
    options: &ServeFlags,
    Prepared { config, lowered, metrics }: Prepared,
    service: &impl CommandService,
) -> Result<(), Failure> {
    // The files are read before a socket is bound, so that a mistake in them is reported first.
    #[cfg(feature = "tls")]
    let tls = options
        .tls()
        .map_err(|error| Failure::Start(format!("{error}; see --tls-cert and --tls-key")))?;
    let listener = listen(options, config.clone())
        .map_err(|error| Failure::Start(cannot_listen(options.address(), &error)))?;
    let addresses = listener.local_addrs().unwrap_or_default();
    let ips: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
    let address = options.address().bound(&ips, addresses.first().map_or(0, SocketAddr::port));
    if let Some(address) = address.exposed()
        && !options.asks_for_tokens()
    {
        log::warn!(
            event = "open_without_token",
            address:% = address;
            "{address} can be reached from other machines, which can use it without a token"
        );
    }
    if let Some(lowered) = lowered {
        log::info!(event = "limits_lowered"; "{lowered}");
    }
    let (listener, metrics_server) =
        metrics.serve(listener, |registry| service.register_metrics(registry))?;
    let banner = service.describe(options.banner(&config, address));
    let metrics_url = metrics.url(&metrics_server, &banner.base_url());
    // The server also serves if stdout is closed.
    let _ = write!(io::stdout(), "{}", banner.metrics(metrics_url));
    let _ = io::stdout().flush();
    #[cfg(feature = "tls")]
    let listener = match tls {
        Some(tls) => listener.tls(tls),
        None => listener,
    };
    stop_on_signals(&listener, service)?;

    let handle = listener.handle();
    service.begin(&handle);
    let service = service.clone();
    let handler = move |session| service.clone().serve(session, handle.clone());
    let served = match options.workers() {
        1 => smol::block_on(listener.serve_local(handler)),
        workers => listener
            .workers(workers)
            .and_then(|listener| smol::block_on(listener.serve_on_workers(handler))),
    };
    // Until here, metrics show the shutdown.
    drop(metrics_server);
    served.map_err(|error| Failure::Start(format!("cannot serve: {error}")))
}

/// Shuts the server down at the first termination signal, and aborts it at each further one.
fn stop_on_signals(listener: &Listener, service: &impl CommandService) -> Result<(), Failure> {
    let (stopping, aborting) = (listener.handle(), listener.handle());
    let aborter = service.aborter();
    signals::on_termination(
        move || {
            log::info!(
                event = "stopping";
                "the server stops; a second signal aborts requests in flight"
            );
            stopping.shutdown();
        },
        move || {
            aborting.abort();
            aborter();
        },
    )
    .map_err(|error| Failure::Start(format!("cannot wait for signals: {error}")))
}

fn listen(options: &ServeFlags, config: Config) -> io::Result<Listener> {
    match options.address() {
        address @ (ListenAddress::Tcp(_) | ListenAddress::Named(_)) => {
            Listener::bind(&address.addresses()[..], config)
        }
        #[cfg(unix)]
        ListenAddress::Unix(path) => {
            Listener::bind_unix_with_mode(path, options.unix_mode(), config)
        }
        #[cfg(not(unix))]
        ListenAddress::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn cannot_listen(address: ListenAddress<'_>, error: &io::Error) -> String {
    const HINTS: [(io::ErrorKind, &str); 3] = [
        (io::ErrorKind::AddrInUse, "; choose another port with --port, or 0 for any free one"),
        (io::ErrorKind::AddrNotAvailable, "; --host must be an address of this machine"),
        (io::ErrorKind::PermissionDenied, "; ports below 1024 usually need privileges, see --port"),
    ];
    let known = HINTS.into_iter().find(|(kind, _)| *kind == error.kind());
    let hint = match address {
        ListenAddress::Tcp(_) | ListenAddress::Named(_) => known.map_or("", |(_, hint)| hint),
        ListenAddress::Unix(_) => "",
    };
    format!("cannot listen on {address}: {error}{hint}")
}
