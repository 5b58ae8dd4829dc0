//! Measures what the bridge adds to a request and its answer: latency, and processor time.
//!
//! `cargo bench -p mcp-sse --bench bridge_cost`. The server is this same program: it answers each request with the
//! request's params. For comparison, the server is also measured directly over its pipes. There is always one request
//! in flight for each session.

use core::time::Duration;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;
use std::{env, fs, thread};

use mcp_sse_tests::client::{Stream, answer, call};

/// The environment variable that makes this program the server.
const SERVER: &str = "BRIDGE_COST_SERVER";
const CALLS: usize = 5_000;
const SESSIONS: usize = 50;
const CALLS_EACH: usize = 200;

fn main() -> io::Result<()> {
    if env::var_os(SERVER).is_some() {
        return serve();
    }
    for (sessions, calls) in [(1, CALLS), (SESSIONS, CALLS_EACH)] {
        bare(sessions, calls)?;
        bridged(sessions, calls, None)?;
        bridged(sessions, calls, Some("--shared"))?;
    }
    Ok(())
}

/// Answers each request with its params.
fn serve() -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (Some((_, id)), Some((_, params))) =
            (line.split_once("\"id\":"), line.split_once("\"params\":"))
        else {
            continue;
        };
        let id = id.split(',').next().unwrap_or_default();
        let params = params.strip_suffix('}').unwrap_or_default();
        writeln!(out, r#"{{"jsonrpc":"2.0","id":{id},"result":{params}}}"#)?;
        out.flush()?;
    }
    Ok(())
}

fn report(what: &str, mut times: Vec<Duration>, took: Duration, work: Option<Duration>) {
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    let rate = times.len() as f64 / took.as_secs_f64();
    print!("{what:<22} p50 {:>9.1?}  p99 {:>9.1?}  {rate:>8.0} a second", at(50), at(99));
    match work {
        Some(work) => println!("  bridge's CPU {:>7.1?} each", work / times.len() as u32),
        None => println!(),
    }
}

fn bare(servers: usize, calls: usize) -> io::Result<()> {
    let mut processes = Vec::new();
    for _ in 0..servers {
        let own = env::current_exe()?;
        let mut command = Command::new(own);
        command.env(SERVER, "1").stdin(Stdio::piped()).stdout(Stdio::piped());
        processes.push(command.spawn()?);
    }
    let start = Instant::now();
    let times = thread::scope(|scope| {
        let threads: Vec<_> = processes
            .iter_mut()
            .map(|process| scope.spawn(move || bare_calls(process, calls)))
            .collect();
        let ended = threads.into_iter().map(|thread| thread.join().expect("calls"));
        ended.collect::<io::Result<Vec<_>>>()
    })?;
    report(&name("bare pipe", servers), times.concat(), start.elapsed(), None);
    // The servers end, because their stdin is closed.
    processes.iter_mut().try_for_each(|process| process.wait().map(drop))
}

fn bare_calls(process: &mut Child, calls: usize) -> io::Result<Vec<Duration>> {
    let mut stdin = process.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut stdout = BufReader::new(process.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);
    let (mut times, mut line) = (Vec::new(), String::new());
    for id in 0..calls {
        let asked = Instant::now();
        writeln!(stdin, "{}", call(id, "[]"))?;
        line.clear();
        stdout.read_line(&mut line)?;
        times.push(asked.elapsed());
        assert_eq!(line.trim_end(), answer(id, "[]"));
    }
    Ok(times)
}

fn name(what: &str, sessions: usize) -> String {
    format!("{what}, {sessions}")
}

fn bridged(sessions: usize, calls: usize, flag: Option<&str>) -> io::Result<()> {
    let own = env::current_exe()?;
    let mut bridge = Command::new(env!("CARGO_BIN_EXE_mcp-sse"))
        .args(["bridge", "--port", "0", "--log-level", "error", "--env"])
        .arg(format!("{SERVER}=1"))
        .args(flag)
        .arg("--")
        .arg(own)
        .stdout(Stdio::piped())
        .spawn()?;
    let address = address(&mut bridge)?;
    let mut streams: Vec<Stream> = (0..sessions).map(|_| Stream::open(address)).collect();
    for stream in &mut streams {
        let hello = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;
        assert_eq!(stream.post(hello).status, 202);
        stream.message();
    }
    let (before, start) = (work(bridge.id())?, Instant::now());
    let times: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = streams
            .iter_mut()
            .map(|stream| {
                scope.spawn(move || {
                    let mut times = Vec::new();
                    for id in 0..calls {
                        let asked = Instant::now();
                        assert_eq!(stream.post(&call(id, "[]")).status, 202);
                        assert_eq!(stream.message(), answer(id, "[]"));
                        times.push(asked.elapsed());
                    }
                    times
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("calls")).collect()
    });
    let (took, after) = (start.elapsed(), work(bridge.id())?);
    let what = name(if flag.is_some() { "bridged, shared" } else { "bridged" }, sessions);
    report(&what, times, took, after.checked_sub(before));
    drop(streams);
    // The guards end the servers.
    bridge.kill()?;
    bridge.wait().map(drop)
}

fn address(bridge: &mut Child) -> io::Result<core::net::SocketAddr> {
    let stdout: ChildStdout = bridge.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    let found =
        lines.find_map(|line| line.split_once("http://")?.1.split_once('/')?.0.parse().ok());
    thread::spawn(move || lines.for_each(drop));
    found.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// The processor time that a process has used; only known on Linux.
fn work(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}
