//! The servers of one bridge and their paths.
//!
//! Knows: which server a session belongs to, and how servers are described to the operator.
//! Does not know: how a process serves a session (see `session` and `shared`).
//!
//! Decision: the paths of `--config` are services of the core, so a session knows the service
//! of its GET. A name is part of a path as it stands: only unreserved characters are accepted,
//! and nothing is escaped. The page at `/` shows names and paths, but never commands, which may
//! contain secrets.

use core::fmt::Write;
use std::sync::Arc;

use mcp_sse_core::ConfigBuilder;
use mcp_sse_driver::Session;

use super::children::Children;
use super::servers_file::BridgedServer;
use super::session::PerSession;
use super::shared::SharedProcess;

/// Whether the sessions of a server share one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessSharing {
    /// Each session has a process of its own.
    PerSession {
        /// Whether the bridge initializes the server when a client omits the handshake.
        auto_initialize: bool,
    },
    /// All sessions of a server share one process.
    Shared,
}

/// The paths at which servers are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServicePaths {
    /// The only server is served at the root: `/sse`.
    Root,
    /// Each server is served below its name: `/name/sse`.
    PerName,
}

/// The servers of one bridge. Cheap to clone.
///
/// ```
/// use mcp_sse_bridge::children::Children;
/// use mcp_sse_bridge::command::ServerCommand;
/// use mcp_sse_bridge::servers_file::BridgedServer;
/// use mcp_sse_bridge::services::{BridgedServices, ProcessSharing, ServicePaths};
/// use mcp_sse_smol::Config;
///
/// let children = Children::new()?;
/// let server = |name: &str, program: &str| BridgedServer {
///     name: name.into(),
///     command: ServerCommand::new(program, ["--stdio"]),
/// };
/// let servers = vec![server("files", "file-server"), server("time", "time-server")];
/// let services =
///     BridgedServices::new(&children, servers, ProcessSharing::Shared, ServicePaths::PerName);
/// let paths: Vec<&str> = services.iter().map(|service| service.path()).collect();
/// assert_eq!(paths, ["/files", "/time"]);
/// let config = services.configure(Config::builder(), "/sse");
/// // Serve the config with a listener whose handler calls `services.serve(session)`.
/// # let _ = config;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BridgedServices {
    services: Arc<[BridgedService]>,
}

/// One server of a bridge.
#[derive(Debug)]
pub struct BridgedService {
    name: String,
    path: String,
    sessions: ServiceKind,
}

#[derive(Debug)]
enum ServiceKind {
    PerSession(PerSession),
    Shared(SharedProcess),
}

impl BridgedServices {
    /// Creates the services of `servers`. Their processes will be started by `children`; none is started yet.
    #[must_use]
    pub fn new(
        children: &Children,
        servers: Vec<BridgedServer>,
        sharing: ProcessSharing,
        paths: ServicePaths,
    ) -> Self {
        let services = servers.into_iter().map(|BridgedServer { name, command }| BridgedService {
            path: match paths {
                ServicePaths::Root => String::new(),
                ServicePaths::PerName => format!("/{name}"),
            },
            sessions: match sharing {
                ProcessSharing::PerSession { auto_initialize } => ServiceKind::PerSession(
                    PerSession::new(children.clone(), command, auto_initialize),
                ),
                ProcessSharing::Shared => {
                    ServiceKind::Shared(SharedProcess::new(children.clone(), command, &*name))
                }
            },
            name,
        });
        Self { services: services.collect() }
    }

    /// Adds the path of each server to a configuration, and a page at `/` that lists them. Without paths
    /// ([`ServicePaths::Root`]), `builder` is returned unchanged. `stream_path` is the path of streams, `/sse` by
    /// default.
    pub fn configure(&self, mut builder: ConfigBuilder, stream_path: &str) -> ConfigBuilder {
        let mut page = String::from("MCP servers, each over HTTP+SSE:\n\n");
        for BridgedService { name, path, .. } in
            self.iter().filter(|service| !service.path.is_empty())
        {
            builder = builder.service_path(path);
            // Commands are left out: there may be secrets in them.
            let _ = writeln!(page, "{name}: {path}{stream_path}");
        }
        if self.iter().any(|service| !service.path.is_empty()) {
            builder = builder.index_page(&page);
        }
        builder
    }

    /// All servers, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &BridgedService> {
        self.services.iter()
    }

    /// Serves one session with the server at the session's path. Returns when the session has ended.
    pub async fn serve(&self, session: Session) {
        let path = session.head().service_path();
        match self.iter().find(|service| service.path == path).map(|service| &service.sessions) {
            Some(ServiceKind::PerSession(sessions)) => sessions.serve(session).await,
            Some(ServiceKind::Shared(sessions)) => sessions.serve(session).await,
            None => log::error!(
                event = "session_without_server",
                session = session.id(),
                service = path;
                "session {} is of {path:?}, where no server is",
                session.id()
            ),
        }
    }
}

impl BridgedService {
    /// The server's name, which a client may use in its configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path in front of the server's stream and message paths; empty at the root.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The command and whether sessions share its process, as a text for the operator. The command may contain
    /// secrets.
    #[must_use]
    pub fn description(&self) -> String {
        match &self.sessions {
            ServiceKind::PerSession(sessions) => {
                format!("{}, in a process of its own for each session", sessions.command())
            }
            ServiceKind::Shared(sessions) => {
                format!("{}, in one process that all sessions share", sessions.command())
            }
        }
    }
}
