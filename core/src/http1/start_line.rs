//! The method and the version of a request line.
//!
//! Knows: which methods and versions are supported. Does not know: the target (see `target`), or
//! where a line ends.

use core::fmt;

macro_rules! methods {
    ($( $name:ident = $text:literal $doc:literal; )+) => {
        /// A request method of RFC 9110 §9 or RFC 5789. Other methods are unknown to this codec.
        /// Methods are case-sensitive: `get` is unknown too.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Method {
            $( #[doc = $doc] $name, )+
        }

        impl Method {
            /// All methods, in the order of declaration.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )+ ];

            /// The method's name as it is sent, in upper case.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$name => $text, )+ }
            }
        }
    };
}

methods! {
    Get = "GET" "`GET`";
    Head = "HEAD" "`HEAD`";
    Post = "POST" "`POST`";
    Put = "PUT" "`PUT`";
    Delete = "DELETE" "`DELETE`";
    Connect = "CONNECT" "`CONNECT`";
    Options = "OPTIONS" "`OPTIONS`";
    Trace = "TRACE" "`TRACE`";
    Patch = "PATCH" "`PATCH`";
}

impl Method {
    /// The method called `name`, or `None` if it is unknown.
    ///
    /// ```
    /// # use mcp_sse_core::http1::Method;
    /// assert_eq!(Method::from_bytes(b"POST"), Some(Method::Post));
    /// assert_eq!(Method::from_bytes(b"post"), None);
    /// ```
    #[must_use]
    pub fn from_bytes(name: &[u8]) -> Option<Self> {
        Self::ALL.iter().copied().find(|method| method.as_str().as_bytes() == name)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The HTTP version of a request. A request with a higher minor version, such as `HTTP/1.2`, is
/// treated as HTTP/1.1 (RFC 9110 §2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0: no chunked coding, no interim responses, and the connection closes after the
    /// response unless the client asks otherwise.
    Http10,
    /// HTTP/1.1, or a higher minor version.
    Http11,
}
