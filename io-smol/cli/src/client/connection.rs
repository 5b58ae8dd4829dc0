//! A stream of bytes, and waiting with a deadline. Knows neither how the stream was opened nor what is sent on it.

use core::pin::Pin;
use std::time::Instant;

use smol::Timer;
use smol::future::or;
use smol::io::{AsyncRead, AsyncWrite};

/// A stream of bytes in both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

/// A connection. Dropping it closes it.
pub(crate) type Connection = Pin<Box<dyn Duplex>>;

/// Waits for `future` until `deadline`. `None` means that the time has passed.
pub(crate) async fn until<T>(deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
    or(async { Some(future.await) }, async {
        Timer::at(deadline).await;
        None
    })
    .await
}
