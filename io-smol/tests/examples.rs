//! Runs the examples as programs.

use core::net::SocketAddr;
use std::env;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use mcp_sse_tests::client::Stream;

/// An example that runs until this is dropped.
struct Example {
    process: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Example {
    /// Starts the example with this name at a free port, and waits until it has printed its address.
    #[track_caller]
    fn start(name: &str) -> (Self, SocketAddr) {
        let test = env::current_exe().expect("the path of this test");
        // target/debug/deps/this-test, target/debug/examples/name
        let folder = test.ancestors().nth(2).expect("the folder of what is built");
        let file = folder.join("examples").join(name).with_extension(env::consts::EXE_EXTENSION);
        let mut process = Command::new(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "{}: {error}; `cargo build -p mcp-sse-smol --examples` builds it",
                    file.display()
                )
            });
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let mut example = Self { process, stdin, stdout };
        let url = example.line();
        let address = url.strip_prefix("http://").and_then(|url| url.strip_suffix("/sse"));
        (example, address.and_then(|address| address.parse().ok()).expect(&url))
    }

    /// The next line that the example prints.
    #[track_caller]
    fn line(&mut self) -> String {
        self.stdout.next().expect("a line").expect("text")
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Posts a request, and returns the next message on the stream.
#[track_caller]
fn ask(stream: &mut Stream, id: u32, method: &str, params: &str) -> String {
    let request = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#);
    assert_eq!(stream.post(&request).status, 202);
    stream.message()
}

#[test]
fn minimal_answers_initialize_and_ping() {
    let (_example, address) = Example::start("minimal");
    let mut stream = Stream::open(address);
    let initialized = ask(&mut stream, 1, "initialize", "{}");
    assert!(initialized.contains(r#""id":1,"result":{"capabilities":{}"#), "{initialized}");
    assert_eq!(ask(&mut stream, 2, "ping", "{}"), r#"{"jsonrpc":"2.0","id":2,"result":{}}"#);
    let refused = ask(&mut stream, 3, "tools/list", "{}");
    assert!(refused.contains(r#""id":3,"error":{"code":-32601"#), "{refused}");
}

#[test]
fn several_executors_work_broadcast_and_end_with_the_input() {
    let (mut example, address) = Example::start("several_executors");
    let mut stream = Stream::open(address);
    let counted =
        ask(&mut stream, 1, "tools/call", r#"{"name":"primes","arguments":{"below":100000}}"#);
    assert!(counted.contains(r#""text":"9592""#), "{counted}");
    let refused = ask(&mut stream, 2, "tools/call", r#"{"name":"primes","arguments":{}}"#);
    assert!(refused.contains(r#""error":{"code":-32602"#), "{refused}");
    let mut stdin = example.stdin.take().expect("a pipe");
    writeln!(stdin, "hello").expect("it reads");
    assert_eq!(example.line(), "sent to 1 clients");
    let notice = stream.message();
    assert!(notice.contains(r#""method":"notifications/message""#), "{notice}");
    assert!(notice.contains(r#""data":"hello""#), "{notice}");
    drop(stdin);
    assert_eq!(example.line(), "2 requests were answered");
    assert!(example.process.wait().expect("it ends").success());
}
