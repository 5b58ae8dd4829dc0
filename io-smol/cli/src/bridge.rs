//! The command `bridge`: serves programs that speak MCP on their standard input and output.
//!
//! Knows: what the flags mean for the servers, their processes and the limits. Does not know: how a process serves a
//! session, which `mcp-sse-bridge` does.

pub(crate) mod mistyped;
mod options;
mod try_servers;

use std::ffi::OsString;
use std::io;

use mcp_sse_bridge::children::{self, Children};
use mcp_sse_bridge::line_bytes_max;
use mcp_sse_bridge::prometheus::BridgeCollector;
use mcp_sse_bridge::servers_file::BridgedServer;
use mcp_sse_bridge::services::{BridgedServices, ProcessSharing};
use mcp_sse_demo::banner::Banner;
use mcp_sse_demo::logging;
use mcp_sse_demo::options::ServeFlags;
use mcp_sse_smol::prometheus::prometheus_client::registry::Registry;
use mcp_sse_smol::{Handle, Session};

use crate::environment::Environment;
use crate::failure::Failure;
use crate::metrics::MetricsFlags;
use crate::serving::{self, CommandService, Startup};
use options::Run;

/// The flags of the command `bridge`.
#[derive(Debug, clap::Args)]
pub(crate) struct Bridge {
    #[command(flatten)]
    run: Run,
    // Without this, the flags would get the heading of the flags before them.
    #[command(flatten, next_help_heading = None::<&str>)]
    serve: ServeFlags,
    #[command(flatten)]
    metrics: MetricsFlags,
}

impl Bridge {
    /// The flags of every serving command.
    pub(crate) const fn serve_flags(&mut self) -> &mut ServeFlags {
        &mut self.serve
    }
}

/// The bridged servers as a service of the command.
#[derive(Clone)]
struct Bridged {
    services: BridgedServices,
    children: Children,
}

impl CommandService for Bridged {
    fn describe<'g>(&self, banner: Banner<'g>) -> Banner<'g> {
        self.services.iter().fold(banner, |banner, service| {
            banner.service(service.name(), service.path(), service.description())
        })
    }

    fn begin(&self, server: &Handle) {
        self.children.status().report_to(server.clone());
    }

    fn register_metrics(&self, registry: &mut Registry) {
        let status = self.children.status().clone();
        registry.register_collector(Box::new(BridgeCollector::new(status)));
    }

    fn aborter(&self) -> impl Fn() + Send + 'static {
        let children = self.children.clone();
        move || children.hurry()
    }

    async fn serve(self, session: Session, _: Handle) {
        self.services.serve(session).await;
    }
}

/// Runs the command. `args` are all arguments of the program, `cli` is their parser, `environment` are the variables
/// that have set flags, and `startup` is what [`serving`] needs.
pub(crate) fn run(
    Bridge { serve, run, metrics }: &Bridge,
    args: &[OsString],
    cli: &clap::Command,
    environment: &Environment,
    startup: Startup,
) -> Result<(), Failure> {
    let withheld = environment.withheld(serve.token_variables());
    if run.is_one_word()
        && let Err(error) = run.runnable_servers()
        && let Some(advice) = mistyped::advice_on_one_word(args, cli)
    {
        return Err(Failure::Flags(format!("{error}, {advice}")));
    }
    if run.checks() {
        // A server's stderr is not logged, because its last lines are printed with the result.
        logging::init(serve.log_level().min(log::LevelFilter::Warn), serve.log_format());
        let mut servers = run.servers().map_err(Failure::Flags)?;
        for BridgedServer { command, .. } in &mut servers {
            *command = command.clone().withhold(withheld.iter().cloned());
        }
        return try_servers::try_all(servers, run.check_timeout());
    }
    logging::init(serve.log_level(), serve.log_format());
    environment.log(serve.token_variables());
    serve_servers(serve, run, metrics, &withheld, startup)
}

/// Serves the servers. Their processes do not inherit the variables `withheld`.
fn serve_servers(
    serve: &ServeFlags,
    run: &Run,
    metrics: &MetricsFlags,
    withheld: &[OsString],
    startup: Startup,
) -> Result<(), Failure> {
    let mut servers = run.runnable_servers().map_err(Failure::Flags)?;
    for BridgedServer { command, .. } in &mut servers {
        *command = command
            .clone()
            .line_bytes_max(line_bytes_max(serve.body_bytes_max()))
            .withhold(withheld.iter().cloned());
    }
    let children = Children::with_stderr_rate(run.stderr_rate()).map_err(no_processes)?;
    let (once, per_session) = match run.sharing() {
        ProcessSharing::PerSession { .. } => (0, children::DESCRIPTORS),
        // Each server may have one running process, and one that is being ended.
        ProcessSharing::Shared => (2 * u64::from(children::DESCRIPTORS) * servers.len() as u64, 0),
    };
    let services = BridgedServices::new(&children, servers, run.sharing(), run.paths());
    let builder = run.allow_headers(serve.builder()?);
    let builder = services.configure(builder, serve.stream_path());
    let prepared = serving::prepare(serve, metrics, builder, once, per_session)?;
    // No system runs more processes than this, so a larger limit is useless.
    const PROCESSES_MAX: u32 = 1 << 16;
    let sessions = prepared.config.limits().sessions_max;
    if let Some(sessions) = sessions.filter(|sessions| *sessions <= PROCESSES_MAX) {
        // Each worker's share of the sessions is rounded up, so there may be one more for each worker.
        children.limit(sessions as usize + serve.workers());
    }
    let bridged = Bridged { services, children: children.clone() };
    let served = serving::serve_until_stopped(serve, prepared, startup, &bridged);
    drop(bridged);
    // The sessions have ended. Their processes have some seconds to end.
    match children.finish() {
        0 => served,
        left => Err(Failure::Start(format!("{left} processes cannot be ended"))),
    }
}

fn no_processes(error: io::Error) -> Failure {
    Failure::Start(format!("cannot supervise processes: {error}"))
}
