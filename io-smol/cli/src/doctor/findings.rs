//! All findings: code, level, meaning and advice.
//!
//! Knows: the one table from which the output and the table in the README are made. Does not know: how a finding is
//! found. A code is part of the interface: programs that read `--json` compare it.

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Some or all clients cannot use the server.
    Problem,
    /// It works now, and will not for some clients or some day.
    Warning,
    /// Nothing is wrong.
    Note,
}

impl Level {
    /// The level in the output.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Problem => "problem",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

macro_rules! findings {
    ($($code:ident = $text:literal, $level:ident: $meaning:literal => $advice:literal;)+) => {
        /// What a finding is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(
            all(not(feature = "tls"), not(test)),
            expect(dead_code, reason = "without TLS, nothing is found about certificates")
        )]
        pub(crate) enum Code {
            $($code,)+
        }

        impl Code {
            /// All codes, in the order in which a doctor could find them.
            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$code,)+];

            /// The stable name.
            pub(crate) const fn text(self) -> &'static str {
                match self { $(Self::$code => $text,)+ }
            }

            pub(crate) const fn level(self) -> Level {
                match self { $(Self::$code => Level::$level,)+ }
            }

            /// What the finding means, for the documentation.
            #[cfg(test)]
            pub(crate) const fn meaning(self) -> &'static str {
                match self { $(Self::$code => $meaning,)+ }
            }

            /// What to do, whatever the details are.
            pub(crate) const fn advice(self) -> &'static str {
                match self { $(Self::$code => $advice,)+ }
            }
        }
    };
}

findings! {
    NameNotFound = "name-not-found", Problem:
        "The resolver does not know the name in the URL."
        => "Check the spelling of the name and its DNS record. Inside containers, use the name of the service, and not localhost.";
    NameTimedOut = "name-timed-out", Problem:
        "The resolver did not answer in time."
        => "Check this machine's resolver and its network.";
    PortRefused = "port-refused", Problem:
        "The machine answers, but nothing accepts connections at this port."
        => "Start the server, or correct the port. A server that listens at 127.0.0.1 cannot be reached from another machine or container: let it listen at 0.0.0.0, with tokens.";
    ConnectTimedOut = "connect-timed-out", Problem:
        "Nothing answers at this address and port."
        => "Check the address, and the firewalls and security groups between here and there.";
    ConnectFailed = "connect-failed", Problem:
        "The system cannot connect for another reason, for example because there is no route."
        => "Check this machine's network and the address in the URL.";
    TlsOnPlainPort = "tls-on-plain-port", Problem:
        "The URL says https, and the port speaks plain HTTP."
        => "Use http:// in the URL, or the port that speaks TLS, or configure TLS at the server.";
    PlainOnTlsPort = "plain-on-tls-port", Problem:
        "The URL says http, and the port speaks TLS."
        => "Use https:// in the URL.";
    CertificateExpired = "certificate-expired", Problem:
        "The server's certificate has expired."
        => "Renew the certificate, and let the server read it again. If it was renewed, the server still uses the old file. Check this machine's clock as well.";
    CertificateNotYetValid = "certificate-not-yet-valid", Problem:
        "The server's certificate is not valid yet."
        => "Check the clock of this machine and of the machine that issued the certificate.";
    CertificateWrongName = "certificate-wrong-name", Problem:
        "The server's certificate is for another name."
        => "Use a name of the certificate in the URL, or issue a certificate for the name in the URL.";
    CertificateSelfSigned = "certificate-self-signed", Problem:
        "The server's certificate is signed by itself, and clients do not trust it."
        => "Use a certificate of an authority that clients trust, or give the certificate to every client (SSL_CERT_FILE, NODE_EXTRA_CA_CERTS).";
    CertificateUnknownIssuer = "certificate-unknown-issuer", Problem:
        "The server's certificate is of an authority that this machine does not know, or the server does not send the intermediate certificate."
        => "Let the server send the full chain (fullchain.pem). For an authority of your own, give its certificate to every client (SSL_CERT_FILE, NODE_EXTRA_CA_CERTS).";
    CertificateInvalid = "certificate-invalid", Problem:
        "The server's certificate is invalid for another reason."
        => "Issue the certificate anew, for a server and with current algorithms.";
    TlsFailed = "tls-failed", Problem:
        "The TLS handshake failed."
        => "Check that the server speaks TLS 1.2 or 1.3, accepts http/1.1 in ALPN, and asks for no client certificate.";
    CertificateEndsSoon = "certificate-ends-soon", Warning:
        "The server's certificate expires within 14 days."
        => "Renew the certificate, and check what should have renewed it.";
    NoAnswer = "no-answer", Problem:
        "The server took the request and sent no complete head of a response in time."
        => "If there is a proxy, it may be holding the response back: switch its buffering off for this path (nginx: proxy_buffering off). If not, the server does not send the head before its first event, or hangs.";
    ConnectionClosed = "connection-closed", Problem:
        "The connection was closed before a response."
        => "Look into the log of the server or of the proxy in front of it. A port that speaks another protocol closes like this too.";
    NotHttp = "not-http", Problem:
        "What the server sends is not valid HTTP/1."
        => "Check that the port is the one of the MCP server, and that it speaks HTTP/1.1.";
    Unauthorized = "unauthorized", Problem:
        "The server answers 401, and says in WWW-Authenticate what it wants."
        => "Give a valid token: --bearer-env NAME here, and the header Authorization in the client. If one was given, it is wrong, has expired, or is for another server.";
    UnauthorizedNoChallenge = "unauthorized-no-challenge", Problem:
        "The server answers 401 without WWW-Authenticate, so clients cannot know how to log in."
        => "Give what the server's documentation asks for, with --header. The server should send WWW-Authenticate: Bearer with each 401.";
    HostRefused = "host-refused", Problem:
        "The server refuses the field Host, to protect itself against DNS rebinding."
        => "Allow this host in the server (--allow-host here, allowed_hosts in others), or let the proxy pass on a Host that the server allows.";
    OriginRefused = "origin-refused", Problem:
        "The server refuses the field Origin, to protect itself against web pages."
        => "Allow this origin in the server (--allow-origin and --cors-origin here, allowed_origins in others).";
    Forbidden = "forbidden", Problem:
        "The server or something in front of it answers 403."
        => "Check what the token may do, and the rules of the proxy or firewall in front of the server.";
    NotFound = "not-found", Problem:
        "There is nothing at this path."
        => "Use the path of the event stream, which most servers have at /sse. Behind a proxy, the prefix of the path must match its configuration.";
    MethodNotAllowed = "method-not-allowed", Problem:
        "The server does not allow GET at this path, so this is not the path of an event stream."
        => "Use the path of the event stream. Paths that take only POST are for messages, or for the Streamable HTTP transport.";
    StreamableHttp = "streamable-http", Problem:
        "The URL speaks the Streamable HTTP transport, and not HTTP+SSE."
        => "Configure the client for Streamable HTTP (often called \"http\") and keep the URL, or ask the server for the URL of its SSE transport.";
    TooManyRequests = "too-many-requests", Problem:
        "The server answers 429."
        => "Wait, and look for clients that reconnect all the time.";
    ServerError = "server-error", Problem:
        "The server or a proxy answers with a status of 500 or above."
        => "Look into the log. 502, 503 and 504 often come from a proxy whose server behind it does not run, is full, or is too slow; Retry-After then says when to come back.";
    BadStatus = "bad-status", Problem:
        "The server answers the GET with another status than 200."
        => "Check the URL, and what the server's text says.";
    Redirect = "redirect", Problem:
        "The server redirects to another URL. Several clients do not follow redirects, or lose the token."
        => "Use the URL of the redirect in the client. Often only the last slash or https is missing.";
    ContentType = "content-type", Problem:
        "The response is not an event stream: its Content-Type is not text/event-stream."
        => "If it is a web page, the URL or the proxy leads to another server, or to a login page. The server must send Content-Type: text/event-stream.";
    Compressed = "compressed", Problem:
        "The event stream is compressed (Content-Encoding), which holds events back, and which some clients cannot read."
        => "Switch compression off for this path, in the server or the proxy (nginx: gzip off), or send Cache-Control: no-transform.";
    StreamEndedEarly = "stream-ended-early", Problem:
        "The event stream ended before the session was set up and used."
        => "Look into the log of the server. Serverless platforms and proxies with a limit on a response's time end streams too.";
    EventTooLarge = "event-too-large", Problem:
        "An event is larger than any message that clients accept."
        => "Look for what sends it: a file or a log that is no event stream, or an answer that should be split.";
    EndpointMissing = "endpoint-missing", Problem:
        "The stream is open, and no endpoint event arrives."
        => "If there is a proxy, it may be holding events back: switch its buffering off for this path (nginx: proxy_buffering off). If not, the server is not one of MCP's HTTP+SSE transport.";
    EndpointLate = "endpoint-late", Problem:
        "The endpoint event arrives late. Clients give up after some seconds."
        => "The server must send it at once when the stream is opened. If it does, a proxy holds it back: switch its buffering off.";
    EndpointNotFirst = "endpoint-not-first", Problem:
        "Another event arrives before the endpoint event, which has to be the first."
        => "The server must send the endpoint event first.";
    EndpointRepeated = "endpoint-repeated", Problem:
        "The server sends a second endpoint event, which ends the session in several clients."
        => "The server must send the endpoint event once for each stream.";
    EndpointOtherOrigin = "endpoint-other-origin", Problem:
        "The endpoint is at another scheme, host or port than the stream. Clients refuse it, so that a token cannot be led astray."
        => "Let the server send a path only. If it builds a URL, tell it its public URL, or let the proxy send the public Host and X-Forwarded-Proto.";
    EndpointNotPath = "endpoint-not-absolute-path", Problem:
        "The endpoint is not an absolute path, so clients resolve it differently, or cannot use it."
        => "Let the server send a path that begins with a slash and has no dots as segments, as in /messages?session_id=1.";
    EndpointFullUrl = "endpoint-full-url", Note:
        "The endpoint is a complete URL of the same origin."
        => "This works as long as no proxy changes scheme, host or port. A path alone always works.";
    EndpointWithoutPrefix = "endpoint-without-prefix", Problem:
        "The endpoint lacks the prefix under which a proxy offers the server, so posts do not reach it."
        => "Tell the server its prefix (--public-path-prefix here, root_path in ASGI servers), or let the proxy send X-Forwarded-Prefix, or let it not strip the prefix.";
    PostNotAccepted = "post-not-202", Warning:
        "A post is answered with another status of success than 202."
        => "The server should answer 202 without a result, because some clients accept nothing else.";
    PostRedirect = "post-redirect", Problem:
        "A post is redirected. Clients do not follow, or lose the message or the token."
        => "Let the server send the final path in the endpoint event. Often only the last slash or https is missing.";
    PostUnauthorized = "post-unauthorized", Problem:
        "A post is answered 401, though the stream was opened with the same headers."
        => "Check that the proxy passes on Authorization for the path of posts too, and that the server checks both alike.";
    PostForbidden = "post-forbidden", Problem:
        "A post is answered 403."
        => "Check the rules of the proxy or firewall in front of the server for POST at this path, for example for CSRF.";
    PostNotFound = "post-not-found", Problem:
        "A post to the endpoint is answered 404 or 410: its path or its session is not known."
        => "With several servers or processes behind a balancer, posts must reach the one that has the stream: route by the session in the query. With one, check the path that the proxy forwards.";
    PostMethodNotAllowed = "post-method-not-allowed", Problem:
        "A post to the endpoint is answered 405."
        => "The endpoint leads to a path that takes no posts: check the path that the server sends and the one that the proxy forwards.";
    PostRefused = "post-refused", Problem:
        "A post is answered with another status from 400 to 499."
        => "Read the server's text. 400: the session in the query is missing or the body was changed. 411, 413, 415: a proxy or the server does not take the body.";
    PostServerError = "post-server-error", Problem:
        "A post is answered with a status of 500 or above."
        => "Look into the log of the server. 502, 503 and 504 come from a proxy or a full server.";
    PostNoAnswer = "post-no-answer", Problem:
        "A post gets no response."
        => "The server must answer 202 as soon as it has the message, and not when the result is ready. Clients give up after some seconds.";
    PostLate = "post-late", Warning:
        "The response to a post arrives late. Some clients give up after 5 s."
        => "The server must answer 202 as soon as it has the message, and not when the result is ready.";
    AnswerMissing = "answer-missing", Problem:
        "The post was accepted, and the answer never arrives on the stream."
        => "If there is a proxy, it may be holding events back: switch its buffering off. If not, the server has not processed the message, or answers on another stream: look into its log.";
    AnswerLate = "answer-late", Note:
        "An answer arrived late."
        => "The server was slow, for example because it had to start a program first.";
    AnswerWrongId = "answer-wrong-id", Problem:
        "A response on the stream has an id that was not asked for."
        => "The server must repeat the id of the request, with the same type.";
    AnswerMalformed = "answer-malformed", Problem:
        "A message event is not a JSON-RPC message."
        => "Let the server send one JSON-RPC message in each event. Prints of a program must not get into the stream.";
    Buffered = "buffered", Problem:
        "Events arrive together and late, so something between here and the server holds them back."
        => "Switch buffering off for this path: nginx proxy_buffering off (or X-Accel-Buffering: no from the server), Apache flushpackets=on, no compression, no caching, and no virus scanner.";
    InitializeRefused = "initialize-refused", Problem:
        "The server answers initialize with an error."
        => "Read the error. The doctor asks for protocol version 2024-11-05, the one of this transport.";
    InitializeInvalid = "initialize-invalid", Problem:
        "The result of initialize lacks protocolVersion, capabilities or serverInfo, so clients refuse it."
        => "The server must send all three.";
    ProtocolVersion = "protocol-version", Note:
        "The protocol version with which the server answered initialize."
        => "Nothing has to be done.";
    StreamableHttpToo = "streamable-http-too", Note:
        "The URL speaks Streamable HTTP as well."
        => "Nothing has to be done. Clients that know both use Streamable HTTP.";
    FallbackBroken = "fallback-broken", Warning:
        "A POST to the stream's URL is not refused with 400, 404 or 405. Newer clients try that first, and then do not fall back to SSE."
        => "Let the server or the proxy answer POST at the stream's path with 405.";
    CorsPreflight = "cors-preflight", Problem:
        "The server's answer to a preflight does not allow what a browser has to send, so web pages cannot use the server."
        => "Allow the origin, and the headers that are named, in the server (--cors-origin and --cors-header here). A preflight has no token, so it must be answered before authentication.";
    CorsMissing = "cors-missing", Problem:
        "The stream's response does not allow the origin, so a browser hides it from the page."
        => "Let the server send Access-Control-Allow-Origin with this origin on every response, errors too (--cors-origin here).";
    HeartbeatMissing = "heartbeat-missing", Problem:
        "An idle stream stays silent too long. Proxies and balancers cut such streams after about a minute."
        => "Let the server send a comment line every 15 to 30 s (--heartbeat here). If it does, a proxy holds it back.";
    IdleCut = "idle-cut", Problem:
        "The stream was cut while it was idle."
        => "Raise the time limit of what cut it: nginx proxy_read_timeout, HAProxy timeout tunnel and timeout server, the idle timeout of the load balancer, the request timeout of the platform.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_words() {
        let mut texts: Vec<_> = Code::ALL.iter().map(|code| code.text()).collect();
        assert!(
            texts
                .iter()
                .all(|text| text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')))
        );
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Code::ALL.len());
    }

    /// The table in the README has each code, its level, its meaning and its advice.
    #[test]
    fn readme_table_equals_the_code() {
        let readme = include_str!("../../README.md");
        let (_, rest) = readme.split_once("<!-- findings -->\n").expect("the start of the table");
        let (table, _) = rest.split_once("<!-- end of findings -->").expect("its end");
        let mut expected =
            "| code | level | meaning | what to do |\n|---|---|---|---|\n".to_owned();
        for code in Code::ALL {
            let (text, level) = (code.text(), code.level().text());
            expected +=
                &format!("| `{text}` | {level} | {} | {} |\n", code.meaning(), code.advice());
        }
        assert_eq!(table, expected, "the table should be:\n{expected}");
    }
}
