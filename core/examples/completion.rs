//! A driver for completion-based I/O: the core on Linux's io_uring. It serves the same tools as
//! `mcp-sse demo`.
//!
//! `cargo run --release -p mcp-sse-core --example completion -- --port 8003`
//!
//! It is structured like `event_loop`, with one difference: the kernel uses buffers until it
//! reports completion. A read therefore gets a buffer that its socket owns, and a write owns shares
//! in the bytes it sends ([`Transmit::detach`]). Both stay valid whatever the core does meanwhile.
//!
//! [`Transmit::detach`]: mcp_sse_core::Transmit::detach

#![allow(clippy::disallowed_types, reason = "this is a driver; the core itself opens no socket")]

use std::process::ExitCode;

mod app;

fn main() -> ExitCode {
    app::main(run)
}

#[cfg(target_os = "linux")]
use ring::run;

#[cfg(not(target_os = "linux"))]
fn run(_: std::net::TcpListener, _: mcp_sse_core::Config) -> std::io::Result<()> {
    Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "io_uring is Linux's"))
}

#[cfg(target_os = "linux")]
mod ring {
    use core::time::Duration;
    use std::io::{self, ErrorKind, IoSlice, Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::os::unix::net::UnixStream;

    use io_uring::types::{Fd, SubmitArgs, Timespec};
    use io_uring::{IoUring, opcode, squeue};
    use mcp_sse_core::{
        Clock, Config, ConnId, Detached, Interest, Peer, Server, ServerPhase, Time,
    };

    use crate::app::{self, App};

    const ENTRIES: u32 = 1_024;
    /// The size of the buffer of each read. Every connection has one, idle connections too.
    const READ_BYTES: usize = 4 << 10;
    /// How many bytes are detached for one write, and the largest number of pieces, which the
    /// system limits.
    const WRITE_BYTES: usize = 256 << 10;
    const PIECES: usize = 1_024;
    /// How long accepting pauses when the system has no descriptor or memory for a connection.
    const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
    const POLLIN: u32 = 1;

    /// The number by which a completion is identified. For a socket it is its slot times two, plus
    /// one for writes.
    const ACCEPT: u64 = u64::MAX;
    const SIGNAL: u64 = u64::MAX - 1;
    const CANCEL: u64 = u64::MAX - 2;

    const fn read_of(slot: usize) -> u64 {
        2 * slot as u64
    }

    const fn write_of(slot: usize) -> u64 {
        2 * slot as u64 + 1
    }

    struct Driver {
        ring: IoUring,
        now: Time,
        server: Server,
        app: App,
        /// `None` after the server has started to shut down.
        listener: Option<TcpListener>,
        /// Whether an accept is in progress.
        accepting: bool,
        accept_at: Time,
        /// The sockets, indexed by the connection's slot.
        sockets: Vec<Option<Socket>>,
        /// Completions: their numbers and results.
        done: Vec<(u64, i32)>,
    }

    struct Socket {
        conn: ConnId,
        stream: TcpStream,
        buffer: Box<[u8]>,
        /// Whether a read into `buffer` is in progress.
        reading: bool,
        /// The write in progress.
        writing: Option<Writing>,
        /// Whether the connection is ending: no operation is started, and the socket is removed
        /// when the last operation is complete.
        ending: bool,
    }

    /// A vectored write in progress: shares in the bytes, and slices of them.
    struct Writing {
        pieces: Box<[IoSlice<'static>]>,
        _bytes: Detached,
    }

    impl Writing {
        fn new(bytes: Detached) -> Self {
            // SAFETY: the bytes do not move or change while `bytes` lives, which is as long as the
            // slices live.
            let extend = |piece: &[u8]| unsafe {
                IoSlice::new(core::slice::from_raw_parts(piece.as_ptr(), piece.len()))
            };
            Self { pieces: bytes.chunks().take(PIECES).map(extend).collect(), _bytes: bytes }
        }
    }

    pub(crate) fn run(listener: TcpListener, config: Config) -> io::Result<()> {
        let (mut signalled, signal) = UnixStream::pair()?;
        signalled.set_nonblocking(true)?;
        signal.set_nonblocking(true)?;
        // If the queue is full, the loop is being woken already.
        let signals = app::signals(move || drop((&signal).write(&[0])))?;
        let clock = Clock::start();
        let mut driver = Driver {
            ring: IoUring::new(ENTRIES)?,
            now: clock.now(),
            server: Server::new(config, Box::new(app::entropy), clock.now()),
            app: App::default(),
            listener: Some(listener),
            accepting: false,
            accept_at: Time::ZERO,
            sockets: Vec::new(),
            done: Vec::new(),
        };
        let wait = opcode::PollAdd::new(Fd(signalled.as_raw_fd()), POLLIN).build();
        driver.submit(wait.clone(), SIGNAL);
        while driver.server.phase() != ServerPhase::Drained {
            driver.accept();
            let pause = (driver.accept_at > driver.now).then_some(driver.accept_at);
            let timer = driver.server.poll_timeout().map(|deadline| deadline.at);
            let next = pause.into_iter().chain(timer).min();
            if driver.done.is_empty() {
                driver.wait(next.map(|at| at.saturating_since(clock.now())));
            }
            driver.now = clock.now();
            driver.server.handle_wall_clock(clock.unix_seconds());
            driver.reap();
            for (what, result) in core::mem::take(&mut driver.done) {
                match what {
                    ACCEPT => driver.accepted(result),
                    SIGNAL => {
                        let _ = signalled.read(&mut [0; 16]);
                        driver.submit(wait.clone(), SIGNAL);
                    }
                    CANCEL => {}
                    _ => driver.completed(what, result),
                }
            }
            driver.server.handle_timeout(driver.now);
            if signals.obey(&mut driver.server, driver.now) {
                driver.stop_accepting();
            }
            driver.settle();
        }
        Ok(())
    }

    impl Driver {
        fn submit(&mut self, entry: squeue::Entry, what: u64) {
            let entry = entry.user_data(what);
            // SAFETY: an entry points into its `Socket` on the heap, which is kept until the
            // operation is complete; see `end`.
            while unsafe { self.ring.submission().push(&entry) }.is_err() {
                // The queue is full: submit its entries to the kernel.
                must(self.ring.submit());
                self.reap();
            }
        }

        fn reap(&mut self) {
            let ended = self.ring.completion().map(|entry| (entry.user_data(), entry.result()));
            self.done.extend(ended);
        }

        fn wait(&self, timeout: Option<Duration>) {
            let timespec = timeout.map(Timespec::from);
            let args = SubmitArgs::new();
            let waited = match &timespec {
                Some(timespec) => {
                    self.ring.submitter().submit_with_args(1, &args.timespec(timespec))
                }
                None => self.ring.submit_and_wait(1),
            };
            must(waited);
        }

        fn stop_accepting(&mut self) {
            if self.listener.take().is_some() && self.accepting {
                self.submit(opcode::AsyncCancel::new(ACCEPT).build(), CANCEL);
            }
        }

        fn accept(&mut self) {
            let may = !self.accepting && self.server.can_accept() && self.accept_at <= self.now;
            if let Some(listener) = self.listener.as_ref().filter(|_| may) {
                let fd = Fd(listener.as_raw_fd());
                let (address, len) = (core::ptr::null_mut(), core::ptr::null_mut());
                self.submit(opcode::Accept::new(fd, address, len).build(), ACCEPT);
                self.accepting = true;
            }
        }

        fn accepted(&mut self, result: i32) {
            self.accepting = false;
            if result >= 0 {
                // SAFETY: the kernel has just returned this new descriptor.
                let stream = unsafe { TcpStream::from_raw_fd(result) };
                // An error means that the peer has closed the connection already.
                drop(self.open(stream));
                return;
            }
            let error = io::Error::from_raw_os_error(-result);
            if self.listener.is_some() && !app::is_passing(&error) {
                log::warn!("cannot accept: {error}");
                self.accept_at = self.now.saturating_add(ACCEPT_PAUSE);
            }
        }

        fn open(&mut self, stream: TcpStream) -> io::Result<()> {
            stream.set_nodelay(true)?;
            let peer = Peer::tcp(stream.peer_addr()?, stream.local_addr()?);
            let conn = self.server.accept(peer, self.now).map_err(io::Error::other)?;
            let slot = conn.slot();
            self.sockets.resize_with(self.sockets.len().max(slot + 1), || None);
            self.sockets[slot] = Some(Socket {
                conn,
                stream,
                buffer: vec![0; READ_BYTES].into(),
                reading: false,
                writing: None,
                ending: false,
            });
            self.tend(conn);
            Ok(())
        }

        /// Handles the completion of a read or a write.
        fn completed(&mut self, what: u64, result: i32) {
            let Some(Some(socket)) = self.sockets.get_mut((what / 2) as usize) else { return };
            let (conn, read) = (socket.conn, what & 1 == 0);
            if read {
                socket.reading = false;
            } else {
                socket.writing = None;
            }
            match usize::try_from(result) {
                Ok(0) if read => self.server.handle_eof(conn, self.now),
                Ok(count) if read => {
                    self.server.handle_input(conn, &socket.buffer[..count], self.now);
                }
                Ok(count) => self.server.handle_written(conn, count, self.now),
                Err(_) if app::is_temporary(&io::Error::from_raw_os_error(-result)) => {}
                Err(_) => socket.ending = true,
            }
            self.tend(conn);
        }

        /// Processes events until there is nothing left to do.
        fn settle(&mut self) {
            loop {
                self.app.serve(&mut self.server, self.now);
                let Some(conn) = self.server.poll_wake() else { return };
                self.tend(conn);
            }
        }

        /// Starts the operations that the core asks for and that are not in progress.
        fn tend(&mut self, conn: ConnId) {
            let Some(Some(socket)) = self.sockets.get_mut(conn.slot()) else { return };
            let (read, write) = match self.server.interest(conn) {
                _ if socket.ending => return self.end(conn),
                Interest::Io { read, write } => (read, write),
                Interest::Linger => {
                    // This may be repeated; it has no effect after the first time.
                    let _ = socket.stream.shutdown(Shutdown::Write);
                    (true, false)
                }
                Interest::Close => return self.end(conn),
            };
            let fd = Fd(socket.stream.as_raw_fd());
            let mut entries = [None, None];
            if read && !socket.reading {
                socket.reading = true;
                let (start, len) = (socket.buffer.as_mut_ptr(), READ_BYTES as u32);
                entries[0] =
                    Some((opcode::Recv::new(fd, start, len).build(), read_of(conn.slot())));
            }
            if write && socket.writing.is_none() {
                let writing = Writing::new(self.server.transmit(conn).detach(WRITE_BYTES));
                let (start, count) = (writing.pieces.as_ptr().cast(), writing.pieces.len() as u32);
                entries[1] =
                    Some((opcode::Writev::new(fd, start, count).build(), write_of(conn.slot())));
                socket.writing = Some(writing);
            }
            for (entry, what) in entries.into_iter().flatten() {
                self.submit(entry, what);
            }
        }

        /// Ends a connection when no operation is in progress. Its handle and its slot stay in use
        /// until then.
        fn end(&mut self, conn: ConnId) {
            let Some(place) = self.sockets.get_mut(conn.slot()) else { return };
            let Some(socket) = place else { return };
            if socket.reading || socket.writing.is_some() {
                socket.ending = true;
                // The operations in progress fail now.
                let _ = socket.stream.shutdown(Shutdown::Both);
            } else {
                *place = None;
                self.server.handle_disconnect(conn, self.now);
            }
        }
    }

    /// The result of entering the ring. It fails only temporarily, or because of a mistake in this
    /// program, after which continuing would free memory that the kernel still writes to.
    fn must(entered: io::Result<usize>) {
        /// The wait has timed out.
        const ETIME: i32 = 62;
        /// The completion queue is full and has to be processed first.
        const EBUSY: i32 = 16;
        if let Err(error) = entered {
            let passing = matches!(error.raw_os_error(), Some(ETIME | EBUSY));
            if !passing && error.kind() != ErrorKind::Interrupted {
                eprintln!("io_uring does not go on: {error}");
                #[allow(clippy::disallowed_methods, reason = "the kernel has our memory")]
                std::process::abort();
            }
        }
    }
}
