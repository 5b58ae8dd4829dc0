//! CORS: what answers tell browsers about other origins.

use super::*;
use crate::{Authorization, StaticTokens};

const APP: &str = "Origin: https://app.example\r\n";

fn shared() -> ConfigBuilder {
    let tokens = StaticTokens::builder().token("alice", "alpha").build().unwrap();
    Config::builder()
        .cors_origin("https://app.example")
        .cors_origin("http://dev.example:*")
        .authorization(Authorization::Static(tokens))
}

fn ask(config: &ConfigBuilder, request: &str, fields: &str) -> Answer {
    let mut bench = Bench::with(config.clone());
    bench.ask(format!("{request} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"))
}

#[track_caller]
fn check(answer: &Answer, origin: Option<&str>) {
    assert_eq!(answer.field("Access-Control-Allow-Origin"), origin, "{answer:?}");
    assert_eq!(answer.field("Access-Control-Expose-Headers").is_some(), origin.is_some());
    let varies = (origin != Some("*")).then_some("Origin");
    assert_eq!(answer.field("Vary"), varies, "{answer:?}");
}

#[test]
fn preflight_is_answered_without_a_token() {
    let config = shared().cors_header("x-trace").cors_max_age(secs(600));
    let wants =
        "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n";
    for (path, allow) in [("/sse", "GET, HEAD, OPTIONS"), ("/messages", "POST, OPTIONS")] {
        let answer = ask(&config, &format!("OPTIONS {path}"), &format!("{APP}{wants}"));
        assert_eq!((answer.status, answer.body.as_str()), (204, ""));
        check(&answer, Some("https://app.example"));
        assert_eq!(answer.field("Allow"), Some(allow));
        assert_eq!(answer.field("Content-Length"), None);
        assert_eq!(answer.field("Access-Control-Allow-Methods"), Some("GET, POST, OPTIONS"));
        assert_eq!(
            answer.field("Access-Control-Allow-Headers"),
            Some(
                "authorization, content-type, last-event-id, mcp-protocol-version, mcp-session-id, \
                 x-trace"
            )
        );
        assert_eq!(answer.field("Access-Control-Max-Age"), Some("600"));
        assert_eq!(answer.field("Access-Control-Allow-Credentials"), None);
    }
    let answer = ask(&config, "OPTIONS /sse", &format!("Origin: https://evil.example\r\n{wants}"));
    assert_eq!(answer.status, 403);
    check(&answer, None);
    // A loopback page may use the server, but nobody has said that it may read from another origin.
    let answer = ask(&config, "OPTIONS /sse", &format!("Origin: http://localhost:1\r\n{wants}"));
    assert_eq!((answer.status, answer.field("Access-Control-Allow-Methods")), (204, None));
    check(&answer, None);
    let answer = ask(&config, "OPTIONS /sse", "");
    assert_eq!((answer.status, answer.field("Access-Control-Allow-Methods")), (204, None));
}

#[test]
fn preflight_of_a_public_page_for_a_private_network_is_granted_to_listed_origins_only() {
    const NAME: &str = "Access-Control-Allow-Private-Network";
    let asks = "Access-Control-Request-Method: GET\r\n";
    let private = "Access-Control-Request-Private-Network: true\r\n";
    let granted = |config: &ConfigBuilder, fields: &str| {
        let answer = ask(config, "OPTIONS /sse", fields);
        (answer.status, answer.field(NAME) == Some("true"), answer.field(NAME).is_some())
    };
    let (yes, no, refused) = ((204, true, true), (204, false, false), (403, false, false));
    let listed = shared();
    assert_eq!(granted(&listed, &format!("{APP}{asks}{private}")), yes);
    assert_eq!(granted(&listed, &format!("{APP}{asks}")), no);
    assert_eq!(granted(&listed, &format!("{APP}{asks}{}", private.replace("true", "false"))), no);
    // What is no preflight asks for nothing.
    assert_eq!(granted(&listed, &format!("{APP}{private}")), no);
    // A loopback page may use the server, but is not listed.
    assert_eq!(granted(&listed, &format!("Origin: http://localhost:1\r\n{asks}{private}")), no);
    assert_eq!(
        granted(&listed, &format!("Origin: https://evil.example\r\n{asks}{private}")),
        refused
    );
    let any = Config::builder().cors_origin("*");
    assert_eq!(granted(&any, &format!("{APP}{asks}{private}")), yes);
    assert_eq!(ask(&listed, "GET /health", &format!("{APP}{private}")).field(NAME), None);
}

#[test]
fn preflight_lists_each_allowed_field_once() {
    let config = shared()
        .cors_header("X-Api-Key")
        .cors_header("x-api-key")
        .cors_header("Authorization")
        .cors_header("X-Api");
    let answer =
        ask(&config, "OPTIONS /sse", &format!("{APP}Access-Control-Request-Method: GET\r\n"));
    let expected = "authorization, content-type, last-event-id, mcp-protocol-version, \
                    mcp-session-id, X-Api-Key, X-Api";
    assert_eq!(answer.field("Access-Control-Allow-Headers"), Some(expected));
}

#[test]
fn every_answer_has_the_cors_fields() {
    let config = shared();
    for (request, fields, status) in [
        ("GET /sse", "", 401),
        ("POST /messages?session_id=x", "Content-Type: application/json\r\n", 401),
        ("POST /sse", "", 405),
        ("GET /nothing", "", 404),
        ("GET /health", "", 200),
        ("GET /sse", "Accept: text/html\r\n", 406),
        ("POST /messages?session_id=x", "Authorization: Bearer alpha\r\n", 415),
    ] {
        let answer = ask(&config, request, &format!("{APP}{fields}"));
        assert_eq!(answer.status, status, "{request}");
        check(&answer, Some("https://app.example"));
        assert_eq!(
            answer.field("Access-Control-Expose-Headers"),
            Some("mcp-session-id, www-authenticate")
        );
        let answer = ask(&config, request, fields);
        assert_eq!(answer.status, status, "{request}");
        check(&answer, None);
    }
    let answer = ask(&config, "POST /sse", APP);
    assert_eq!(answer.field("Allow"), Some("GET, HEAD, OPTIONS"));
    let answer = ask(&config, "GET /sse", &APP.replace("app", "evil"));
    assert_eq!(answer.status, 403);
    check(&answer, None);
    let answer = ask(&config, "GET /sse", &APP.repeat(2));
    assert_eq!(answer.status, 403);
    check(&answer, None);
    // The port that was sent, for a pattern of any.
    let answer = ask(&config, "GET /sse", "Origin: http://dev.example:5173\r\n");
    check(&answer, Some("http://dev.example:5173"));
    // A wrong Host is told to a page that may read it.
    let mut bench = Bench::with(config);
    let answer = bench.ask(format!("GET /sse HTTP/1.1\r\nHost: evil.example\r\n{APP}\r\n"));
    assert_eq!(answer.status, 403);
    check(&answer, Some("https://app.example"));
}

#[test]
fn streams_and_posts_have_the_cors_fields() {
    let mut bench = Bench::with(Config::builder().cors_origin("https://app.example"));
    let conn = bench.connect();
    bench.says(conn, GET.replace("\r\n\r\n", &format!("\r\n{APP}\r\n")));
    let stream = bench.stream(conn);
    assert!(stream.head.contains("\r\nVary: Origin\r\n"), "{}", stream.head);
    let allows = "\r\nAccess-Control-Allow-Origin: https://app.example\r\n";
    assert!(stream.head.contains(allows), "{}", stream.head);
    assert!(stream.head.contains("\r\nAccess-Control-Expose-Headers: mcp-session-id\r\n"));
    let token = stream.token();

    // One connection, as a proxy may use it: pages and programs in turn.
    let conn = bench.connect();
    for _ in 0..2 {
        bench.says(conn, post_with(&token, APP, NOTE));
        bench.says(conn, post(&token, NOTE));
        bench.says(conn, post_with(&token, "Origin: http://localhost\r\n", NOTE));
    }
    for (at, answer) in bench.answers(conn).iter().enumerate() {
        assert_eq!(answer.status, 202);
        check(answer, (at % 3 == 0).then_some("https://app.example"));
    }
    // A refusal in the middle of a body.
    let late = bench.connect();
    let request = post_with(&token, APP, NOTE);
    bench.says(late, &request[..request.len() - 1]);
    bench.wait(secs(31));
    let answer = bench.answers(late).remove(0);
    assert_eq!(answer.status, 408);
    check(&answer, Some("https://app.example"));
    // And a head that never ends says nothing of the request before it.
    bench.says(conn, "GET ");
    bench.wait(secs(11));
    let answer = bench.answers(conn).pop().unwrap();
    assert_eq!((answer.status, answer.field("Vary")), (408, None));
}

#[test]
fn any_origin_is_allowed_by_an_asterisk() {
    let config = Config::builder().cors_origin("*");
    for fields in ["", "Origin: https://anything.example\r\n", "Origin: chrome-extension://abc\r\n"]
    {
        let answer = ask(&config, "GET /nothing", fields);
        assert_eq!(answer.status, 404, "{fields}");
        check(&answer, Some("*"));
    }
    // What is no origin is nobody's.
    assert_eq!(ask(&config, "GET /nothing", "Origin: null\r\n").status, 403);
}

#[test]
fn credentials_are_allowed_where_configured() {
    let config = Config::builder().cors_origin("https://app.example").cors_credentials(true);
    let answer = ask(&config, "GET /nothing", APP);
    check(&answer, Some("https://app.example"));
    assert_eq!(answer.field("Access-Control-Allow-Credentials"), Some("true"));
}

#[test]
fn answers_without_cors_have_no_cors_fields() {
    let config = Config::builder().allow_origin("https://app.example");
    let answer = ask(&config, "GET /nothing", APP);
    assert_eq!((answer.status, answer.field("Vary")), (404, None));
    assert_eq!(answer.field("Access-Control-Allow-Origin"), None);
    let answer = ask(&config, "OPTIONS /sse", APP);
    assert_eq!((answer.status, answer.field("Allow")), (405, Some("GET, HEAD")));
    let answer = ask(&config, "OPTIONS /messages", APP);
    assert_eq!((answer.status, answer.field("Allow")), (405, Some("POST")));
}
