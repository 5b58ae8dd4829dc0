// What the examples of `Session`, `SessionSender`, `Handle` and `ExchangeClient` begin with: this file is
// included by each of them, and by nothing else. Paths are written out, so that an example may import what it
// needs.

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
const CANCELLED: &str = r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#;

/// Serves one client with `handler`, and returns what the client has received on its stream.
///
/// The client posts each message, and leaves when every request is answered. Without `messages` it stays
/// until the server ends the stream.
fn serve_client<H, F>(messages: &'static [&'static str], handler: H) -> std::io::Result<String>
where
    H: Fn(mcp_sse_driver::Session) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    use mcp_sse_smol::{Authorization, Config, Listener, StaticTokens};

    let tokens = StaticTokens::builder().token("admin", "secret").build();
    let tokens = Authorization::Static(tokens.expect("a valid token"));
    let config = Config::builder().authorization(tokens).build().expect("a valid configuration");
    let listener = Listener::bind("127.0.0.1:0", config)?;
    let address = listener.local_addr()?;
    let client = std::thread::spawn(move || receive(address, messages));
    let (ended, handler_ended) = std::sync::mpsc::channel();
    smol::block_on(listener.serve_local(move |session| {
        let (ended, stop) = (ended.clone(), ShutdownOnDrop(session.server().clone()));
        let serving = handler(session);
        async move {
            serving.await;
            ended.send(()).expect("the example waits");
            drop(stop);
        }
    }))?;
    // A server survives a panic of its handler. The example fails.
    handler_ended.try_recv().expect("the handler did not panic");
    client.join().expect("no panic")
}

struct ShutdownOnDrop(mcp_sse_driver::Handle);

impl Drop for ShutdownOnDrop {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}

fn receive(address: std::net::SocketAddr, messages: &[&str]) -> std::io::Result<String> {
    use std::io::{BufRead, Read, Write};

    const FIELDS: &str = "Host: localhost\r\nAuthorization: Bearer secret\r\nAccept-Language: de\r\n";
    let connect = || {
        let socket = std::net::TcpStream::connect(address)?;
        socket.set_read_timeout(Some(std::time::Duration::from_secs(30)))?;
        std::io::Result::Ok(socket)
    };
    let mut stream = connect()?;
    write!(stream, "GET /sse HTTP/1.1\r\n{FIELDS}\r\n")?;
    let answers = messages.iter().filter(|message| message.contains("\"id\"")).count();
    let (mut received, mut answered) = (String::new(), 0);
    for line in std::io::BufReader::new(stream.try_clone()?).lines() {
        // A server that is aborted cuts the stream.
        let Ok(line) = line else { break };
        answered += usize::from(line.starts_with("data: {"));
        if let Some(target) = line.strip_prefix("data: /") {
            for message in messages {
                let mut post = connect()?;
                write!(
                    post,
                    "POST /{target} HTTP/1.1\r\n{FIELDS}Content-Type: application/json\r\n\
                     Connection: close\r\nContent-Length: {}\r\n\r\n{message}",
                    message.len()
                )?;
                let mut answer = String::new();
                post.read_to_string(&mut answer)?;
                assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
            }
        }
        received += &line;
        received += "\n";
        if !messages.is_empty() && received.contains("data: /") && answered == answers {
            // The client leaves. The server may have closed the stream meanwhile.
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
    }
    Ok(received)
}
