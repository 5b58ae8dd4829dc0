//! Serves a [`CommandService`] until a termination signal.
//!
//! Knows: the limit on descriptors, where to listen, the banner, and what signals do.
//! Does not know: what is served.

use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicU8, Ordering};
#[cfg(unix)]
use std::io::IsTerminal;
use std::io::{self, Write};
use std::sync::Arc;

use mcp_sse_core::ConfigBuilder;
use mcp_sse_demo::banner::Banner;
#[cfg(unix)]
use mcp_sse_demo::options::PassedAddresses;
use mcp_sse_demo::options::{FlagError, ListenAddress, ServeFlags};
use mcp_sse_demo::signals;
use mcp_sse_smol::prometheus::prometheus_client::registry::Registry;
use mcp_sse_smol::{Config, Handle, Listener, Session};

use crate::failure::Failure;
use crate::metrics::MetricsFlags;
use crate::reload::{self, Replaceable, WatchedFiles};
#[cfg(unix)]
use crate::service_manager::{PassedSockets, ServiceManager};

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

/// What a server is started with, besides its flags. Make it before any file is read that the flags name.
pub(crate) struct Startup {
    files: WatchedFiles,
    #[cfg(unix)]
    sockets: PassedSockets,
}

impl Startup {
    /// Makes the server of `serve` listen on these sockets, if there are any.
    #[cfg(unix)]
    pub(crate) fn with_sockets(
        serve: &mut ServeFlags,
        sockets: Result<PassedSockets, String>,
    ) -> Result<Self, Failure> {
        let files = WatchedFiles::of(serve);
        let sockets = sockets.map_err(Failure::Start)?;
        let addresses = sockets.addresses().map_err(|error| {
            Failure::Start(format!("the sockets of the service manager have no address: {error}"))
        })?;
        if matches!(addresses, Some(PassedAddresses::Unix { .. })) && serve.speaks_tls() {
            let text =
                "--tls-cert needs TCP sockets, and the service manager has passed Unix sockets";
            return Err(Failure::Start(text.into()));
        }
        if let Some(addresses) = addresses {
            serve.listen_on_passed(addresses);
        }
        Ok(Self { files, sockets })
    }

    #[cfg(not(unix))]
    pub(crate) fn new(serve: &ServeFlags) -> Self {
        Self { files: WatchedFiles::of(serve) }
    }

    /// The listener on the sockets that were passed, or at the address in `options`, and the files to watch.
    fn listen(
        self,
        options: &ServeFlags,
        config: Config,
    ) -> Result<(Listener, WatchedFiles), Failure> {
        let cannot = |error| Failure::Start(cannot_listen(options.address(), &error));
        #[cfg(unix)]
        if let Some(listener) = self.sockets.listener(config.clone()) {
            log::info!(
                event = "listening_on_passed_sockets",
                address = options.address().to_string();
                "the server listens on sockets of the service manager: {}",
                options.address()
            );
            return Ok((listener.map_err(cannot)?, self.files));
        }
        Ok((listen(options, config).map_err(cannot)?, self.files))
    }
}

/// Listens, and serves sessions until a termination signal.
pub(crate) fn serve_until_stopped(
    options: &ServeFlags,
    Prepared { config, lowered, metrics }: Prepared,
    startup: Startup,
    service: &impl CommandService,
) -> Result<(), Failure> {
    // The files are read before a socket is bound, so that a mistake in them is reported first.
    #[cfg(feature = "tls")]
    let tls = options
        .tls()
        .map_err(|error| Failure::Start(format!("{error}; see --tls-cert and --tls-key")))?;
    let (listener, files) = startup.listen(options, config.clone())?;
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
    let handle = listener.handle();
    let replaceable = Replaceable {
        serve: options.clone(),
        server: handle.clone(),
        #[cfg(feature = "tls")]
        tls: tls.clone(),
        #[cfg(unix)]
        manager: ServiceManager::from_env(),
    };
    let signals = Signals { address: address.to_string(), aborted: Arc::default() };
    signals.handle(&handle, files, replaceable, service.aborter())?;
    let banner = service.describe(options.banner(&config, address));
    let metrics_url = metrics.url(&metrics_server, &banner.base_url());
    // The banner comes after the signals are handled, because whoever reads it may send one. The server also serves if
    // stdout is closed.
    let _ = write!(io::stdout(), "{}", banner.metrics(metrics_url));
    let _ = io::stdout().flush();
    #[cfg(feature = "tls")]
    let listener = match tls {
        Some(tls) => listener.tls(tls),
        None => listener,
    };
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
    served.map_err(|error| Failure::Start(format!("cannot serve: {error}")))?;
    match signals.aborted.load(Ordering::Relaxed) {
        0 => Ok(()),
        signal => Err(Failure::Aborted(signal)),
    }
}

/// What signals do to a server that listens at `address`.
struct Signals {
    address: String,
    /// The signal that has aborted the server; 0 if none has.
    aborted: Arc<AtomicU8>,
}

impl Signals {
    /// Shuts the server down at the first termination signal, aborts it at each further one, and reads its files again
    /// at SIGHUP. The service manager is told.
    fn handle(
        &self,
        server: &Handle,
        files: WatchedFiles,
        replaceable: Replaceable,
        aborter: impl Fn() + Send + 'static,
    ) -> Result<(), Failure> {
        #[cfg(unix)]
        let manager = replaceable.manager.clone();
        #[cfg(unix)]
        let stopped = manager.clone();
        let (stopping, aborting) = (server.clone(), server.clone());
        let shutdown = move || {
            log::info!(
                event = "stopping";
                "the server stops; a second signal aborts requests in flight"
            );
            #[cfg(unix)]
            stopped.stopping();
            stopping.shutdown();
        };
        let aborted = self.aborted.clone();
        let abort = move |signal: i32| {
            aborted.store(u8::try_from(signal).unwrap_or_default(), Ordering::Relaxed);
            aborting.abort();
            aborter();
        };
        let cannot = |what: &str, error| Failure::Start(format!("cannot {what}: {error}"));
        let reload =
            reload::start(files, replaceable).map_err(|error| cannot("read files again", error))?;
        #[cfg(unix)]
        {
            let terminals = Terminals::new();
            let hangup = move || {
                let closed = terminals.were_closed();
                if closed {
                    log::info!(event = "terminal_closed"; "the terminal was closed");
                } else {
                    // This fails only if the server has ended.
                    let _ = reload.send(());
                }
                closed
            };
            signals::on_signals(shutdown, abort, hangup)
                .map_err(|error| cannot("wait for signals", error))?;
            manager.watch(server.clone()).map_err(|error| cannot("start the watchdog", error))?;
            manager.ready(&self.address);
        }
        #[cfg(not(unix))]
        {
            const SIGINT: i32 = 2;
            let mut abort = abort;
            // The thread that reads files again ends when the sender is dropped.
            let abort = move || {
                let _ = &reload;
                abort(SIGINT);
            };
            signals::on_termination(shutdown, abort)
                .map_err(|error| cannot("wait for signals", error))?;
        }
        Ok(())
    }
}

/// Which of the standard streams are terminals.
///
/// SIGHUP has two meanings. If the terminal was closed, the program should end, as every program of that terminal does.
/// Otherwise somebody has sent the signal, to have files read again. A stream whose terminal was closed is no terminal
/// any more, by which the two are told apart. (`nohup` redirects the streams, so a server that was started with it
/// goes on.)
#[cfg(unix)]
struct Terminals([bool; 3]);

#[cfg(unix)]
impl Terminals {
    fn new() -> Self {
        Self([io::stdin().is_terminal(), io::stdout().is_terminal(), io::stderr().is_terminal()])
    }

    /// Whether a terminal was closed since this value was made.
    fn were_closed(&self) -> bool {
        let Self(now) = Self::new();
        self.0.iter().zip(now).any(|(before, now)| *before && !now)
    }
}

fn listen(options: &ServeFlags, config: Config) -> io::Result<Listener> {
    match options.address() {
        address @ (ListenAddress::Tcp(_) | ListenAddress::Named(_) | ListenAddress::Passed(_)) => {
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
        ListenAddress::Passed(_) | ListenAddress::Unix(_) => "",
    };
    format!("cannot listen on {address}: {error}{hint}")
}
