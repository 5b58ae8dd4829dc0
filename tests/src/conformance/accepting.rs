//! The listening socket: what waits in its backlog, and what a lack of descriptors does to it.

use core::net::SocketAddr;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::fs::File;
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::Instant;

use mcp_sse_core::Config;
use mcp_sse_core::driver::Session;
use rustix::time::{ClockId, clock_gettime};

use crate::adapter::{Adapter, Place, Server, handler};
use crate::child::{self, Child, Descriptors};
use crate::client::{Client, Stream};
use crate::{PATIENCE, handlers, limits, wait_until};

const READY: &str = "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// They stay in the backlog, and come in when there is room.
pub fn connections_over_the_limit_wait(on: &Adapter) {
    for place in Place::ALL {
        let config = limits(|l| l.connections_max = Some(4)).build().expect("good");
        let server = Server::start_at(on, "127.0.0.1:0", place, config, handlers::echo());
        let mut stream = Stream::open(server.address());
        stream.check_alive("the connection for posts");
        let mut third = Client::connect(server.address());
        assert_eq!(third.ask(READY).status, 200);
        let mut fourth = Client::connect(server.address());
        assert_eq!(fourth.ask(READY).status, 200);
        let mut waiting: Vec<_> = (0..3)
            .map(|_| {
                let mut client = Client::connect(server.address());
                client.send(READY);
                client
            })
            .collect();
        // The server has many turns, and those in the backlog have none.
        for _ in 0..50 {
            assert_eq!(third.ask(READY).status, 200);
            stream.check_alive("while the server is full");
        }
        assert!(!waiting.iter().any(Client::hears_something));
        let metrics = server.metrics();
        assert_eq!((metrics.connections_accepted, metrics.connections_refused), (4, 0));
        // One place, and one after the other takes it.
        drop(fourth);
        for client in &mut waiting {
            assert_eq!(client.response().status, 200);
            client.end();
            client.expect_end();
        }
        stream.check_alive("afterwards");
    }
}

/// Peers that connect and are gone while nobody accepts: what comes in then is a connection with an
/// error in it, or none, as the system has it.
pub fn gone_before_they_are_accepted(on: &Adapter) {
    let (says, held_up) = mpsc::channel();
    let echo = handlers::echo();
    let go_on = Arc::new(Barrier::new(2));
    let barrier = go_on.clone();
    let server = Server::start(
        on,
        Config::default(),
        handler(move |session: Session| {
            let (says, barrier, echo) = (says.clone(), barrier.clone(), echo.clone());
            async move {
                if session.head().path() == "/sse/" {
                    says.send(()).expect("the test waits");
                    barrier.wait();
                }
                echo(session).await;
            }
        }),
    );
    let mut stream = Stream::open(server.address());
    stream.check_alive("before");
    let mut holds_up = Client::connect(server.address());
    holds_up.send("GET /sse/ HTTP/1.1\r\nHost: localhost\r\n\r\n");
    held_up.recv_timeout(PATIENCE).expect("the thread is held up");
    for n in 0..60 {
        let mut client = Client::connect(server.address());
        if n % 2 == 0 {
            client.send(READY);
        }
        match n % 3 {
            0 => drop(client),
            _ => client.reset(),
        }
    }
    let mut last = Client::connect(server.address());
    last.send(READY);
    go_on.wait();
    assert_eq!(last.response().status, 200);
    stream.check_alive("afterwards");
    wait_until("they are gone", || server.metrics().connections_open() == 4);
}

const DESCRIPTORS: u32 = 128;
/// Fewer than the limit on connections, which is lowered to what the descriptors are enough for.
const LEFT_BY_APPLICATION: usize = 50;
/// More than that.
const CONNECTIONS: usize = 64;

/// The application has opened so much that there are fewer descriptors than the server has counted on.
/// Accepting fails, is left alone for a while, and goes on when there are descriptors again; what is
/// there already is served meanwhile. The server runs in a process of its own that may have few: this
/// very test once more.
pub fn no_descriptors_left(on: &Adapter) {
    let part = format!("few descriptors: {}", on.name);
    if let Some(role) = child::role() {
        // The process is there for one adapter.
        return if role == part {
            serve_with_few_descriptors(on)
        };
    }
    let arguments = ["no_descriptors_left", "--nocapture", "--test-threads=1"];
    let child = Child::start(&part, &arguments, Descriptors::Few(DESCRIPTORS));
    let address: SocketAddr = child.line().parse().expect("an address");
    let mut stream = Stream::open(address);
    stream.check_alive("before");
    let mut first: Vec<_> = (0..CONNECTIONS).map(|_| Client::connect(address)).collect();
    let mut last = Client::connect(address);
    last.send(READY);
    assert_eq!(child.line(), "none left");
    // While accepting fails, again and again, nothing else is asked of that process.
    assert_eq!(child.line(), "it waits");
    stream.check_alive("without descriptors");
    assert!(!last.hears_something());
    stream.check_alive("without descriptors, again");
    first.truncate(first.len() / 2);
    assert_eq!(last.response().status, 200);
    // Not once by chance: the others, too, and new ones.
    for client in &mut first {
        assert_eq!(client.ask(READY).status, 200);
    }
    stream.check_alive("with descriptors again");
    Stream::open(address).check_alive("a new session");
}

/// Warnings of this process.
static WARNINGS: AtomicU32 = AtomicU32::new(0);

struct Counting;

impl log::Log for Counting {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            WARNINGS.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

fn serve_with_few_descriptors(on: &Adapter) {
    log::set_logger(&Counting).expect("this process has no other");
    log::set_max_level(log::LevelFilter::Warn);
    let server = Server::start(on, Config::default(), handlers::echo());
    // All that it needs for itself is open when it has answered.
    Stream::open(server.address()).check_alive("at first");
    let mut opened = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        opened.push(file);
    }
    opened.truncate(opened.len() - LEFT_BY_APPLICATION);
    child::tell_parent(server.address());
    wait_until("no descriptor is left", || File::open("/dev/null").is_err());
    child::tell_parent("none left");
    wait_until("somebody is told", || WARNINGS.load(Ordering::Relaxed) > 0);
    let start = (Instant::now(), cpu_time());
    thread::sleep(Duration::from_millis(1_500));
    let (elapsed, spent) = (start.0.elapsed(), cpu_time().saturating_sub(start.1));
    let warnings = WARNINGS.load(Ordering::Relaxed);
    let few = 2 + elapsed.as_secs();
    let waits = spent < elapsed / 10 && u64::from(warnings) <= few;
    if waits {
        child::tell_parent("it waits");
    } else {
        child::tell_parent(format!("in {elapsed:?} it used {spent:?} and warned {warnings} times"));
    }
    child::wait_for_parent();
}

/// What this process has used of its processors.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).expect("not less than nothing")
}

/// Many at once, some of them gone by the time they are looked at.
pub fn a_herd_of_connections(on: &Adapter) {
    let server = Server::start(on, Config::default(), handlers::echo());
    let mut stream = Stream::open(server.address());
    for _ in 0..10 {
        let mut herd: Vec<_> = (0..100).map(|_| Client::connect(server.address())).collect();
        // A third says nothing, a third asks, a third asks and leaves.
        for (n, client) in herd.iter_mut().enumerate().filter(|(n, _)| n % 3 > 0) {
            client.send(READY);
            if n % 3 == 2 {
                client.end();
            }
        }
        for (n, client) in herd.iter_mut().enumerate().filter(|(n, _)| n % 3 > 0) {
            assert_eq!(client.response().status, 200, "{n}");
        }
        stream.check_alive("beside a herd");
    }
    wait_until("all are gone", || server.metrics().connections_open() == 2);
}
