use mcp_sse_smol::{Config, Frame, Listener, jsonrpc::Kind};
fn main() -> std::io::Result<()> {
    let listener = Listener::bind("127.0.0.1:8123", Config::default())?;
    async_io::block_on(listener.serve_local(async |mut session| {
        while let Some(message) = session.recv().await {
            if let (Kind::Request, Some(id)) = (message.kind(), message.id()) {
                let answer = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
                let frame = Frame::message(answer.as_bytes()).expect("this is JSON");
                let _gone = session.send(frame).await;
            }
        }
    }))
}
