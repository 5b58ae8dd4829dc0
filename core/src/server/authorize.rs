//! Authorization: whether a request may proceed, decided by configured tokens or by the application.
//!
//! Knows: credentials, the question to the application, and its verdict. Does not know: whether there is
//! room for what the request asks for.
//!
//! Every GET of an event stream, of the index page or of the metrics and every POST of a message passes
//! [`Server::authenticate`] once its host, its route and its method are accepted, whether it was read from a
//! connection or by another HTTP server.
//!
//! Decision: a request is authorized before its session is looked up, so that no answer tells an
//! unauthorized client anything about session tokens. Routes and methods are checked before, because
//! clients probe for 404 and 405 without credentials. The 406 and 417 of a GET, CORS preflights and the
//! metadata of the resource need no credentials either.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::{Server, TokenSerial};
use crate::answer::Refused;
use crate::arena::Key;
use crate::config::Authorization;
use crate::conn::ConnPhase;
use crate::error::Fault;
use crate::event::{AuthTicket, ConnId, Event, Refusal, RequestHead, Verdict};
use crate::http1::Head;
use crate::metrics_page::MetricsPage;
use crate::policy::bearer::bearer_token;
use crate::principal::Principal;
use crate::request::{Action, Unread};
use crate::timers::TimerKind;

impl Server {
    /// Lets a request proceed, asks the application about it first, or refuses it.
    pub(super) fn authenticate(&mut self, key: Key, plan: Action, head: &Head<'_>) {
        let tokens = match &self.config.authorization {
            Authorization::None => return self.proceed(key, plan, None, None),
            Authorization::Deferred => return self.ask(key, plan, head),
            Authorization::Static(tokens) => tokens,
        };
        let refused = match bearer_token(head.fields_named("authorization")) {
            Ok(Some(token)) => match tokens.find(token) {
                Some((position, principal)) => {
                    let principal = principal.clone();
                    let serial = self.token_serials.of(position);
                    return self.proceed(key, plan, Some(principal), serial);
                }
                None => Refused { invalid_token: true, ..Fault::Unauthorized.into() },
            },
            Ok(None) => Fault::Unauthorized.into(),
            Err(fault) => fault.into(),
        };
        self.refuse(key, refused, plan.unread());
    }

    /// Asks the application whether a request may proceed.
    fn ask(&mut self, key: Key, plan: Action, head: &Head<'_>) {
        let client = self.conns[key].client;
        let capture = |service: &str| Arc::new(RequestHead::capture(head, service, client));
        let captured = match &plan {
            Action::Stream(plan) => plan.head.clone(),
            Action::Post(plan) => capture(self.config.paths.service(plan.service)),
            Action::Index { .. } | Action::Metrics { .. } => capture(""),
        };
        if let Err(fault) = self.admit_event().and_then(|()| self.admit_head(&captured)) {
            return self.refuse(key, fault, Unread::of(head));
        }
        self.enter(key, ConnPhase::Deciding(Box::new(plan)));
        self.arm(TimerKind::Decision, key);
        let ticket = self.ticket(key);
        log::trace!(
            event = "decision_awaited",
            connection = ConnId(key);
            "connection {} waits for a decision of the authorizer", ConnId(key)
        );
        self.metrics.questions_asked += 1;
        self.bodies_bytes += captured.memory_bytes();
        self.events.push_back(Event::Asked { ticket: AuthTicket(ticket), head: captured });
    }

    /// Applies the application's verdict to the request that waits for it.
    pub(super) fn take_verdict(&mut self, key: Key, verdict: Verdict) {
        let ConnPhase::Deciding(plan) = self.enter(key, ConnPhase::Awaiting) else {
            unreachable!("invariant: this kind of ticket belongs to this phase");
        };
        let refusal = match verdict {
            Verdict::Allow(principal) => return self.proceed(key, *plan, Some(principal), None),
            Verdict::Refuse(refusal) => refusal,
        };
        let mut refused = Refused::from(match refusal {
            Refusal::Unauthenticated | Refusal::InvalidToken => Fault::Unauthorized,
            Refusal::Forbidden => Fault::Forbidden,
            Refusal::Unavailable => Fault::Undecided,
        });
        refused.invalid_token = refusal == Refusal::InvalidToken;
        self.refuse(key, refused, plan.unread());
    }

    /// Carries out a request that may proceed, on behalf of `principal` if there is one. `token` is the static token
    /// that it has presented.
    fn proceed(
        &mut self,
        key: Key,
        plan: Action,
        principal: Option<Principal>,
        token: Option<TokenSerial>,
    ) {
        self.conns[key].request.principal = principal.clone();
        match plan {
            Action::Stream(plan) => {
                let unread = plan.unread;
                if let Err(fault) = self.open(key, plan, principal, token) {
                    self.refuse(key, fault, unread);
                }
            }
            Action::Post(plan) => self.begin_post(key, plan, principal),
            Action::Index { unread } => {
                let answer = self.answering(key, unread, |server, to| {
                    let text = server.config.paths.index_page.as_deref().unwrap_or_default();
                    server.answers.page(text, to)
                });
                self.answer(key, answer, unread);
            }
            Action::Metrics { unread } => self.answer_metrics(key, unread),
        }
    }

    /// Answers with the metrics. Their text is longer than other answers, so it needs room in the budget of
    /// all queues.
    fn answer_metrics(&mut self, key: Key, unread: Unread) {
        let text = self.config.metrics_page.as_ref().map(MetricsPage::text).unwrap_or_default();
        if !self.queues_have_room_for(text.len() as u64) {
            return self.refuse(key, Fault::QueuesFull, unread);
        }
        let answer =
            self.answering(key, unread, |server, to| server.answers.metrics(text.into(), to));
        self.answer(key, answer, unread);
    }
}
