//! `bridge --check`: tries out servers, several at once, and prints the results in the servers' order.

use core::time::Duration;
use std::thread;

use async_channel::{Sender, unbounded};
use mcp_sse_bridge::check;
use mcp_sse_bridge::children::Children;
use mcp_sse_bridge::servers_file::BridgedServer;

use crate::failure::Failure;

/// The most servers that are tried out at once.
const TRIED_AT_ONCE: usize = 8;

/// A line to print about a server.
enum ReportLine {
    Works(String),
    Fails(String),
    /// A line for stderr that is not a result.
    Note(String),
}

/// Tries out every server. Fails if one of them fails.
pub(super) fn try_all(
    servers: Vec<BridgedServer>,
    timeout: Option<Duration>,
) -> Result<(), Failure> {
    let workers = servers.len().min(TRIED_AT_ONCE);
    let (work, queue) = unbounded();
    let mut results = Vec::new();
    for server in servers {
        let (lines, printed) = unbounded();
        results.push(printed);
        // `send_blocking` cannot fail: the receiver exists, and the channel is unbounded.
        let _ = work.send_blocking((server, lines));
    }
    work.close();
    let try_next = || {
        while let Ok((server, lines)) = queue.recv_blocking() {
            try_one(&server, timeout, &lines);
        }
    };
    let mut failed = false;
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(try_next);
        }
        for lines in results {
            while let Ok(line) = lines.recv_blocking() {
                match line {
                    ReportLine::Works(line) => println!("{line}"),
                    ReportLine::Fails(line) => {
                        failed = true;
                        eprintln!("{line}");
                    }
                    ReportLine::Note(line) => eprintln!("{line}"),
                }
            }
        }
    });
    if failed { Err(Failure::Printed) } else { Ok(()) }
}

/// Tries out one server. Its lines are sent to `lines` and printed after those of earlier servers. Reports that it
/// has not answered yet are printed immediately.
fn try_one(
    BridgedServer { name, command }: &BridgedServer,
    timeout: Option<Duration>,
    lines: &Sender<ReportLine>,
) {
    // The receiver reads until the sender is dropped.
    let tell = |line| drop(lines.send_blocking(line));
    // Each server has its own `Children`, so that the counters and last stderr lines are those of this server.
    let children = match Children::new() {
        Ok(children) => children,
        Err(error) => {
            let why = format!("mcp-sse: {name}: cannot supervise its process: {error}");
            return tell(ReportLine::Fails(why));
        }
    };
    children.keep_stderr();
    let waiting = |waiting| eprintln!("mcp-sse: {name}: {waiting}");
    let found = smol::block_on(check::check(&children, command, name, timeout, waiting));
    tell(match &found {
        Ok(findings) => ReportLine::Works(format!("ok: {name}: {findings}")),
        Err(fault) => ReportLine::Fails(format!("mcp-sse: {name}: {fault}")),
    });
    if children.finish() > 0 {
        tell(ReportLine::Note(format!("mcp-sse: {name}: its process cannot be ended")));
    }
    if found.is_err() {
        // stderr is complete only after the process has ended.
        let last = children.last_stderr();
        if !last.is_empty() {
            tell(ReportLine::Note("its stderr ended with:".into()));
        }
        last.iter().for_each(|line| tell(ReportLine::Note(format!("  {line}"))));
    }
}
