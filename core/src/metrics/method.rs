//! The methods by which requests are counted: those that MCP defines for clients, and one for all others.
//!
//! Knows: their names. Does not know: what any of them does.
//!
//! Decision: the list is fixed. A method is text of the client's choosing, so a counter for each method that occurs
//! would let a client create any number of them.

macro_rules! methods {
    ($( $name:ident = $text:literal; )+) => {
        /// A method of MCP that clients call, or any other.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum McpMethod {
            $( $name, )+
            /// Any other method.
            Other,
        }

        impl McpMethod {
            pub(crate) const ALL: &'static [Self] = &[ $( Self::$name, )+ Self::Other ];

            /// The method with this name.
            pub(crate) fn of(name: &str) -> Self {
                match name {
                    $( $text => Self::$name, )+
                    _ => Self::Other,
                }
            }

            /// The name of the method, or "other".
            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $( Self::$name => $text, )+
                    Self::Other => "other",
                }
            }

            /// The method with this number, which is its place in `ALL`.
            pub(crate) fn numbered(number: u8) -> Self {
                Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Other)
            }
        }
    };
}

methods! {
    Initialize = "initialize";
    Ping = "ping";
    ToolsList = "tools/list";
    ToolsCall = "tools/call";
    ResourcesList = "resources/list";
    ResourceTemplatesList = "resources/templates/list";
    ResourcesRead = "resources/read";
    ResourcesSubscribe = "resources/subscribe";
    ResourcesUnsubscribe = "resources/unsubscribe";
    PromptsList = "prompts/list";
    PromptsGet = "prompts/get";
    CompletionComplete = "completion/complete";
    LoggingSetLevel = "logging/setLevel";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn method_is_found_by_its_name_and_by_its_number() {
        for (number, &method) in McpMethod::ALL.iter().enumerate() {
            assert_eq!(method as usize, number);
            assert_eq!(McpMethod::numbered(number as u8), method);
            assert_eq!(McpMethod::of(method.name()), method);
        }
        assert_eq!(McpMethod::of("tools/call"), McpMethod::ToolsCall);
        for name in ["", "Tools/call", "tools/calls", "tools/cal", "notifications/cancelled"] {
            assert_eq!(McpMethod::of(name), McpMethod::Other, "{name}");
        }
        assert_eq!(McpMethod::numbered(u8::MAX), McpMethod::Other);
    }
}
