//! Passes messages of the server on to the sessions that they concern, and does the handshake with the server.

use core::mem;

use mcp_sse_core::jsonrpc::{self, Message, code};
use mcp_sse_core::{Frame, Time};

use super::{Mux, MuxOutput, MuxPhase, SessionKey, log_unsendable, text};
use crate::ids;
use crate::session_protocol::REASON_CHARS_MAX;

const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

impl Mux {
    pub(super) fn initialize(
        &mut self,
        params: Box<str>,
        requester: Option<(SessionKey, Box<str>)>,
        now: Time,
    ) {
        self.last_number += 1;
        let number = self.last_number;
        self.send_to_server(format!(
            r#"{{"jsonrpc":"2.0","id":{number},"method":"initialize","params":{params}}}"#
        ));
        let limits = &self.limits;
        let limit = if requester.is_some() {
            limits.initialize_timeout
        } else {
            limits.own_initialize_timeout
        };
        let until = now.saturating_add(limit);
        self.phase = MuxPhase::Initializing { number, params, requester, limit, until };
    }

    pub(super) fn answer_initialize(&mut self, key: SessionKey, id: &str) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.receives_notifications = true;
        }
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{}}}"#, self.initialize_result);
        self.send_answer(key, id, &text);
    }

    /// The server's answer to `initialize`.
    pub(super) fn handle_initialize_response(&mut self, message: &Message, now: Time) {
        let fresh = MuxPhase::Uninitialized { parked_since: None };
        let MuxPhase::Initializing { params, requester, .. } = mem::replace(&mut self.phase, fresh)
        else {
            return;
        };
        if let Some(result) = text::result(message.text()) {
            self.phase = MuxPhase::Ready;
            self.away_since = None;
            self.initialize_result = result.into();
            self.initialize_params = Some(params);
            self.send_to_server(INITIALIZED.into());
            self.resubscribe();
            if let Some((key, id)) = requester {
                self.answer_initialize(key, &id);
            }
            return self.unpark(now);
        }
        self.initialize_params = None;
        match (requester, message.id()) {
            // The params of that session may be the reason, so the next session's `initialize` is tried.
            (Some((key, pending)), Some(id)) => {
                let text = text::replaced(message.text(), [(id, &pending)]);
                self.send_answer(key, &pending, &text);
            }
            // The bridge's own `initialize` was refused. Parked messages would cause the same again, without an end.
            _ => {
                let said = text::error(message.text()).unwrap_or_default();
                // The reason is shortened, because each session gets it.
                let said: String = said.chars().take(REASON_CHARS_MAX).collect();
                self.fail_parked(&format!("refused initialize: {said}"));
            }
        }
        self.unpark(now);
    }

    pub(super) fn handle_response(&mut self, message: &Message, now: Time) {
        let id = message.id().unwrap_or_default();
        let Some(number) = ids::number(id) else {
            return self.counts.answers_dropped += 1;
        };
        if let MuxPhase::Initializing { number: initialize, .. } = self.phase
            && initialize == number
        {
            return self.handle_initialize_response(message, now);
        }
        match self.finish_request(number) {
            Some(pending) => {
                if let Some(uri) = &pending.subscribes {
                    if text::error(message.text()).is_none() {
                        self.subscribe_succeeded(pending.by, uri, number);
                    } else {
                        self.subscribe_failed(pending.by, uri, number);
                    }
                }
                let text = text::replaced(message.text(), [(id, &pending.id)]);
                self.send_answer(pending.by, &pending.id, &text);
            }
            None => self.counts.answers_dropped += 1,
        }
    }

    pub(super) fn handle_notification(&mut self, message: &Message) {
        match message.method() {
            Some("notifications/progress") => self.handle_progress(message.text()),
            // Each request of the server was refused immediately, so there is nothing to cancel.
            Some("notifications/cancelled") => self.counts.cancellations_dropped += 1,
            method => match Frame::message(message.body()) {
                Ok(frame) => {
                    let updated = method == Some("notifications/resources/updated");
                    let uri = if updated { text::uri(message.text()).ok().flatten() } else { None };
                    let only = uri.map(|uri| self.subscriptions.subscribers(&uri));
                    // An update of a URI without subscribers goes to all sessions: the server may spell the URI
                    // differently, or send updates without a subscription.
                    let only = only.filter(|only| !only.is_empty());
                    let all = self.sessions.iter().filter(|(key, session)| {
                        session.receives_notifications
                            && only.as_ref().is_none_or(|only| only.contains(key))
                    });
                    let to = all.map(|(key, _)| MuxOutput::Session(*key, frame.clone()));
                    self.output.extend(to);
                }
                Err(error) => log_unsendable(&error),
            },
        }
    }

    fn handle_progress(&mut self, text: &str) {
        let token = text::reported_token(text).ok().flatten();
        let pending = token.and_then(ids::number).and_then(|number| self.pending.get(&number));
        let wanted = pending.and_then(|pending| Some((pending.by, pending.token.as_deref()?)));
        match (token, wanted) {
            (Some(token), Some((by, wanted))) => {
                let text = text::replaced(text, [(token, wanted)]);
                match Frame::message(text.as_bytes()) {
                    Ok(frame) => self.output.push_back(MuxOutput::Session(by, frame)),
                    Err(error) => log_unsendable(&error),
                }
            }
            _ => self.counts.progress_dropped += 1,
        }
    }

    /// Answers a request of the server: a ping with a result, any other with an error. It cannot be passed on,
    /// because it does not say which session it concerns.
    pub(super) fn refuse_server(&mut self, message: &Message) {
        let id = message.id().unwrap_or_default();
        let method = message.method().unwrap_or_default();
        if method == "ping" {
            let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
            return self.answer_server(text.into_bytes());
        }
        self.counts.server_requests_refused += 1;
        let why =
            format!("{method}: this server is shared by many clients, none of which can be asked");
        let body = jsonrpc::error_body(Some(id), code::METHOD_NOT_FOUND, &why);
        self.answer_server(body);
    }

    pub(super) fn answer_server(&mut self, body: Vec<u8>) {
        let text = String::from_utf8(body).expect("invariant: made of texts");
        self.output.push_back(MuxOutput::Answer(text::on_one_line(text)));
    }
}
