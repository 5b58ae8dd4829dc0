//! From the server to whom it concerns, and the handshake that the server is greeted with.

use core::mem;

use mcp_sse_core::jsonrpc::{self, Message, code};
use mcp_sse_core::{Frame, Time};

use super::{Member, Mux, Output, Phase, text, unsendable};
use crate::conversation::REASON_CHARS_MAX;
use crate::ids;

const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

impl Mux {
    pub(super) fn greet(&mut self, params: Box<str>, asker: Option<(Member, Box<str>)>, now: Time) {
        self.numbered += 1;
        let number = self.numbered;
        self.say(format!(
            r#"{{"jsonrpc":"2.0","id":{number},"method":"initialize","params":{params}}}"#
        ));
        let limits = &self.limits;
        let limit = if asker.is_some() { limits.greeting } else { limits.own_greeting };
        let until = now.saturating_add(limit);
        self.phase = Phase::Greeting { number, params, asker, limit, until };
    }

    pub(super) fn welcome(&mut self, member: Member, id: &str) {
        if let Some(session) = self.sessions.get_mut(&member) {
            session.attends = true;
        }
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{}}}"#, self.welcome);
        self.send_answer(member, id, &text);
    }

    /// The server's answer to `initialize`.
    pub(super) fn greeted(&mut self, message: &Message, now: Time) {
        let fresh = Phase::Fresh { parked_since: None };
        let Phase::Greeting { params, asker, .. } = mem::replace(&mut self.phase, fresh) else {
            return;
        };
        if let Some(result) = text::result(message.text()) {
            self.phase = Phase::Ready;
            self.away_since = None;
            self.welcome = result.into();
            self.greeting = Some(params);
            self.say(INITIALIZED.into());
            self.resubscribe();
            if let Some((member, id)) = asker {
                self.welcome(member, &id);
            }
            return self.unpark(now);
        }
        self.greeting = None;
        match (asker, message.id()) {
            // Its own fault, perhaps: the next may do better.
            (Some((member, asked)), Some(id)) => {
                let text = text::replaced(message.text(), [(id, &asked)]);
                self.send_answer(member, &asked, &text);
            }
            // Ours. Nobody else's messages will fare better, and trying for each would never end.
            _ => {
                let said = text::error(message.text()).unwrap_or_default();
                // Each of them is told.
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
        if let Phase::Greeting { number: greeting, .. } = self.phase
            && greeting == number
        {
            return self.greeted(message, now);
        }
        match self.settle(number) {
            Some(asked) => {
                if let Some(uri) = &asked.subscribes {
                    if text::error(message.text()).is_none() {
                        self.subscribe_succeeded(asked.by, uri, number);
                    } else {
                        self.subscribe_failed(asked.by, uri, number);
                    }
                }
                let text = text::replaced(message.text(), [(id, &asked.id)]);
                self.send_answer(asked.by, &asked.id, &text);
            }
            None => self.counts.answers_dropped += 1,
        }
    }

    pub(super) fn handle_notification(&mut self, message: &Message) {
        match message.method() {
            Some("notifications/progress") => self.handle_progress(message.text()),
            // Of a request that was refused at once.
            Some("notifications/cancelled") => self.counts.cancellations_dropped += 1,
            method => match Frame::message(message.body()) {
                Ok(frame) => {
                    let updated = method == Some("notifications/resources/updated");
                    let uri = if updated { text::uri(message.text()).ok().flatten() } else { None };
                    let only = uri.map(|uri| self.subscriptions.subscribers(&uri));
                    // An update that nobody subscribed to under its name is everybody's: the server may
                    // spell the URI in another way, or send updates unasked.
                    let only = only.filter(|only| !only.is_empty());
                    let all = self.sessions.iter().filter(|(member, session)| {
                        session.attends && only.as_ref().is_none_or(|only| only.contains(member))
                    });
                    let to = all.map(|(member, _)| Output::Session(*member, frame.clone()));
                    self.output.extend(to);
                }
                Err(error) => unsendable(&error),
            },
        }
    }

    fn handle_progress(&mut self, text: &str) {
        let token = text::reported_token(text).ok().flatten();
        let asked = token.and_then(ids::number).and_then(|number| self.asked.get(&number));
        let wanted = asked.and_then(|asked| Some((asked.by, asked.token.as_deref()?)));
        match (token, wanted) {
            (Some(token), Some((by, wanted))) => {
                let text = text::replaced(text, [(token, wanted)]);
                match Frame::message(text.as_bytes()) {
                    Ok(frame) => self.output.push_back(Output::Session(by, frame)),
                    Err(error) => unsendable(&error),
                }
            }
            _ => self.counts.progress_dropped += 1,
        }
    }

    /// Answers a request of the server's: there is nobody to pass it on to, as it does not say which
    /// session it is about.
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
        self.output.push_back(Output::Answer(text::on_one_line(text)));
    }
}
