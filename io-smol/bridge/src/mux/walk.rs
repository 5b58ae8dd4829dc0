//! Random walks: many sessions that all use the same ids and progress tokens, compared with a model. The model
//! recognizes each request by a unique name in its params.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::*;

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// A request in the model: its session, its id and its progress token.
#[derive(Clone, Debug)]
struct Known {
    by: SessionKey,
    id: Value,
    token: Option<Value>,
}

/// A request to subscribe to a URI, or to unsubscribe from it.
#[derive(Clone, Copy, Debug)]
struct Change {
    by: SessionKey,
    uri: usize,
    subscribes: bool,
    /// Whether the session was subscribed before.
    had: bool,
    /// Whether the server has received the request.
    heard: bool,
}

struct World {
    random: Random,
    mux: Mux,
    now: Time,
    up: bool,
    names: u64,
    /// The sessions' unanswered requests, by name.
    open: BTreeMap<u64, Known>,
    /// The requests that the server has received, by number: the name, and the progress token if there is one.
    pending: BTreeMap<u64, (u64, Option<Value>)>,
    initialize_under_way: Option<u64>,
    /// The names of requests that were cancelled, or whose sessions have ended.
    taken_back: BTreeSet<u64>,
    /// The server's unanswered `subscribe` and `unsubscribe` requests, by number: the name, and whether it is
    /// refused.
    subscribing: BTreeMap<u64, (u64, bool)>,
    /// The sessions' unanswered `subscribe` and `unsubscribe` requests, by name.
    changes: BTreeMap<u64, Change>,
    /// The subscriptions that the server has accepted, and those that sessions know of.
    granted: BTreeSet<usize>,
    subscribed: BTreeSet<(SessionKey, usize)>,
    members: Vec<SessionKey>,
    joined: u64,
    answered: u64,
    failed: u64,
    reported: u64,
    cancelled: u64,
    subscriptions: u64,
}

impl World {
    fn step(&mut self) {
        match self.random.below(46) {
            0 => self.join(),
            1 if self.members.len() > 1 => self.leave(),
            2 if self.up => self.exit(),
            3 | 4 if !self.up => {
                self.mux.handle_started(self.now);
                self.up = true;
            }
            5 => {
                self.now = self.now.saturating_add(Duration::from_millis(self.random.next() % 900));
                self.mux.handle_timeout(self.now);
            }
            6..=9 => self.initialize(),
            10..=12 => self.cancel(),
            13..=26 => self.ask(),
            27..=30 => self.report(),
            31..=36 => self.change(),
            _ => self.answer(),
        }
        self.drain();
        self.mux.check();
    }

    fn join(&mut self) {
        let key = SessionKey(self.joined);
        self.joined += 1;
        self.mux.join(key);
        self.members.push(key);
    }

    fn key(&mut self) -> SessionKey {
        let at = self.random.below(self.members.len());
        self.members[at]
    }

    fn id(&mut self) -> Value {
        let number = 1 + self.random.below(100);
        if self.random.below(4) == 0 { json!(number.to_string()) } else { json!(number) }
    }

    fn says(&mut self, key: SessionKey, value: &Value) {
        let text = if self.random.below(2) == 0 {
            value.to_string()
        } else {
            serde_json::to_string_pretty(value).expect("JSON")
        };
        let message = Message::read(text.into(), None).expect("a message");
        self.mux.handle_session(key, message, self.now);
    }

    fn ask(&mut self) {
        let (by, id) = (self.key(), self.id());
        // A client does not reuse an id that is in flight.
        if self.open.values().any(|known| known.by == by && known.id == id) {
            return;
        }
        self.names += 1;
        let name = self.names;
        let token = (self.random.below(2) == 0).then(|| self.id());
        let mut params = json!({"name": name});
        if let Some(token) = &token {
            params["_meta"] = json!({"progressToken": token});
        }
        let ask = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
        self.open.insert(name, Known { by, id, token });
        self.says(by, &ask);
    }

    /// Subscribes or unsubscribes. There is at most one such request in flight of each session and URI, so that the
    /// order of answers does not matter.
    fn change(&mut self) {
        let (by, id, at) = (self.key(), self.id(), self.random.below(4));
        let used = self.open.values().any(|known| known.by == by && known.id == id);
        if used || self.changes.values().any(|change| change.by == by && change.uri == at) {
            return;
        }
        self.names += 1;
        let subscribes = self.random.below(2) == 0;
        let method = if subscribes { "resources/subscribe" } else { "resources/unsubscribe" };
        let params = json!({"uri": format!("r:{at}"), "name": self.names});
        let ask = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.open.insert(self.names, Known { by, id, token: None });
        let had = self.subscribed.contains(&(by, at));
        self.changes.insert(self.names, Change { by, uri: at, subscribes, had, heard: false });
        if !subscribes {
            self.subscribed.remove(&(by, at));
        }
        self.says(by, &ask);
    }

    fn initialize(&mut self) {
        let (by, id) = (self.key(), self.id());
        if self.open.values().any(|known| known.by == by && known.id == id) {
            return;
        }
        self.names += 1;
        self.open.insert(self.names, Known { by, id: id.clone(), token: None });
        let ask = json!({"jsonrpc": "2.0", "id": id, "method": "initialize", "params": {}});
        self.says(by, &ask);
    }

    /// Cancels a request: mostly an open one, sometimes one of another session or one that does not exist.
    fn cancel(&mut self) {
        let open: Vec<(u64, Known)> = self
            .open
            .iter()
            .filter(|(name, _)| !self.changes.contains_key(name))
            .map(|(name, known)| (*name, known.clone()))
            .collect();
        let (by, id) = match open.len() {
            0 => (self.key(), self.id()),
            len if self.random.below(4) > 0 => {
                let (name, known) = &open[self.random.below(len)];
                self.taken_back.insert(*name);
                (known.by, known.id.clone())
            }
            _ => {
                let (by, id) = (self.key(), self.id());
                let changes = self.changes.keys().filter_map(|name| self.open.get(name));
                if { changes }.any(|known| known.by == by && known.id == id) {
                    return;
                }
                let mine = open.iter().filter(|(_, known)| known.by == by && known.id == id);
                self.taken_back.extend(mine.map(|(name, _)| *name));
                (by, id)
            }
        };
        let params = json!({"requestId": id});
        self.says(
            by,
            &json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}),
        );
    }

    fn leave(&mut self) {
        let at = self.random.below(self.members.len());
        let key = self.members.swap_remove(at);
        self.mux.leave(key);
        self.taken_back
            .extend(self.open.iter().filter(|(_, known)| known.by == key).map(|(name, _)| *name));
        self.open.retain(|_, known| known.by != key);
        self.changes.retain(|_, change| change.by != key);
        self.subscribed.retain(|(by, _)| *by != key);
    }

    fn exit(&mut self) {
        self.mux.handle_exit("is gone", self.now);
        self.up = false;
        self.pending.clear();
        self.subscribing.clear();
        self.granted.clear();
        self.initialize_under_way = None;
    }

    /// The server answers a random pending request, or one that does not exist.
    fn answer(&mut self) {
        if !self.up {
            return;
        }
        if let Some(number) = self.initialize_under_way.take() {
            return self
                .server_says(&json!({"jsonrpc": "2.0", "id": number, "result": {"name": 0}}));
        }
        if self.random.below(4) == 0
            && let Some((number, (name, refused))) = self.subscribing.pop_first()
        {
            let result = if refused { "error" } else { "result" };
            return self
                .server_says(&json!({"jsonrpc": "2.0", result: {"name": name}, "id": number}));
        }
        let at = self.random.below(self.pending.len() + 1);
        match self.pending.keys().nth(at).copied() {
            Some(number) => {
                let (name, _) = self.pending.remove(&number).expect("known");
                self.server_says(
                    &json!({"jsonrpc": "2.0", "result": {"name": name}, "id": number}),
                );
            }
            None => {
                let id = self.random.next() % 1_000_000 + 1_000_000;
                self.server_says(&json!({"jsonrpc": "2.0", "id": id, "result": {"name": -1}}));
            }
        }
    }

    fn report(&mut self) {
        let reporting: Vec<(u64, Value)> = self
            .pending
            .values()
            .filter_map(|(name, token)| Some((*name, token.clone()?)))
            .collect();
        if !self.up || reporting.is_empty() {
            return;
        }
        let (name, token) = &reporting[self.random.below(reporting.len())];
        let params = json!({"progressToken": token, "name": name});
        self.server_says(
            &json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}),
        );
    }

    fn server_says(&mut self, value: &Value) {
        let message = Message::read(value.to_string().into(), None).expect("a message");
        self.mux.handle_server(&message, self.now);
    }

    fn drain(&mut self) {
        while let Some(output) = self.mux.poll_output() {
            match output {
                MuxOutput::Server(text) | MuxOutput::Answer(text) => self.server_hears(&text),
                MuxOutput::Session(key, frame) => self.session_hears(key, &frame),
                MuxOutput::Abandon(_) => self.exit(),
            }
        }
    }

    fn server_hears(&mut self, text: &str) {
        assert!(!text.contains(['\n', '\r']));
        let heard: Value = serde_json::from_str(text).expect("JSON");
        match heard["method"].as_str() {
            Some("initialize") => {
                assert!(self.up && self.initialize_under_way.is_none(), "one handshake at a time");
                self.initialize_under_way = heard["id"].as_u64();
            }
            Some("tools/call") => {
                assert!(
                    self.up && self.initialize_under_way.is_none(),
                    "nothing before the handshake"
                );
                let number = heard["id"].as_u64().expect("a number");
                let name = heard["params"]["name"].as_u64().expect("a name");
                let token = heard["params"]["_meta"].get("progressToken").cloned();
                let known = &self.open[&name];
                assert_eq!(known.token.is_some(), token.is_some());
                let new = self.pending.insert(number, (name, token));
                assert!(new.is_none(), "numbers are not used twice");
            }
            Some("notifications/cancelled") => {
                let number = heard["params"]["requestId"].as_u64().expect("a number");
                if self.subscribing.contains_key(&number) {
                    return;
                }
                let (name, _) = self.pending.get(&number).expect("a pending request");
                assert!(self.taken_back.contains(name), "cancelled by its own session");
                // No answer is passed on from now on, and the session expects none.
                self.open.remove(name);
                self.cancelled += 1;
            }
            Some(method @ ("resources/subscribe" | "resources/unsubscribe")) => {
                let subscribes = method == "resources/subscribe";
                let uri = heard["params"]["uri"].as_str().expect("a URI");
                let at: usize = uri["r:".len()..].parse().expect("a number");
                // 0 stands for a request of the bridge itself.
                let name = heard["params"]["name"].as_u64().unwrap_or(0);
                let refused = subscribes && name > 0 && self.random.below(4) == 0;
                if let Some(change) = self.changes.get_mut(&name) {
                    change.heard = true;
                }
                if !subscribes {
                    let others = self.subscribed.iter().filter(|(_, uri)| *uri == at).count();
                    assert_eq!(others, 0, "another session is subscribed to {uri}");
                    self.granted.remove(&at);
                } else if !refused {
                    self.granted.insert(at);
                }
                let number = heard["id"].as_u64().expect("a number");
                self.subscribing.insert(number, (name, refused));
            }
            Some("notifications/initialized") => {}
            other => panic!("{other:?}"),
        }
    }

    fn session_hears(&mut self, key: SessionKey, frame: &Frame) {
        let event = core::str::from_utf8(frame.bare()).expect("UTF-8");
        let text = event.strip_prefix("event: message\ndata: ").expect("a message");
        let heard: Value = serde_json::from_str(text).expect("JSON");
        assert!(self.members.contains(&key), "a frame for a session that has left");
        if heard["method"] == "notifications/progress" {
            let name = heard["params"]["name"].as_u64().expect("a name");
            let known = &self.open[&name];
            assert_eq!(known.by, key, "progress of another's request");
            assert_eq!(known.token.as_ref(), Some(&heard["params"]["progressToken"]));
            self.reported += 1;
            return;
        }
        let mut mine =
            self.open.iter().filter(|(_, known)| known.by == key && known.id == heard["id"]);
        let (&name, _) = mine.next().expect("an answer to an open request");
        let granted = heard.get("error").is_none();
        if let Some(change) = self.changes.remove(&name) {
            let Change { by, uri, subscribes, had, heard } = change;
            if subscribes && granted {
                self.subscribed.insert((by, uri));
                self.subscriptions += 1;
            } else if !subscribes && !granted && had && !heard {
                // The unsubscribe failed because no server was running.
                self.subscribed.insert((by, uri));
            }
            self.open.remove(&name);
            return;
        }
        if heard.get("error").is_some() {
            self.failed += 1;
        } else {
            // 0 is the name in the result of `initialize`.
            let said = &heard["result"]["name"];
            assert!(*said == json!(name) || *said == json!(0), "{said} for {name}");
            self.answered += 1;
        }
        self.open.remove(&name);
    }

    /// Runs until every request is answered, and checks the subscriptions.
    fn finish_requests(&mut self) {
        for _ in 0..10_000 {
            if self.open.is_empty() && self.mux.requests() == 0 && self.up && self.mux.is_ready() {
                let expected: BTreeSet<usize> = self.subscribed.iter().map(|(_, at)| *at).collect();
                assert_eq!(self.granted, expected, "the server has the sessions' subscriptions");
                return;
            }
            if !self.up {
                self.mux.handle_started(self.now);
                self.up = true;
            }
            self.now = self.now.saturating_add(Duration::from_millis(500));
            self.mux.handle_timeout(self.now);
            self.drain();
            self.answer();
            self.drain();
        }
        panic!("{:?} {:?}", self.mux, self.open);
    }
}

fn walk(seed: u64, steps: usize) -> [u64; 5] {
    let mut world = World {
        random: Random(seed),
        mux: Mux::new(MuxLimits::default()),
        now: Time::ZERO,
        up: false,
        names: 0,
        open: BTreeMap::new(),
        pending: BTreeMap::new(),
        initialize_under_way: None,
        taken_back: BTreeSet::new(),
        subscribing: BTreeMap::new(),
        changes: BTreeMap::new(),
        granted: BTreeSet::new(),
        subscribed: BTreeSet::new(),
        members: Vec::new(),
        joined: 0,
        answered: 0,
        failed: 0,
        reported: 0,
        cancelled: 0,
        subscriptions: 0,
    };
    (0..50).for_each(|_| world.join());
    for _ in 0..steps {
        world.step();
    }
    world.finish_requests();
    [world.answered, world.failed, world.reported, world.cancelled, world.subscriptions]
}

#[test]
fn shared_answers_reach_their_own_sessions_only() {
    let mut sums = [0; 5];
    for seed in 0..16 {
        let counts = walk(seed, 2_500);
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    // Each outcome occurs often.
    assert!(sums.iter().all(|sum| *sum > 300), "{sums:?}");
}
