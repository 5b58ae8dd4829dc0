//! The flags of the command `doctor`, and the settings that they give.
//!
//! Knows: which values are allowed. Does not know: what is done with them.
//!
//! The URL and the headers are parsed here and not by `clap`, because its error messages repeat the value, which may
//! be a secret.

use core::fmt;
use core::time::Duration;
use std::env;

use http::{HeaderName, HeaderValue};

use super::secrets::Secrets;
use crate::client::exchange::FRAMING_FIELDS;
use crate::client::target::Target;
use crate::flags::{parse_wait, parse_watch};

/// The most headers that can be given.
const HEADERS_MAX: usize = 32;
/// The longest wait for a request that only looks for a better URL or another scheme.
const PROBE_MAX: Duration = Duration::from_secs(5);
/// An event is late after this part of the timeout, if `--late` is not given.
const LATE_PART: u32 = 4;
/// Headers whose values are no secrets.
const PUBLIC_HEADERS: [&str; 10] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "content-type",
    "host",
    "mcp-protocol-version",
    "origin",
    "referer",
    "user-agent",
];

/// The flags of the command `doctor`.
#[derive(clap::Args)]
pub(crate) struct DoctorFlags {
    /// The URL of the event stream, as clients use it: <http://127.0.0.1:8000/sse>, for example.
    #[arg(value_name = "URL")]
    url: String,
    /// Send this header with every request, as clients do: 'X-Api-Key: abc'. Can be given several times. It replaces a
    /// header of the same name, Host too. Its value is never printed.
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// Send the token in this environment variable: Authorization: Bearer ...
    #[arg(long, value_name = "VARIABLE")]
    bearer_env: Option<String>,
    /// Check that web pages of this origin can use the server: <https://app.example.com>, for example.
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<String>,
    /// Do not wait for a heartbeat.
    #[arg(long, conflicts_with = "soak")]
    quick: bool,
    /// Watch the idle stream for this time after it was opened, to see whether something cuts it.
    #[arg(long, value_name = "TIME", value_parser = parse_watch)]
    soak: Option<Duration>,
    /// How long to wait for each connection, response and event.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = parse_wait)]
    timeout: Duration,
    /// After which time an event is late; a quarter of --timeout by default.
    #[arg(long, value_name = "TIME", value_parser = parse_wait)]
    late: Option<Duration>,
    /// How long an idle stream may be silent.
    #[arg(long, value_name = "TIME", default_value = "65s", value_parser = parse_wait)]
    heartbeat: Duration,
    /// Go on if the server's certificate is invalid. What is wrong with it becomes a note.
    #[cfg(feature = "tls")]
    #[arg(long)]
    insecure: bool,
    /// Print one JSON object: url, verdict, findings, steps and measurements.
    #[arg(long)]
    json: bool,
}

/// Does not show headers and the URL.
impl fmt::Debug for DoctorFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DoctorFlags").finish_non_exhaustive()
    }
}

/// What to examine, and how.
pub(crate) struct Settings {
    pub(crate) target: Target,
    /// Headers for every request.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) secrets: Secrets,
    /// The origin of web pages.
    pub(crate) origin: Option<String>,
    pub(crate) quick: bool,
    pub(crate) soak: Option<Duration>,
    pub(crate) timeout: Duration,
    pub(crate) late: Duration,
    pub(crate) heartbeat: Duration,
    #[cfg(feature = "tls")]
    pub(crate) insecure: bool,
    pub(crate) json: bool,
}

impl Settings {
    /// How long to wait for what only explains a fault further.
    pub(crate) fn probe_timeout(&self) -> Duration {
        self.timeout.min(PROBE_MAX)
    }
}

impl DoctorFlags {
    /// The settings, or what is wrong with the flags.
    pub(crate) fn settings(&self) -> Result<Settings, String> {
        let target = Target::parse(&self.url)?;
        #[cfg(not(feature = "tls"))]
        if target.is_https() {
            return Err("https needs mcp-sse with its feature tls, which this one lacks".into());
        }
        let mut secrets = Secrets::default();
        target.query_values().for_each(|value| secrets.add(value));
        let headers = self.headers(&mut secrets)?;
        let late = self.late.unwrap_or(self.timeout / LATE_PART);
        if late >= self.timeout {
            return Err("--late must be less than --timeout".into());
        }
        Ok(Settings {
            target,
            headers,
            secrets,
            origin: self.origin.as_deref().map(parse_origin).transpose()?,
            quick: self.quick,
            soak: self.soak,
            timeout: self.timeout,
            late,
            heartbeat: self.heartbeat,
            #[cfg(feature = "tls")]
            insecure: self.insecure,
            json: self.json,
        })
    }

    fn headers(&self, secrets: &mut Secrets) -> Result<Vec<(String, String)>, String> {
        if self.header.len() > HEADERS_MAX {
            return Err(format!("--header can be given {HEADERS_MAX} times"));
        }
        let mut headers = Vec::new();
        for (at, header) in self.header.iter().enumerate() {
            let header = parse_header(header)
                .map_err(|expected| format!("--header number {}: {expected}", at + 1))?;
            headers.push(header);
        }
        if let Some(variable) = &self.bearer_env {
            if headers.iter().any(|(name, _)| name == "authorization") {
                return Err("--bearer-env and --header Authorization exclude each other".into());
            }
            let token = env::var(variable)
                .map_err(|_| format!("--bearer-env: there is no variable {variable} with text"))?;
            let value = format!("Bearer {}", token.trim());
            if token.trim().is_empty() || HeaderValue::from_str(&value).is_err() {
                return Err(format!("--bearer-env: the variable {variable} holds no token"));
            }
            headers.push(("authorization".into(), value));
        }
        for (name, value) in &headers {
            if !PUBLIC_HEADERS.contains(&&**name) {
                secrets.add(value);
            }
        }
        Ok(headers)
    }
}

/// Parses a header. The error does not repeat it.
fn parse_header(text: &str) -> Result<(String, String), String> {
    const EXPECTED: &str = "expected a name, a colon and a value, as in 'X-Api-Key: abc'";
    let (name, value) = text.split_once(':').ok_or(EXPECTED)?;
    let name: HeaderName = name.parse().map_err(|_| EXPECTED)?;
    let value = HeaderValue::from_str(value.trim()).map_err(|_| EXPECTED)?;
    let value = value.to_str().map_err(|_| EXPECTED)?.to_owned();
    if FRAMING_FIELDS.contains(&name.as_str()) {
        return Err(format!("{name} cannot be set, because the doctor sets it"));
    }
    Ok((name.as_str().to_owned(), value))
}

fn parse_origin(text: &str) -> Result<String, String> {
    let target = Target::parse(text).ok().filter(|target| target.path_and_query() == "/");
    target.map(|target| target.origin()).ok_or_else(|| {
        "--origin: expected scheme, host and port, as in https://app.example.com".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_parsed_without_repeating_secrets() {
        let parsed = parse_header("X-Key: a: b ").expect("a header");
        assert_eq!(parsed, ("x-key".to_owned(), "a: b".to_owned()));
        for wrong in ["secret", "a b: secret", ": secret", "X: secret\r\nY: z", "Content-Length: 1"]
        {
            let error = parse_header(wrong).expect_err(wrong);
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn origins_have_no_path() {
        assert_eq!(parse_origin("https://A.example:443/").as_deref(), Ok("https://a.example"));
        for wrong in ["https://a/b", "a.example", "null"] {
            assert!(parse_origin(wrong).is_err(), "{wrong}");
        }
    }
}
