//! Metadata of an OAuth protected resource (RFC 9728), from which clients learn which authorization
//! servers issue tokens for this server.
//!
//! Knows: the JSON document, its URL, and how an authentication challenge refers to it. Does not
//! know: which requests are challenged.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::http1::split_authority;

/// The OAuth protected resource metadata of this server (RFC 9728). It is served at
/// `/.well-known/oauth-protected-resource`, and every 401 response refers to it.
///
/// ```
/// # use mcp_sse_core::{Config, ProtectedResource};
/// let resource = ProtectedResource::new("https://mcp.example.com/sse")
///     .authorization_server("https://login.example.com")
///     .scope("mcp:use");
/// let config = Config::builder().protected_resource(resource).build()?;
/// # Ok::<(), mcp_sse_core::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it has no effect until it is part of a configuration"]
pub struct ProtectedResource {
    resource: String,
    authorization_servers: Vec<String>,
    scopes_supported: Vec<String>,
    name: Option<String>,
    documentation: Option<String>,
    metadata_url: Option<String>,
}

impl ProtectedResource {
    /// Makes metadata for the resource with this identifier: the URL of the event stream as clients
    /// use it, for example `https://mcp.example.com/sse`.
    pub fn new(resource: &str) -> Self {
        Self {
            resource: resource.into(),
            authorization_servers: Vec::new(),
            scopes_supported: Vec::new(),
            name: None,
            documentation: None,
            metadata_url: None,
        }
    }

    /// Adds an authorization server that issues tokens for this resource, by its issuer URL.
    pub fn authorization_server(mut self, issuer: &str) -> Self {
        self.authorization_servers.push(issuer.into());
        self
    }

    /// Adds a scope that tokens for this resource may have.
    pub fn scope(mut self, scope: &str) -> Self {
        self.scopes_supported.push(scope.into());
        self
    }

    /// Sets the name of the resource for display to users. There is none by default.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the URL of documentation for developers. There is none by default.
    pub fn documentation(mut self, url: &str) -> Self {
        self.documentation = Some(url.into());
        self
    }

    /// Sets the URL of this metadata as clients reach it. By default it is the URL that RFC 9728
    /// §3.1 derives from the resource:
    /// `https://mcp.example.com/.well-known/oauth-protected-resource/sse`.
    pub fn metadata_url(mut self, url: &str) -> Self {
        self.metadata_url = Some(url.into());
        self
    }

    /// Renders the metadata.
    ///
    /// # Errors
    ///
    /// The name of the invalid setting, its value, and a description of valid values.
    pub(crate) fn render(&self) -> Result<Metadata, (&'static str, String, &'static str)> {
        const URL: &str = "an absolute http or https URL without a fragment";
        let bad = |name, value: &str, expected| Err((name, String::from(value), expected));
        let Some((origin, path)) = split_url(&self.resource) else {
            return bad("protected_resource", &self.resource, URL);
        };
        let urls = self.authorization_servers.iter().map(|url| ("authorization_server", url));
        let urls = urls.chain(self.documentation.iter().map(|url| ("documentation", url)));
        let urls = urls.chain(self.metadata_url.iter().map(|url| ("metadata_url", url)));
        for (name, url) in urls {
            if split_url(url).is_none() {
                return bad(name, url, URL);
            }
        }
        for scope in &self.scopes_supported {
            // The grammar of a scope (RFC 6749 §3.3).
            let is_valid = |b: u8| b.is_ascii_graphic() && !b"\"\\".contains(&b);
            if scope.is_empty() || !scope.bytes().all(is_valid) {
                return bad("scope", scope, "visible ASCII without quotes and backslashes");
            }
        }
        let bare = path.strip_suffix('/').unwrap_or(path);
        let path_only = bare.split('?').next().unwrap_or_default();
        let url = match &self.metadata_url {
            Some(url) => url.clone(),
            None => format!("{origin}{}{bare}", Metadata::PATH),
        };
        Ok(Metadata {
            body: self.body(),
            challenge: format!("resource_metadata=\"{url}\""),
            suffix: path_only.into(),
        })
    }

    fn body(&self) -> String {
        let text = |text: &String| serde_json::Value::from(text.as_str()).to_string();
        let list = |items: &[String]| {
            let items: Vec<String> = items.iter().map(text).collect();
            (!items.is_empty()).then(|| format!("[{}]", items.join(",")))
        };
        let members = [
            ("resource", Some(text(&self.resource))),
            ("authorization_servers", list(&self.authorization_servers)),
            ("scopes_supported", list(&self.scopes_supported)),
            // Tokens are not accepted in the query, because logs and browser histories store it.
            ("bearer_methods_supported", Some("[\"header\"]".into())),
            ("resource_name", self.name.as_ref().map(text)),
            ("resource_documentation", self.documentation.as_ref().map(text)),
        ];
        let members = members.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let members = members.map(|(name, value)| format!("\"{name}\":{value}"));
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    }
}

/// The origin and the rest of an absolute http or https URL that can be written in a quoted string.
fn split_url(url: &str) -> Option<(&str, &str)> {
    let (scheme, behind) = url.split_once("://")?;
    let http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let (authority, rest) = behind.split_at(behind.find(['/', '?']).unwrap_or(behind.len()));
    split_authority(authority)?;
    let is_valid = |octet: u8| octet.is_ascii_graphic() && !b"\"<>\\^`{|}#".contains(&octet);
    let origin = url.strip_suffix(rest)?;
    (http && rest.bytes().all(is_valid)).then_some((origin, rest))
}

/// A rendered [`ProtectedResource`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) body: String,
    /// The parameter of a challenge that refers to the metadata.
    pub(crate) challenge: String,
    /// The path of the resource, without a trailing slash.
    suffix: String,
}

impl Metadata {
    const PATH: &str = "/.well-known/oauth-protected-resource";

    /// Whether the metadata is served at `path`: the well-known path alone, or followed by the path
    /// of the resource or of an event stream of this server.
    pub(crate) fn is_at(&self, path: &str, is_stream: impl Fn(&str) -> bool) -> bool {
        path.strip_prefix(Self::PATH).is_some_and(|rest| {
            let bare = rest.strip_suffix('/').unwrap_or(rest);
            bare.is_empty() || bare == self.suffix || is_stream(bare)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_rendered_as_rfc_9728_says() {
        let resource = ProtectedResource::new("https://mcp.example.com/sse")
            .authorization_server("https://login.example.com")
            .authorization_server("http://localhost:9000/realm")
            .scope("mcp:use")
            .name("The \"files\"")
            .documentation("https://example.com/docs?a=b");
        let metadata = resource.render().unwrap();
        assert_eq!(
            metadata.body,
            concat!(
                r#"{"resource":"https://mcp.example.com/sse","#,
                r#""authorization_servers":["https://login.example.com","http://localhost:9000/realm"],"#,
                r#""scopes_supported":["mcp:use"],"bearer_methods_supported":["header"],"#,
                r#""resource_name":"The \"files\"","resource_documentation":"https://example.com/docs?a=b"}"#,
            )
        );
        let json: serde_json::Value = serde_json::from_str(&metadata.body).unwrap();
        assert_eq!(json["resource_name"], "The \"files\"");
    }

    #[track_caller]
    fn check(resource: ProtectedResource, url: &str) {
        let metadata = resource.render().unwrap();
        assert_eq!(metadata.challenge, format!("resource_metadata=\"{url}\""));
    }

    #[test]
    fn metadata_url_is_derived_from_the_resource() {
        let at = "https://mcp.example.com/.well-known/oauth-protected-resource";
        check(ProtectedResource::new("https://mcp.example.com"), at);
        check(ProtectedResource::new("https://mcp.example.com/"), at);
        check(ProtectedResource::new("https://mcp.example.com/a/sse"), &format!("{at}/a/sse"));
        check(ProtectedResource::new("https://mcp.example.com/sse?a=b"), &format!("{at}/sse?a=b"));
        let elsewhere = "https://mcp.example.com/meta";
        check(ProtectedResource::new("http://[::1]:80/sse").metadata_url(elsewhere), elsewhere);

        let metadata = ProtectedResource::new("https://a.example/x/sse").render().unwrap();
        let is_at = |path: &str| {
            let path = format!("/.well-known/{path}");
            metadata.is_at(&path, |path| path == "/sse")
        };
        for path in ["", "/", "/x/sse", "/x/sse/", "/sse", "/sse/"] {
            assert!(is_at(&format!("oauth-protected-resource{path}")), "{path}");
        }
        for path in ["//", "/other", "x", "/x", "/sse//"] {
            assert!(!is_at(&format!("oauth-protected-resource{path}")), "{path}");
        }
        assert!(!is_at("oauth-authorization-server"));
    }

    #[test]
    fn invalid_url_or_scope_is_refused() {
        let refuse = |resource: ProtectedResource| resource.render().unwrap_err().0;
        for url in [
            "",
            "mcp.example.com",
            "ftp://a",
            "https://",
            "https://a/#b",
            "https://a/\"b",
            "https://u@a/",
        ] {
            assert_eq!(refuse(ProtectedResource::new(url)), "protected_resource", "{url}");
            let valid = || ProtectedResource::new("https://a");
            assert_eq!(refuse(valid().authorization_server(url)), "authorization_server");
            assert_eq!(refuse(valid().metadata_url(url)), "metadata_url");
            assert_eq!(refuse(valid().documentation(url)), "documentation");
        }
        for scope in ["", "a b", "\"", "ä"] {
            assert_eq!(refuse(ProtectedResource::new("https://a").scope(scope)), "scope");
        }
    }
}
