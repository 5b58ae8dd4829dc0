//! A bridge under test, its servers, and functions that find its processes.

use core::net::SocketAddr;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use core::time::Duration;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Instant;

use mcp_sse_tests::TEST_MAX;
use mcp_sse_tests::client::Stream;
use rustix::process::{Pid, Signal, kill_process};

/// How long to wait for events that take several seconds by design.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A server as a shell script. It answers each request with its params. The variable MODE selects a special
/// behaviour.
pub(crate) const SERVER: &str = r#"
answer() {
    while IFS= read -r line; do
        case $line in *'"id":'*) ;; *) continue ;; esac
        id=${line#*\"id\":} id=${id%%,*} params=null
        case $line in *'"params":'*) params=${line#*\"params\":} params=${params%\}} ;; esac
        printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$params"
    done
}
case ${MODE:-} in
    banner) echo 'Starting..'; echo '[INFO] { ready'; printf '\377\376\n\n'; answer ;;
    bytes) answer | dd bs=1 2>/dev/null ;;
    endless) head -c 20971520 /dev/zero | tr '\0' x; echo; answer ;;
    exit) exit 3 ;;
    exit-later) read -r line; exit 4 ;;
    killed) kill -9 $$ ;;
    deaf) exec sleep 1000 ;;
    deaf-to-all) trap '' TERM; exec sleep 1000 ;;
    closes-output) exec >&-; exec sleep 1000 ;;
    closes-input) echo '{"jsonrpc":"2.0","method":"closes"}'; exec <&-; exec sleep 1000 ;;
    pretty) IFS= read -r line; printf '{\n  "jsonrpc": "2.0",\n  "id": 1,\n  "result": [\n    {}\n  ]\n}\n'; answer ;;
    batch) IFS= read -r line; echo '[{"jsonrpc":"2.0","method":"a"},{"jsonrpc":"2.0","id":1,"result":{}}]'; answer ;;
    unended) read -r line; printf '{"jsonrpc":"2.0","id":0,"result":{}}'; exit 0 ;;
    rubbish) yes ;;
    asks-wrongly)
        IFS= read -r line; echo '{"jsonrpc":"2.0","id":0,"result":{}}'
        echo '{"jsonrpc":"2.0","id":5,"method":"roots/list","params":{no}}'; IFS= read -r line
        printf '{"jsonrpc":"2.0","method":"told","params":[%s]}\n' "$line"; answer ;;
    asks-much)
        IFS= read -r line; echo '{"jsonrpc":"2.0","id":0,"result":{}}'
        printf '{"jsonrpc":"2.0","id":5,"method":"m","params":["'
        head -c 12582912 /dev/zero | tr '\0' x; echo '"]}'; IFS= read -r line
        printf '{"jsonrpc":"2.0","method":"told","params":[%s]}\n' "$line"; answer ;;
    broken) answer | sed -u '1!s/"result":/"result":no,/' ;;
    garbled) answer | sed -u 's/"x"/"\xb0",NaN/; s/"id":\([0-9]*\)/"id":\1.0,"error":null/' ;;
    missing) exec /nothing/there ;;
    noisy) echo 'from stderr' >&2; printf 'no \033[31mend' >&2; answer ;;
    flood) n=0; while echo '{"jsonrpc":"2.0","method":"flood","params":['$n']}'; do n=$((n + 1)); done ;;
    stubborn)
        # A grandchild that ignores SIGTERM, holds no pipe, and outlives whoever started it.
        (trap '' TERM; while sleep 1000; do :; done) </dev/null >/dev/null 2>&1 &
        answer ;;
    leaver)
        # A helper that leaves the group, ignores SIGTERM, and holds no pipe.
        setsid sh -c 'trap "" TERM; while sleep 1000; do :; done' </dev/null >/dev/null 2>&1 &
        answer ;;
    forker)
        # Helpers that leave the group and start others all the time.
        setsid sh -c 'trap "" TERM; while :; do sleep 0.1 & sleep 0.01; done' </dev/null >/dev/null 2>&1 &
        answer ;;
    held)
        # Helpers that hold its stdout and its stderr when it exits; one left the group, and neither
        # heeds SIGTERM.
        (trap '' TERM; while sleep 1000; do :; done) &
        setsid sh -c 'trap "" TERM; while sleep 1000; do :; done' &
        read -r line; exit 5 ;;
    last-words)
        n=0; while [ $n -lt 900 ]; do text="$text
stderr line $n of many, which are some sixty kilobytes in all, more than is read at once"; n=$((n + 1)); done
        read -r line; echo "$text" >&2; exit 6 ;;
    shouts)
        n=0; while [ $n -lt 3000 ]; do echo "shout $n"; n=$((n + 1)); done >&2
        answer ;;
    immortal) trap '' TERM; answer; while :; do sleep 1000; done ;;
    waits)
        IFS= read -r line; echo '{"jsonrpc":"2.0","id":0,"result":{}}'
        while [ ! -e "$GO" ]; do sleep 0.05; done; answer ;;
    record) answer() { tee -a "$RECORD"; }; answer >/dev/null ;;
    environment) IFS= read -r line; printf '{"jsonrpc":"2.0","id":1,"result":["%s","%s","%s","%s","%s"]}\n' "$PWD" "${API_KEY-none}" "${EVIL-none}" "${PYTHONUNBUFFERED-none}" "$*"; answer ;;
    *) answer ;;
esac
"#;

pub(crate) const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;

/// A running bridge. Its descendants are recognized by an environment variable.
pub(crate) struct Bridge {
    process: Child,
    address: SocketAddr,
    mark: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl Bridge {
    /// Starts a bridge for [`SERVER`].
    #[track_caller]
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::start_with(flags, &["--", "sh", "-c", SERVER, "server", "fixed argument"])
    }

    #[track_caller]
    pub(crate) fn start_with(flags: &[&str], command: &[&str]) -> Self {
        Self::launch(&[&["--header-to-env", "X-Mode=MODE"], flags, command].concat())
    }

    /// Starts a bridge with these arguments and `--port`.
    #[track_caller]
    pub(crate) fn launch(args: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let value = format!("{}-{number}", std::process::id());
        let mark = format!("BRIDGE_TEST={value}");
        let mut process = Command::new(env!("CARGO_BIN_EXE_mcp-sse"))
            .args(["bridge", "--port", "0"])
            .args(args)
            .env("BRIDGE_TEST", value)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let log = Arc::<Mutex<Vec<String>>>::default();
        let (stderr, lines) = (process.stderr.take().expect("a pipe"), log.clone());
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().expect("a log").push(line);
            }
        });
        let stdout = BufReader::new(process.stdout.take().expect("a pipe"));
        let (says, said) = mpsc::channel();
        thread::spawn(move || {
            // stdout is read to its end, so that the command never blocks on a full pipe.
            for line in stdout.lines().map_while(Result::ok) {
                let address = line.split_once("http://").and_then(|(_, rest)| rest.split_once('/'));
                if let Some(address) = address.and_then(|(address, _)| address.parse().ok()) {
                    // With several servers, the first URL is enough.
                    let _ = says.send(address);
                }
            }
        });
        let address =
            said.recv_timeout(LONG).unwrap_or_else(|_| panic!("it says where it serves: {log:?}"));
        Self { process, address, mark, log }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Opens a session whose server is in this mode.
    #[track_caller]
    pub(crate) fn open(&self, mode: &str) -> Stream {
        Stream::open_with(self.address, &get(mode))
    }

    /// Opens and initializes a session with a server that echoes.
    #[track_caller]
    pub(crate) fn bystander(&self) -> Stream {
        let mut stream = self.open("");
        stream.begin();
        stream
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("a log").join("\n")
    }

    #[track_caller]
    pub(crate) fn wait_for_log(&self, text: &str) {
        within(LONG, &format!("{text:?} in the log"), || self.log().contains(text));
    }

    /// The ids of the bridge's descendants, guards included.
    pub(crate) fn descendants(&self) -> Vec<u32> {
        let marked = |pid: &u32| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|variable| variable == self.mark.as_bytes())
        };
        processes().into_iter().filter(|pid| *pid != self.pid()).filter(marked).collect()
    }

    #[track_caller]
    pub(crate) fn wait_for_no_descendants(&self, limit: Duration) {
        within(limit, "the end of all processes", || self.descendants().is_empty());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a process id");
        kill_process(pid, signal).expect("it runs");
    }

    /// Waits for the end of the bridge, and returns its exit status.
    #[track_caller]
    pub(crate) fn wait_for_end(&mut self) -> Option<i32> {
        let mut status = None;
        within(LONG, "the end of the bridge", || {
            status = self.process.try_wait().expect("a process");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("descriptors").count()
    }

    /// The bytes that the bridge has written to pipes, files and sockets so far.
    pub(crate) fn written(&self) -> u64 {
        self.counter("wchar: ")
    }

    /// The bytes that the bridge has read from pipes and files so far. Reads from sockets do not count.
    pub(crate) fn read(&self) -> u64 {
        self.counter("rchar: ")
    }

    fn counter(&self, name: &str) -> u64 {
        let io = fs::read_to_string(format!("/proc/{}/io", self.pid())).expect("counters");
        let line = io.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        line.parse().expect("a number")
    }

    /// The bridge's resident memory in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            // The second signal kills processes without waiting.
            self.signal(Signal::TERM);
            self.signal(Signal::TERM);
            let start = Instant::now();
            while matches!(self.process.try_wait(), Ok(None)) {
                if start.elapsed() > LONG {
                    let _ = self.process.kill();
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("the bridge's log:\n{}", self.log());
        }
    }
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn output(mut command: Command) -> Output {
    let what = format!("the end of {command:?}");
    mcp_sse_tests::within(TEST_MAX, &what, move || command.output()).expect("it starts")
}

pub(crate) trait StreamExt {
    /// Initializes the session and reads the answer.
    fn begin(&mut self);
    /// Posts a message, which must be accepted.
    fn say(&mut self, body: &str);
}

impl StreamExt for Stream {
    #[track_caller]
    fn begin(&mut self) {
        self.say(INITIALIZE);
        assert_eq!(self.message(), r#"{"jsonrpc":"2.0","id":0,"result":{}}"#);
    }

    #[track_caller]
    fn say(&mut self, body: &str) {
        let answer = self.post(body);
        assert_eq!(answer.status, 202, "{body}: {answer:?}");
    }
}

/// The request that opens a session in this mode.
pub(crate) fn get(mode: &str) -> String {
    format!("GET /sse HTTP/1.1\r\nHost: localhost\r\nX-Mode: {mode}\r\n\r\n")
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("processes").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
