//! Runs the command, and starts servers with it.

use core::time::Duration;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use serde_json::Value;

/// After this time, a server of a test hangs, or a client that it waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// After this time, a doctor that has not ended hangs. Its own waits are far shorter.
const HANG: Duration = Duration::from_secs(180);

/// Waits far above what a good server needs, so that a slow machine is not taken for a slow server.
pub(crate) const PATIENT: [&str; 5] = ["--quick", "--timeout", "60s", "--late", "30s"];

/// The output of a command that must end.
#[track_caller]
pub(crate) fn run(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mcp-sse"))
        .args(args)
        // If it is set, the roots of this folder count in addition to SSL_CERT_FILE.
        .env_remove("SSL_CERT_DIR")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut stdout = child.stdout.take().expect("piped");
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).map(|_| bytes)
    });
    let until = Instant::now() + HANG;
    while child.try_wait().expect("it can be waited for").is_none() {
        if Instant::now() > until {
            let _ = child.kill();
            panic!("{args:?} does not end: {:?}", child.wait_with_output());
        }
        thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("its output");
    let stdout = reader.join().expect("no panic").expect("its stdout");
    Output { stdout, ..output }
}

/// The codes of the findings of `doctor --json`, in alphabetical order. Left out are notes that say nothing about a
/// fault: the protocol version, and that the machine was slow.
#[track_caller]
pub(crate) fn examine(args: &[&str], variables: &[(&str, &str)]) -> (Vec<String>, Value) {
    let args = [&["doctor", "--json"], args].concat();
    let output = run(&args, variables);
    let told = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_str(&told)
        .unwrap_or_else(|error| panic!("{args:?}: {error}: {told}{stderr}"));
    let findings = report["findings"].as_array().expect("an array");
    let mut codes = Vec::new();
    let mut faults = 0;
    for finding in findings {
        faults += i32::from(finding["level"] != "note");
        let code = finding["code"].as_str().expect("a code");
        if !matches!(code, "protocol-version" | "answer-late") {
            codes.push(code.to_owned());
        }
        for text in ["sentence", "advice"] {
            assert!(finding[text].as_str().is_some_and(|text| text.ends_with('.')), "{finding}");
        }
    }
    codes.sort_unstable();
    assert_eq!(output.status.code(), Some(i32::from(faults > 0)), "{args:?}: {told}{stderr}");
    assert_eq!(report["verdict"], if faults > 0 { "faulty" } else { "good" });
    (codes, report)
}

/// A server of this command, which runs until this is dropped.
pub(crate) struct Server {
    process: Child,
    banner: String,
}

impl Server {
    #[track_caller]
    pub(crate) fn start(args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_mcp-sse"))
            .args(args)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the command starts");
        let stdout = BufReader::new(process.stdout.take().expect("piped"));
        let mut server = Self { process, banner: String::new() };
        let (sender, lines) = mpsc::channel();
        // This thread ends with the process at the latest.
        thread::spawn(move || stdout.lines().try_for_each(|line| sender.send(line.ok()).ok()));
        while !server.banner.contains("Ctrl-C stops it") {
            let Ok(Some(line)) = lines.recv_timeout(PATIENCE) else {
                panic!("{args:?} does not serve: {}", server.banner);
            };
            server.banner += &line;
            server.banner.push('\n');
        }
        server
    }

    /// The port in the first printed URL.
    #[track_caller]
    pub(crate) fn port(&self) -> u16 {
        let url = self.banner.split_once("://").expect("a URL").1;
        let authority = url.split_once('/').expect("a path").0;
        authority.rsplit_once(':').expect("a port").1.parse().expect("a port")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
