//! A server as one task of an application with several executors.
//!
//! `cargo run -p mcp-sse-smol --example several_executors -- 127.0.0.1:8000`
//!
//! - A `LocalExecutor` on the main thread runs the server with its sessions, and a task of the
//!   application. That task sends each line of stdin to all clients, as a log notification. All of them run on one
//!   thread, so sessions and `main` can share the number of answers in an `Rc<Cell<_>>`.
//! - An `Executor`, which two other threads run, does the long work: the tool `primes`. The sessions await it,
//!   so it delays neither other sessions nor the sockets.
//!
//! The end of stdin shuts the server down. With `Listener::workers` and `Listener::serve_on_workers`, the
//! server itself can have several threads, with a `LocalExecutor` on each.

use core::cell::Cell;
use std::rc::Rc;
use std::{env, io, thread};

use mcp_sse_smol::jsonrpc::{Kind, Message, code};
use mcp_sse_smol::{Config, Frame, Handle, Listener, Session};
use serde::Deserialize;
use serde_json::{Value, json};
use smol::io::{AsyncBufReadExt, BufReader};
use smol::stream::StreamExt;
use smol::{Executor, LocalExecutor, Unblock, future};

/// The executor for work that keeps a processor busy.
static LONG_WORK: Executor<'static> = Executor::new();
const THREADS: usize = 2;

fn main() -> io::Result<()> {
    for number in 0..THREADS {
        let run = || smol::block_on(LONG_WORK.run(future::pending::<()>()));
        thread::Builder::new().name(format!("long-work-{number}")).spawn(run)?;
    }
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let config = Config::default();
    let path = config.stream_path().to_owned();
    let listener = Listener::bind(&*address, config)?;
    println!("http://{}{path}", listener.local_addr()?);

    let executor = LocalExecutor::new();
    let answers = Rc::new(Cell::new(0));
    let handle = listener.handle();
    let served = executor.spawn(listener.serve_local({
        let answers = answers.clone();
        move |session| serve(session, answers.clone())
    }));
    executor.spawn(pass_lines_on(handle)).detach();
    smol::block_on(executor.run(served))?;
    println!("{} requests were answered", answers.get());
    Ok(())
}

/// Sends each line of stdin to all clients, and shuts the server down at the end of stdin.
async fn pass_lines_on(server: Handle) {
    // Reading stdin blocks a thread. `Unblock` reads it on a thread of its own.
    let mut lines = BufReader::new(Unblock::new(io::stdin())).lines();
    while let Some(Ok(line)) = lines.next().await {
        let params = json!({"level": "info", "logger": "console", "data": line});
        let notice = Frame::notification("notifications/message", &params).expect("it is JSON");
        match server.broadcast(notice).await {
            Ok(reach) => println!("sent to {} clients", reach.queued),
            Err(_stopped) => return,
        }
    }
    server.shutdown();
}

/// Answers the requests of one client until it leaves.
async fn serve(mut session: Session, answers: Rc<Cell<u64>>) {
    while let Some(message) = session.recv().await {
        let (Kind::Request, Some(id)) = (message.kind(), message.id()) else { continue };
        let answer = match result_of(&message).await {
            Ok(result) => Frame::result(id, &result),
            Err((code, why)) => Frame::error(id, code, &why),
        };
        answers.set(answers.get() + 1);
        // This fails if the client has left. Then `recv` returns `None`.
        let _ = session.send(answer.expect("the id is JSON")).await;
    }
}

#[derive(Deserialize)]
struct Call {
    name: String,
    arguments: Arguments,
}

#[derive(Deserialize)]
struct Arguments {
    below: u32,
}

/// The result of a request, or the code and the message of its error.
async fn result_of(request: &Message) -> Result<Value, (i32, String)> {
    match request.method() {
        Some("initialize") => Ok(json!({
            "protocolVersion": "2024-11-05",
            "capabilities": {"tools": {}, "logging": {}},
            "serverInfo": {"name": "several_executors", "version": "1.0.0"},
        })),
        Some("ping" | "logging/setLevel") => Ok(json!({})),
        Some("tools/list") => Ok(json!({"tools": [{
            "name": "primes",
            "description": "Counts the primes below a number.",
            "inputSchema": {
                "type": "object",
                "properties": {"below": {"type": "integer", "minimum": 0, "maximum": 10_000_000}},
                "required": ["below"],
            },
        }]})),
        Some("tools/call") => {
            let wrong = |why: String| (code::INVALID_PARAMS, why);
            let Call { name, arguments: Arguments { below } } =
                request.params().map_err(|error| wrong(error.to_string()))?;
            if name != "primes" || below > 10_000_000 {
                return Err(wrong("the tool is unknown, or the number is too large".into()));
            }
            let count = LONG_WORK.spawn(async move { primes(below) }).await;
            Ok(json!({"content": [{"type": "text", "text": count.to_string()}]}))
        }
        _ => Err((code::METHOD_NOT_FOUND, "there is no such method".into())),
    }
}

/// Counts the primes below a number with the sieve of Eratosthenes.
fn primes(below: u32) -> usize {
    let below = below as usize;
    let mut composite = vec![false; below];
    let mut count = 0;
    for number in 2..below {
        if !composite[number] {
            count += 1;
            (number * number..below).step_by(number).for_each(|at| composite[at] = true);
        }
    }
    count
}
