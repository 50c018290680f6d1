//! The stable codes under which errors reach JavaScript, as `error.code`.

use convey_runtime::RuntimeError;
use napi_derive::napi;

/// Stable error codes; the message is for people.
#[napi(string_enum = "UPPER_SNAKE")]
#[derive(Debug)]
pub enum ErrorCode {
    /// A field of the configuration breaks an invariant.
    ConfigInvalid,
    /// A frontend's address cannot be bound.
    BindFailed,
    /// A privilege is missing.
    PermissionDenied,
    /// No engine can serve the mode here.
    EngineUnsupported,
    /// The data plane was closed.
    Closed,
    /// Anything else.
    Internal,
}

impl AsRef<str> for ErrorCode {
    fn as_ref(&self) -> &str {
        match self {
            Self::ConfigInvalid => "CONFIG_INVALID",
            Self::BindFailed => "BIND_FAILED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::EngineUnsupported => "ENGINE_UNSUPPORTED",
            Self::Closed => "CLOSED",
            Self::Internal => "INTERNAL",
        }
    }
}

pub type Error = napi::Error<ErrorCode>;
pub type Result<T> = std::result::Result<T, Error>;

pub fn invalid(field: &str, message: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::ConfigInvalid, format!("{field}: {message}"))
}

pub fn internal(cause: &dyn std::error::Error) -> Error {
    Error::new(ErrorCode::Internal, cause.to_string())
}

pub fn from_runtime(error: &RuntimeError) -> Error {
    use convey_runtime::ErrorKind;
    let code = match error.kind() {
        ErrorKind::Config => ErrorCode::ConfigInvalid,
        ErrorKind::Bind => ErrorCode::BindFailed,
        ErrorKind::Permission => ErrorCode::PermissionDenied,
        ErrorKind::Unsupported => ErrorCode::EngineUnsupported,
        ErrorKind::Closed => ErrorCode::Closed,
        ErrorKind::Internal => ErrorCode::Internal,
    };
    Error::new(code, error.to_string())
}
