//! The listening socket: what waits in its backlog, and what a lack of descriptors does to it.

use core::net::SocketAddr;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::fs::File;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

use mcp_sse_core::Config;
use mcp_sse_driver::Session;

use crate::adapter::{Adapter, HandlerThread, Listen, RunningServer, handler};
use crate::child::{self, ChildProcess, DescriptorLimit};
use crate::client::{Client, Stream};
use crate::{PATIENCE, handlers, limits, wait_until};

const READY: &str = "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// They stay in the backlog, and come in when there is room.
pub fn connections_beyond_the_limit_wait_in_the_backlog(on: &Adapter) {
    for handler_thread in HandlerThread::ALL {
        let config = limits(|l| l.connections_max = Some(4)).build().expect("good");
        let server =
            RunningServer::start_at(on, "127.0.0.1:0", handler_thread, config, handlers::echo());
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
        assert!(!waiting.iter().any(Client::has_input));
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
pub fn connections_reset_before_accept_leave_the_server_running(on: &Adapter) {
    let (block_sender, blocked) = mpsc::channel();
    let echo = handlers::echo();
    let (resume, resumed) = mpsc::channel();
    let resumed = Arc::new(Mutex::new(resumed));
    let server = RunningServer::start(
        on,
        Config::default(),
        handler(move |session: Session| {
            let (block_sender, resumed, echo) =
                (block_sender.clone(), resumed.clone(), echo.clone());
            async move {
                if session.head().path() == "/sse/" {
                    block_sender.send(()).expect("the test waits");
                    // The end of the test will do as well.
                    let _ = resumed.lock().expect("no panic").recv_timeout(PATIENCE);
                }
                echo(session).await;
            }
        }),
    );
    let mut stream = Stream::open(server.address());
    stream.check_alive("before");
    let mut blocker = Client::connect(server.address());
    blocker.send("GET /sse/ HTTP/1.1\r\nHost: localhost\r\n\r\n");
    blocked.recv_timeout(PATIENCE).expect("the thread is held up");
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
    resume.send(()).expect("the thread waits");
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
pub fn accepting_pauses_without_descriptors(on: &Adapter) {
    accept_without_descriptors(on, 1);
}

/// The same where one of several workers accepts for all: the socket is one that they cannot share.
pub fn accepting_pauses_without_descriptors_with_several_workers(on: &Adapter) {
    accept_without_descriptors(on, 2);
}

fn accept_without_descriptors(on: &Adapter, workers: usize) {
    let part = format!("few descriptors: {}, {workers}", on.name);
    if let Some(role) = child::role() {
        // The process is there for one adapter.
        return if role == part {
            serve_with_few_descriptors(on, workers);
        };
    }
    let arguments = ["accepting_pauses_without_descriptors", "--nocapture", "--test-threads=1"];
    let child = ChildProcess::start(&part, &arguments, DescriptorLimit::Few(DESCRIPTORS));
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
    assert!(!last.has_input());
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

/// What this process was told about accepting that failed: how often, and of how many attempts.
static WARNINGS: AtomicU32 = AtomicU32::new(0);
static ATTEMPTS: AtomicU32 = AtomicU32::new(0);

struct WarningCounter;

impl log::Log for WarningCounter {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            // It ends in how often that has happened since it was said last: "(9 times before)".
            let said = record.args().to_string();
            let before = said.rsplit_once('(').and_then(|(_, count)| count.split_once(' '));
            let before = before.and_then(|(count, _)| count.parse().ok()).unwrap_or(1_000_000);
            ATTEMPTS.fetch_add(before + 1, Ordering::Relaxed);
            WARNINGS.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

fn serve_with_few_descriptors(on: &Adapter, workers: usize) {
    /// For how long a listener is left alone, and how often that is told about.
    const PAUSE: Duration = Duration::from_millis(100);
    const WARNING: Duration = Duration::from_secs(1);
    log::set_logger(&WarningCounter).expect("this process has no other");
    log::set_max_level(log::LevelFilter::Warn);
    let listen = Listen::Tcp(TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let (config, handler) = (Config::default(), handlers::echo());
    let server = RunningServer::try_start_workers(
        on,
        listen,
        workers,
        HandlerThread::Local,
        config,
        handler,
    );
    let server = server.expect("a server");
    // All that it needs for itself is open when it has answered.
    Stream::open(server.address()).check_alive("at first");
    let mut opened = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        opened.push(file);
    }
    opened.truncate(opened.len() - LEFT_BY_APPLICATION);
    child::send_to_parent(server.address());
    wait_until("no descriptor is left", || File::open("/dev/null").is_err());
    child::send_to_parent("none left");
    let warnings = || WARNINGS.load(Ordering::Relaxed);
    wait_until("somebody is told", || warnings() > 0);
    let (start, before) = (Instant::now(), ATTEMPTS.load(Ordering::Relaxed));
    wait_until("somebody is told again", || warnings() > 2);
    // By counts, and not by what it used of a processor that others want as well.
    let attempts = ATTEMPTS.load(Ordering::Relaxed).saturating_sub(before);
    let elapsed = start.elapsed();
    let most = |each: Duration| 2 + elapsed.as_millis() / each.as_millis();
    if u128::from(attempts) <= most(PAUSE) && u128::from(warnings()) <= most(WARNING) {
        child::send_to_parent("it waits");
    } else {
        let told = format!("in {elapsed:?} it tried {attempts} times and warned {}", warnings());
        child::send_to_parent(told);
    }
    child::wait_for_parent();
}

/// Many at once, some of them gone by the time they are looked at.
pub fn many_connections_at_once_are_all_answered(on: &Adapter) {
    let server = RunningServer::start(on, Config::default(), handlers::echo());
    let mut stream = Stream::open(server.address());
    for _ in 0..10 {
        let mut clients: Vec<_> = (0..100).map(|_| Client::connect(server.address())).collect();
        // A third says nothing, a third asks, a third asks and leaves.
        for (n, client) in clients.iter_mut().enumerate().filter(|(n, _)| n % 3 > 0) {
            client.send(READY);
            if n % 3 == 2 {
                client.end();
            }
        }
        for (n, client) in clients.iter_mut().enumerate().filter(|(n, _)| n % 3 > 0) {
            assert_eq!(client.response().status, 200, "{n}");
        }
        stream.check_alive("beside a herd");
    }
    wait_until("all are gone", || server.metrics().connections_open() == 2);
}
