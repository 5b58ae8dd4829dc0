//! The errors of the command, and its exit statuses.
//!
//! Decision: after a second signal the status is the one that a shell reports for a program that the signal has ended
//! (130, 143), because requests were cut off and the caller should know. Connections that are cut when the grace is
//! over do not change the status: the operator has set the grace.

use std::process::ExitCode;

use mcp_sse_demo::options::FlagError;

use crate::environment::Environment;

/// The exit statuses, as the help lists them.
pub(crate) const EXIT_STATUSES: &str = "\
Exit status:
  0  The server was stopped (SIGINT, SIGTERM), or --check has found no fault.
  1  The server could not start or serve, or --check has found a fault.
  2  The command line, an environment variable, or a file with tokens or servers is invalid.
  130, 143  A second SIGINT or SIGTERM has aborted requests while the server was stopping.

On SIGHUP the server reads its certificate and its file with tokens again. It stops on SIGHUP if its terminal was \
closed.";

/// An error that ends the command, with its message.
pub(crate) enum Failure {
    /// The command line is invalid.
    Flags(String),
    /// The command line is valid, but the command cannot do it.
    Start(String),
    /// The message was printed already.
    Printed,
    /// A further signal, with this number, has aborted the server while it was stopping.
    Aborted(u8),
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
            Self::Printed => ExitCode::FAILURE,
            // Shells use these statuses for programs that a signal has ended.
            Self::Aborted(signal) => ExitCode::from(128 + signal),
        }
    }
}

impl From<FlagError> for Failure {
    fn from(mistake: FlagError) -> Self {
        Self::Flags(mistake.to_string())
    }
}
