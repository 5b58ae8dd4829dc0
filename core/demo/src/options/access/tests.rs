use core::sync::atomic::{AtomicU32, Ordering};
use std::fs;

use super::super::tests::serve;
use super::*;

/// A file that exists during one test.
struct Written(PathBuf);

impl Written {
    fn new(text: &[u8]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mcp-sse-tokens-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn flag(&self) -> String {
        format!("--auth-token-file={}", self.0.display())
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn token_file_lines_are_read_or_refused() {
    let check = |text: &str, expected: Result<usize, &str>| {
        let file = Written::new(text.as_bytes());
        let access = serve(&[&file.flag()]).unwrap().access;
        match (access.tokens(), expected) {
            (Ok(tokens), Ok(count)) => assert_eq!(tokens.unwrap().len(), count, "{text:?}"),
            (Err(error), Err(expected)) => {
                let said = error.to_string();
                assert!(said.contains(expected), "{said}");
                assert!(said.contains("--auth-token-file"), "{said}");
                assert!(!said.contains("s3cret") && !format!("{error:?}").contains("s3cret"));
            }
            (found, _) => panic!("{text:?}: {found:?}"),
        }
    };
    check("alice:s3cret1\n", Ok(1));
    check("# who\n\n  alice : s3cret1 \r\nurn:x:bob:s3cret2", Ok(2));
    check("alice:old\nalice:new", Ok(2));
    check("", Err("there are none"));
    check("# nobody\n", Err("there are none"));
    check("alice:s3cret1\ns3cret2\n", Err("line 2"));
    check("s3cret2\n", Err("expected \"principal:token\""));
    check(":s3cret\n", Err("line 1"));
    check("alice:\n", Err("is empty"));
    check("alice:s3cret 1\n", Err("letters, digits"));
    check("alice:s3cret\n\nbob:s3cret\n", Err("line 3"));
    check(&"x".repeat(1 << 21), Err("larger than"));
}

#[test]
fn token_file_unreadable_is_an_error() {
    let error = |path: &str| {
        serve(&[&format!("--auth-token-file={path}")]).unwrap().config().unwrap_err().to_string()
    };
    let missing = error("/nowhere/tokens");
    assert!(missing.contains("/nowhere/tokens") && missing.contains("cannot be read"), "{missing}");
    assert!(error(&std::env::temp_dir().display().to_string()).contains("cannot be read"));
    let file = Written::new(b"alice:\xff\n");
    let error = serve(&[&file.flag()]).unwrap().config().unwrap_err().to_string();
    assert!(error.contains("UTF-8"), "{error}");
}

#[test]
fn token_variables_are_read_or_refused() {
    let error = |flag: &str| serve(&[flag]).unwrap().config().unwrap_err().to_string();
    let unset = error("--auth-token-env=MCP_SSE_SURELY_NOT_SET");
    assert!(unset.contains("MCP_SSE_SURELY_NOT_SET") && unset.contains("not set"), "{unset}");
    // This variable is set in every run of tests, and its value is valid as a token.
    let options = serve(&["--auth-token-env=CARGO_MANIFEST_DIR"]).unwrap();
    assert_eq!(options.access.tokens().unwrap().unwrap().len(), 1);
    // Two principals cannot have the same token.
    let twice = error_of_two("CARGO_MANIFEST_DIR");
    assert!(twice.contains("have the same token"), "{twice}");
}

fn error_of_two(name: &str) -> String {
    let flag = format!("--auth-token-env={name}");
    serve(&[&flag, &flag]).unwrap().config().unwrap_err().to_string()
}

#[test]
fn exposed_address_without_token_is_refused() {
    let file = Written::new(b"alice:s3cret\n");
    let check = |args: &[&str], fine: bool| {
        let config = serve(args).unwrap().config();
        assert_eq!(config.is_ok(), fine, "{args:?}: {config:?}");
        if let Err(error) = config {
            let said = error.to_string();
            for word in ["other machines", "--auth-token-file", "--insecure-no-auth"] {
                assert!(said.contains(word), "{said}");
            }
        }
    };
    check(&[], true);
    check(&["--host=127.0.0.9"], true);
    check(&["--host=::1"], true);
    check(&["--host=0.0.0.0"], false);
    check(&["--host=::"], false);
    check(&["--host=192.0.2.1", "--allow-host=mcp.example"], false);
    check(&["--host=0.0.0.0", &file.flag()], true);
    check(&["--host=0.0.0.0", "--insecure-no-auth"], true);
    #[cfg(unix)]
    check(&["--unix=/s"], true);
    assert!(serve(&["--insecure-no-auth", &file.flag()]).is_err(), "one or the other");
}

#[test]
fn limits_reach_the_configuration() {
    let config = serve(&[
        "--rate-limit=10/second",
        "--rate-limit=principal=100/minute,burst=5",
        "--rate-limit=new-sessions=7/hour",
        "--max-sessions-per-peer=3",
        "--max-bodies-per-peer=2MiB",
    ]);
    let config = config.unwrap().config().unwrap();
    let limits = config.limits();
    let rate = |text: &str| Some(text.parse::<Rate>().unwrap());
    assert_eq!(limits.posts_rate_per_session, rate("10/second"));
    assert_eq!(limits.posts_rate_per_principal, rate("100/minute,burst=5"));
    assert_eq!(limits.sessions_rate_per_address, rate("7/hour"));
    assert_eq!(limits.sessions_per_address_max, Some(3));
    assert_eq!(limits.bodies_bytes_per_address_max, Some(2 << 20));
}

#[test]
fn cors_header_without_cors_origin_is_refused() {
    let asked = ["--cors-origin=https://app.example", "--cors-header=X-Api-Key"];
    assert!(serve(&asked).unwrap().config().is_ok());
    let alone = serve(&asked[1..]).unwrap_err().to_string();
    assert!(alone.contains("--cors-origin"), "{alone}");
    let wrong = serve(&[asked[0], "--cors-header=X Y"]).unwrap().config().unwrap_err().to_string();
    assert!(wrong.contains("cors_header \"X Y\""), "{wrong}");
}
