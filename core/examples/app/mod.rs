//! What the examples of this crate share: their flags, and an application, which serves the demo to
//! every session.
//!
//! Knows: how to wait for room without a task to wait in. Does not know: sockets.

#![allow(clippy::disallowed_types, reason = "a driver's; the core itself opens no socket")]

use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicBool, Ordering};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use log::LevelFilter;
use mcp_sse_core::jsonrpc::Message;
use mcp_sse_core::{
    Config, EntropyUnavailable, Event, Frame, Limits, SendError, Server, SessionId, Time,
};
use mcp_sse_demo::banner::Banner;
use mcp_sse_demo::listen_address::ListenAddress;
use mcp_sse_demo::protocol::{Burst, DemoReply, answer};
use mcp_sse_demo::signals;

/// Serve a small MCP server with the tools add, echo, burst and broadcast, to try clients with.
#[derive(Debug, Parser)]
struct Options {
    /// The address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// The port to listen on; 0 picks a free one and prints it.
    #[arg(long, default_value_t = 8002)]
    port: u16,
    /// The most connections at once.
    #[arg(long, value_name = "N", default_value_t = 10_240)]
    max_connections: u32,
    /// The most sessions at once.
    #[arg(long, value_name = "N", default_value_t = 8_192)]
    max_sessions: u32,
    /// How much to log to stderr: off, error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: LevelFilter,
}

/// The `main` of an example: reads the flags, listens, says where, and has `serve` serve.
pub(crate) fn main(serve: impl FnOnce(TcpListener, Config) -> io::Result<()>) -> ExitCode {
    let options = Options::parse();
    env_logger::Builder::new().filter_level(options.log_level).init();
    let run = || {
        let limits = Limits {
            connections_max: Some(options.max_connections),
            sessions_max: Some(options.max_sessions),
            ..Limits::default()
        };
        let config = Config::builder().limits(limits).build().map_err(io::Error::other)?;
        let listener = TcpListener::bind(SocketAddr::new(options.host, options.port))?;
        let address = ListenAddress::Tcp(listener.local_addr()?);
        // A closed stdout is no reason not to serve.
        let _ = write!(io::stdout(), "{}", Banner::new(&config, address));
        serve(listener, config)
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What signals have asked for.
#[derive(Default)]
pub(crate) struct Signals {
    shutdown: AtomicBool,
    abort: AtomicBool,
}

impl Signals {
    /// Does what was asked for since the last call. Returns whether that was anything.
    pub(crate) fn obey(&self, server: &mut Server, now: Time) -> bool {
        let shutdown = self.shutdown.swap(false, Ordering::Relaxed);
        let abort = self.abort.swap(false, Ordering::Relaxed);
        if shutdown {
            server.shutdown(now);
        }
        if abort {
            server.abort(now);
        }
        shutdown || abort
    }
}

/// Notes each signal to end and calls `wake` at it, from a thread that does nothing else: the first one
/// asks to stop in order, another one at once.
pub(crate) fn signals(wake: impl Fn() + Send + Sync + 'static) -> io::Result<Arc<Signals>> {
    let signals = Arc::<Signals>::default();
    let (first, further) = (signals.clone(), signals.clone());
    let wake = Arc::new(wake);
    let again = wake.clone();
    signals::on_termination(
        move || {
            first.shutdown.store(true, Ordering::Relaxed);
            wake();
        },
        move || {
            further.abort.store(true, Ordering::Relaxed);
            again();
        },
    )?;
    Ok(signals)
}

/// Whether it is worth trying again.
pub(crate) fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Whether accepting may go on at once: nobody was there, or somebody has gone already.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    is_temporary(error) || error.kind() == io::ErrorKind::ConnectionAborted
}

/// The operating system's randomness.
pub(crate) fn entropy(dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
    getrandom::fill(dest).map_err(|_| EntropyUnavailable)
}

/// The demo, for every session of one server.
#[derive(Default)]
pub(crate) struct App {
    /// By the session's slot.
    desks: Vec<Option<Desk>>,
}

/// One session's work: what has come, and what its stream had no room for.
struct Desk {
    session: SessionId,
    inbox: VecDeque<Message>,
    /// What the core was told of `inbox`.
    backlog: u32,
    burst: Option<Burst>,
    unsent: Option<Frame>,
}

impl App {
    /// Takes every event there is, and does what it asks for.
    pub(crate) fn serve(&mut self, server: &mut Server, now: Time) {
        while let Some(event) = server.poll_event() {
            match event {
                Event::Opened { session, .. } => {
                    let slot = session.slot();
                    self.desks.resize_with(self.desks.len().max(slot + 1), || None);
                    self.desks[slot] = Some(Desk::new(session));
                }
                Event::Message { session, message, .. } => {
                    if let Some(desk) = &mut self.desks[session.slot()] {
                        desk.inbox.push_back(message);
                        desk.work(server, now);
                    }
                }
                Event::Unblocked { session } => {
                    if let Some(desk) = &mut self.desks[session.slot()] {
                        desk.work(server, now);
                    }
                }
                Event::Closed { session, .. } => self.desks[session.slot()] = None,
                // Nothing waits for this one, and no configuration of these examples makes others.
                Event::Drained | _ => {}
            }
        }
    }
}

impl Desk {
    const fn new(session: SessionId) -> Self {
        Self { session, inbox: VecDeque::new(), backlog: 0, burst: None, unsent: None }
    }

    /// Answers what has come, in order, for as long as the stream has room.
    fn work(&mut self, server: &mut Server, now: Time) {
        while self.flush(server, now) {
            let Some(message) = self.inbox.pop_front() else { break };
            match answer(&message) {
                DemoReply::None => {}
                DemoReply::Frame(frame) => self.unsent = Some(frame),
                DemoReply::Burst(burst) => self.burst = Some(burst),
                DemoReply::Broadcast { notice, then } => {
                    let all: Vec<_> = server.sessions().map(|session| session.id()).collect();
                    let reach = server.broadcast(all, &notice, now);
                    self.unsent = Some(then.reached(reach.queued));
                }
            }
        }
        // A client whose answers wait is to notice, so what it sends meanwhile counts as unread.
        let backlog = u32::try_from(self.inbox.len()).unwrap_or(u32::MAX);
        if backlog != self.backlog {
            self.backlog = backlog;
            let bytes = self.inbox.iter().map(|message| message.body().len() as u64).sum();
            server.set_backlog(self.session, backlog, bytes, now);
        }
    }

    /// Sends what there is to send. Says whether all of it has found room.
    fn flush(&mut self, server: &mut Server, now: Time) -> bool {
        loop {
            let next = self.unsent.take().or_else(|| self.burst.as_mut()?.next());
            let Some(frame) = next else { return true };
            match server.send(self.session, &frame, now) {
                Ok(()) => {}
                // `Event::Unblocked` follows.
                Err(SendError::Full) => {
                    self.unsent = Some(frame);
                    return false;
                }
                // `Event::Closed` follows.
                Err(SendError::Gone) => return false,
                Err(error) => log::error!("{}: a frame was dropped: {error}", self.session),
            }
        }
    }
}
