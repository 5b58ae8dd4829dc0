//! Requests of hostile clients.
//!
//! Knows: malformed heads and bodies, request smuggling, unknown tokens, random bytes, and how each
//! may be answered. Does not know: the reason of the answer.

use super::connection::ConnectionKey;
use super::posts::PostBody;
use super::request::Expected;
use super::world::World;

/// A malformed request and its allowed responses: one of `statuses`, and a close after it if
/// `last`.
struct Attack {
    bytes: Vec<u8>,
    statuses: &'static [u16],
    last: bool,
}

/// The valid credentials of malformed requests.
const GOOD: &str = "Authorization: Bearer secret0\r\n";

fn closing(bytes: impl Into<Vec<u8>>, statuses: &'static [u16]) -> Attack {
    Attack { bytes: bytes.into(), statuses, last: true }
}

fn keeping(bytes: impl Into<Vec<u8>>, statuses: &'static [u16]) -> Attack {
    Attack { bytes: bytes.into(), statuses, last: false }
}

/// Lets a client do something that it should not.
pub fn attack(world: &mut World, at: usize) {
    match world.random.below(10) {
        0 => return send_behind_stream_request(world, at),
        1 => return send_corrupted_post(world, at),
        2 => return stall_request(world, at),
        3 => return open_idle_connections(world),
        _ => {}
    }
    let victims = world.clients.len();
    let victim = world.random.below(victims);
    let token = world.own_token(victim);
    let (session, token) = match token {
        Some((key, token)) => (Some(key), token),
        None => (None, "A".repeat(32)),
    };
    let Some(key) = world.poster(at) else { return };
    // The number of a request that is hidden in the body of another. It must never be executed.
    world.requests_sent += 2;
    let (hidden, number) = (world.requests_sent - 1, world.requests_sent);
    let text = format!(r#"{{"jsonrpc":"2.0","method":"hidden","params":{{"post":{hidden}}}}}"#);
    world.record_hidden(key, hidden, session, PostBody::other(text.clone()));
    let smuggled = post(world, &token, "", &text);
    let attack = draw(world, &token, &text, &smuggled);
    world.model.coverage.count("attacks");
    let Attack { bytes, statuses, last } = attack;
    world.send_request(key, number, &bytes, Expected::Refusal { statuses, last }, false);
    if let Some(connection) = world.connections.get_mut(&key) {
        connection.done |= last;
    }
}

fn post(world: &World, token: &str, fields: &str, text: &str) -> String {
    let (instance, len, request) = (world.setup.instance, text.len(), world.requests_sent);
    let good = if world.setup.tokens { GOOD } else { "" };
    format!(
        "POST /messages?session_id={instance}{token} HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/json\r\nX-Ask: {request}\r\n{good}{fields}Content-Length: {len}\r\n\r\n{text}"
    )
}

fn draw(world: &mut World, token: &str, text: &str, smuggled: &str) -> Attack {
    let plain = |fields: &str, text: &str| post(world, token, fields, text);
    let host = "Host: localhost\r\n";
    // If the server waits for a verdict, a well-framed invalid post is answered after it.
    let limits = world.setup.configs[0].limits();
    let more = |limit: Option<u32>| 1 + limit.map_or(0, |limit| limit as usize).min(20_000);
    let long = ["x".repeat(more(limits.head_bytes_max)), "y".repeat(more(limits.target_bytes_max))];
    let many = "A: b\r\n".repeat(1 + limits.fields_max as usize);
    let extension = "e".repeat(more(limits.extension_bytes_max));
    let trailer = "t".repeat(more(limits.trailer_bytes_max));
    let len = text.len();
    let all = [
        closing(format!("\r\n\r\n\r\n\r\n\r\n\r\nGET /health HTTP/1.1\r\n{host}\r\n"), &[400]),
        closing(plain("Transfer-Encoding: gzip\r\n", text), &[400]),
        closing(
            format!("POST /messages HTTP/1.1\r\n{host}Transfer-Encoding: gzip\r\n\r\n{smuggled}"),
            &[501],
        ),
        keeping(plain("Expect: the-unexpected\r\n", text), &[417]),
        closing(format!("GET /sse HTTP/1.1\r\n{host}Long: {}\r\n\r\n", long[0]), &[431]),
        closing(format!("GET /{} HTTP/1.1\r\n{host}\r\n", long[1]), &[414, 431]),
        closing(format!("GET /sse HTTP/1.1\r\n{host}{many}\r\n"), &[431]),
        closing(chunked(world, token, &format!("{len:x};{extension}\r\n{text}\r\n")), &[413, 404]),
        closing(
            chunked(world, token, &format!("{len:x}\r\n{text}\r\n0\r\nT: {trailer}\r\n\r\n")),
            &[431, 404],
        ),
        closing(format!("GET /sse HTTP/1.1\n{host}\r\n{smuggled}"), &[400]),
        closing(format!("GET /health HTTP/1.1\r\n{host} folded: x\r\n\r\n{smuggled}"), &[400]),
        closing(plain("X-Field: a\n", text) + smuggled, &[400]),
        closing(
            plain("Transfer-Encoding: chunked\r\n", "0\r\n\r\n").to_string() + smuggled,
            &[400],
        ),
        closing(plain("Content-Length: 3\r\n", text) + smuggled, &[400]),
        closing(plain("Transfer-Encoding: gzip, chunked\r\n", text) + smuggled, &[400, 501]),
        closing(plain("", text).replacen("Content-Length: ", "Content-Length: +", 1), &[400]),
        closing(plain("", text).replacen("Content-Length: ", "Content-Length : ", 1), &[400]),
        closing(plain("Host: localhost\r\n", text) + smuggled, &[400]),
        closing(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), &[400]),
        closing("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[400, 501, 505]),
        closing(format!("BREW /sse HTTP/1.1\r\n{host}\r\n{smuggled}"), &[501]),
        closing(
            chunked(world, token, &format!("{:x}\r\n{text}0\r\n\r\n", text.len())),
            &[400, 404],
        ),
        closing(
            chunked(world, token, &format!("{:X}\n{text}\r\n0\r\n\r\n", text.len())),
            &[400, 404],
        ),
        closing(
            chunked(world, token, &format!("{:x}\r\n{text}\r\n0\r\nX: a\n\r\n", text.len())),
            &[400, 404],
        ),
        closing(chunked(world, token, &format!("-1\r\n{smuggled}")), &[400, 404]),
        closing(chunked(world, token, &format!("\r\n\r\n{smuggled}")), &[400, 404]),
        keeping("GET /sse HTTP/1.1\r\nHost: evil.example\r\n\r\n", &[403]),
        keeping(format!("GET /sse HTTP/1.1\r\n{host}Origin: http://evil.example\r\n\r\n"), &[403]),
        keeping(format!("GET /sse HTTP/1.1\r\n{host}Origin: null\r\n\r\n"), &[403]),
        keeping(format!("GET /%73se HTTP/1.1\r\n{host}\r\n"), &[404, 405]),
        keeping(format!("DELETE /sse HTTP/1.1\r\n{host}\r\n"), &[405]),
        keeping(format!("GET /messages HTTP/1.1\r\n{host}\r\n"), &[405]),
        keeping(format!("GET /sse HTTP/1.1\r\n{host}Accept: text/html\r\n\r\n"), &[406]),
        keeping(
            format!("POST /sse HTTP/1.1\r\n{host}Content-Length: {}\r\n\r\n{text}", text.len()),
            &[405],
        ),
        keeping(plain("", text).replace("application/json", "text/plain"), &[415]),
        keeping(plain("Content-Encoding: gzip\r\n", text), &[415]),
        keeping(plain("", text).replace("?session_id=", "?other="), &[400]),
        keeping(plain("", &format!("[{text}]")), &[400, 404]),
        keeping(plain("", &text.replace("2.0", "1.0")), &[400, 404]),
        keeping(plain("", &text.replace("\"method\"", "\"Method\"")), &[400, 404]),
        keeping(plain("", &text[1..]), &[400, 404]),
        keeping(plain("", &format!("\u{feff}{text}")), &[400, 404]),
        keeping(plain("", "{\"a\":".repeat(200).as_str()), &[400, 404]),
        closing(
            plain("", text).replacen("Content-Length: ", "Content-Length: 999999999", 1),
            &[413],
        ),
        keeping(post(world, &"A".repeat(32), "", text), &[404]),
        keeping(post(world, &token[1..], "", text), &[404]),
        keeping(post(world, &format!("b2.{token}"), "", text).replace("a1.b2.", "b2."), &[404]),
    ];
    let at = world.random.below(all.len());
    Vec::from(all).swap_remove(at)
}

fn chunked(world: &World, token: &str, body: &str) -> String {
    let (instance, request) = (world.setup.instance, world.requests_sent);
    let good = if world.setup.tokens { GOOD } else { "" };
    format!(
        "POST /messages?session_id={instance}{token} HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/json\r\nX-Ask: {request}\r\n{good}Transfer-Encoding: chunked\r\n\r\n{body}"
    )
}

/// Sends bytes behind a stream request.
fn send_behind_stream_request(world: &mut World, at: usize) {
    let Some(key) = world.clients[at].stream else { return };
    let len = world.random.below(3_000);
    if world.connections.get(&key).is_some_and(|connection| connection.reader.is_stream()) {
        world.send(key, &vec![b'G'; len]);
    } else {
        // If the stream request is refused, these bytes are the next request.
        send_unpredictable(world, key, &vec![b'G'; len]);
    }
    world.model.coverage.count("bytes behind a stream request");
}

/// Sends a post with a few bytes changed.
fn send_corrupted_post(world: &mut World, at: usize) {
    let Some((session, token)) = world.own_token(at) else { return };
    let Some(key) = world.poster(at) else { return };
    world.requests_sent += 1;
    let text = format!(
        r#"{{"jsonrpc":"2.0","method":"broken","params":{{"post":{}}}}}"#,
        world.requests_sent
    );
    let mut bytes = post(world, &token, "", &text).into_bytes();
    for _ in 0..=world.random.below(3) {
        let at = world.random.below(bytes.len());
        match world.random.below(3) {
            0 => bytes[at] ^= 1 << world.random.below(8),
            1 => drop(bytes.remove(at)),
            _ => bytes.insert(at, *world.random.pick(b"\r\n :{}\"0\0\xff")),
        }
    }
    if !world.model.unpredictable.contains(&session) {
        world.model.unpredictable.push(session);
    }
    send_unpredictable(world, key, &bytes);
    world.model.coverage.count("corrupted");
}

pub fn send_unpredictable(world: &mut World, key: ConnectionKey, bytes: &[u8]) {
    world.send(key, bytes);
    if let Some(connection) = world.connections.get_mut(&key) {
        connection.reader.expect_anything();
        connection.done = true;
    }
}

/// Sends the beginning of a request and no more.
fn stall_request(world: &mut World, at: usize) {
    let token = world.own_token(at).map_or_else(|| "A".repeat(32), |(_, token)| token);
    let Some(key) = world.connect(at, None) else { return };
    world.requests_sent += 1;
    let text = "x".repeat(150);
    let request = post(world, &token, "", &text);
    let most = world.random.below(request.len());
    send_unpredictable(world, key, &request.as_bytes()[..most]);
    world.model.coverage.count("stalled requests");
}

/// Opens connections without sending anything.
fn open_idle_connections(world: &mut World) {
    for _ in 0..world.random.below(6) {
        let at = world.random.below(world.clients.len());
        let silent = world.connections.values().filter(|connection| connection.sent == 0).count();
        if silent < 16 {
            world.connect(at, None);
        }
    }
    world.model.coverage.count("floods");
}
