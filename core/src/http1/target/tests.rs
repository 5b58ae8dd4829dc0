use super::*;

/// Compares the path, query and authority of the parsed target with `expected`.
#[track_caller]
fn check(method: Method, text: &str, expected: Result<(&str, Option<&str>, Option<&str>), Error>) {
    let found = Target::parse(text, Some(method));
    let parts = found.map(|target| (target.path, target.query, target.authority));
    assert_eq!(parts, expected, "{method} {text}");
}

#[test]
fn origin_form_is_split_into_path_and_query() {
    for &method in Method::ALL {
        check(method, "/", Ok(("/", None, None)));
        check(method, "/a/b?c=d?e", Ok(("/a/b", Some("c=d?e"), None)));
        check(method, "/?", Ok(("/", Some(""), None)));
    }
    // Nothing is decoded or normalised.
    check(Method::Get, "//a/../b/./%2F%00", Ok(("//a/../b/./%2F%00", None, None)));
    check(Method::Get, "/http://a/", Ok(("/http://a/", None, None)));
}

#[test]
fn absolute_form_with_http_scheme_and_valid_authority_is_accepted() {
    check(Method::Get, "http://a/b?c", Ok(("/b", Some("c"), Some("a"))));
    check(Method::Get, "HTTP://a:80/b", Ok(("/b", None, Some("a:80"))));
    check(Method::Get, "hTTp://[::1]:8080/", Ok(("/", None, Some("[::1]:8080"))));
    check(Method::Get, "http://a", Ok(("/", None, Some("a"))));
    check(Method::Get, "http://a?b", Ok(("/", Some("b"), Some("a"))));
    check(Method::Get, "http://a/?b=http://c/", Ok(("/", Some("b=http://c/"), Some("a"))));
    check(Method::Get, "https://a/b", Ok(("/b", None, Some("a"))));
    check(Method::Get, "HTTPS://a", Ok(("/", None, Some("a"))));
    for text in [
        "http://",
        "http:///b",
        "http://?b",
        "http://user@a/",
        "http://user:password@a/",
        "http://@a/",
        "https://user@a/",
        "http://a:b/",
        "http://a:65536/",
        "http://a:/",
        "ftp://a/",
        "ws://a/",
        "://a/",
        "http:a",
        "http:/a",
        "http//a",
        "file:///a",
        "ahttp://a/",
        "http ://a/",
        "http://[::1/",
    ] {
        check(Method::Get, text, Err(Error::MalformedTarget));
    }
}

#[test]
fn scheme_is_compared_case_insensitively() {
    let scheme = |text| Target::parse(text, Some(Method::Get)).unwrap().scheme;
    assert_eq!(scheme("/http://a/"), None);
    assert_eq!(scheme("hTTp://a/"), Some(Scheme::Http));
    assert_eq!(scheme("HTTPS://a"), Some(Scheme::Https));
    assert_eq!(scheme("http://a/?https://b"), Some(Scheme::Http));
}

#[test]
fn authority_form_is_accepted_for_connect_only() {
    check(Method::Connect, "a:443", Ok(("", None, Some("a:443"))));
    check(Method::Connect, "[::1]:443", Ok(("", None, Some("[::1]:443"))));
    check(Method::Connect, "http://a/b", Ok(("/b", None, Some("a"))));
    for text in ["a", "a:", "a:x", ":443", "u@a:443", "a:443/", "a:443?b", "*"] {
        check(Method::Connect, text, Err(Error::MalformedTarget));
    }
    for &method in Method::ALL {
        if method != Method::Connect {
            check(method, "a:443", Err(Error::MalformedTarget));
            check(method, "a", Err(Error::MalformedTarget));
        }
    }
    assert_eq!(Target::parse("a:443", None), Err(Error::MalformedTarget));
}

#[test]
fn asterisk_form_is_accepted_for_options_only() {
    for &method in Method::ALL {
        let asterisk = Ok(("*", None, None));
        let refused = Err(Error::MalformedTarget);
        check(method, "*", if method == Method::Options { asterisk } else { refused });
    }
    for text in ["**", "*?a", "*/", "a*"] {
        check(Method::Options, text, Err(Error::MalformedTarget));
    }
    let asterisk = |text| Target::parse(text, Some(Method::Options)).unwrap().is_asterisk();
    assert!(asterisk("*") && !asterisk("/*") && !asterisk("http://a"));
}

#[test]
fn query_parameter_is_some_only_if_it_occurs_once() {
    #[track_caller]
    fn check(target: &str, expected: Option<&str>) {
        let target = Target::parse(target, Some(Method::Post)).unwrap();
        assert_eq!(target.query_parameter("id"), expected, "{target:?}");
    }
    check("/m?id=a", Some("a"));
    check("/m?x=y&id=a&z", Some("a"));
    check("/m?id=a=b", Some("a=b"));
    check("/m?id=%61+b", Some("%61+b"));
    check("/m?id=", Some(""));
    check("/m?id", Some(""));
    check("/m?id=a;id=b", Some("a;id=b"));
    check("/m?&&id=a&&", Some("a"));
    check("/m?id=a?id=b", Some("a?id=b"));
    check("/m", None);
    check("/m?", None);
    check("/id=a", None);
    check("/m?Id=a", None);
    check("/m?xid=a&idx=b&id%3Da&%69d=a", None);
    check("/m?id=a&id=a", None);
    check("/m?id=a&x=y&id", None);
}
