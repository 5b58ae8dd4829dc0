//! What the bridge adds to a server on stdio: round trips by a bare pipe to it, and through the bridge,
//! with a process for each session and with one for all. Prints, and judges nothing. The client, the
//! bridge and each server are processes of their own.

use core::net::SocketAddr;
use core::time::Duration;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use mcp_sse::bridge::child::Children;
use mcp_sse::bridge::command;
use mcp_sse::bridge::guard;
use mcp_sse::bridge::servers::Server;
use mcp_sse::bridge::services::{Paths, Services, Sharing};
use mcp_sse_core::Config;
use mcp_sse_tests::child::{self, Child, Descriptors};
use mcp_sse_tests::client::{Client, Stream, call};

/// The argument that makes a server of this program.
const STDIO: &str = "stdio";
const EACH: &str = "a process each";
const SHARED: &str = "shared";
const PARAMS: &str = r#"{"text":"hello"}"#;

fn main() {
    // What stands between the bridge and its servers is this program too.
    if guard::run().is_some() {
        return;
    }
    if env::args().nth(1).as_deref() == Some(STDIO) {
        return answer();
    }
    match child::role().as_deref() {
        Some(EACH) => return bridge(Sharing::None { shakes_hands: true }),
        Some(SHARED) => return bridge(Sharing::All),
        _ => {}
    }
    let seconds = env::var("SECONDS_EACH").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let for_how_long = Duration::from_secs(seconds);
    for sessions in [1, 50] {
        println!("sessions: {sessions}");
        let bare = by_pipe(sessions, for_how_long);
        println!("  bare pipe: p50 {bare:?}");
        for role in [EACH, SHARED] {
            let (p50, cpu) = by_bridge(role, sessions, for_how_long);
            let added = p50.saturating_sub(bare);
            println!(
                "  bridge, {role}: p50 {p50:?}, {added:?} more; CPU of the bridge {cpu:?} a round trip"
            );
        }
    }
}

/// A server on stdio: answers each request with its params.
fn answer() {
    let (mut lines, mut out) = (BufReader::new(std::io::stdin().lock()), std::io::stdout().lock());
    let mut line = String::new();
    while lines.read_line(&mut line).is_ok_and(|count| count > 0) {
        let member = |name: &str| {
            let (_, rest) = line.split_once(name)?;
            Some(rest.trim_end())
        };
        if let (Some(id), Some(params)) = (member("\"id\":"), member("\"params\":")) {
            let id = id.split(',').next().unwrap_or_default();
            let params = params.strip_suffix('}').unwrap_or(params);
            let answer = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{params}}}\n");
            if out.write_all(answer.as_bytes()).and_then(|()| out.flush()).is_err() {
                return;
            }
        }
        line.clear();
    }
}

fn own_program() -> std::path::PathBuf {
    env::current_exe().expect("this program has a name")
}

/// The part of the bridge.
fn bridge(sharing: Sharing) {
    let children = Children::new().expect("a thread");
    let command = command::Command::new(own_program(), [STDIO]);
    let servers = vec![Server { name: "echo".into(), command }];
    let services = Services::new(&children, servers, sharing, Paths::Root);
    let listener = mcp_sse_smol::Listener::bind("127.0.0.1:0", Config::default()).expect("a port");
    child::tell_parent(listener.local_addr().expect("an address"));
    let handle = listener.handle();
    std::thread::spawn(move || {
        child::wait_for_parent();
        handle.shutdown();
    });
    let served = listener.serve_local(move |session| {
        let services = services.clone();
        async move { services.serve(session).await }
    });
    async_io::block_on(served).expect("it serves");
    let _left = children.finish();
}

/// One server at the end of a pipe.
struct Pipe {
    process: Process,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Pipe {
    fn start() -> Self {
        let mut process = Command::new(own_program())
            .arg(STDIO)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts");
        let stdin = process.stdin.take().expect("a pipe");
        let stdout = BufReader::new(process.stdout.take().expect("a pipe"));
        Self { process, stdin, stdout }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The median time of a round trip, where each server has one request on the way all the time.
fn by_pipe(sessions: usize, for_how_long: Duration) -> Duration {
    let mut pipes: Vec<Pipe> = (0..sessions).map(|_| Pipe::start()).collect();
    let line = call(1, PARAMS) + "\n";
    let mut answer = String::new();
    round_trips(for_how_long, &mut pipes, |pipe, times| match times {
        Turn::Ask => pipe.stdin.write_all(line.as_bytes()).expect("it reads"),
        Turn::Hear => {
            answer.clear();
            let count = pipe.stdout.read_line(&mut answer).expect("it answers");
            assert!(count > 0, "it runs");
        }
    })
    .0
}

/// The same through the bridge, and the CPU time of the bridge for each.
fn by_bridge(role: &str, sessions: usize, for_how_long: Duration) -> (Duration, Duration) {
    let child = Child::start(role, &[], Descriptors::Most);
    let address: SocketAddr = child.line().parse().expect("an address");
    let mut peers: Vec<(Stream, Client, Vec<u8>)> = (0..sessions)
        .map(|_| {
            let mut stream = Stream::open(address);
            let hello =
                call(0, r#"{"protocolVersion":"2024-11-05"}"#).replace("echo", "initialize");
            assert_eq!(stream.post(&hello).status, 202);
            stream.message();
            let post = stream.post_request(&call(1, PARAMS));
            (stream, Client::connect(address), post)
        })
        .collect();
    let before = cpu_time(child.id());
    let (p50, count) =
        round_trips(for_how_long, &mut peers, |(stream, poster, post), turn| match turn {
            Turn::Ask => poster.send(&*post),
            Turn::Hear => {
                assert_eq!(poster.response().status, 202);
                stream.message();
            }
        });
    let spent = cpu_time(child.id()).saturating_sub(before);
    (p50, spent / count)
}

enum Turn {
    Ask,
    Hear,
}

/// Has each peer ask, then each hear, over and over. The median from the one to the other, and how
/// many there were.
fn round_trips<P>(
    for_how_long: Duration,
    peers: &mut [P],
    mut step: impl FnMut(&mut P, Turn),
) -> (Duration, u32) {
    let start = Instant::now();
    let mut times = Vec::new();
    while start.elapsed() < for_how_long {
        let asked: Vec<Instant> = peers
            .iter_mut()
            .map(|peer| {
                let now = Instant::now();
                step(peer, Turn::Ask);
                now
            })
            .collect();
        for (peer, asked) in peers.iter_mut().zip(asked) {
            step(peer, Turn::Hear);
            times.push(asked.elapsed());
        }
    }
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    (*median, u32::try_from(times.len()).unwrap_or(u32::MAX))
}

/// What a process has used so far, by itself. Linux counts in hundredths of a second; 0 elsewhere.
fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}
