//! A fleet of clients whose server restarts, under the virtual clock: the most new sessions in one
//! second, with and without `retry` and `drain_spread`.
//!
//! `cargo run --release -p mcp-sse-tests --example comeback -- --clients 10000`

use core::time::Duration;

use mcp_sse_tests::sim::fleet::{Restart, restart};

const SECOND: Duration = Duration::from_secs(1);

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--clients").skip(1);
    let clients = arguments.next().map_or(10_000, |count| count.parse().expect("a number"));
    println!("{clients} clients; retry 1s..5s or 3 s; drain_spread 5 s or off\n");
    println!("                                    most sessions   all are    attempts");
    println!("                                    in one second   back after that failed");
    for (title, start_up) in
        [("another replica is ready", None), ("one process, up 1 s after its end", Some(SECOND))]
    {
        println!("{title}");
        for (name, retry, spread) in [
            ("neither", false, false),
            ("retry", true, false),
            ("drain_spread", false, true),
            ("both", true, true),
        ] {
            let comeback = restart(&Restart {
                clients,
                retry: retry.then(|| SECOND..=5 * SECOND),
                drain_spread: spread.then(|| 5 * SECOND),
                start_up,
            });
            println!(
                "    {name:32}{:13}{:>11.1} s{:12}",
                comeback.peak_per_second(),
                comeback.complete_after().as_secs_f64(),
                comeback.attempts_failed
            );
        }
    }
}
