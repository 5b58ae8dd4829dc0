//! Session tokens.

use mcp_sse_core::{InstanceId, SessionToken, TokenError};

/// Checks that exactly the texts of 32 base64url characters are tokens, that a token is encoded as
/// it was read, that only the expected instance prefix is removed, and that another one is named.
pub fn token(input: &[u8]) {
    let base64url = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
    let good = |text: &[u8]| text.len() == 32 && text.iter().all(base64url);
    match SessionToken::parse(input) {
        Ok(token) => {
            assert_eq!(token.encode(), input);
            // 16 bits are two characters and two thirds of one.
            let value = |octet: u8| match octet {
                b'A'..=b'Z' => octet - b'A',
                b'a'..=b'z' => octet - b'a' + 26,
                b'0'..=b'9' => octet - b'0' + 52,
                b'-' => 62,
                _ => 63,
            };
            let [first, second, third] = [0, 1, 2].map(|at| u32::from(value(input[at])));
            assert_eq!(u32::from(token.shard().0), first << 10 | second << 4 | third >> 2);
            let printed = format!("{token:?}");
            let secret = core::str::from_utf8(&input[8..]).expect("ASCII");
            assert!(!printed.contains(secret), "{printed} tells the secret");
        }
        Err(error) => assert_eq!((error, good(input)), (TokenError::Malformed, false)),
    }
    let dot = input.iter().position(|&octet| octet == b'.');
    let (prefix, bare) = match dot {
        Some(dot) => (Some(&input[..dot]), &input[dot + 1..]),
        None => (None, input),
    };
    let id_octet = |octet: &u8| matches!(octet, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let is_id = |text: &[u8]| (1..=16).contains(&text.len()) && text.iter().all(id_octet);
    for instance in [None, Some("a1")] {
        let expected = match prefix {
            Some(prefix) if !is_id(prefix) => Err(TokenError::Malformed),
            _ if !good(bare) => Err(TokenError::Malformed),
            _ if prefix == instance.map(str::as_bytes) => Ok(bare.to_vec()),
            named => Err(TokenError::OtherInstance(named.and_then(InstanceId::parse))),
        };
        let own = instance.and_then(|id| InstanceId::parse(id.as_bytes()));
        let read = SessionToken::parse_for(input, own).map(|token| token.encode().to_vec());
        assert_eq!(read, expected);
        if let Err(TokenError::OtherInstance(Some(named))) = read {
            assert_eq!(Some(named.as_str().as_bytes()), prefix);
        }
    }
}
