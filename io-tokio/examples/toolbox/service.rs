//! A service, written with the official SDK, that sends every kind of message that a server can send to a client.
#![expect(deprecated, reason = "the revisions that have this transport have sampling and logging")]
#![allow(unreachable_pub, reason = "the tests include this file and use it")]

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use http::request::Parts;
use rmcp::handler::server::common::Extension;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    CreateMessageRequestParams, ErrorData, Implementation, LoggingLevel,
    LoggingMessageNotificationParam, ProgressNotificationParam, RequestMetaObject, SamplingMessage,
    ServerCapabilities, ServerConfig, SetLevelRequestParams,
};
use rmcp::service::{RequestContext, ServiceError};
use rmcp::{Peer, RoleServer, ServerHandler, schemars, tool, tool_handler, tool_router};
use tokio_util::sync::CancellationToken;

/// The service. Clones share the counters.
#[derive(Clone, Debug, Default)]
pub struct Toolbox {
    waiting: Arc<AtomicU64>,
    cancelled: Arc<AtomicU64>,
}

/// Two numbers.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
struct Operands {
    a: f64,
    b: f64,
}

/// Some text.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
struct Text {
    text: String,
}

/// A number of bytes or of notifications.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
struct Count {
    count: u32,
}

impl Toolbox {
    /// The number of calls of `wait` that are waiting.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::SeqCst)
    }

    /// The number of calls of `wait` that were cancelled.
    #[must_use]
    pub fn cancelled(&self) -> u64 {
        self.cancelled.load(Ordering::SeqCst)
    }
}

#[tool_router]
impl Toolbox {
    /// Adds two numbers.
    #[tool]
    fn add(&self, Parameters(Operands { a, b }): Parameters<Operands>) -> String {
        (a + b).to_string()
    }

    /// Returns a text of this many bytes.
    #[tool]
    fn fill(&self, Parameters(Count { count }): Parameters<Count>) -> String {
        "f".repeat(count as usize)
    }

    /// Sends a text to the client's model, and returns its answer.
    #[tool]
    async fn ask(
        &self,
        Parameters(Text { text }): Parameters<Text>,
        client: Peer<RoleServer>,
    ) -> Result<String, ErrorData> {
        let question = CreateMessageRequestParams::new(vec![SamplingMessage::user_text(text)], 100);
        let answer = client.create_message(question).await.map_err(internal)?;
        let content = answer.message.content.into_vec();
        let text = content.first().and_then(|content| content.as_text());
        let text = text.ok_or_else(|| ErrorData::internal_error("an answer without text", None))?;
        Ok(format!("{} says: {}", answer.model, text.text))
    }

    /// Counts, and notifies the client of each number.
    #[tool]
    async fn count(
        &self,
        Parameters(Count { count }): Parameters<Count>,
        client: Peer<RoleServer>,
        meta: RequestMetaObject,
    ) -> Result<String, ErrorData> {
        let token = meta.get_progress_token();
        let token =
            token.ok_or_else(|| ErrorData::invalid_params("there is no progress token", None))?;
        for number in 1..=count {
            let progress = ProgressNotificationParam::new(token.clone(), number.into())
                .with_total(count.into())
                .with_message(format!("number {number}"));
            client.notify_progress(progress).await.map_err(internal)?;
        }
        Ok(format!("counted to {count}"))
    }

    /// Sends the client a log notification.
    #[tool]
    async fn log(
        &self,
        Parameters(Text { text }): Parameters<Text>,
        client: Peer<RoleServer>,
    ) -> Result<String, ErrorData> {
        let line = LoggingMessageNotificationParam::new(LoggingLevel::Info, text.into());
        client.notify_logging_message(line).await.map_err(internal)?;
        Ok("logged".into())
    }

    /// Waits until it is cancelled.
    #[tool]
    async fn wait(&self, ct: CancellationToken) -> String {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        ct.cancelled().await;
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        self.cancelled.fetch_add(1, Ordering::SeqCst);
        "cancelled".into()
    }

    /// Returns how many calls of `wait` are waiting, and how many were cancelled.
    #[tool]
    fn waits(&self) -> String {
        format!("{} {}", self.waiting(), self.cancelled())
    }

    /// Returns the method, the path and one header field of the session's GET request.
    #[tool]
    fn field(
        &self,
        Parameters(Text { text }): Parameters<Text>,
        Extension(parts): Extension<Parts>,
    ) -> String {
        let value = parts.headers.get(text).and_then(|value| value.to_str().ok());
        format!("{} {} {}", parts.method, parts.uri, value.unwrap_or("none"))
    }
}

#[tool_handler]
impl ServerHandler for Toolbox {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().enable_logging().build();
        ServerConfig::new(capabilities).with_server_info(Implementation::new("toolbox", "1"))
    }

    async fn set_level(
        &self,
        _request: SetLevelRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }
}

fn internal(error: ServiceError) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}
