//! What peers say that nobody should.
//!
//! Knows: malformed heads and bodies, hidden requests, wrong names, garbage, and how each may be answered.
//! Does not know: why the answer is that.

use super::link::{LinkKey, Wanted};
use super::model::Carries;
use super::world::World;

/// How a broken request may be answered: with one of these, and then no more if `last`.
struct Attack {
    bytes: Vec<u8>,
    statuses: &'static [u16],
    last: bool,
}

fn closing(bytes: impl Into<Vec<u8>>, statuses: &'static [u16]) -> Attack {
    Attack { bytes: bytes.into(), statuses, last: true }
}

fn keeping(bytes: impl Into<Vec<u8>>, statuses: &'static [u16]) -> Attack {
    Attack { bytes: bytes.into(), statuses, last: false }
}

/// A party does something that it should not.
pub fn attack(world: &mut World, at: usize) {
    match world.chance.below(10) {
        0 => return babble(world, at),
        1 => return corrupt(world, at),
        2 => return dawdle(world, at),
        3 => return flood(world),
        _ => {}
    }
    let victims = world.parties.len();
    let victim = world.chance.below(victims);
    let token = world.own_token(victim);
    let (session, token) = match token {
        Some((key, token)) => (Some(key), token),
        None => (None, "A".repeat(32)),
    };
    let Some(key) = world.poster(at) else { return };
    // Hidden in what is around it; whoever reads it as a request has been deceived.
    world.asks += 1;
    let hidden = world.asks;
    let text = format!(r#"{{"jsonrpc":"2.0","method":"hidden","params":{{"post":{hidden}}}}}"#);
    world.record(key, hidden, session, text.clone(), Carries::Other, false);
    if let Some(post) = world.model.posts.get_mut(&hidden) {
        post.forbidden = true;
    }
    let smuggled = post(world, &token, "", &text);
    let attack = draw(world, &token, &text, &smuggled);
    world.model.tour.count("attacks");
    world.asks += 1;
    let number = world.asks;
    let Attack { bytes, statuses, last } = attack;
    world.ask(key, number, &bytes, Wanted::Refusal { statuses, last }, false);
    if let Some(link) = world.links.get_mut(&key) {
        link.done |= last;
    }
}

fn post(world: &World, token: &str, fields: &str, text: &str) -> String {
    let (instance, len) = (world.setup.instance, text.len());
    format!(
        "POST /messages?session_id={instance}{token} HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/json\r\n{fields}Content-Length: {len}\r\n\r\n{text}"
    )
}

fn draw(world: &mut World, token: &str, text: &str, smuggled: &str) -> Attack {
    let plain = |fields: &str, text: &str| post(world, token, fields, text);
    let host = "Host: localhost\r\n";
    // With a decision to be awaited, wrong posts are answered after it, if they are framed well.
    let all = [
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
    let at = world.chance.below(all.len());
    Vec::from(all).swap_remove(at)
}

fn chunked(world: &World, token: &str, body: &str) -> String {
    let instance = world.setup.instance;
    format!(
        "POST /messages?session_id={instance}{token} HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
    )
}

/// Talks on a stream.
fn babble(world: &mut World, at: usize) {
    let Some(key) = world.parties[at].stream else { return };
    let len = world.chance.below(3_000);
    if world.links.get(&key).is_some_and(|link| link.reader.is_stream()) {
        world.send(key, &vec![b'G'; len]);
    } else {
        // Its request may be refused, and then this is one.
        goes_wild(world, key, &vec![b'G'; len]);
    }
    world.model.tour.count("babble");
}

/// Sends a post of which something was broken on the way.
fn corrupt(world: &mut World, at: usize) {
    let Some((session, token)) = world.own_token(at) else { return };
    let Some(key) = world.poster(at) else { return };
    world.asks += 1;
    let text =
        format!(r#"{{"jsonrpc":"2.0","method":"broken","params":{{"post":{}}}}}"#, world.asks);
    let mut bytes = post(world, &token, "", &text).into_bytes();
    for _ in 0..=world.chance.below(3) {
        let at = world.chance.below(bytes.len());
        match world.chance.below(3) {
            0 => bytes[at] ^= 1 << world.chance.below(8),
            1 => drop(bytes.remove(at)),
            _ => bytes.insert(at, *world.chance.pick(b"\r\n :{}\"0\0\xff")),
        }
    }
    if !world.model.meddled.contains(&session) {
        world.model.meddled.push(session);
    }
    goes_wild(world, key, &bytes);
    world.model.tour.count("corrupted");
}

pub fn goes_wild(world: &mut World, key: LinkKey, bytes: &[u8]) {
    world.send(key, bytes);
    if let Some(link) = world.links.get_mut(&key) {
        link.reader.expect_anything();
        link.done = true;
    }
}

/// Begins something and does not end it.
fn dawdle(world: &mut World, at: usize) {
    let token = world.own_token(at).map_or_else(|| "A".repeat(32), |(_, token)| token);
    let Some(key) = world.connect(at, None) else { return };
    let text = "x".repeat(150);
    let request = post(world, &token, "", &text);
    let most = world.chance.below(request.len());
    goes_wild(world, key, &request.as_bytes()[..most]);
    world.model.tour.count("dawdling");
}

/// Opens connections and says nothing.
fn flood(world: &mut World) {
    for _ in 0..world.chance.below(6) {
        let at = world.chance.below(world.parties.len());
        let silent = world.links.values().filter(|link| link.sent == 0).count();
        if silent < 16 {
            world.connect(at, None);
        }
    }
    world.model.tour.count("floods");
}
