//! Everything that one bridge serves, each server at a path of its own.
//!
//! Knows: which server a session is of, and what a person is told about them.
//! Does not know: how a session is served by a process (see `session` and `shared`).

use core::fmt::Write;
use std::sync::Arc;

use mcp_sse_core::ConfigBuilder;
use mcp_sse_driver::Session;

use super::child::Children;
use super::servers::Server;
use super::session::PerSession;
use super::shared::Shared;

/// How processes are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// One process for each session; the handshake is made up for where a client leaves it out, or
    /// not.
    None {
        /// Whether it is.
        shakes_hands: bool,
    },
    /// One process for all sessions of a server.
    All,
}

/// Where servers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paths {
    /// The one that there is, at the root.
    Root,
    /// Each below a path of its name.
    Names,
}

/// What is served. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Services {
    services: Arc<[Service]>,
}

/// One of them.
#[derive(Debug)]
pub struct Service {
    name: String,
    path: String,
    sessions: Sessions,
}

#[derive(Debug)]
enum Sessions {
    Each(PerSession),
    Shared(Shared),
}

impl Services {
    /// These servers, of whose processes `children` takes care. Nothing is started yet.
    #[must_use]
    pub fn new(children: &Children, servers: Vec<Server>, sharing: Sharing, paths: Paths) -> Self {
        let services = servers.into_iter().map(|Server { name, command }| Service {
            path: match paths {
                Paths::Root => String::new(),
                Paths::Names => format!("/{name}"),
            },
            sessions: match sharing {
                Sharing::None { shakes_hands } => {
                    Sessions::Each(PerSession::new(children.clone(), command, shakes_hands))
                }
                Sharing::All => Sessions::Shared(Shared::new(children.clone(), command, &*name)),
            },
            name,
        });
        Self { services: services.collect() }
    }

    /// Adds their paths, if they have any, and a page that lists them.
    pub fn configure(&self, mut builder: ConfigBuilder, stream_path: &str) -> ConfigBuilder {
        let mut page = String::from("MCP servers, each over HTTP+SSE:\n\n");
        for Service { name, path, .. } in self.iter().filter(|service| !service.path.is_empty()) {
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
    pub fn iter(&self) -> impl Iterator<Item = &Service> {
        self.services.iter()
    }

    /// Serves one session, until it has ended.
    pub async fn serve(&self, session: Session) {
        let path = session.head().service_path();
        match self.iter().find(|service| service.path == path).map(|service| &service.sessions) {
            Some(Sessions::Each(sessions)) => sessions.serve(session).await,
            Some(Sessions::Shared(sessions)) => sessions.serve(session).await,
            None => log::error!("{}: a session of {path:?}, which is not served", session.id()),
        }
    }
}

impl Service {
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
            Sessions::Each(sessions) => {
                format!("{}, in a process of its own for each session", sessions.command())
            }
            Sessions::Shared(sessions) => {
                format!("{}, in one process that all sessions share", sessions.command())
            }
        }
    }
}
