//! Requests as a client sends them: with the user's headers, each on a connection of its own.
//!
//! Knows: the usual fields of MCP clients. Does not know: which answer is right.

use core::fmt;
use core::time::Duration;
use std::time::Instant;

use super::options::Settings;
use crate::client::connect::{ConnectFault, Dialer};
use crate::client::connection::Connection;
use crate::client::exchange::{AnswerFault, Head, Request, Response};
use crate::client::target::Target;

/// The longest wait for the text of a response after its head.
const TEXT_WAIT_MAX: Duration = Duration::from_secs(2);

const USER_AGENT: &str = concat!("mcp-sse-doctor/", env!("CARGO_PKG_VERSION"));

/// Why a request has no response.
#[derive(Debug)]
pub(crate) enum RequestFault {
    Connect(ConnectFault),
    Answer(AnswerFault),
}

impl fmt::Display for RequestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(fault) => fault.fmt(f),
            Self::Answer(fault) => fault.fmt(f),
        }
    }
}

/// A response that was read completely, or as far as it arrived in time.
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) took: Duration,
    pub(crate) text: String,
}

/// Sends requests to one server.
pub(crate) struct Visitor<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) dialer: Dialer,
}

impl Visitor<'_> {
    /// The fields of a GET that opens a stream, without those of `extra`.
    fn stream_fields(&self, extra: &[(&str, &str)]) -> Vec<(String, String)> {
        self.fields(
            &[
                ("Accept", "text/event-stream"),
                // Clients send this too, and a proxy that compresses event streams shows itself.
                ("Accept-Encoding", "gzip, deflate, br"),
                ("Cache-Control", "no-store"),
            ],
            extra,
        )
    }

    /// `usual` fields, replaced by the user's fields of the same name, and `extra` ones.
    fn fields(&self, usual: &[(&str, &str)], extra: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = &self.settings.headers;
        let given = |name: &str| {
            own.iter().any(|(other, _)| other.eq_ignore_ascii_case(name))
                || extra.iter().any(|(other, _)| other.eq_ignore_ascii_case(name))
        };
        let usual = usual.iter().chain(&[("User-Agent", USER_AGENT)]);
        let usual = usual.filter(|(name, _)| !given(name)).copied();
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let replaced = |name: &str| extra.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        let own = own.iter().filter(|(name, _)| !replaced(name)).cloned();
        usual.map(owned).chain(own).chain(extra.iter().copied().map(owned)).collect()
    }

    /// Opens the stream on `connection`, or on a new one.
    pub(crate) async fn get_stream(
        &self,
        target: &Target,
        connection: Option<Connection>,
        extra: &[(&str, &str)],
        timeout: Duration,
    ) -> Result<Response, RequestFault> {
        let connection = match connection {
            Some(connection) => connection,
            None => self.dialer.dial(timeout).await.map_err(RequestFault::Connect)?,
        };
        let fields = self.stream_fields(extra);
        let request = Request { method: "GET", target, fields: &fields, body: None, closes: false };
        request.send(connection, timeout).await.map_err(RequestFault::Answer)
    }

    /// The head of the response to a GET that only looks whether a stream is there.
    pub(crate) async fn look(&self, target: &Target, extra: &[(&str, &str)]) -> Option<Head> {
        self.get_stream(target, None, extra, self.settings.probe_timeout())
            .await
            .ok()
            .map(|it| it.head)
    }

    /// Posts JSON. The response's body is still arriving.
    pub(crate) async fn post_open(
        &self,
        target: &Target,
        message: &str,
        timeout: Duration,
    ) -> Result<Response, RequestFault> {
        let usual = [
            ("Accept", "application/json, text/event-stream"),
            ("Content-Type", "application/json"),
        ];
        let fields = self.fields(&usual, &[]);
        let body = Some(message);
        self.send(Request { method: "POST", target, fields: &fields, body, closes: true }, timeout)
            .await
    }

    /// Posts JSON, and reads the response's text.
    pub(crate) async fn post(
        &self,
        target: &Target,
        message: &str,
    ) -> Result<Answer, RequestFault> {
        let response = self.post_open(target, message, self.settings.timeout).await?;
        Ok(Self::read(response).await)
    }

    /// Ends a session of the Streamable HTTP transport that a probe may have started.
    pub(crate) async fn delete_session(&self, target: &Target, session: &str) {
        let fields = self.fields(&[], &[("Mcp-Session-Id", session)]);
        let request =
            Request { method: "DELETE", target, fields: &fields, body: None, closes: true };
        // A server may refuse this, and then it ends the session when it has been idle.
        let _ = self.send(request, self.settings.probe_timeout()).await;
    }

    /// Sends a preflight, which has none of the user's headers, as in a browser.
    pub(crate) async fn preflight(
        &self,
        target: &Target,
        fields: &[(&str, &str)],
    ) -> Result<Head, RequestFault> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let fields: Vec<_> = fields.iter().map(own).collect();
        let request =
            Request { method: "OPTIONS", target, fields: &fields, body: None, closes: true };
        Ok(self.send(request, self.settings.timeout).await?.head)
    }

    async fn send(
        &self,
        request: Request<'_>,
        timeout: Duration,
    ) -> Result<Response, RequestFault> {
        let connection = self.dialer.dial(timeout).await.map_err(RequestFault::Connect)?;
        request.send(connection, timeout).await.map_err(RequestFault::Answer)
    }

    /// Reads the text of a response.
    pub(crate) async fn read(response: Response) -> Answer {
        let Response { head, took, body, .. } = response;
        let text = body.text(Instant::now() + TEXT_WAIT_MAX).await;
        Answer { head, took, text }
    }
}
