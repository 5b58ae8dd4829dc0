use alloc::format;
use alloc::string::ToString;

use super::*;
use crate::policy::resource::ProtectedResource;

#[track_caller]
fn check(builder: ConfigBuilder, expected: Option<&str>) {
    let text = builder.build().err().map(|error| error.to_string());
    match (&text, expected) {
        (Some(text), Some(expected)) => assert!(text.contains(expected), "{text}"),
        (text, expected) => assert_eq!(text.as_deref(), expected),
    }
}

#[test]
fn settings_are_accepted_or_reported_by_name() {
    let b = Config::builder;
    check(b(), None);
    check(b().stream_path("/events").message_path("/in/box"), None);
    check(b().stream_path("sse"), Some("stream_path \"sse\""));
    check(b().message_path("/a/../b"), Some("message_path"));
    check(b().stream_path("/x").message_path("/x"), Some("\"/x\" is used by two routes"));
    check(b().message_path("/health"), Some("two routes"));
    check(b().service_path("/a").service_path("/b"), None);
    check(b().service_path("a"), Some("service_path \"a\""));
    check(b().service_path("/a").service_path("/a"), Some("\"/a/messages\" is used by two routes"));
    let crossed = b().stream_path("/x/y").message_path("/y").service_path("/a");
    check(crossed.service_path("/a/x"), Some("\"/a/x/y\" is used by two routes"));
    check(b().public_path_prefix("/mcp").public_path_prefix(""), None);
    check(b().public_path_prefix("mcp"), Some("public_path_prefix"));
    check(b().session_parameter("sessionId"), None);
    check(b().session_parameter("a=b"), Some("session_parameter"));
    check(b().allow_host("mcp.example:443").allow_origin("http://localhost:*"), None);
    check(b().allow_host("http://mcp.example"), Some("allow_host"));
    check(b().allow_origin("*"), Some("allow_origin \"*\""));
    check(b().cors_origin("https://a.example").cors_credentials(true).cors_header("x-a"), None);
    check(b().cors_origin("a.example"), Some("cors_origin \"a.example\""));
    check(b().cors_origin("*"), None);
    check(b().cors_credentials(true).cors_origin("*"), Some("never go with credentials"));
    check(b().cors_header("a: b"), Some("cors_header"));
    check(b().trusted_proxy("10.0.0.0/8").trusted_proxy("::1"), None);
    check(b().trusted_proxy("10.0.0.1/8"), Some("trusted_proxy \"10.0.0.1/8\""));
    check(b().protected_resource(ProtectedResource::new("https://a.example/sse")), None);
    check(b().protected_resource(ProtectedResource::new("a")), Some("protected_resource \"a\""));
    check(b().instance_id("a1"), None);
    check(b().instance_id("A1"), Some("instance_id \"A1\""));
    check(b().limits(Limits { fields_max: 129, ..Limits::default() }), Some("at most 128"));
    let timeouts = Timeouts { heartbeat: Some(Duration::ZERO), ..Timeouts::default() };
    check(b().timeouts(timeouts), Some("heartbeat"));
    let timeouts = Timeouts { body: Some(Duration::from_micros(999)), ..Timeouts::default() };
    check(b().timeouts(timeouts), Some("body"));
}

#[test]
fn error_carries_setting_and_unit() {
    let limits = Limits { fields_max: 129, ..Limits::default() };
    let error = Config::builder().limits(limits).build().unwrap_err();
    let expected =
        ConfigError::AboveMaximum { setting: "fields_max", maximum: 128, unit: "fields" };
    assert_eq!(error, expected);
    assert_eq!(error.to_string(), "fields_max must be at most 128 fields");
    let timeouts = Timeouts { idle: Some(Duration::ZERO), ..Timeouts::default() };
    let error = Config::builder().timeouts(timeouts).build().unwrap_err();
    assert_eq!(error, ConfigError::BelowMinimum { setting: "idle", minimum: 1, unit: "ms" });
    assert_eq!(error.to_string(), "idle must be at least 1 ms");
    assert_eq!(error.setting(), Some("idle"));
    let error = Config::builder().trusted_proxy("x").build().unwrap_err();
    assert_eq!(error.setting(), Some("trusted_proxy"));
}

#[test]
fn body_limit_above_budget_of_bodies_is_an_error_that_names_both() {
    let build = |body: Option<u64>, bodies: Option<u64>| {
        let limits = Limits { body_bytes_max: body, bodies_bytes_max: bodies, ..Limits::default() };
        Config::builder().limits(limits).build().map(drop)
    };
    assert_eq!(build(Some(100), Some(100)), Ok(()));
    assert_eq!(build(None, None), Ok(()));
    assert_eq!(build(Some(100), None), Ok(()));
    for (body, text) in [(Some(101), "(101 bytes)"), (None, "(unlimited)")] {
        let error = build(body, Some(100)).unwrap_err();
        let expected = ConfigError::AboveOther {
            setting: "body_bytes_max",
            value: body,
            other: "bodies_bytes_max",
            maximum: 100,
            unit: "bytes",
        };
        assert_eq!(error, expected);
        let text = format!("body_bytes_max {text} must not be above bodies_bytes_max (100 bytes)");
        assert_eq!(error.to_string(), text);
    }
    // A budget of queues below the longest post is allowed: its answer may be short.
    let short = Limits { queues_bytes_max: Some(10_000), ..Limits::default() };
    check(Config::builder().limits(short), None);
}

#[test]
fn defer_authorization_is_refused_with_static_tokens() {
    let mut config = Config::default();
    assert!(!config.cors.challenges);
    config.defer_authorization().unwrap();
    assert!(matches!(config.authorization, Authorization::Deferred));
    assert!(config.cors.challenges, "pages are shown the challenge");
    config.defer_authorization().unwrap();
    let tokens = StaticTokens::builder().token("a", "t").build().unwrap();
    let mut config =
        Config::builder().authorization(Authorization::Static(tokens)).build().unwrap();
    assert_eq!(config.defer_authorization(), Err(ConfigError::TwoAuthorizers));
}

#[test]
fn first_of_two_invalid_settings_is_reported() {
    check(Config::builder().stream_path("x").message_path("y"), Some("stream_path"));
}

#[test]
fn texts_of_the_configuration_count_as_memory() {
    let most = |builder: ConfigBuilder| builder.build().unwrap().memory_bytes_max();
    let b = Config::builder;
    let plain = most(b());
    let connections = u64::from(Limits::default().connections_max.unwrap());
    let long = "a".repeat(5_000);
    for longer in [
        b().index_page(&long),
        b().cors_header(&long).cors_origin("https://a.example"),
        b().protected_resource(ProtectedResource::new("https://a.example").name(&long)),
        b().session_parameter(&long),
    ] {
        assert!(most(longer) > plain + connections * 4_900);
    }
    let path = format!("/{}", "a".repeat(200));
    for longer in [
        b().trusted_proxy("10.0.0.0/8"),
        b().trust_local_peers(true),
        b().cors_origin("https://a.example"),
        b().message_path(&path),
        b().service_path("/b").service_path(&path),
        b().public_path_prefix(&path),
    ] {
        assert!(most(longer) > plain + connections * 150);
    }
    let without_end = Limits { connections_max: None, ..Limits::default() };
    assert_eq!(most(b().limits(without_end)), u64::MAX);
}
