//! The part of an MCP HTTP+SSE server between the sans-IO core (`mcp-sse-core`) and an asynchronous runtime.
//!
//! Knows: tasks, threads, wakers, TLS, and the [`Session`] and [`Handle`] that an application holds. Does
//! not know: any runtime; an adapter implements [`Runtime`] for one. This is a crate of its own because
//! `mcp-sse-core` does no I/O.
//!
//! [`Listener`] is what an application starts with. Applications use it through an adapter,
//! `mcp-sse-smol` or `mcp-sse-tokio`, which names its runtime. [`Session`] and [`Handle`] are `Send`,
//! and may be used on any executor. The module [`guide`] explains how to serve.
//!
//! # A third runtime
//!
//! An adapter for another runtime is an afternoon's work. It needs at least
//!
//! - an `impl` of [`Runtime`]: sockets, a timer, and two ways to spawn;
//! - with the feature `tls`, an `impl` of [`TlsUpgrade`] for its TCP stream. The handshake itself comes from the
//!   crate that integrates rustls with the runtime, such as `futures-rustls` or `tokio-rustls`;
//! - an alias, `pub type Listener = mcp_sse_driver::Listener<MyRuntime>;`.
//!
//! The adapters for smol and tokio have fewer than 300 lines of code each, without the features `tower` and `rmcp` of
//! the one for tokio. The macro `conformance!`, in the
//! repository's folder `tests`, tests an adapter over real sockets.
//!
//! The following is a complete runtime that uses only the standard library. It polls every task once a millisecond,
//! also a task that was not woken, so it is slower than a real runtime:
//!
//! ```
//! # #[cfg(unix)] mod example {
//! use core::cell::RefCell;
//! use core::future::poll_fn;
//! use core::net::SocketAddr;
//! use core::pin::{Pin, pin};
//! use core::task::{Context, Poll, Waker};
//! use core::time::Duration;
//! use std::io::{self, IoSlice, Read, Write};
//! use std::net::{Shutdown, TcpListener, TcpStream};
//! use std::os::unix::net::{UnixListener, UnixStream};
//! use std::rc::Rc;
//! use std::thread;
//! use std::time::Instant;
//!
//! use mcp_sse_core::Config;
//! use mcp_sse_driver::{Listener, Runtime, ServeFunction, Socket, Timer};
//!
//! type Task = Pin<Box<dyn Future<Output = ()>>>;
//!
//! /// A runtime that polls all tasks once a millisecond, so it needs no waker.
//! enum Polling {}
//!
//! impl Runtime for Polling {
//!     type TcpListener = TcpListener;
//!     type TcpStream = Stream<TcpStream>;
//!     type UnixListener = UnixListener;
//!     type UnixStream = Stream<UnixStream>;
//!     type Timer = Deadline;
//!     type Tasks = Rc<RefCell<Vec<Task>>>; // New tasks.
//!     type Handlers = ();
//!
//!     fn block_on(future: impl Future<Output = io::Result<()>>) -> io::Result<()> {
//!         let mut future = pin!(future);
//!         loop {
//!             if let Poll::Ready(end) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
//!                 return end;
//!             }
//!             thread::sleep(Duration::from_millis(1));
//!         }
//!     }
//!
//!     async fn run_tasks<F: Future<Output = ()> + 'static>(main: impl FnOnce(Self::Tasks) -> F) {
//!         let new = Self::Tasks::default();
//!         let mut main = pin!(main(new.clone()));
//!         let mut tasks: Vec<Task> = Vec::new();
//!         poll_fn(|cx| {
//!             tasks.append(&mut new.borrow_mut());
//!             // A real runtime should survive a panic of a task: see `catch_unwind`.
//!             tasks.retain_mut(|task| task.as_mut().poll(cx).is_pending());
//!             main.as_mut().poll(cx)
//!         })
//!         .await;
//!     }
//!
//!     fn spawn(new: &Self::Tasks, task: impl Future<Output = ()> + 'static) {
//!         new.borrow_mut().push(Box::pin(task));
//!     }
//!
//!     async fn run_handlers(main: ServeFunction<()>) -> io::Result<()> {
//!         main(()).await
//!     }
//!
//!     fn run_handler<F: Future<Output = ()> + Send + 'static>(
//!         (): &(),
//!         handler: impl FnOnce() -> Option<F>,
//!     ) {
//!         if let Some(serving) = handler() {
//!             thread::spawn(|| Self::block_on(async { Ok(serving.await) }));
//!         }
//!     }
//!
//!     fn tcp_listener(socket: TcpListener) -> io::Result<TcpListener> {
//!         socket.set_nonblocking(true)?;
//!         Ok(socket)
//!     }
//!
//!     fn poll_accept_tcp(
//!         listener: &TcpListener,
//!         _: &mut Context<'_>,
//!     ) -> Poll<io::Result<(Self::TcpStream, SocketAddr)>> {
//!         ready(listener.accept()).map(|done| {
//!             let (stream, remote) = done?;
//!             Ok((Self::tcp_stream(stream)?, remote))
//!         })
//!     }
//!
//!     fn tcp_stream(stream: TcpStream) -> io::Result<Self::TcpStream> {
//!         stream.set_nonblocking(true)?;
//!         Ok(Stream(stream, TcpStream::shutdown))
//!     }
//!
//!     fn tcp_into_std(stream: Self::TcpStream) -> io::Result<TcpStream> {
//!         Ok(stream.0)
//!     }
//!
//!     fn tcp_setup(stream: &Self::TcpStream) -> io::Result<SocketAddr> {
//!         stream.0.set_nodelay(true)?;
//!         stream.0.local_addr()
//!     }
//!
//!     fn unix_listener(socket: UnixListener) -> io::Result<UnixListener> {
//!         socket.set_nonblocking(true)?;
//!         Ok(socket)
//!     }
//!
//!     fn poll_accept_unix(
//!         listener: &UnixListener,
//!         _: &mut Context<'_>,
//!     ) -> Poll<io::Result<Self::UnixStream>> {
//!         ready(listener.accept()).map(|done| Self::unix_stream(done?.0))
//!     }
//!
//!     fn unix_stream(stream: UnixStream) -> io::Result<Self::UnixStream> {
//!         stream.set_nonblocking(true)?;
//!         Ok(Stream(stream, UnixStream::shutdown))
//!     }
//!
//!     fn unix_into_std(stream: Self::UnixStream) -> io::Result<UnixStream> {
//!         Ok(stream.0)
//!     }
//! }
//!
//! /// A call that would block is tried again later.
//! fn ready<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
//!     match result {
//!         Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
//!         done => Poll::Ready(done),
//!     }
//! }
//!
//! struct Stream<T>(T, fn(&T, Shutdown) -> io::Result<()>);
//!
//! impl<T> Socket for Stream<T>
//! where
//!     for<'a> &'a T: Read + Write,
//! {
//!     fn poll_read(&mut self, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
//!         ready((&self.0).read(buffer))
//!     }
//!
//!     fn poll_write(
//!         &mut self,
//!         _: &mut Context<'_>,
//!         pieces: &[IoSlice<'_>],
//!     ) -> Poll<io::Result<usize>> {
//!         ready((&self.0).write_vectored(pieces))
//!     }
//!
//!     fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
//!         Poll::Ready(self.1(&self.0, Shutdown::Write))
//!     }
//! }
//!
//! #[derive(Default)]
//! struct Deadline(Option<Instant>);
//!
//! impl Timer for Deadline {
//!     fn set(&mut self, at: Instant) {
//!         self.0 = Some(at);
//!     }
//!
//!     fn poll(&mut self, _: &mut Context<'_>) -> Poll<()> {
//!         match self.0 {
//!             Some(at) if at <= Instant::now() => Poll::Ready(()),
//!             _ => Poll::Pending,
//!         }
//!     }
//! }
//!
//! # pub fn main() -> io::Result<()> {
//! let listener = Listener::<Polling>::bind("127.0.0.1:0", Config::default())?;
//! let address = listener.local_addr()?;
//! let client = thread::spawn(move || -> io::Result<String> {
//!     let mut stream = TcpStream::connect(address)?;
//!     stream.write_all(b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
//!     let mut received = String::new();
//!     stream.read_to_string(&mut received)?;
//!     Ok(received)
//! });
//! Polling::block_on(listener.serve_local(async |session| {
//!     session.server().shutdown(); // One session is enough for this example.
//! }))?;
//! assert!(client.join().expect("no panic")?.contains("event: endpoint"));
//! # Ok(())
//! # }
//! # }
//! # #[cfg(unix)] fn main() -> std::io::Result<()> { example::main() }
//! # #[cfg(not(unix))] fn main() {}
//! ```

#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod accept_queue;
mod addresses;
mod connection_source;
mod control;
mod decisions;
mod descriptors;
mod exchange;
pub mod guide;
mod handle;
mod handler;
mod listen_socket;
mod listener;
mod log_throttle;
mod metrics_watch;
#[cfg(feature = "prometheus")]
pub mod prometheus;
mod published;
mod runtime;
mod serve;
mod served_stream;
mod session;
mod session_mailbox;
mod session_slot;
mod shard;
mod shard_mailbox;
mod shard_set;
mod shared;
mod slots;
mod socket;
#[cfg(feature = "tls")]
mod tls;
mod turn;
#[cfg(unix)]
mod unix;
mod verdicts;
mod worker_count;
mod workers;

pub use addresses::ADDRESSES_MAX;
pub use decisions::{Authorizer, DECISIONS_MAX, DECISIONS_PER_ADDRESS_MAX};
pub use descriptors::Descriptors;
pub use exchange::{ExchangeClient, ExchangeRequest};
pub use handle::{Handle, ReplaceTokensError, Stopped};
pub use handler::{HandlerReturn, ReturnsFuture, ReturnsNothing};
pub use listener::Listener;
pub use log_throttle::LogThrottle;
pub use mcp_sse_core::SuppressedLines;
pub use metrics_watch::MetricsWatch;
pub use runtime::{Runtime, ServeFunction, ServeFuture, Timer};
/// The version of rustls whose configuration [`Tls::from_config`] takes.
#[cfg(feature = "tls")]
pub use rustls;
pub use serve::serve_exchanges;
pub use session::{Session, SessionSender};
pub use session_mailbox::Closed;
pub use socket::Socket;
#[cfg(feature = "tls")]
pub use tls::{Tls, TlsError, TlsProblem, TlsStream, TlsUpgrade};
pub use verdicts::{Decision, VerdictCache};
pub use worker_count::WORKERS_MAX;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
