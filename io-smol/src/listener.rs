//! A listening socket, and the two ways to serve what it accepts.

use core::future::poll_fn;
use core::net::SocketAddr;
use core::task::{Poll, ready};
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
#[cfg(unix)]
use std::path::Path;
use std::rc::Rc;

use async_executor::LocalExecutor;
use async_io::Timer;
#[cfg(feature = "tls")]
use mcp_sse_core::driver::Tls;
use mcp_sse_core::driver::{AcceptTrouble, Bound, Handle, Session, Shard, Turn};
use mcp_sse_core::{Clock, Config};

use crate::door::Door;
use crate::socket::{Alarm, Stream, system};

/// A listening socket with a configuration: a server that has not begun to serve.
#[derive(Debug)]
pub struct Listener(Bound);

/// Binds `address` and serves on this thread: [`Listener::bind`], then
/// [`Listener::serve_local`].
///
/// # Errors
///
/// As [`Listener::bind`] and [`Listener::serve_local`].
pub async fn serve_local<H, F>(
    address: impl ToSocketAddrs,
    config: Config,
    handler: H,
) -> io::Result<()>
where
    H: Fn(Session) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    Listener::bind(address, config)?.serve_local(handler).await
}

/// Binds `address` and serves on a thread of its own: [`Listener::bind`], then
/// [`Listener::serve`].
///
/// # Errors
///
/// As [`Listener::bind`] and [`Listener::serve`].
pub async fn serve(
    address: impl ToSocketAddrs,
    config: Config,
    on_session: impl FnMut(Session) + Send + 'static,
) -> io::Result<()> {
    Listener::bind(address, config)?.serve(on_session).await
}

impl Listener {
    /// Binds a TCP address; port 0 is any free port.
    ///
    /// # Errors
    ///
    /// Those of binding: the address is in use, not this machine's, or not allowed.
    pub fn bind(address: impl ToSocketAddrs, config: Config) -> io::Result<Self> {
        Bound::bind(address, config).map(Self)
    }

    /// Takes a socket that is bound and listening already.
    #[must_use]
    pub fn from_std(socket: TcpListener, config: Config) -> Self {
        Self(Bound::from_std(socket, config))
    }

    /// Listens on a Unix socket at `path`, for this user alone: the file has mode 0600, and is
    /// removed when the server has ended. A socket there that nobody listens on is replaced; anything
    /// else is left alone. Over it, `Host` is checked as on loopback.
    ///
    /// # Errors
    ///
    /// Those of binding; [`AddrInUse`](io::ErrorKind::AddrInUse) if a server listens there, and
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) if what is there is not a socket.
    #[cfg(unix)]
    pub fn bind_unix(path: impl AsRef<Path>, config: Config) -> io::Result<Self> {
        Self::bind_unix_with_mode(path, 0o600, config)
    }

    /// [`bind_unix`](Self::bind_unix) with another mode, whatever the umask: 0660 to let a group in.
    ///
    /// # Errors
    ///
    /// As [`bind_unix`](Self::bind_unix).
    #[cfg(unix)]
    pub fn bind_unix_with_mode(
        path: impl AsRef<Path>,
        mode: u32,
        config: Config,
    ) -> io::Result<Self> {
        Bound::bind_unix(path.as_ref(), mode, config).map(Self)
    }

    /// Speaks TLS, and nothing else, with everybody who connects.
    ///
    /// A handshake has to be complete, and a request head behind it, within
    /// [`Timeouts::head`](crate::Timeouts::head) of the accept. Whoever speaks HTTP instead is told
    /// so, in HTTP. TLS is for TCP: a server with both this and a Unix socket fails when it is to
    /// serve.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.0.set_tls(tls);
        self
    }

    /// The address that clients connect to.
    ///
    /// # Errors
    ///
    /// If the operating system cannot tell, or this is a Unix socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// A hold on the server that this will be: to stop it, to reach every session.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.0.handle.clone()
    }

    /// Serves on this thread. `handler` is called once for each session, and what it returns runs
    /// here as well; it is dropped if it still runs when the server has ended.
    ///
    /// Ends after [`Handle::shutdown`], when the last connection has. Dropping the future ends
    /// everything at once. Any executor or `block_on` will do to run it.
    ///
    /// # Errors
    ///
    /// If the listening socket cannot be made non-blocking.
    pub async fn serve_local<H, F>(self, handler: H) -> io::Result<()>
    where
        H: Fn(Session) -> F + 'static,
        F: Future<Output = ()> + 'static,
    {
        let executor = Rc::new(LocalExecutor::new());
        let spawner = Rc::downgrade(&executor);
        let on_session = move |session| {
            if let Some(executor) = spawner.upgrade() {
                executor.spawn(handler(session)).detach();
            }
        };
        self.run(&executor, on_session).await
    }

    /// Serves on a thread of its own. `on_session` is called there once for each session: it hands
    /// the session on, to a task on whatever executor, and returns without blocking.
    ///
    /// Ends after [`Handle::shutdown`], when the last connection has. Dropping the future shuts the
    /// server down.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started, or the listening socket cannot be made non-blocking.
    pub async fn serve(self, on_session: impl FnMut(Session) + Send + 'static) -> io::Result<()> {
        self.0
            .on_a_thread(move |bound| {
                let executor = Rc::new(LocalExecutor::new());
                async_io::block_on(Self(bound).run(&executor, on_session))
            })
            .await
    }

    async fn run(
        self,
        executor: &Rc<LocalExecutor<'static>>,
        mut on_session: impl FnMut(Session) + 'static,
    ) -> io::Result<()> {
        #[cfg(feature = "tls")]
        let tls = self.0.tls()?;
        let Bound { door, config, controls, .. } = self.0;
        let door = Door::new(door)?;
        #[cfg(feature = "tls")]
        let door = door.tls(tls);
        let shard = Shard::new(config, Box::new(system), controls);
        // Tasks of their own, both: what `block_on` is given is polled at every wake-up of its
        // thread, and a turn is to come once, behind the reads that want it.
        executor.spawn(accept(door, shard.clone())).detach();
        let mut alarm = Alarm(Timer::never());
        let spawner = Rc::downgrade(executor);
        let turns = executor.spawn(async move {
            loop {
                match poll_fn(|cx| shard.poll_turn(cx, &mut alarm)).await {
                    Turn::Opened(session) => on_session(session),
                    Turn::Accepted(conn) => {
                        let Some(executor) = spawner.upgrade() else { return };
                        executor.spawn(shard.clone().connection(conn)).detach();
                    }
                    Turn::Drained => return,
                }
            }
        });
        executor.run(turns).await;
        Ok(())
    }
}

/// Accepts until the server stops.
async fn accept(door: Door, shard: Shard<Stream>) {
    let clock = Clock::start();
    let mut trouble = AcceptTrouble::default();
    loop {
        let accepted = poll_fn(|cx| {
            if !ready!(shard.poll_accepting(cx)) {
                return Poll::Ready(None);
            }
            door.poll_accept(cx).map(Some)
        });
        let accepted = match accepted.await {
            None => return,
            Some(Ok(accepted)) => accepted,
            Some(Err(error)) => {
                Timer::after(trouble.pause(&error, &clock)).await;
                continue;
            }
        };
        let (stream, peer) = match door.open(accepted) {
            Ok(opened) => opened,
            // Gone already.
            Err(error) => {
                log::debug!("a connection was gone before it was served: {error}");
                continue;
            }
        };
        shard.accept(stream, peer);
    }
}
