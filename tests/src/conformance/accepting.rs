//! Accepting: connections that wait in the backlog, and a lack of file descriptors.

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

/// Connections beyond the limit wait in the backlog, and are accepted when there is room.
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
        // The server takes many turns, and accepts none of the waiting connections.
        for _ in 0..50 {
            assert_eq!(third.ask(READY).status, 200);
            stream.check_alive("while the server is full");
        }
        assert!(!waiting.iter().any(Client::has_input));
        let metrics = server.metrics();
        assert_eq!((metrics.connections_accepted, metrics.connections_refused), (4, 0));
        // One connection is free, and the waiting ones get it one after the other.
        drop(fourth);
        for client in &mut waiting {
            assert_eq!(client.response().status, 200);
            client.end();
            client.expect_end();
        }
        stream.check_alive("afterwards");
    }
}

/// Clients that connect and disconnect before the server accepts. The accept then returns a
/// connection with an error, or none, depending on the system.
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
                    // The end of the test closes the channel, which is as good.
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
/// Fewer than the connection limit, which the server lowers to what its descriptors suffice for.
const LEFT_BY_APPLICATION: usize = 50;
/// More than the descriptors that are left.
const CONNECTIONS: usize = 64;

/// The application has opened so many files that fewer descriptors are left than the server counted
/// on. Accepting fails, pauses, and resumes when descriptors are free again; open connections are
/// served meanwhile. The server runs in a child process with few descriptors, which runs this test
/// again.
pub fn accepting_pauses_without_descriptors(on: &Adapter) {
    accept_without_descriptors(on, 1);
}

/// The same with several workers and one acceptor, because the socket cannot be shared.
pub fn accepting_pauses_without_descriptors_with_several_workers(on: &Adapter) {
    accept_without_descriptors(on, 2);
}

fn accept_without_descriptors(on: &Adapter, workers: usize) {
    let part = format!("few descriptors: {}, {workers}", on.name);
    if let Some(role) = child::role() {
        // The child process tests one adapter.
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
    // Until the child has counted its attempts, it gets no other requests.
    assert_eq!(child.line(), "it waits");
    stream.check_alive("without descriptors");
    assert!(!last.has_input());
    stream.check_alive("without descriptors, again");
    first.truncate(first.len() / 2);
    assert_eq!(last.response().status, 200);
    // The other connections are accepted too, and new ones.
    for client in &mut first {
        assert_eq!(client.ask(READY).status, 200);
    }
    stream.check_alive("with descriptors again");
    Stream::open(address).check_alive("a new session");
}

/// The warnings about failed accepts in this process, and the attempts that they count.
static WARNINGS: AtomicU32 = AtomicU32::new(0);
static ATTEMPTS: AtomicU32 = AtomicU32::new(0);

struct WarningCounter;

impl log::Log for WarningCounter {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let pairs = record.key_values();
            let event = pairs.get("event".into()).map(|event| event.to_string());
            assert_eq!(event.as_deref(), Some("accept_failed"), "{}", record.args());
            // The number of failures since the last line, if there were any.
            let before = pairs.get("suppressed".into()).and_then(|count| count.to_u64());
            let before = before.map_or(0, |count| u32::try_from(count).unwrap_or(1_000_000));
            ATTEMPTS.fetch_add(before + 1, Ordering::Relaxed);
            WARNINGS.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

fn serve_with_few_descriptors(on: &Adapter, workers: usize) {
    /// The pause after a failed accept, and the interval of warnings.
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
    // After the first response, the server has opened all files that it needs itself.
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
    // Attempts are counted, because the processor time of this process depends on others.
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

/// Many connections at once, some of which have ended when the server accepts them.
pub fn many_connections_at_once_are_all_answered(on: &Adapter) {
    let server = RunningServer::start(on, Config::default(), handlers::echo());
    let mut stream = Stream::open(server.address());
    for _ in 0..10 {
        let mut clients: Vec<_> = (0..100).map(|_| Client::connect(server.address())).collect();
        // A third sends nothing, a third sends a request, and a third sends a request and ends its
        // side.
        for (n, client) in clients.iter_mut().enumerate().filter(|(n, _)| n % 3 > 0) {
            client.send(READY);
            if n % 3 == 2 {
                client.end();
            }
        }
        for (n, client) in clients.iter_mut().enumerate().filter(|(n, _)| n % 3 > 0) {
            assert_eq!(client.response().status, 200, "{n}");
        }
        stream.check_alive("beside many connections");
    }
    wait_until("all are gone", || server.metrics().connections_open() == 2);
}
