//! Certificates and tokens that are replaced while the command serves.

use core::net::SocketAddr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use mcp_sse_tests::certificate::Certificate;
use mcp_sse_tests::client::{Client, ServerAddress, Stream};
use mcp_sse_tests::scratch::Scratch;
use rustix::process::Signal;

use crate::support::{Program, eventually, open_with_token, post_with_token};

/// How files are looked at in tests that do not wait for a signal.
const OFTEN: &str = "--reload-interval=20ms";

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// Replaces a file by rename, as tools do that must never leave half a file.
fn put(path: &Path, contents: impl AsRef<[u8]>) {
    let beside = path.with_extension("new");
    fs::write(&beside, contents).expect("a file");
    fs::rename(&beside, path).expect("a file");
}

/// A certificate and a key in files.
struct PemFiles {
    scratch: Scratch,
    cert: PathBuf,
    key: PathBuf,
}

impl PemFiles {
    fn new(certificate: &Certificate) -> Self {
        let scratch = Scratch::new();
        let cert = scratch.file("cert.pem", certificate.pem());
        let key = scratch.file("key.pem", certificate.key_pem());
        Self { scratch, cert, key }
    }

    fn flags(&self) -> [&str; 4] {
        ["--tls-cert", text(&self.cert), "--tls-key", text(&self.key)]
    }
}

/// Whether a new connection to the server shows this certificate.
fn shows(address: SocketAddr, certificate: &Certificate) -> bool {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    let name = "localhost".try_into().expect("a name");
    let connection = rustls::ClientConnection::new(certificate.client(&[]), name).expect("valid");
    let tcp = TcpStream::connect(address).expect("it listens");
    tcp.set_read_timeout(Some(mcp_sse_tests::PATIENCE)).expect("a timeout");
    let mut stream = rustls::StreamOwned::new(connection, tcp);
    let asked = stream.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n");
    asked.and_then(|()| stream.read(&mut [0; 64])).is_ok()
}

#[test]
fn certificate_is_read_again_on_hangup() {
    for workers in ["--workers=1", "--workers=3"] {
        let (first, second) = (Certificate::new(), Certificate::new());
        let files = PemFiles::new(&first);
        let flags = [&files.flags()[..], &[workers, "--reload-interval=off"]].concat();
        let server = Program::start(&flags);
        let address = server.address();
        let trusting = ServerAddress::Tls(address, first.client(&[]));
        let mut open = Stream::open(&trusting);
        put(&files.cert, second.pem());
        server.signal(Signal::HUP);
        // The key is still the old one.
        server.wait_for_log("does not belong to the certificate in");
        assert!(shows(address, &first));
        put(&files.key, second.key_pem());
        server.signal(Signal::HUP);
        server.wait_for_log("the certificate was read again: new connections use it");
        for _ in 0..6 {
            assert!(shows(address, &second) && !shows(address, &first));
        }
        // A stream from before goes on: a post on a new connection brings about an event on it.
        let request = open.post_request(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
        let mut client = Client::connect(ServerAddress::Tls(address, second.client(&[])));
        assert_eq!(client.ask(request).status, 202);
        assert!(open.message().contains("\"id\":1"));
    }
}

#[test]
fn certificate_is_read_again_when_its_files_change() {
    let (first, second, third) = (Certificate::new(), Certificate::new(), Certificate::new());
    let files = PemFiles::new(&first);
    let server = Program::start(&[&files.flags()[..], &[OFTEN]].concat());
    let address = server.address();
    // In place, the key first: until the certificate follows, the old pair is used.
    fs::write(&files.key, second.key_pem()).expect("a file");
    server.wait_for_log("What was read before stays in use");
    assert!(shows(address, &first));
    fs::write(&files.cert, second.pem()).expect("a file");
    eventually(|| shows(address, &second).then_some(())).expect("the second");
    // Not PEM, then missing, then a good pair by rename.
    put(&files.cert, "no certificate");
    server.wait_for_log("has no certificate in it");
    fs::remove_file(&files.cert).expect("a file");
    server.wait_for_log("cannot be read");
    assert!(shows(address, &second));
    put(&files.key, third.key_pem());
    put(&files.cert, third.pem());
    eventually(|| shows(address, &third).then_some(())).expect("the third");
    let log = server.log();
    for certificate in [&first, &second, &third] {
        let key = certificate.key_pem();
        assert!(key.lines().filter(|line| line.len() > 40).all(|line| !log.contains(line)));
    }
}

/// Kubernetes mounts a secret as links to a link to a directory, and switches the link in the middle.
#[test]
fn certificate_behind_a_link_that_is_switched_is_read_again() {
    let (first, second) = (Certificate::new(), Certificate::new());
    let files = PemFiles::new(&first);
    let root = files.scratch.as_path();
    for (directory, certificate) in [("one", &first), ("two", &second)] {
        fs::create_dir(root.join(directory)).expect("a directory");
        fs::write(root.join(directory).join("tls.crt"), certificate.pem()).expect("a file");
        fs::write(root.join(directory).join("tls.key"), certificate.key_pem()).expect("a file");
    }
    symlink("one", root.join("data")).expect("a link");
    for name in ["tls.crt", "tls.key"] {
        symlink(Path::new("data").join(name), root.join(name)).expect("a link");
    }
    let (cert, key) = (root.join("tls.crt"), root.join("tls.key"));
    let server = Program::start(&["--tls-cert", text(&cert), "--tls-key", text(&key), OFTEN]);
    assert!(shows(server.address(), &first));
    symlink("two", root.join("new")).expect("a link");
    fs::rename(root.join("new"), root.join("data")).expect("a link");
    eventually(|| shows(server.address(), &second).then_some(())).expect("the second");
}

#[test]
fn removed_token_ends_its_sessions_and_a_new_one_is_valid() {
    let checked: [&[&str]; 3] = [&["--workers=1"], &["--workers=3"], &["bridge", "cat"]];
    for args in checked {
        let scratch = Scratch::new();
        let file = scratch.file("tokens", "alice:first\nalice:second\nbob:third\n");
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .expect("ours");
        let (command, rest) =
            if args == ["bridge", "cat"] { (&args[..1], &args[1..]) } else { (&[][..], args) };
        let flags = ["--auth-token-file", text(&file), "--reload-interval=off", "--port=0"];
        let all = [command, &flags, rest].concat();
        let server = Program::launch(&mut crate::support::command(&all));
        let address = ServerAddress::from(server.address());
        let mut first: Vec<Stream> = (0..4).map(|_| open_with_token(&address, "first")).collect();
        let second = open_with_token(&address, "second");
        put(&file, "alice:second\nbob:third\ncarol:fourth\n");
        server.signal(Signal::HUP);
        first.iter_mut().for_each(Stream::expect_end);
        server.wait_for_log("its token was removed");
        let post = |token| post_with_token(&address, &second.endpoint, token);
        assert_eq!(["first", "second", "third"].map(post), [401, 202, 404]);
        drop(open_with_token(&address, "fourth"));
        // A faulty file changes nothing, and names the line but no token.
        put(&file, "alice:fifth\nno colon here\n");
        server.signal(Signal::HUP);
        server.wait_for_log("line 2 of the tokens in");
        assert_eq!(["second", "fifth"].map(post), [202, 401]);
        let log = server.log();
        let secrets = ["first", "second", "third", "fourth", "fifth", "no colon"];
        assert!(secrets.iter().all(|secret| !log.contains(secret)), "{log}");
    }
}

#[test]
fn token_file_is_read_again_when_it_changes_and_tokens_of_variables_stay() {
    let scratch = Scratch::new();
    let file = scratch.file("tokens", "alice:first\n");
    let args = ["--auth-token-file", text(&file), "--auth-token-env", "TOKEN", OFTEN, "--port=0"];
    let server = Program::launch(crate::support::command(&args).env("TOKEN", "of-variable"));
    let address = ServerAddress::from(server.address());
    let (mut first, _other) =
        (open_with_token(&address, "first"), open_with_token(&address, "of-variable"));
    // The same size, and perhaps the same second.
    fs::write(&file, "alice:fresh\n").expect("a file");
    first.expect_end();
    drop(open_with_token(&address, "fresh"));
    fs::remove_file(&file).expect("a file");
    server.wait_for_log("cannot be read");
    drop(open_with_token(&address, "fresh"));
    put(&file, "alice:newest\n");
    let endpoint = open_with_token(&address, "of-variable").endpoint;
    let valid = |token| post_with_token(&address, &endpoint, token) != 401;
    eventually(|| (valid("newest") && !valid("fresh")).then_some(())).expect("the newest");
    assert!(valid("of-variable"));
}
