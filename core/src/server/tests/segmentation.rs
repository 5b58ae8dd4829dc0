//! How input is cut into calls never changes what happens.

use super::*;
use crate::event::Verdict;
use crate::{Authorization, Principal};

/// Everything that can be seen from outside: what every peer heard, what the application was told.
type Trace = (Vec<Vec<u8>>, Vec<String>);

fn run(config: &ConfigBuilder, script: &dyn Fn(&str) -> Vec<u8>, cut: Cut, fin: bool) -> Trace {
    let mut bench = Bench::with(config.clone());
    let mut told = Vec::new();
    let stream = bench.connect();
    bench.says(stream, GET);
    serve(&mut bench, &mut told);
    let input = script(&bench.stream(stream).token());
    let conn = bench.connect();
    let pieces: Vec<&[u8]> = match cut {
        Cut::Whole => std::vec![&input],
        Cut::Bytes => input.chunks(1).collect(),
        Cut::At(at) => std::vec![&input[..at.min(input.len())], &input[at.min(input.len())..]],
    };
    // Either in one go, so that all of it waits in the socket, or with pauses.
    for piece in pieces {
        bench.says(conn, piece);
        serve(&mut bench, &mut told);
    }
    if fin {
        bench.fin(conn);
    }
    serve(&mut bench, &mut told);
    (std::vec![bench.heard(stream), bench.heard(conn)], told)
}

fn serve(bench: &mut Bench, told: &mut Vec<String>) {
    while let Some(event) = bench.event() {
        told.push(format!("{event:?}"));
        if let Event::Asked { ticket, .. } = event {
            let verdict = Verdict::Allow(Principal::new("p"));
            bench.server.authorize(ticket, verdict, bench.now).unwrap();
            bench.pump();
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Cut {
    Whole,
    Bytes,
    At(usize),
}

#[track_caller]
fn check(script: impl Fn(&str) -> String) {
    check_bytes(&Config::builder(), &|token| script(token).into_bytes());
    let asking = Config::builder().authorization(Authorization::Deferred);
    check_bytes(&asking, &|token| script(token).into_bytes());
    let narrow = limited(|limits| {
        limits.answers_bytes_max = Some(300);
        limits.stream_input_bytes_max = 20;
        limits.discard_bytes_max = 50;
    });
    check_bytes(&narrow, &|token| script(token).into_bytes());
}

#[track_caller]
fn check_bytes(config: &ConfigBuilder, script: &dyn Fn(&str) -> Vec<u8>) {
    let len = script(&"x".repeat(32)).len();
    for fin in [false, true] {
        let whole = run(config, script, Cut::Whole, fin);
        let cuts = (0..=len).map(Cut::At).chain([Cut::Bytes]);
        for cut in cuts {
            let cut_up = run(config, script, cut, fin);
            assert_eq!(whole.1, cut_up.1, "{cut:?}, fin {fin}");
            for (whole, cut_up) in whole.0.iter().zip(&cut_up.0) {
                let (whole, cut_up) = (whole.escape_ascii(), cut_up.escape_ascii());
                assert_eq!(format!("{whole}"), format!("{cut_up}"), "{cut:?}, fin {fin}");
            }
        }
    }
}

const LATER: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn stream_input_cut_anywhere_has_one_outcome() {
    check(|_| GET.into());
    check(|_| format!("{GET}tail that nobody reads"));
    check(|_| format!("HEAD /sse HTTP/1.1\r\nHost: localhost\r\n\r\n{LATER}"));
    check(|_| "GET /sse HTTP/1.0\r\n\r\n".into());
    check(|_| {
        format!("PUT /sse HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc{LATER}")
    });
    check(|_| format!("GET /sse HTTP/1.1\r\nHost: localhost\r\nAccept: a/b\r\n\r\n{LATER}"));
}

#[test]
fn post_cut_anywhere_has_one_outcome() {
    check(|token| post(token, NOTE) + LATER);
    check(|token| post(token, &call(1)) + &post(token, &call(2)));
    check(|token| post(token, "nonsense") + LATER);
    check(|token| post(token, "[]") + LATER);
    check(|token| post_with(token, "Expect: 100-continue\r\n", NOTE) + LATER);
    check(|token| post_with(token, "Connection: close\r\n", NOTE) + LATER);
    check(|token| post(token, NOTE) + GET);
}

#[test]
fn refused_post_cut_anywhere_has_one_outcome() {
    check(|_| post("nobody", NOTE) + LATER);
    check(|token| post_with(token, "Content-Type: text/plain\r\n", NOTE) + LATER);
    check(|token| post_with(token, "Expect: magic\r\n", NOTE) + LATER);
    check(|_| post_with("nobody", "Expect: 100-continue\r\n", NOTE) + LATER);
    check(|token| post_with(token, "Origin: null\r\n", NOTE) + LATER);
    check(|token| post(token, NOTE).replace("Content-Length: ", "Content-Length: 99999") + LATER);
}

#[test]
fn chunked_post_cut_anywhere_has_one_outcome() {
    let head = |token: &str| {
        let head = post(token, "");
        head.replace("Content-Length: 0", "Transfer-Encoding: chunked")
    };
    check(|token| {
        let size = NOTE.len();
        format!("{}{size:x};a=\"b\"\r\n{NOTE}\r\n0\r\nTrailer: x\r\n\r\n{LATER}", head(token))
    });
    check(|token| format!("{}3\r\n{NOTE}\r\n0\r\n\r\n{LATER}", head(token)));
    check(|_| format!("{}1\r\n1\r\n0\r\n\r\n{LATER}", head("nobody")));
}

#[test]
fn non_http_cut_anywhere_has_one_outcome() {
    check(|_| "\u{16}\u{3}\u{1}\u{2}".into());
    check(|_| format!("GET /x HTTP/1.1\nHost: localhost\n\n{LATER}"));
    check(|_| format!("\r\n\r\n{LATER}"));
    check(|_| format!("\r\n\r\n\r\n\r\n\r\n{LATER}"));
    check(|_| format!("GET /x HTTP/2.0\r\n\r\n{LATER}"));
    check(|_| format!("GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n{LATER}"));
}

#[test]
fn pieces_delivered_late_or_alone_have_one_outcome() {
    // All pieces are there before the server looks, as after a busy moment.
    let mut bench = Bench::new();
    let client = bench.open();
    let input = post(&client.token, NOTE).repeat(3);
    let conn = bench.connect();
    bench.says_in_pieces(conn, &input.as_bytes().chunks(7).collect::<Vec<_>>());
    assert_eq!(bench.statuses(conn), [202; 3]);
}
