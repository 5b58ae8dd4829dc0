use super::*;

#[track_caller]
fn check(authority: &str, valid: bool) {
    assert_eq!(is_valid(authority), valid, "{authority:?}");
    assert_eq!(from_field(authority.as_bytes()), valid.then_some(authority));
}

#[test]
fn host_name_with_character_outside_unreserved_is_refused() {
    for name in ["localhost", "a", "LOCALHOST.", "my_host", "xn--bcher-kva.example", "a~b", "a%2Db"]
    {
        check(name, true);
    }
    for name in [
        "",
        ".:",
        "a b",
        " a",
        "a,b",
        "a/b",
        "a?b",
        "a#b",
        "a@b",
        "user@host",
        "a\\b",
        "a%",
        "a%2",
        "a%2g",
        "a%zz",
        "<a>",
        "a\"",
        "h\u{f6}st",
        "a\0",
        "a\t",
        "a;b",
        "a'",
        "a]",
        "a=b",
        "a|b",
        "{a}",
    ] {
        check(name, false);
    }
    assert_eq!(from_field(b"\xff"), None);
}

#[test]
fn ipv6_address_without_brackets_or_with_zone_is_refused() {
    for address in
        ["127.0.0.1", "[::1]", "[::]", "[2001:db8::1]", "[::ffff:127.0.0.1]", "[FE80::A]"]
    {
        check(address, true);
    }
    for address in [
        "[]",
        "[",
        "]",
        "[::1",
        "::1",
        "[::1]x",
        "x[::1]",
        "[1::2::3]",
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[v1.x]",
        "[127.0.0.1]",
        "[[::1]]",
        "[::12345]",
        "[:]",
        "[ ::1]",
    ] {
        check(address, false);
    }
}

#[test]
fn port_of_more_than_five_digits_or_over_65535_is_refused() {
    for (authority, host, port) in [
        ("a:0", "a", 0),
        ("a:80", "a", 80),
        ("a:65535", "a", 65535),
        ("[::1]:8080", "[::1]", 8080),
        ("127.0.0.1:00080", "127.0.0.1", 80),
        ("a.:1", "a.", 1),
    ] {
        check(authority, true);
        assert!(has_port(authority));
        assert_eq!(split_authority(authority), Some((host, Some(port))));
        check(host, true);
        assert!(!has_port(host));
        assert_eq!(split_authority(host), Some((host, None)));
    }
    for authority in [
        "a:", ":80", ":", "a:65536", "a:99999", "a:100000", "a:000080", "a:+80", "a:-1", "a:8 0",
        "a:x", "a::80", "a:80:80", "[::1]:", "[::1]80", "[::1]:x", "a:80/",
    ] {
        check(authority, false);
        assert!(!has_port(authority));
    }
}
