//! Sockets that a service manager has bound, and what it is told.

use core::time::Duration;
use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};

use mcp_sse_tests::PATIENCE;
use mcp_sse_tests::client::{ServerAddress, Stream};
use mcp_sse_tests::scratch::Scratch;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::Signal;

use crate::support::{Program, command, failure};

/// The command with these arguments, as a service manager starts it with these descriptors. They stay open here while
/// the other value is not dropped.
fn activated(args: &[&str], passed: Vec<OwnedFd>) -> (Command, Vec<OwnedFd>) {
    let own = command(args);
    // The descriptors get the numbers from 3 on, and the shell's process becomes the command's.
    let mut script = String::new();
    for (at, descriptor) in passed.iter().enumerate() {
        // Numbers above those that the shell assigns, so that none is replaced before it is used.
        let number = descriptor.as_raw_fd();
        script += &format!("exec {}<&{number}\n", at + 3);
        fcntl_setfd(descriptor, FdFlags::empty()).expect("it is open");
    }
    script += "LISTEN_PID=$$ exec \"$0\" \"$@\"";
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]).arg(own.get_program()).args(own.get_args());
    for (name, value) in own.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.env("LISTEN_FDS", passed.len().to_string()).stdin(Stdio::null());
    (shell, passed)
}

/// Moves a descriptor to a number that the shell of [`activated`] does not assign.
fn high(descriptor: impl Into<OwnedFd>) -> OwnedFd {
    rustix::io::fcntl_dupfd_cloexec(descriptor.into(), 20).expect("a descriptor")
}

fn tcp() -> (OwnedFd, ServerAddress) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("bound");
    (high(socket), address.into())
}

fn check(address: &ServerAddress) {
    let mut stream = Stream::open(address);
    assert_eq!(stream.post(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).status, 202);
    assert!(stream.message().contains("\"id\":1"));
}

#[test]
fn passed_tcp_sockets_are_served_and_named() {
    for args in [&[][..], &["--workers=3"], &["demo", "--reload-interval=off"]] {
        let ((first, at_first), (second, at_second)) = (tcp(), tcp());
        let (mut command, passed) = activated(args, vec![first, second]);
        // These say where to listen, and are for programs without passed sockets.
        command.env("PORT", "1").env("MCP_SSE_HOST", "0.0.0.0");
        let mut server = Program::launch(&mut command);
        drop(passed);
        for address in [&at_first, &at_second, &at_first] {
            check(address);
        }
        let both = server.banner.lines().next().expect("a line").to_owned();
        assert!(both.contains(" and 127.0.0.1:") && both.contains("service manager"), "{both}");
        server.wait_for_log("listens on sockets of the service manager: 127.0.0.1:");
        server.signal(Signal::TERM);
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn passed_unix_socket_is_served_and_its_file_stays() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let socket = UnixListener::bind(&path).expect("a socket");
    let (mut command, passed) = activated(&["bridge", "cat"], vec![high(socket)]);
    let mut server = Program::launch(&mut command);
    drop(passed);
    drop(Stream::open(ServerAddress::Unix(path.clone())));
    let name = path.to_str().expect("text");
    assert!(server.banner.contains(name), "{}", server.banner);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert!(path.exists());
}

#[cfg(feature = "tls")]
#[test]
fn passed_tcp_socket_is_served_with_tls() {
    let certificate = mcp_sse_tests::certificate::Certificate::new();
    let scratch = Scratch::new();
    let cert = scratch.file("cert.pem", certificate.pem());
    let key = scratch.file("key.pem", certificate.key_pem());
    let (cert, key) = (cert.to_str().expect("text"), key.to_str().expect("text"));
    let flags = ["--tls-cert", cert, "--tls-key", key];
    let (socket, address) = tcp();
    let ServerAddress::Tcp(address) = address else { panic!("{address:?}") };
    let (mut command, _passed) = activated(&flags, vec![socket]);
    let _server = Program::launch(&mut command);
    check(&ServerAddress::Tls(address, certificate.client(&[])));
    let unix = UnixListener::bind(scratch.path("s")).expect("a socket");
    let (mut command, _passed) = activated(&flags, vec![high(unix)]);
    let (status, said) = failure(&mut command);
    assert_eq!(status, Some(1));
    assert!(said.contains("--tls-cert needs TCP sockets"), "{said}");
}

#[test]
fn sockets_that_cannot_be_served_are_refused() {
    let scratch = Scratch::new();
    let unix = || UnixListener::bind(scratch.path("s")).expect("a socket");
    #[track_caller]
    fn check(args: &[&str], passed: Vec<OwnedFd>, code: i32, said: &str) {
        let (mut command, _passed) = activated(args, passed);
        let (status, told) = failure(&mut command);
        assert_eq!(status, Some(code), "{told}");
        assert!(told.contains(said), "{told}");
    }
    check(&[], vec![tcp().0, high(unix())], 1, "TCP sockets and Unix sockets");
    let (connected, _other) = UnixStream::pair().expect("two sockets");
    check(
        &[],
        vec![tcp().0, high(connected)],
        1,
        "descriptor 4, which the service manager has passed, is not listening",
    );
    let file = fs::File::open("/dev/null").expect("a file");
    check(
        &["demo"],
        vec![high(file)],
        1,
        "descriptor 3, which the service manager has passed, is no TCP socket",
    );
    for flag in ["--port=0", "--host=::1", "--unix=/s"] {
        let name = flag.split('=').next().expect("a name");
        check(&[flag], vec![tcp().0], 2, &format!("{name} cannot be used, because"));
        check(&["bridge", flag, "cat"], vec![tcp().0], 2, "LISTEN_FDS");
    }
    // Sockets that are bound elsewhere need a token as well, if other machines can reach them.
    let open = TcpListener::bind("0.0.0.0:0").expect("a free port");
    check(&[], vec![high(open)], 2, "can be reached from other machines");
}

#[test]
fn sockets_for_another_process_are_not_used() {
    let mut command = command(&["--port", "0"]);
    let server = Program::launch(command.envs([("LISTEN_FDS", "1"), ("LISTEN_PID", "1")]));
    check(&server.address().into());
}

/// The service manager's end of its socket.
struct Manager(UnixDatagram);

impl Manager {
    #[track_caller]
    fn hears(&self) -> String {
        let mut buffer = [0; 4096];
        let count = self.0.recv(&mut buffer).expect("a notification");
        String::from_utf8_lossy(buffer.get(..count).expect("within")).into_owned()
    }

    /// The next notification with this line. Those of the watchdog before it are skipped.
    #[track_caller]
    fn hears_line(&self, line: &str) -> String {
        loop {
            let heard = self.hears();
            if heard.lines().any(|found| found == line) {
                return heard;
            }
            assert_eq!(heard, "WATCHDOG=1", "instead of {line}");
        }
    }
}

/// A socket for notifications, and its value of `NOTIFY_SOCKET`.
fn manager_at(scratch: &Scratch, abstract_name: bool) -> (Manager, String) {
    let path = scratch.path("notify");
    let text = path.to_str().expect("text").to_owned();
    let (socket, name) = if abstract_name {
        #[cfg(target_os = "linux")]
        {
            use std::os::linux::net::SocketAddrExt;
            let address =
                std::os::unix::net::SocketAddr::from_abstract_name(&text).expect("a name");
            (UnixDatagram::bind_addr(&address).expect("a socket"), format!("@{text}"))
        }
        #[cfg(not(target_os = "linux"))]
        panic!("there are no such names");
    } else {
        (UnixDatagram::bind(&path).expect("a socket"), text)
    };
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    (Manager(socket), name)
}

#[test]
fn service_manager_is_told_of_start_reload_and_stop() {
    for abstract_name in [false, cfg!(target_os = "linux")] {
        for args in [&["--port=0"][..], &["bridge", "--port=0", "--workers=2", "cat"]] {
            let scratch = Scratch::new();
            let (manager, name) = manager_at(&scratch, abstract_name);
            let mut server = Program::launch(command(args).env("NOTIFY_SOCKET", &name));
            let ready = manager.hears_line("READY=1");
            assert!(ready.contains("STATUS=Listening on 127.0.0.1:"), "{ready}");
            server.signal(Signal::HUP);
            let reloading = manager.hears_line("RELOADING=1");
            assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
            manager.hears_line("READY=1");
            server.signal(Signal::TERM);
            manager.hears_line("STOPPING=1");
            assert_eq!(server.wait().code(), Some(0));
        }
    }
}

#[test]
fn watchdog_is_notified_if_it_is_enabled_for_this_process() {
    let scratch = Scratch::new();
    let (manager, name) = manager_at(&scratch, false);
    let watched = [("NOTIFY_SOCKET", &*name), ("WATCHDOG_USEC", "40000")];
    let args = ["--port=0", "--workers=3"];
    let server = Program::launch(command(&args).envs(watched));
    manager.hears_line("READY=1");
    for _ in 0..4 {
        manager.hears_line("WATCHDOG=1");
    }
    drop(server);
    let _server = Program::launch(command(&args).envs(watched).env("WATCHDOG_PID", "1"));
    manager.hears_line("READY=1");
    manager.0.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let silence = manager.0.recv(&mut [0; 64]).expect_err("the watchdog is for another process");
    assert!(matches!(silence.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silence}");
}

#[test]
fn service_manager_that_cannot_be_reached_does_not_stop_the_server() {
    for name in ["/nothing/notify", "vsock:2:1234"] {
        let server = Program::launch(command(&["--port=0"]).env("NOTIFY_SOCKET", name));
        server.wait_for_log(&format!("the service manager at {name} cannot be notified"));
        check(&server.address().into());
    }
}

/// A notification waits while the socket is full. SIGTERM is handled on the thread that would wait.
#[test]
fn service_manager_that_reads_nothing_does_not_keep_the_server_from_stopping() {
    let scratch = Scratch::new();
    let (_manager, name) = manager_at(&scratch, false);
    let filler = UnixDatagram::unbound().expect("a socket");
    filler.set_nonblocking(true).expect("a socket that does not block");
    let full = (0..100_000).any(|_| filler.send_to(b"WATCHDOG=1", &name).is_err());
    assert!(full, "the socket takes everything");
    let mut server = Program::launch(command(&["--port=0"]).env("NOTIFY_SOCKET", &name));
    server.wait_for_log("cannot be notified");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
}
