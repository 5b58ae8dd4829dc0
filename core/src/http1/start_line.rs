//! The words of a request line that have a meaning of their own: the method and the version.
//!
//! Knows: which methods there are. Does not know: the target (see `target`), or how a line is found.

use core::fmt;

macro_rules! methods {
    ($( $name:ident = $text:literal $doc:literal; )+) => {
        /// The methods of RFC 9110 §9 and RFC 5789. Any other is unknown here, in lower case too:
        /// methods are case-sensitive.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Method {
            $( #[doc = $doc] $name, )+
        }

        impl Method {
            /// Every method there is.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )+ ];

            /// The method as it is sent.
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
    /// The method of that name, if it is known.
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

/// The version of a request. `HTTP/1.2` and above are served as 1.1 (RFC 9110 §2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0: no chunked coding, no interim responses, closed unless asked otherwise.
    Http10,
    /// HTTP/1.1, or a minor version above it.
    Http11,
}
