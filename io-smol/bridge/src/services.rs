//! Everything that one bridge serves, each server at a path of its own.
//!
//! Knows: which server a session is for, and how servers are described to a person.
//! Does not know: how a session is served by a process (see `session` and `shared`).
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

/// How processes are shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessSharing {
    /// Each session has a process of its own.
    PerSession {
        /// Whether the bridge does the handshake where a client leaves it out.
        auto_initialize: bool,
    },
    /// All sessions of a server share one process.
    Shared,
}

/// Which paths servers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServicePaths {
    /// The only server is at the root.
    Root,
    /// Each server is below a path of its name.
    PerName,
}

/// The servers of one bridge. Cheap to clone.
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
    /// Serves these servers, whose processes `children` looks after. Nothing is started yet.
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

    /// Adds the paths of the servers to a configuration, if they have any, and a page that lists them.
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

    /// Every server.
    pub fn iter(&self) -> impl Iterator<Item = &BridgedService> {
        self.services.iter()
    }

    /// Serves one session, until it has ended.
    pub async fn serve(&self, session: Session) {
        let path = session.head().service_path();
        match self.iter().find(|service| service.path == path).map(|service| &service.sessions) {
            Some(ServiceKind::PerSession(sessions)) => sessions.serve(session).await,
            Some(ServiceKind::Shared(sessions)) => sessions.serve(session).await,
            None => log::error!("{}: a session of {path:?}, which is not served", session.id()),
        }
    }
}

impl BridgedService {
    /// What a client should call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path that its stream and messages are below; empty at the root.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is run and how it is shared, for the operator.
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
