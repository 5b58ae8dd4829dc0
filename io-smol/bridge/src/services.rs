//! Everything that one bridge serves, each server at a path of its own.
//!
//! Knows: which server a session is of, and what a person is told about them.
//! Does not know: how a session is served by a process (see `session` and `shared`).

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

/// Where servers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServicePaths {
    /// The one that there is, at the root.
    Root,
    /// Each below a path of its name.
    PerName,
}

/// What is served. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BridgedServices {
    services: Arc<[BridgedService]>,
}

/// One of them.
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
    /// These servers, of whose processes `children` takes care. Nothing is started yet.
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

    /// Adds their paths, if they have any, and a page that lists them.
    pub fn configure(&self, mut builder: ConfigBuilder, stream_path: &str) -> ConfigBuilder {
        let mut page = String::from("MCP servers, each over HTTP+SSE:\n\n");
        for BridgedService { name, path, .. } in
            self.iter().filter(|service| !service.path.is_empty())
        {
            builder = builder.service_path(path);
            // Commands are nobody's business: secrets stand in them.
            let _ = writeln!(page, "{name}: {path}{stream_path}");
        }
        if self.iter().any(|service| !service.path.is_empty()) {
            builder = builder.index_page(&page);
        }
        builder
    }

    /// Each of them.
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
    /// What to call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What stands before its paths; empty at the root.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What it is, for the operator.
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
