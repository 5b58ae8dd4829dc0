//! Handles messages of sessions: they are passed on to the server, parked, answered by the bridge, or dropped.

use core::mem;
use std::collections::VecDeque;
use std::sync::Arc;

use mcp_sse_core::Time;
use mcp_sse_core::jsonrpc::{Kind, Message, code, same_id};

use super::{Mux, MuxPhase, SessionKey, SharedRequest, text};

impl Mux {
    pub(super) fn handle_message(&mut self, key: SessionKey, message: Message, now: Time) {
        let method = message.method().unwrap_or_default();
        let initializes = message.kind() == Kind::Request && method == "initialize";
        match (message.kind(), method) {
            // No request of the server is passed on, so no response is expected.
            (Kind::Response, _) => return self.counts.responses_dropped += 1,
            // The bridge sends this notification itself, once, when the server has answered `initialize`.
            (Kind::Notification, "notifications/initialized") => return,
            // The bridge offers no roots, because the server could not distinguish the sessions' roots. A progress
            // notification of a session would be about a request of the server, and none was passed on.
            (Kind::Notification, "notifications/roots/list_changed" | "notifications/progress") => {
                return self.counts.notifications_dropped += 1;
            }
            _ => {}
        }
        if let Some(id) = message.id()
            && id.len() > self.limits.id_bytes_max
        {
            let why = format!("the id is longer than {} bytes", self.limits.id_bytes_max);
            return self.answer_error(key, id, code::INVALID_REQUEST, &why);
        }
        let over = self.outage_over().is_some_and(|over| now >= over);
        match &mut self.phase {
            MuxPhase::Ready if initializes => {
                self.answer_initialize(key, message.id().unwrap_or_default())
            }
            MuxPhase::Ready => self.forward(key, &message),
            MuxPhase::Uninitialized { .. } if initializes => {
                match text::initialize_params(message.text()) {
                    Ok(params) => {
                        let requester = (key, message.id().unwrap_or_default().into());
                        self.initialize(params.into(), Some(requester), now);
                    }
                    Err(ambiguous) => self.refuse_params(key, &message, ambiguous),
                }
            }
            MuxPhase::Uninitialized { parked_since } => {
                parked_since.get_or_insert(now);
                self.park(key, message);
            }
            MuxPhase::Initializing { .. } => self.park(key, message),
            MuxPhase::Down { why } => match message.id() {
                Some(id) if over => {
                    let why = why.clone();
                    self.answer_process_error(key, id, &why);
                }
                _ => self.park(key, message),
            },
        }
    }

    /// Passes a message on to the server. A request gets a new number.
    fn forward(&mut self, key: SessionKey, message: &Message) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        session.receives_notifications = true;
        let text = message.text();
        match message.id() {
            Some(id) => self.forward_request(key, message, id),
            None if message.method() == Some("notifications/cancelled") => {
                self.forward_cancellation(key, text);
            }
            None => self.send_to_server(text.to_owned()),
        }
    }

    fn forward_request(&mut self, key: SessionKey, message: &Message, id: &str) {
        let text = message.text();
        let token = match text::wanted_token(text) {
            Ok(Some(token)) if token.len() > self.limits.id_bytes_max => {
                let why =
                    format!("the progress token is longer than {} bytes", self.limits.id_bytes_max);
                return self.answer_error(key, id, code::INVALID_PARAMS, &why);
            }
            Ok(token) => token,
            Err(ambiguous) => return self.refuse_params(key, message, ambiguous),
        };
        let uri_of = |method: &str| match message.method() {
            Some(known) if known == method => text::uri(text),
            _ => Ok(None),
        };
        let (subscribes, unsubscribes) =
            match (uri_of("resources/subscribe"), uri_of("resources/unsubscribe")) {
                (Ok(subscribes), Ok(unsubscribes)) => (subscribes, unsubscribes),
                (Err(ambiguous), _) | (_, Err(ambiguous)) => {
                    return self.refuse_params(key, message, ambiguous);
                }
            };
        if let Some(uri) = &unsubscribes
            && self.subscriptions.is_of_others(key, uri)
        {
            // Other sessions are still subscribed, and for the server all sessions are one client.
            self.forget_subscription(key, uri);
            let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
            return self.send_answer(key, id, &text);
        }
        let subscribes: Option<Arc<str>> = subscribes.map(Into::into);
        let request = SharedRequest {
            by: key,
            id: id.into(),
            token: token.map(Into::into),
            subscribes: subscribes.clone(),
        };
        if !self.has_room_for(&request) {
            return self.refuse_busy(key, id);
        }
        if let Some(uri) = &subscribes
            && let Err(why) = self.subscribe(key, uri, self.last_number + 1)
        {
            self.counts.requests_refused += 1;
            return self.answer_error(key, id, code::SERVER_BUSY, &why);
        }
        if let Some(uri) = &unsubscribes {
            self.forget_subscription(key, uri);
        }
        let number = self.add_request(request).to_string();
        self.send_to_server(match token {
            None => text::replaced(text, [(id, &number)]),
            Some(token) => text::replaced(text, [(id, &number), (token, &number)]),
        });
    }

    /// Whether the limits allow one more pending request.
    fn has_room_for(&self, request: &SharedRequest) -> bool {
        let own = self.sessions.get(&request.by).map_or(0, |session| session.ids_bytes);
        self.pending.len() < self.limits.requests_max
            && self.ids_bytes + request.bytes() <= self.limits.ids_bytes_max
            && own + request.bytes() <= self.limits.session_ids_bytes_max
    }

    /// Adds a pending request, and returns its number.
    fn add_request(&mut self, request: SharedRequest) -> u64 {
        self.last_number += 1;
        if let Some(session) = self.sessions.get_mut(&request.by) {
            session.pending.push(self.last_number);
            session.ids_bytes += request.bytes();
        }
        self.ids_bytes += request.bytes();
        self.pending.insert(self.last_number, request);
        self.last_number
    }

    fn forward_cancellation(&mut self, key: SessionKey, text: &str) {
        let id = text::cancelled_id(text).ok().flatten();
        let number = id.and_then(|id| {
            let pending = &self.sessions.get(&key)?.pending;
            pending.iter().copied().find(|number| {
                self.pending.get(number).is_some_and(|pending| same_id(&pending.id, id))
            })
        });
        let (Some(id), Some(number)) = (id, number) else {
            // The request was answered meanwhile, or it never existed.
            return self.counts.cancellations_dropped += 1;
        };
        self.finish_request(number);
        self.send_to_server(text::replaced(text, [(id, &number.to_string())]));
    }

    fn park(&mut self, key: SessionKey, message: Message) {
        let bytes = message.body().len();
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let limits = &self.limits;
        if session.parked >= limits.session_parked_max
            || self.parked.len() >= limits.parked_max
            || self.parked_bytes + bytes > limits.parked_bytes_max
        {
            return match message.id() {
                Some(id) => self.refuse_busy(key, id),
                None => self.counts.notifications_dropped += 1,
            };
        }
        session.parked += 1;
        self.parked_bytes += bytes;
        self.parked.push_back((key, message));
    }

    /// Handles the parked messages again, in their order. Some may be parked again.
    pub(super) fn unpark(&mut self, now: Time) {
        for (key, message) in self.take_parked() {
            self.handle_message(key, message, now);
        }
    }

    fn take_parked(&mut self) -> VecDeque<(SessionKey, Message)> {
        self.sessions.values_mut().for_each(|session| session.parked = 0);
        self.parked_bytes = 0;
        mem::take(&mut self.parked)
    }

    pub(super) fn fail_parked(&mut self, why: &str) {
        for (key, message) in self.take_parked() {
            match message.id() {
                Some(id) => self.answer_process_error(key, id, why),
                None => self.counts.notifications_dropped += 1,
            }
        }
    }
}
