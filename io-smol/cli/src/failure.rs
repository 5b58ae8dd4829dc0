//! Why the command ends with an error.

use std::process::ExitCode;

use mcp_sse_demo::options::FlagError;

/// Why the command ends before its time, in words for people.
pub(crate) enum Failure {
    /// What was typed makes no sense.
    Flags(String),
    /// It makes sense, and cannot be done.
    Start(String),
    /// Everything was printed already.
    #[cfg(unix)]
    Printed,
}

impl Failure {
    /// Prints it on stderr, and returns the status to exit with.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            Self::Flags(message) => {
                eprintln!("mcp-sse: {message}");
                // As for every other mistake on the command line.
                ExitCode::from(2)
            }
            Self::Start(message) => {
                eprintln!("mcp-sse: {message}");
                ExitCode::FAILURE
            }
            #[cfg(unix)]
            Self::Printed => ExitCode::FAILURE,
        }
    }
}

impl From<FlagError> for Failure {
    fn from(mistake: FlagError) -> Self {
        Self::Flags(mistake.to_string())
    }
}
