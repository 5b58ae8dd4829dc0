use mcp_sse_smol::{
    Config, Frame, Listener,
    jsonrpc::{Kind, code},
};
fn main() -> std::io::Result<()> {
    let listener = Listener::bind("127.0.0.1:8123", Config::default())?;
    async_io::block_on(listener.serve_local(async |mut session| {
        while let Some(message) = session.recv().await {
            let (Kind::Request, Some(id)) = (message.kind(), message.id()) else { continue };
            let answer = match message.method() {
                Some("ping") => Frame::result(id, &serde_json::json!({})),
                _ => Frame::error(id, code::METHOD_NOT_FOUND, "there is no such method"),
            };
            let _gone = session.send(answer.expect("the id is JSON")).await;
        }
    }))
}
