//! The one public error. It says which operation failed and why; what it is made of stays private, so that a new kind
//! of failure is never a breaking change. Codecs have flat enums of their own, because each of their variants maps to a
//! status code.

use std::{fmt, io};

/// What can go wrong when a server is set up or a value is built.
///
/// Its text names the operation: `bind 127.0.0.1:80: Permission denied (os error 13)`.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
}

/// A [`Result`](std::result::Result) whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug)]
enum Kind {
    /// The system refused an operation.
    Io { operation: String, source: io::Error },
    /// A value breaks a rule of the standard, or a bound of this crate.
    Invalid(&'static str),
}

impl Error {
    pub(crate) fn io(operation: impl Into<String>, source: io::Error) -> Error {
        Error { kind: Kind::Io { operation: operation.into(), source } }
    }

    pub(crate) fn invalid(rule: &'static str) -> Error {
        Error { kind: Kind::Invalid(rule) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Io { operation, source } => write!(f, "{operation}: {source}"),
            Kind::Invalid(rule) => f.write_str(rule),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            Kind::Io { source, .. } => Some(source),
            Kind::Invalid(_) => None,
        }
    }
}
