//! The command `health`: asks a server whether it is healthy, for `HEALTHCHECK` and other probes.
//!
//! Knows: the request, and the exit status for each response. Does not know: what the body of the response reports.

use core::time::Duration;
use std::env;
#[cfg(unix)]
use std::path::PathBuf;
use std::time::Instant;

use crate::client::connect::{self, ConnectFault, Dialer};
use crate::client::connection::until;
use crate::client::exchange::{AnswerFault, Request};
use crate::client::target::Target;
#[cfg(feature = "tls")]
use crate::client::tls::{TlsFault, Trust};
use crate::failure::Failure;
use crate::flags::parse_wait;

/// The flags of the command `health`.
#[derive(Debug, clap::Args)]
pub(crate) struct HealthFlags {
    /// The URL of the server, as in <http://127.0.0.1:8000>. If it has a path, that is the prefix of /health.
    /// Without a URL, the port of 127.0.0.1 is that of MCP_SSE_PORT or PORT, as for the server, or 8000.
    #[arg(value_name = "URL", value_parser = Target::parse)]
    url: Option<Target>,
    /// Ask whether the server takes new sessions (/ready), and not whether it runs (/health).
    #[arg(long)]
    ready: bool,
    /// How long the whole may take.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_wait)]
    timeout: Duration,
    /// Accept any certificate.
    #[cfg(feature = "tls")]
    #[arg(long)]
    insecure: bool,
    /// Connect to the Unix socket at this path. The URL gives only Host and prefix then.
    #[cfg(unix)]
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(flags: &HealthFlags) -> Result<(), Failure> {
    let name = if flags.ready { "ready" } else { "health" };
    let url = match &flags.url {
        Some(url) => url.clone(),
        None => Target::parse(&format!("http://127.0.0.1:{}", port()?)).map_err(Failure::Flags)?,
    };
    let prefix = url.path().trim_end_matches('/');
    let target = url.with_path(format!("{prefix}/{name}"));
    let began = Instant::now();
    let asked = smol::block_on(async {
        let deadline = began + flags.timeout;
        let asked = until(deadline, ask(flags, &target));
        asked.await.unwrap_or_else(|| Err(Reason::Probe("no answer in time".into())))
    });
    match asked {
        Ok(200) => {
            println!("200 from {target} in {} ms", began.elapsed().as_millis());
            Ok(())
        }
        Ok(status) => Err(Failure::Start(format!("{status} from {target}"))),
        Err(Reason::Usage(why)) => Err(Failure::Flags(why)),
        Err(Reason::Probe(why)) => Err(Failure::Start(format!("{target}: {why}"))),
    }
}

/// The port at which a server with the same environment and no flags listens.
fn port() -> Result<u16, Failure> {
    // Kubernetes sets the first variable to a URL of another kind beside a Service of this name.
    let is_port = |value: &String| !value.is_empty() && !value.starts_with("tcp://");
    for name in ["MCP_SSE_PORT", "PORT"] {
        if let Some(value) = env::var(name).ok().filter(is_port) {
            let why = || Failure::Flags(format!("the environment variable {name} is no port"));
            return value.parse().map_err(|_| why());
        }
    }
    Ok(8000)
}

/// Why there is no status.
enum Reason {
    /// The command cannot do what the flags say.
    Usage(String),
    /// The server does not answer.
    Probe(String),
}

impl From<ConnectFault> for Reason {
    fn from(fault: ConnectFault) -> Self {
        #[cfg(feature = "tls")]
        if let ConnectFault::Tls(TlsFault::Certificate(_)) = fault {
            return Self::Probe(format!("{fault}; see --insecure"));
        }
        Self::Probe(fault.to_string())
    }
}

impl From<AnswerFault> for Reason {
    fn from(fault: AnswerFault) -> Self {
        Self::Probe(fault.to_string())
    }
}

/// The status of the answer.
async fn ask(flags: &HealthFlags, target: &Target) -> Result<u16, Reason> {
    let dialer = dialer(flags, target).await?;
    let connection = dialer.dial(flags.timeout).await?;
    let accept = [("Accept".to_owned(), "application/json".to_owned())];
    let request = Request { method: "GET", target, fields: &accept, body: None, closes: true };
    Ok(request.send(connection, flags.timeout).await?.head.status)
}

async fn dialer(flags: &HealthFlags, target: &Target) -> Result<Dialer, Reason> {
    #[cfg(unix)]
    if let Some(path) = &flags.unix {
        return Ok(Dialer::unix(path.clone()));
    }
    #[cfg(not(feature = "tls"))]
    if target.is_https() {
        let why = "https needs mcp-sse with its feature tls, which this one lacks";
        return Err(Reason::Usage(why.into()));
    }
    #[cfg(feature = "tls")]
    let trust = match (target.is_https(), flags.insecure) {
        (false, _) => None,
        (true, true) => Some(Trust::nothing_checked()),
        (true, false) => Some(Trust::load(false).map_err(Reason::Usage)?),
    };
    let deadline = Instant::now() + flags.timeout;
    let addresses = connect::resolve(target, deadline).await?;
    Ok(Dialer::new(
        target,
        addresses,
        #[cfg(feature = "tls")]
        trust.as_ref(),
    ))
}
