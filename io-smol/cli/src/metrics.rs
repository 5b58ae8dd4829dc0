//! The metrics of the command for Prometheus.
//!
//! Knows: the flags of metrics, what is registered, and the server of `--metrics-listen`.
//! Does not know: which metrics there are (see `mcp_sse_driver::prometheus` and `mcp_sse_bridge::prometheus`).
//!
//! Decision: with `--metrics-listen`, metrics are served by a second server without sessions, on a thread of its own.
//! It has the default limits (with fewer connections), the default timeouts and the default check of `Host`, and it
//! answers while the first server is busy or shutting down. It requires no token, because scrapers should not have a
//! token that opens sessions. Therefore an address that other machines can reach needs `--insecure-metrics`.
//!
//! Decision: with `--metrics` alone, every client that may open a stream can read the metrics, so that flag is for
//! servers whose clients may know them.

use core::net::{Ipv4Addr, SocketAddr};
use std::io;
use std::thread::{self, JoinHandle};

use clap::Args;
use mcp_sse_core::{ConfigError, Limits};
use mcp_sse_smol::prometheus::prometheus_client::registry::Registry;
use mcp_sse_smol::prometheus::{MetricsCollector, metrics_page};
use mcp_sse_smol::{Config, Listener};
use smol::channel::{Sender, bounded};
use smol::future;

use crate::failure::Failure;

/// The most connections to the address of the metrics: more than scrapers have.
const CONNECTIONS_MAX: u32 = 32;
/// The most principals in the metrics, unless `--metrics-principals` has another number.
const PRINCIPALS_MAX: &str = "100";
/// The path of the metrics.
const PATH: &str = "/metrics";

/// The flags of metrics.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Metrics")]
pub(crate) struct MetricsFlags {
    /// Serve metrics for Prometheus at /metrics, to every client that may open a stream.
    #[arg(long)]
    metrics: bool,
    /// Serve metrics for Prometheus at an address of their own instead, without asking for a token: a port of
    /// 127.0.0.1, or an address with a port. Port 0 picks a free one and prints it.
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = parse_address)]
    metrics_listen: Option<SocketAddr>,
    /// Allow --metrics-listen an address that other machines can reach. They can then read the metrics.
    #[arg(long, requires = "metrics_listen")]
    insecure_metrics: bool,
    /// Count open sessions by principal in the metrics. Further principals than this number are counted
    /// together, as "other".
    #[arg(
        long,
        value_name = "N",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = PRINCIPALS_MAX,
    )]
    metrics_principals: Option<usize>,
}

impl MetricsFlags {
    /// Fails if the flags contradict each other.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if let Some(address) = self.metrics_listen
            && !address.ip().is_loopback()
            && !self.insecure_metrics
        {
            return Err(Failure::Flags(format!(
                "--metrics-listen {address} can be reached from other machines, which could read the metrics \
                 without a token: use an address of 127.0.0.0/8 or ::1, or allow it with --insecure-metrics"
            )));
        }
        if self.metrics_principals.is_some() && !self.metrics && self.metrics_listen.is_none() {
            return Err(Failure::Flags(
                "--metrics-principals has no effect without --metrics or --metrics-listen".into(),
            ));
        }
        Ok(())
    }

    /// The number of file descriptors that metrics need.
    pub(crate) fn descriptors(&self) -> u64 {
        // The connections, the socket, and those of a reactor.
        self.metrics_listen.map_or(0, |_| u64::from(CONNECTIONS_MAX) + 4)
    }

    /// Makes the metrics available. `register` adds the metrics of what is served. Returns the listener, and what
    /// has to be kept while it serves.
    pub(crate) fn serve(
        &self,
        listener: Listener,
        register: impl FnOnce(&mut Registry),
    ) -> Result<(Listener, MetricsServer), Failure> {
        let mut server = MetricsServer { address: None, stop: None, thread: None };
        if !self.metrics && self.metrics_listen.is_none() {
            return Ok((listener, server));
        }
        let mut collector = MetricsCollector::new(&listener.handle());
        if let Some(most) = self.metrics_principals {
            collector = collector.with_principals(most);
        }
        let mut registry = Registry::default();
        registry.register_collector(Box::new(collector));
        register(&mut registry);
        let page = metrics_page(registry);
        match self.metrics_listen {
            None => {
                let failed = |error| Failure::Flags(format!("--metrics: {error}"));
                Ok((listener.serve_metrics(page).map_err(failed)?, server))
            }
            Some(address) => {
                let failed = |error: io::Error| {
                    Failure::Start(format!(
                        "cannot serve metrics on {address}: {error}; see --metrics-listen"
                    ))
                };
                let own =
                    listen(address).and_then(|own| own.serve_metrics(page)).map_err(failed)?;
                server.start(own).map_err(failed)?;
                Ok((listener, server))
            }
        }
    }

    /// The URL of the metrics, if there are any. `base` is that of the server.
    pub(crate) fn url(&self, server: &MetricsServer, base: &str) -> Option<String> {
        match server.address {
            Some(address) => Some(format!("http://{address}{PATH}")),
            None => self.metrics.then(|| format!("{base}{PATH}")),
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<Listener> {
    let limits = Limits { connections_max: Some(CONNECTIONS_MAX), ..Limits::default() };
    let config: Result<Config, ConfigError> =
        Config::builder().without_sessions().limits(limits).build();
    Listener::bind(address, config.map_err(io::Error::other)?)
}

/// The server of the metrics, if they have an address of their own. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct MetricsServer {
    address: Option<SocketAddr>,
    /// Dropping this ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    fn start(&mut self, listener: Listener) -> io::Result<()> {
        self.address = Some(listener.local_addr()?);
        let (stop, stopped) = bounded(1);
        let run = move || {
            let serve = async {
                if let Err(error) = listener.serve_local(async |_| {}).await {
                    log::error!(
                        event = "metrics_not_served",
                        error:% = error;
                        "metrics are not served any more: {error}"
                    );
                }
            };
            let stopped = async {
                // An error: the sender was dropped.
                let _ = stopped.recv().await;
            };
            smol::block_on(future::or(stopped, serve));
        };
        self.thread = Some(thread::Builder::new().name("metrics".into()).spawn(run)?);
        self.stop = Some(stop);
        Ok(())
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It fails if the thread has panicked, which was printed.
            let _ = thread.join();
        }
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse() {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    text.parse().map_err(|_| {
        "expected a port, as in 9464, or an IP address with a port, as in 127.0.0.1:9464 or [::1]:9464".into()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        metrics: MetricsFlags,
    }

    #[track_caller]
    fn flags(args: &[&str]) -> MetricsFlags {
        let parsed = Program::try_parse_from([&["program"], args].concat());
        parsed.unwrap_or_else(|error| panic!("{args:?}: {error}")).metrics
    }

    #[track_caller]
    fn check(args: &[&str], problem: Option<&str>) {
        match (flags(args).check(), problem) {
            (Ok(()), None) => {}
            (Err(Failure::Flags(said)), Some(problem)) => assert!(said.contains(problem), "{said}"),
            (checked, problem) => panic!("{args:?}: {}, not {problem:?}", checked.is_ok()),
        }
    }

    #[test]
    fn address_is_a_port_of_loopback_or_an_ip_address_with_a_port() {
        let address = |text: &str| parse_address(text).map(|address| address.to_string());
        assert_eq!(address("9464"), Ok("127.0.0.1:9464".into()));
        assert_eq!(address("0"), Ok("127.0.0.1:0".into()));
        assert_eq!(address("0.0.0.0:9464"), Ok("0.0.0.0:9464".into()));
        assert_eq!(address("[::1]:9464"), Ok("[::1]:9464".into()));
        for wrong in ["", "65536", "localhost:9464", "127.0.0.1", "::1", "-1"] {
            assert!(address(wrong).is_err_and(|said| said.contains("9464")), "{wrong}");
        }
    }

    #[test]
    fn address_that_other_machines_can_reach_has_to_be_allowed() {
        check(&["--metrics-listen=9464"], None);
        check(&["--metrics-listen=127.5.0.1:9464"], None);
        check(&["--metrics-listen=0.0.0.0:9464"], Some("allow it with --insecure-metrics"));
        check(&["--metrics-listen=[::]:9464"], Some("--metrics-listen [::]:9464 can be reached"));
        check(&["--metrics-listen=0.0.0.0:9464", "--insecure-metrics"], None);
        assert!(Program::try_parse_from(["program", "--insecure-metrics"]).is_err());
    }

    #[test]
    fn principals_need_metrics_and_have_a_limit() {
        assert_eq!(flags(&["--metrics-principals"]).metrics_principals, Some(100));
        assert_eq!(flags(&["--metrics-principals=3"]).metrics_principals, Some(3));
        assert_eq!(flags(&["--metrics"]).metrics_principals, None);
        check(&["--metrics", "--metrics-principals"], None);
        check(&["--metrics-listen=0", "--metrics-principals=0"], None);
        check(&["--metrics-principals"], Some("without --metrics or --metrics-listen"));
    }
}
