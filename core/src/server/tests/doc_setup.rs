// What the examples of `Server` begin with: this file is included by each of them, and by nothing else.

use mcp_sse_core::*;

const GET: &[u8] = b"GET /sse HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n";
const NOTIFICATION: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

struct Dice(u8);

impl Entropy for Dice {
    fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
        dest.fill_with(|| {
            self.0 = self.0.wrapping_mul(5).wrapping_add(1);
            self.0
        });
        Ok(())
    }
}

fn server_of(config: ConfigBuilder) -> Server {
    Server::new(config.build().expect("a valid configuration"), Box::new(Dice(7)), Time::ZERO)
}

fn server() -> Server {
    server_of(Config::builder())
}

/// A client's GET: its connection, its session, and the target to post to.
fn open(server: &mut Server) -> (ConnId, SessionId, String) {
    let conn = server.accept(Peer::local(), Time::ZERO).expect("room for a connection");
    server.handle_input(conn, GET, Time::ZERO);
    let Some(Event::Opened { session, .. }) = server.poll_event() else { panic!("no session") };
    let bytes = server.transmit(conn).chunks().collect::<Vec<_>>().concat();
    server.handle_written(conn, bytes.len(), Time::ZERO);
    let text = String::from_utf8(bytes).expect("text");
    let target = text.split_once("data: ").expect("an endpoint").1.lines().next();
    (conn, session, target.expect("a line").to_owned())
}

/// A client's POST, without its body.
fn post_head(target: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n"
    )
}

/// Two shards of one server, and the target to post to in a session of the second.
fn pair() -> (Server, Server, String) {
    let shard = |number| server_of(Config::builder().shard(ShardId(number)).forwarding(true));
    let (here, mut there) = (shard(0), shard(1));
    let (_, _, target) = open(&mut there);
    (here, there, target)
}
