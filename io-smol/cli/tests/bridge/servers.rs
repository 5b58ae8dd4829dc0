//! Several servers in one file.

use std::process::Command;

use mcp_sse_tests::client::{Client, Stream, answer, call};
use mcp_sse_tests::scratch::Scratch;
use serde_json::json;

use crate::support::{Bridge, SERVER, StreamExt, output};

fn file(scratch: &Scratch) -> String {
    let server =
        |name: &str| json!({"command": "sh", "args": ["-c", SERVER, name], "env": {"EVIL": name}});
    let servers = json!({"mcpServers": {"one": server("one"), "other": server("other")}});
    scratch.file("servers.json", servers.to_string()).display().to_string()
}

fn open(bridge: &Bridge, name: &str) -> Stream {
    let request =
        format!("GET /{name}/sse HTTP/1.1\r\nHost: localhost\r\nX-Mode: environment\r\n\r\n");
    Stream::open_with(bridge.address(), &request)
}

fn get(bridge: &Bridge, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let response = Client::connect(bridge.address()).ask(request);
    (response.status, response.text().to_owned())
}

fn each_has_its_own(flags: &[&str]) {
    let scratch = Scratch::new();
    let file = file(&scratch);
    let bridge = Bridge::launch(&[&["--config", &file], flags].concat());
    for name in ["one", "other"] {
        let mut stream = open(&bridge, name);
        stream.say(&call(1, "[]").replace("echo", "initialize"));
        let told = stream.message();
        assert!(told.contains(&format!(r#""{name}","1","#)), "{name}: {told}");
        stream.say(&call(2, "[]"));
        assert_eq!(stream.message(), answer(2, "[]"));
        // A session of one server does not exist below the path of another.
        let post = stream.post_request(&call(3, "[]"));
        let post = String::from_utf8(post).expect("text");
        let path = format!("/{name}/messages");
        assert!(post.contains(&path), "{post}");
        let elsewhere = if name == "one" { "/other/messages" } else { "/one/messages" };
        let status = Client::connect(bridge.address()).ask(post.replace(&path, elsewhere)).status;
        assert_eq!(status, 404);
    }
    assert_eq!(
        get(&bridge, "/"),
        (200, "MCP servers, each over HTTP+SSE:\n\none: /one/sse\nother: /other/sse\n".into())
    );
    assert_eq!(get(&bridge, "/sse").0, 404);
    assert_eq!(get(&bridge, "/nothing/sse").0, 404);
}

#[test]
fn several_servers_have_a_path_each() {
    each_has_its_own(&["--header-to-env", "X-Mode=MODE"]);
}

#[test]
fn several_servers_can_each_be_shared() {
    let scratch = Scratch::new();
    let file = file(&scratch);
    let bridge = Bridge::launch(&["--config", &file, "--shared"]);
    let mut streams = Vec::new();
    for name in ["one", "other", "one"] {
        let mut stream = open(&bridge, name);
        stream.say(&call(1, "{}").replace("echo", "initialize"));
        assert_eq!(stream.message(), answer(1, r#"{"capabilities":{}}"#));
        streams.push(stream);
    }
    // Two servers and their guards.
    assert_eq!(bridge.descendants().len(), 4);
}

#[test]
fn start_errors_are_reported() {
    let scratch = Scratch::new();
    let check = |text: &str, said: &str| {
        let file = scratch.file("servers.json", text);
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-sse"));
        command.args(["bridge", "--port=0", "--config"]).arg(&file);
        let output = output(command);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.trim_end().ends_with(said) && told.lines().count() == 1, "{told}");
    };
    check("{", "is not JSON: EOF while parsing an object at line 1 column 1");
    check(r#"{"mcpServers": {"a": {}}}"#, "servers.json: server \"a\": command: is missing");
    check(
        r#"{"mcpServers": {"a": {"command": "/nothing/there"}}}"#,
        "server \"a\": there is no program /nothing/there",
    );
}
