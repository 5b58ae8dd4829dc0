//! A driver without an adapter: the core on a plain `polling` loop (epoll, kqueue, IOCP), on one
//! thread, without `async`. It serves the same tools as `mcp-sse demo`.
//!
//! `cargo run --release -p mcp-sse-core --example event_loop -- --port 8002`
//!
//! Each turn passes to the core what has happened (input before deadlines, so that input that
//! arrived in time counts), lets the application process its events, and then handles each
//! connection that the core names.

#![allow(clippy::disallowed_types, reason = "this is a driver; the core itself opens no socket")]

mod app;

use core::time::Duration;
use std::io::{self, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;

use app::{App, is_temporary};
use mcp_sse_core::{Clock, Config, ConnId, Interest, Peer, Server, ServerPhase, Time};
use polling::{Event, Events, PollMode, Poller};

/// The poller identifies a connection by its slot, and the listener by a number that no slot has.
const LISTENER: usize = usize::MAX - 1;
/// How long accepting pauses when the system has no descriptor or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    app::main(run)
}

fn run(listener: TcpListener, config: Config) -> io::Result<()> {
    let poller = Arc::new(Poller::new()?);
    let waker = poller.clone();
    let signals = app::signals(move || waker.notify().expect("the poller is there"))?;
    listener.set_nonblocking(true)?;
    // SAFETY: the listener is removed from the poller before it is dropped, at a signal.
    unsafe { poller.add_with_mode(&listener, Event::none(LISTENER), PollMode::Level)? };
    let clock = Clock::start();
    let mut driver = Driver {
        poller: poller.clone(),
        now: clock.now(),
        server: Server::new(config, Box::new(app::entropy), clock.now()),
        app: App::default(),
        listener: Some(listener),
        accepting: false,
        accept_at: Time::ZERO,
        sockets: Vec::new(),
        buffer: vec![0; 64 << 10],
    };
    let mut events = Events::new();
    while driver.server.phase() != ServerPhase::Drained {
        driver.arm_listener()?;
        let pause = (driver.accept_at > driver.now).then_some(driver.accept_at);
        let timer = driver.server.poll_timeout().map(|deadline| deadline.at);
        let next = pause.into_iter().chain(timer).min();
        events.clear();
        poller.wait(&mut events, next.map(|at| at.saturating_since(clock.now())))?;
        driver.now = clock.now();
        driver.server.handle_wall_clock(clock.unix_seconds());
        if signals.obey(&mut driver.server, driver.now) {
            driver.listener.take().map_or(Ok(()), |listener| poller.delete(&listener))?;
        }
        for event in events.iter() {
            match event.key {
                LISTENER => driver.accept(),
                slot => driver.ready(slot),
            }
        }
        driver.server.handle_timeout(driver.now);
        driver.process_events();
    }
    Ok(())
}

struct Driver {
    poller: Arc<Poller>,
    now: Time,
    server: Server,
    app: App,
    /// `None` after the server has started to shut down.
    listener: Option<TcpListener>,
    accepting: bool,
    accept_at: Time,
    sockets: Vec<Option<Socket>>,
    buffer: Vec<u8>,
}

struct Socket {
    conn: ConnId,
    stream: TcpStream,
    /// Whether the poller waits for the socket to be readable, and writable.
    armed: (bool, bool),
}

impl Driver {
    fn arm_listener(&mut self) -> io::Result<()> {
        let accepting = self.server.can_accept() && self.accept_at <= self.now;
        if let Some(listener) = self.listener.as_ref().filter(|_| accepting != self.accepting) {
            self.accepting = accepting;
            let interest = Event::new(LISTENER, accepting, false);
            self.poller.modify_with_mode(listener, interest, PollMode::Level)?;
        }
        Ok(())
    }

    fn accept(&mut self) {
        while let Some(listener) = self.listener.as_ref().filter(|_| self.server.can_accept()) {
            match listener.accept() {
                // An error means that the peer has closed the connection already.
                Ok((stream, _)) => drop(self.open(stream)),
                Err(error) if app::is_passing(&error) => return,
                Err(error) => {
                    log::warn!("cannot accept: {error}");
                    return self.accept_at = self.now.saturating_add(ACCEPT_PAUSE);
                }
            }
        }
    }

    fn open(&mut self, stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let peer = Peer::tcp(stream.peer_addr()?, stream.local_addr()?);
        let conn = self.server.accept(peer, self.now).map_err(io::Error::other)?;
        let (slot, armed) = (conn.slot(), (true, false));
        // SAFETY: the socket is removed from the poller before it is dropped, in `end`.
        let added =
            unsafe { self.poller.add_with_mode(&stream, Event::readable(slot), PollMode::Level) };
        self.sockets.resize_with(self.sockets.len().max(slot + 1), || None);
        self.sockets[slot] = Some(Socket { conn, stream, armed });
        added.inspect_err(|_| self.end(conn))
    }

    /// Handles a socket that can be read or written, or has failed.
    fn ready(&mut self, slot: usize) {
        let Some(socket) = &mut self.sockets[slot] else { return };
        let conn = socket.conn;
        match socket.armed {
            // The poller waits for nothing here, so it reports a reset.
            (false, false) => return self.end(conn),
            (false, true) => {}
            (true, _) => match socket.stream.read(&mut self.buffer) {
                Ok(0) => self.server.handle_eof(conn, self.now),
                Ok(count) => self.server.handle_input(conn, &self.buffer[..count], self.now),
                Err(error) if is_temporary(&error) => {}
                Err(_) => return self.end(conn),
            },
        }
        self.perform_io(conn);
    }

    fn process_events(&mut self) {
        loop {
            self.app.serve(&mut self.server, self.now);
            let Some(conn) = self.server.poll_wake() else { return };
            self.perform_io(conn);
        }
    }

    /// Performs the I/O that the core asks for on this connection.
    fn perform_io(&mut self, conn: ConnId) {
        let Some(Some(socket)) = self.sockets.get_mut(conn.slot()) else { return };
        let wanted = loop {
            match self.server.interest(conn) {
                Interest::Io { read, write: false } => break (read, false),
                Interest::Io { read, write: true } => {
                    match self.server.transmit(conn).write_to(&mut socket.stream) {
                        Ok(count) => self.server.handle_written(conn, count, self.now),
                        Err(error) if is_temporary(&error) => break (read, true),
                        Err(_) => return self.end(conn),
                    }
                }
                Interest::Linger => {
                    // This may be repeated; it has no effect after the first time.
                    let _ = socket.stream.shutdown(Shutdown::Write);
                    break (true, false);
                }
                Interest::Close => return self.end(conn),
            }
        };
        if wanted != socket.armed {
            socket.armed = wanted;
            let interest = Event::new(conn.slot(), wanted.0, wanted.1);
            if self.poller.modify_with_mode(&socket.stream, interest, PollMode::Level).is_err() {
                self.end(conn);
            }
        }
    }

    fn end(&mut self, conn: ConnId) {
        if let Some(socket) = self.sockets.get_mut(conn.slot()).and_then(Option::take) {
            let _ = self.poller.delete(&socket.stream);
            self.server.handle_disconnect(conn, self.now);
        }
    }
}
