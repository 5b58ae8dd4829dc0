//! Several services behind one address, and the page and the figures about all of them.

use std::format;

use super::*;
use crate::health_extras::HealthExtras;

fn two() -> ConfigBuilder {
    Config::builder().service_path("/files").service_path("/time").index_page("two of them\n")
}

impl Bench {
    /// Opens a session below `service`; the endpoint and what the event says of the service.
    fn open_below(&mut self, service: &str) -> (SessionId, String, String) {
        let conn = self.connect();
        self.says(conn, format!("GET {service}/sse HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let endpoint = self.stream(conn).events[0].data.clone();
        match self.events().as_slice() {
            [Event::Opened { session, head, .. }] => {
                (*session, endpoint, head.service_path().to_string())
            }
            other => panic!("expected a new session: {other:?}"),
        }
    }

    fn post_at(&mut self, target: &str) -> Answer {
        self.ask(format!(
            "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{NOTE}",
            NOTE.len()
        ))
    }
}

#[test]
fn session_belongs_to_its_service() {
    let mut bench = Bench::with(two());
    let (files, at_files, service) = bench.open_below("/files");
    assert!(at_files.starts_with("/files/messages?session_id="), "{at_files}");
    assert_eq!(service, "/files");
    let (_, at_time, service) = bench.open_below("/time");
    assert!(at_time.starts_with("/time/messages?session_id="), "{at_time}");
    assert_eq!(service, "/time");

    assert_eq!(bench.post_at(&at_files).status, 202);
    let [Event::Message { session, .. }] = &bench.events()[..] else { panic!("one message") };
    assert_eq!(*session, files);
    let unknown = bench.post_at(&format!("/time/messages?session_id={}", "A".repeat(32)));
    assert_eq!(unknown.status, 404);
    let crossed = bench.post_at(&at_files.replace("/files/", "/time/"));
    assert_eq!(format!("{crossed:?}"), format!("{unknown:?}"), "the other's session is unknown");
    assert!(bench.events().is_empty());
}

#[test]
fn forwarded_post_to_another_service_is_unknown() {
    let config = || two().forwarding(true);
    let mut owner = Bench::with(config().shard(crate::ShardId(1)));
    let mut other = Bench::with(config());
    let (_, endpoint, _) = owner.open_below("/files");
    for (target, expected) in [
        (endpoint.clone(), crate::Outcome::Accepted),
        (endpoint.replace("/files/", "/time/"), crate::Outcome::UnknownSession),
    ] {
        let conn = other.connect();
        other.says(
            conn,
            format!(
                "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{NOTE}",
                NOTE.len()
            ),
        );
        let Some(Event::Foreign { post, .. }) = other.event() else { panic!("a foreign post") };
        assert_eq!(owner.deliver(post), expected, "{target}");
    }
}

#[test]
fn path_beside_the_services_is_404() {
    let mut bench = Bench::with(two());
    for path in ["/sse", "/files", "/files/", "/files/health", "/time/sse/x", "/files/time/sse"] {
        let answer = bench.ask(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(answer.status, 404, "{path}");
    }
    assert!(bench.events().is_empty());
}

#[test]
fn index_page_is_served_at_the_root() {
    let page = |bench: &mut Bench, request: &str| bench.ask(format!("{request}\r\n\r\n"));
    let mut bench = Bench::with(two());
    let answer = page(&mut bench, "GET / HTTP/1.1\r\nHost: localhost");
    assert_eq!((answer.status, &*answer.body), (200, "two of them\n"));
    assert_eq!(
        page(&mut bench, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0").status,
        405
    );
    assert_eq!(page(&mut bench, "GET / HTTP/1.1\r\nHost: evil.example").status, 403);
    let mut bench = Bench::new();
    assert_eq!(page(&mut bench, "GET / HTTP/1.1\r\nHost: localhost").status, 404);
}

#[test]
fn index_page_is_authorized() {
    let mut bench = Bench::with(two().authorization(crate::Authorization::Deferred));
    let conn = bench.connect();
    bench.says(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let Some(Event::Asked { ticket, head }) = bench.event() else { panic!("a question") };
    assert_eq!((head.path(), head.service_path()), ("/", ""));
    let verdict = crate::Verdict::Refuse(crate::Refusal::Unauthenticated);
    bench.server.authorize(ticket, verdict, bench.now).unwrap();
    bench.pump();
    assert_eq!(bench.statuses(conn), [401]);
}

#[test]
fn health_extras_are_in_health_and_ready() {
    let mut bench = Bench::new();
    let probe = |bench: &mut Bench, path: &str| {
        let answer = bench.ask(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        (answer.status, answer.body.trim_end().to_string())
    };
    bench
        .server
        .set_health_extras(HealthExtras::new().gauge("children", 3).not_ready("no \"child\""));
    let (status, body) = probe(&mut bench, "/health");
    assert_eq!(status, 200);
    assert!(body.ends_with(r#","children":3}"#), "{body}");
    let refused = (503, r#"{"status":"no \"child\""}"#.to_string());
    assert_eq!(probe(&mut bench, "/ready"), refused);
    bench.server.set_health_extras(HealthExtras::new());
    assert_eq!(probe(&mut bench, "/ready").0, 200);
    assert!(!probe(&mut bench, "/health").1.contains("children"));
}
