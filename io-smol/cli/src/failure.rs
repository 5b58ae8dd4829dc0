//! The errors of the command.

use std::process::ExitCode;

use mcp_sse_demo::options::FlagError;

use crate::environment::Environment;

/// An error that ends the command, with its message.
pub(crate) enum Failure {
    /// The command line is invalid.
    Flags(String),
    /// The command line is valid, but the command cannot do it.
    Start(String),
    /// The message was printed already.
    #[cfg(unix)]
    Printed,
}

impl Failure {
    /// Prints the message on stderr, with the variables of the environment that have set the flags in it, and
    /// returns the exit status.
    pub(crate) fn report(&self, environment: &Environment) -> ExitCode {
        match self {
            Self::Flags(message) => {
                eprintln!("mcp-sse: {message}{}", environment.sources_of(message));
                // `clap` uses this status for invalid command lines too.
                ExitCode::from(2)
            }
            Self::Start(message) => {
                eprintln!("mcp-sse: {message}{}", environment.sources_of(message));
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
