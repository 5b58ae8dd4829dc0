//! `bridge --check`: tries servers out, several at once, and says in their order what comes of each.

use core::time::Duration;
use std::thread;

use async_channel::{Sender, unbounded};
use mcp_sse_bridge::check;
use mcp_sse_bridge::children::Children;
use mcp_sse_bridge::servers_file::BridgedServer;

use crate::failure::Failure;

/// So many servers are tried out at once.
const TRIED_AT_ONCE: usize = 8;

/// A line to print about a server that is tried out.
enum ReportLine {
    Works(String),
    Fails(String),
    /// On stderr, and no verdict.
    Note(String),
}

/// Tries every server out. Fails if one of them does.
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
        // The queue is read until it is empty.
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

/// Tries one server out. Its lines are printed when its turn has come, except that it is waited for, which is
/// printed at once.
fn try_one(
    BridgedServer { name, command }: &BridgedServer,
    timeout: Option<Duration>,
    lines: &Sender<ReportLine>,
) {
    // They are read to the end.
    let tell = |line| drop(lines.send_blocking(line));
    // Of its own: counts and last lines are this server's.
    let children = match Children::new() {
        Ok(children) => children,
        Err(error) => {
            let why = format!("mcp-sse: {name}: cannot look after its process: {error}");
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
        // All of it is there only now.
        let last = children.last_stderr();
        if !last.is_empty() {
            tell(ReportLine::Note("its stderr ended with:".into()));
        }
        last.iter().for_each(|line| tell(ReportLine::Note(format!("  {line}"))));
    }
}
