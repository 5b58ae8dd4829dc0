//! From a session to the server: what is passed on, parked, answered here or left out.

use core::mem;
use std::collections::VecDeque;
use std::sync::Arc;

use mcp_sse_core::Time;
use mcp_sse_core::jsonrpc::{Kind, Message, code, same_id};

use super::{Asked, Member, Mux, Phase, text};

impl Mux {
    pub(super) fn take(&mut self, member: Member, message: Message, now: Time) {
        let method = message.method().unwrap_or_default();
        let greets = message.kind() == Kind::Request && method == "initialize";
        match (message.kind(), method) {
            // The server was asked nothing on anybody's behalf.
            (Kind::Response, _) => return self.counts.responses_dropped += 1,
            // The server is told when it has answered `initialize`, once.
            (Kind::Notification, "notifications/initialized") => return,
            // No roots were offered, and whose would they be? Progress is of what the server asked.
            (Kind::Notification, "notifications/roots/list_changed" | "notifications/progress") => {
                return self.counts.notifications_dropped += 1;
            }
            _ => {}
        }
        if let Some(id) = message.id()
            && id.len() > self.limits.id_bytes_max
        {
            let why = format!("the id is longer than {} bytes", self.limits.id_bytes_max);
            return self.answer_error(member, id, code::INVALID_REQUEST, &why);
        }
        let over = self.outage_over().is_some_and(|over| now >= over);
        match &mut self.phase {
            Phase::Ready if greets => self.welcome(member, message.id().unwrap_or_default()),
            Phase::Ready => self.forward(member, &message),
            Phase::Fresh { .. } if greets => match text::initialize_params(message.text()) {
                Ok(params) => {
                    let asker = (member, message.id().unwrap_or_default().into());
                    self.greet(params.into(), Some(asker), now);
                }
                Err(ambiguous) => self.refuse_params(member, &message, ambiguous),
            },
            Phase::Fresh { parked_since } => {
                parked_since.get_or_insert(now);
                self.park(member, message);
            }
            Phase::Greeting { .. } => self.park(member, message),
            Phase::Down { why } => match message.id() {
                Some(id) if over => {
                    let why = why.clone();
                    self.fail(member, id, &why);
                }
                _ => self.park(member, message),
            },
        }
    }

    /// Passes a message on to the server, under a number of its own if it is a request.
    fn forward(&mut self, member: Member, message: &Message) {
        let Some(session) = self.sessions.get_mut(&member) else { return };
        session.attends = true;
        let own_ids_bytes = session.ids_bytes;
        let text = message.text();
        let Some(id) = message.id() else {
            if message.method() == Some("notifications/cancelled") {
                return self.forward_cancellation(member, text);
            }
            return self.say(text.to_owned());
        };
        let token = match text::wanted_token(text) {
            Ok(Some(token)) if token.len() > self.limits.id_bytes_max => {
                let why =
                    format!("the progress token is longer than {} bytes", self.limits.id_bytes_max);
                return self.answer_error(member, id, code::INVALID_PARAMS, &why);
            }
            Ok(token) => token,
            Err(ambiguous) => return self.refuse_params(member, message, ambiguous),
        };
        let subscribes = match message.method() {
            Some("resources/subscribe") => match text::uri(text) {
                Ok(uri) => uri,
                Err(ambiguous) => return self.refuse_params(member, message, ambiguous),
            },
            _ => None,
        };
        let unsubscribes = match message.method() {
            Some("resources/unsubscribe") => match text::uri(text) {
                Ok(uri) => uri,
                Err(ambiguous) => return self.refuse_params(member, message, ambiguous),
            },
            _ => None,
        };
        if let Some(uri) = &unsubscribes
            && self.subscriptions.is_of_others(member, uri)
        {
            // To the server all sessions are one client.
            self.forget_subscription(member, uri);
            let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
            return self.send_answer(member, id, &text);
        }
        let subscribes: Option<Arc<str>> = subscribes.map(Into::into);
        let asked = Asked {
            by: member,
            id: id.into(),
            token: token.map(Into::into),
            subscribes: subscribes.clone(),
        };
        let bytes = asked.bytes();
        let all = self.ids_bytes + bytes > self.limits.ids_bytes_max;
        let own = own_ids_bytes + bytes > self.limits.session_ids_bytes_max;
        if self.asked.len() >= self.limits.requests_max || all || own {
            return self.refuse_busy(member, id);
        }
        if let Some(uri) = &subscribes
            && let Err(why) = self.subscribe(member, uri, self.numbered + 1)
        {
            self.counts.requests_refused += 1;
            return self.answer_error(member, id, code::SERVER_BUSY, &why);
        }
        if let Some(uri) = &unsubscribes {
            self.forget_subscription(member, uri);
        }
        let Some(session) = self.sessions.get_mut(&member) else { return };
        self.numbered += 1;
        let number = self.numbered;
        session.asked.push(number);
        session.ids_bytes += bytes;
        self.ids_bytes += bytes;
        self.asked.insert(number, asked);
        let number = number.to_string();
        self.say(match token {
            None => text::replaced(text, [(id, &number)]),
            Some(token) => text::replaced(text, [(id, &number), (token, &number)]),
        });
    }

    fn forward_cancellation(&mut self, member: Member, text: &str) {
        let id = text::cancelled_id(text).ok().flatten();
        let number = id.and_then(|id| {
            let asked = &self.sessions.get(&member)?.asked;
            asked
                .iter()
                .copied()
                .find(|number| self.asked.get(number).is_some_and(|asked| same_id(&asked.id, id)))
        });
        let (Some(id), Some(number)) = (id, number) else {
            // Answered meanwhile, or never asked.
            return self.counts.cancellations_dropped += 1;
        };
        self.settle(number);
        self.say(text::replaced(text, [(id, &number.to_string())]));
    }

    fn park(&mut self, member: Member, message: Message) {
        let bytes = message.body().len();
        let Some(session) = self.sessions.get_mut(&member) else { return };
        let limits = &self.limits;
        if session.parked >= limits.session_parked_max
            || self.parked.len() >= limits.parked_max
            || self.parked_bytes + bytes > limits.parked_bytes_max
        {
            return match message.id() {
                Some(id) => self.refuse_busy(member, id),
                None => self.counts.notifications_dropped += 1,
            };
        }
        session.parked += 1;
        self.parked_bytes += bytes;
        self.parked.push_back((member, message));
    }

    /// Takes what is parked once more, in its order; some of it may be parked again.
    pub(super) fn unpark(&mut self, now: Time) {
        for (member, message) in self.take_parked() {
            self.take(member, message, now);
        }
    }

    fn take_parked(&mut self) -> VecDeque<(Member, Message)> {
        self.sessions.values_mut().for_each(|session| session.parked = 0);
        self.parked_bytes = 0;
        mem::take(&mut self.parked)
    }

    pub(super) fn fail_parked(&mut self, why: &str) {
        for (member, message) in self.take_parked() {
            match message.id() {
                Some(id) => self.fail(member, id, why),
                None => self.counts.notifications_dropped += 1,
            }
        }
    }
}
