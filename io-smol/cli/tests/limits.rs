//! The command at its limits: large bodies, and few descriptors.
#![cfg(unix)]

use core::net::SocketAddr;
use core::time::Duration;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use mcp_sse_tests::client::{Client, Stream};
use mcp_sse_tests::{PATIENCE, wait_until};

/// The command, started by a shell that runs another line first.
struct Program {
    process: Child,
    address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Program {
    #[track_caller]
    fn start(args: &[&str]) -> Self {
        Self::start_behind(":", args)
    }

    /// Starts the command after a line such as `ulimit -n 64`.
    #[track_caller]
    fn start_behind(line: &str, args: &[&str]) -> Self {
        let mut process = Command::new("sh")
            .args(["-c", &format!("{line} && exec \"$0\" \"$@\"")])
            .arg(env!("CARGO_BIN_EXE_mcp-sse"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        let log = Arc::<Mutex<Vec<String>>>::default();
        let (stderr, kept) = (process.stderr.take().expect("a pipe"), log.clone());
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().expect("a log").push(line);
            }
        });
        let stdout = BufReader::new(process.stdout.take().expect("a pipe"));
        let (sender, lines) = mpsc::channel();
        // stdout is read to its end, so that the command never blocks on a full pipe.
        thread::spawn(move || {
            stdout.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        let mut program = Self { process, address: SocketAddr::from(([127, 0, 0, 1], 0)), log };
        loop {
            let line = lines.recv_timeout(PATIENCE).expect("it says where it serves");
            let authority = line.split_once("http://").and_then(|(_, rest)| rest.split_once('/'));
            if let Some(address) = authority.and_then(|(authority, _)| authority.parse().ok()) {
                program.address = address;
                return program;
            }
        }
    }

    fn log(&self) -> String {
        self.log.lock().expect("a log").join("\n")
    }

    #[track_caller]
    fn wait_for_log(&self, text: &str) {
        wait_until(&format!("{text:?} in the log"), || self.log().contains(text));
    }

    /// Opens streams until one is refused. Returns the open streams and the text of the refusal.
    #[track_caller]
    fn streams_until_refused(&self, begin: impl Fn(&mut Stream)) -> (Vec<Stream>, String) {
        let mut streams = Vec::new();
        loop {
            match Stream::try_open(self.address) {
                Ok(mut stream) => {
                    begin(&mut stream);
                    streams.push(stream);
                    assert!(streams.len() < 1_000, "no stream is refused");
                }
                Err(refusal) => {
                    assert_eq!(refusal.status, 503, "{refusal:?}");
                    return (streams, refusal.text().to_owned());
                }
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("the command's log:\n{}", self.log());
        }
    }
}

/// A size that exceeds every default limit.
const LARGE: usize = 70 << 20;
/// How long to wait for an unoptimized server that reads and writes [`LARGE`] bytes on a busy machine.
const LONG: Duration = Duration::from_secs(120);

/// Posts a large body on a connection of its own, and returns the next message on the stream.
#[track_caller]
fn answer_to_large_post(program: &Program, stream: &mut Stream, body: &str) -> String {
    let mut poster = Client::connect(program.address);
    poster.set_timeout(LONG);
    stream.client.set_timeout(LONG);
    let answer = poster.ask(stream.post_request(body));
    assert_eq!(answer.status, 202, "{}", answer.text());
    stream.message()
}

/// Posts a call of the demo's `echo` with `LARGE` characters, and expects them in the answer.
#[track_caller]
fn check_echo_of_large_body(args: &[&str]) {
    let program = Program::start(&[&["demo", "--port=0"], args].concat());
    let mut stream = Stream::open(program.address);
    let text = "x".repeat(LARGE);
    let call = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"echo","arguments":{{"message":"{text}"}}}}}}"#
    );
    let message = answer_to_large_post(&program, &mut stream, &call);
    assert!(message.contains(&text), "{} bytes: {:.200}", message.len(), message);
}

#[test]
fn body_within_raised_limit_is_answered_by_several_workers() {
    check_echo_of_large_body(&["--max-body=100MiB", "--workers=9"]);
}

#[test]
fn body_without_limit_may_be_larger_than_every_default() {
    check_echo_of_large_body(&["--max-body=unlimited", "--workers=2"]);
}

/// A server as a shell script. It answers `initialize`, and then answers a long line with the length of that line and
/// with COUNT characters.
const LONG_LINES: &str = r#"
IFS= read -r line; id=${line#*\"id\":}; id=${id%%,*}
printf '{"jsonrpc":"2.0","id":%s,"result":{}}\n' "$id"
IFS= read -r line
length=$(head -n 1 | wc -c)
printf '{"jsonrpc":"2.0","id":%s,"result":["%s","' "$NEXT" $length
head -c "$COUNT" /dev/zero | tr '\0' x
printf '"]}\n'
cat >/dev/null
"#;

/// Posts a long message to a bridged server, which answers with a message of the same length.
#[track_caller]
fn check_bridge_passes_large_body(max_body: &str, flags: &[&str], next: u32) {
    let count = format!("COUNT={LARGE}");
    let next = format!("NEXT={next}");
    let program = Program::start(
        &[
            &["bridge", "--port=0", max_body, "--env", &count, "--env", &next],
            flags,
            &["--", "sh", "-c", LONG_LINES],
        ]
        .concat(),
    );
    let mut stream = Stream::open(program.address);
    let begin = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;
    assert_eq!(stream.post(begin).status, 202);
    assert!(stream.message().contains(r#""result":{}"#));
    if flags.is_empty() {
        let initialized = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        assert_eq!(stream.post(initialized).status, 202);
    }
    let text = "y".repeat(LARGE);
    let call = format!(r#"{{"jsonrpc":"2.0","id":2,"method":"m","params":["{text}"]}}"#);
    let message = answer_to_large_post(&program, &mut stream, &call);
    assert!(message.len() > LARGE, "{} bytes: {:.200}", message.len(), message);
    assert!(message.starts_with(r#"{"jsonrpc":"2.0","id":2,"result":["734"#), "{message:.200}");
}

#[test]
fn bridge_with_raised_limit_passes_longer_lines_on() {
    check_bridge_passes_large_body("--max-body=100MiB", &[], 2);
}

#[test]
fn shared_bridge_without_limit_passes_longer_lines_on() {
    check_bridge_passes_large_body("--max-body=unlimited", &["--shared"], 2);
}

/// The number of posts. Each has a connection of its own, which stays open.
const POSTERS: usize = 40;

#[track_caller]
fn check_posts_on_new_connections(program: &Program, stream: &Stream) {
    let mut posters = Vec::new();
    for n in 0..POSTERS {
        let mut poster = Client::connect(program.address);
        let note = r#"{"jsonrpc":"2.0","method":"notifications/n"}"#;
        let answer = poster.ask(stream.post_request(note));
        assert_eq!(answer.status, 202, "post {n}: {}", answer.text());
        posters.push(poster);
    }
}

#[test]
fn posts_are_answered_when_streams_use_all_their_descriptors() {
    let program = Program::start_behind("ulimit -n 64", &["--port=0"]);
    program.wait_for_log("64 descriptors");
    let (streams, told) = program.streams_until_refused(|_| {});
    assert!(told.contains("connections_reserve"), "{told}");
    assert!((8..64).contains(&streams.len()), "{}", streams.len());
    check_posts_on_new_connections(&program, &streams[0]);
}

#[test]
fn posts_are_answered_by_workers_that_share_few_descriptors() {
    let program = Program::start_behind("ulimit -n 128", &["--port=0", "--workers=3"]);
    let (streams, told) = program.streams_until_refused(|_| {});
    assert!(told.contains("connections_reserve"), "{told}");
    check_posts_on_new_connections(&program, &streams[0]);
}

#[test]
fn posts_are_answered_when_processes_use_all_their_descriptors() {
    let answer = r#"{"jsonrpc":"2.0","id":0,"result":{}}"#;
    let server = format!("while read -r line; do echo '{answer}'; done");
    let flags = ["bridge", "--port=0", "--shell", &server];
    let program = Program::start_behind("ulimit -n 128", &flags);
    let (streams, told) = program.streams_until_refused(|stream| {
        // The process runs when it has answered.
        let begin = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;
        assert_eq!(stream.post(begin).status, 202);
        assert_eq!(stream.message(), answer);
    });
    assert!(told.contains("sessions_max"), "{told}");
    assert!((8..28).contains(&streams.len()), "{}", streams.len());
    check_posts_on_new_connections(&program, &streams[0]);
    assert!(!program.log().contains("cannot start"), "{}", program.log());
}

/// A process that reacts neither to the end of its stdin nor to SIGTERM keeps its descriptors for seconds after the
/// end of its session. A new session waits for them, and is then served.
#[test]
fn sessions_wait_for_ending_processes_when_descriptors_are_few() {
    let answer = r#"{"jsonrpc":"2.0","id":0,"result":{}}"#;
    let server =
        format!("trap '' TERM; while read -r line; do echo '{answer}'; done; exec sleep 1000");
    let flags = ["bridge", "--port=0", "--shell", &server];
    let program = Program::start_behind("ulimit -n 128", &flags);
    let begin = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;
    let (first, _) = program.streams_until_refused(|stream| {
        assert_eq!(stream.post(begin).status, 202);
        assert_eq!(stream.message(), answer);
    });
    let count = first.len();
    drop(first);
    let mut second = Vec::new();
    wait_until("there is room for as many sessions", || {
        second.extend(Stream::try_open(program.address).ok());
        second.len() == count
    });
    for stream in &mut second {
        assert_eq!(stream.post(begin).status, 202);
    }
    for stream in &mut second {
        assert_eq!(stream.message(), answer);
    }
    assert!(!program.log().contains("cannot start"), "{}", program.log());
}

#[test]
fn soft_limit_on_descriptors_is_raised_to_the_hard_one() {
    let program = Program::start_behind("ulimit -S -n 64", &["--port=0"]);
    let streams: Vec<Stream> = (0..100).map(|_| Stream::open(program.address)).collect();
    check_posts_on_new_connections(&program, &streams[99]);
}

#[test]
fn bridged_server_has_the_soft_limit_that_the_command_was_given() {
    let says = r#"read -r line; printf '{"jsonrpc":"2.0","method":"n","params":["%s","%s"]}\n' "$(ulimit -S -n)" "$(env | grep -c GUARD)"; cat >/dev/null"#;
    let flags = ["bridge", "--port=0", "--no-auto-initialize", "--shell", says];
    let program = Program::start_behind("ulimit -S -n 64", &flags);
    let mut stream = Stream::open(program.address);
    assert_eq!(stream.post(r#"{"jsonrpc":"2.0","method":"begin"}"#).status, 202);
    assert_eq!(stream.message(), r#"{"jsonrpc":"2.0","method":"n","params":["64","0"]}"#);
}
