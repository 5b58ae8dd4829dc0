//! A program without std that opens a session and answers a post, with its own panic handler and
//! allocator. If a dependency of the core used std, there would be two panic handlers, and this
//! would not link.
//!
//! It exits with 0 on success, and otherwise with the number of the step that failed.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

use mcp_sse_core::{
    Config, ConnId, Entropy, EntropyUnavailable, Event, Frame, Interest, Peer, Server, Time,
};

// For `main`, `memcpy` and other symbols that compiled code expects.
#[link(name = "c")]
unsafe extern "C" {
    fn abort() -> !;
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    // SAFETY: takes nothing and does not return.
    unsafe { abort() }
}

/// The precompiled `alloc` was built to unwind and refers to these two symbols. With `panic =
/// "abort"` they are never called.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    // SAFETY: takes nothing and does not return.
    unsafe { abort() }
}

#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() -> ! {
    // SAFETY: takes nothing and does not return.
    unsafe { abort() }
}

/// An allocator that hands out an arena from start to end and frees nothing.
struct Bump {
    arena: UnsafeCell<[u8; ARENA_BYTES]>,
    used: AtomicUsize,
}

const ARENA_BYTES: usize = 1 << 20;

// SAFETY: every byte of the arena is handed out at most once, by an atomic counter.
unsafe impl Sync for Bump {}

// SAFETY: blocks do not overlap, are aligned as asked, and stay valid for ever.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let wanted = layout.size() + layout.align();
        let start = self.used.fetch_add(wanted, Ordering::Relaxed);
        if start + wanted > ARENA_BYTES {
            return core::ptr::null_mut();
        }
        // SAFETY: `start + wanted` is within the arena, and aligning moves by less than `align`.
        unsafe {
            let block = self.arena.get().cast::<u8>().add(start);
            block.add(block.align_offset(layout.align()))
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: Bump =
    Bump { arena: UnsafeCell::new([0; ARENA_BYTES]), used: AtomicUsize::new(0) };

struct CountingEntropy(u8);

impl Entropy for CountingEntropy {
    fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
        for byte in dest {
            self.0 = self.0.wrapping_add(1);
            *byte = self.0;
        }
        Ok(())
    }
}

#[unsafe(no_mangle)]
extern "C" fn main(_: i32, _: *const *const u8) -> i32 {
    match serve() {
        Ok(()) => 0,
        Err(step) => step,
    }
}

fn serve() -> Result<(), i32> {
    let now = Time::ZERO;
    let mut server = Server::new(Config::default(), Box::new(CountingEntropy(0)), now);

    let stream = server.accept(Peer::local(), now).map_err(|_| 1)?;
    server.handle_input(stream, b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n", now);
    let Some(Event::Opened { session, .. }) = server.poll_event() else { return Err(2) };
    let mut stream_start = [0; 512];
    let stream_start = written(&mut server, stream, &mut stream_start, now);
    let endpoint = after(stream_start, b"data: ").ok_or(3)?;
    let endpoint = endpoint.split(|&byte| byte == b'\n').next().ok_or(4)?;

    let post = server.accept(Peer::local(), now).map_err(|_| 5)?;
    server.handle_input(post, b"POST ", now);
    server.handle_input(post, endpoint, now);
    server.handle_input(
        post,
        b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 40\r\n\r\n\
          {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}",
        now,
    );
    let Some(Event::Message { message, .. }) = server.poll_event() else { return Err(6) };
    if message.method() != Some("ping") {
        return Err(7);
    }
    let mut accepted = [0; 512];
    let accepted = written(&mut server, post, &mut accepted, now);
    after(accepted, b"HTTP/1.1 202 ").ok_or(8)?;

    let answer = Frame::message(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}").map_err(|_| 9)?;
    server.send(session, &answer, now).map_err(|_| 10)?;
    let mut answered = [0; 512];
    let answered = written(&mut server, stream, &mut answered, now);
    after(answered, b"\"result\":{}").ok_or(11)?;

    server.shutdown(now);
    for conn in [stream, post] {
        written(&mut server, conn, &mut [0; 512], now);
        if server.interest(conn) != Interest::Close {
            return Err(12);
        }
        server.handle_disconnect(conn, now);
    }
    while let Some(event) = server.poll_event() {
        if matches!(event, Event::Drained) {
            return Ok(());
        }
    }
    Err(13)
}

/// Reads a connection's output into `buffer`, and reports it as written.
fn written<'b>(server: &mut Server, conn: ConnId, buffer: &'b mut [u8], now: Time) -> &'b [u8] {
    let mut len = 0;
    for piece in server.transmit(conn).chunks() {
        if let Some(target) = buffer.get_mut(len..len + piece.len()) {
            target.copy_from_slice(piece);
            len += piece.len();
        }
    }
    server.handle_written(conn, len, now);
    buffer.get(..len).unwrap_or_default()
}

/// What follows `needle` in `hay`.
fn after<'h>(hay: &'h [u8], needle: &[u8]) -> Option<&'h [u8]> {
    let at = hay.windows(needle.len()).position(|window| window == needle)?;
    hay.get(at + needle.len()..)
}
