//! One connection, any bytes, cut anywhere: nothing panics, the books balance, and the cuts change
//! nothing. The first byte says how the rest is cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mcp_sse_core::{Config, EntropyUnavailable, Peer, Server, Time};

fuzz_target!(|input: &[u8]| {
    let Some((&cut, bytes)) = input.split_first() else { return };
    let whole = run(bytes, bytes.len().max(1));
    assert_eq!(run(bytes, usize::from(cut).max(1)), whole, "the cuts changed something");
});

/// What the peer is told when it says `bytes` in pieces of this size, and then no more.
fn run(bytes: &[u8], piece: usize) -> Vec<u8> {
    let entropy = |dest: &mut [u8]| -> Result<(), EntropyUnavailable> {
        dest.fill(7);
        Ok(())
    };
    let now = Time::ZERO;
    let mut server = Server::new(Config::default(), Box::new(entropy), now);
    let conn = server.accept(Peer::local(), now).expect("room");
    let mut told = Vec::new();
    let mut listen = |server: &mut Server| {
        server.check();
        let from = told.len();
        server.transmit(conn).chunks().for_each(|chunk| told.extend_from_slice(chunk));
        server.handle_written(conn, told.len() - from, now);
        while server.poll_event().is_some() {}
    };
    for piece in bytes.chunks(piece) {
        server.handle_input(conn, piece, now);
        listen(&mut server);
    }
    server.handle_eof(conn, now);
    listen(&mut server);
    server.handle_disconnect(conn, now);
    server.check();
    told
}
