//! The one place where an engine error becomes a wire error (gateway-ws.md §1.9).
//!
//! `details.code` carries our stable code, except where upstream has one of its own. What is missing and what is not
//! the caller's are the same bytes.

use serde_json::json;
use watertight_core::ErrorCode;
use watertight_core::key::KeyError;
use watertight_engine::EngineError;
use watertight_engine::admission::Ended;
use watertight_wire::openclaw::ErrorShape;

use super::call::Failure;

/// When to try again after a passing trouble, in milliseconds.
const RETRY_MS: u64 = 1000;

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        shape(&error).into()
    }
}

fn shape(error: &EngineError) -> ErrorShape {
    match reason(error) {
        Some(reason) => plain(error).because(reason),
        None => plain(error),
    }
}

/// Why, where the code alone does not say it.
fn reason(error: &EngineError) -> Option<&'static str> {
    match error {
        EngineError::Key(KeyError::Reserved { .. } | KeyError::SentinelNotYours) => Some("reserved_namespace"),
        EngineError::Key(KeyError::BadAgentId { .. } | KeyError::UnknownAgent { .. }) => Some("invalid_agent_id"),
        EngineError::Ended(Ended::Revoked) => Some("revoked"),
        EngineError::Ended(Ended::Expired) => Some("auth_expired"),
        _ => None,
    }
}

fn plain(error: &EngineError) -> ErrorShape {
    let code = error.code();
    if let EngineError::Key(KeyError::UnknownAgent { agent }) = error {
        return ErrorShape::invalid(format!("Agent \"{agent}\" no longer exists in configuration"))
            .with_details(json!({"code": "UNKNOWN_AGENT_ID"}));
    }
    match code {
        ErrorCode::InvalidRequest
        | ErrorCode::InvalidKey
        | ErrorCode::KeyMismatch
        | ErrorCode::UnknownAgent
        | ErrorCode::NotFound
        | ErrorCode::IdempotencyMismatch => ErrorShape::invalid(text(error)).with_code(code),
        ErrorCode::SessionChanged => {
            ErrorShape::invalid(text(error)).with_details(json!({"code": code.as_str(), "reason": "session-changed"}))
        }
        ErrorCode::Unavailable => ErrorShape::unavailable(text(error))
            .with_details(json!({"code": code.as_str(), "reason": "gateway-restarting"}))
            .because("draining")
            .retry_after(RETRY_MS),
        ErrorCode::TooBusy | ErrorCode::SessionBusy | ErrorCode::StorageFull | ErrorCode::StorageUnavailable => {
            ErrorShape::unavailable(text(error)).with_code(code).retry_after(RETRY_MS)
        }
        ErrorCode::IntegrityError
        | ErrorCode::Unauthorized
        | ErrorCode::Forbidden
        | ErrorCode::ProviderError
        | ErrorCode::Internal => ErrorShape::unavailable(text(error)).with_code(code),
    }
}

/// The sentence for the caller. What a store says of itself is for the log.
fn text(error: &EngineError) -> String {
    let EngineError::Store(store) = error else { return error.to_string() };
    match store.code() {
        ErrorCode::IntegrityError => {
            tracing::error!(%store, "a stored record failed its integrity check");
            "A stored record of this session failed its integrity check; the session cannot be used. Other sessions are not affected.".into()
        }
        ErrorCode::StorageFull => {
            "The gateway's disk is full; nothing new can be stored. Stored sessions can be read.".into()
        }
        ErrorCode::NotFound => "No session found".into(),
        ErrorCode::SessionChanged => "The session changed while the request was under way. Try again.".into(),
        ErrorCode::IdempotencyMismatch => EngineError::RunConflict.to_string(),
        _ => {
            tracing::error!(%store, "the store failed");
            "The gateway's store is not available. Try again shortly.".into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watertight_store::StoreError;
    use watertight_wire::openclaw::WireCode;

    #[test]
    fn a_missing_session_reads_as_upstream_says_it() {
        let error = shape(&EngineError::NoSession("agent:main:x".into()));
        assert_eq!((error.code, &*error.message), (WireCode::InvalidRequest, "No session found: agent:main:x"));
        assert_eq!(error.retryable, None);
    }

    #[test]
    fn a_refusal_names_its_reason() {
        let reason = |error| shape(&error).details.unwrap()["reasonCode"].take();
        assert_eq!(reason(EngineError::Key(KeyError::DotDot)), "invalid_session_key");
        assert_eq!(reason(EngineError::Key(KeyError::Reserved { namespace: "cron" })), "reserved_namespace");
        assert_eq!(reason(EngineError::Key(KeyError::unknown_agent("x"))), "invalid_agent_id");
        assert_eq!(reason(EngineError::NoSession("agent:main:x".into())), "session_not_found");
        assert_eq!(reason(EngineError::Ended(Ended::Expired)), "auth_expired");
        assert_eq!(reason(EngineError::Draining), "draining");
        assert_eq!(reason(EngineError::RunConflict), "idempotency_mismatch");
    }

    #[test]
    fn passing_troubles_can_be_retried() {
        for error in [
            EngineError::Draining,
            EngineError::QueueFull(32),
            EngineError::Busy,
            EngineError::Store(StoreError::Full),
            EngineError::Store(StoreError::Unavailable("sync failed".into())),
        ] {
            let shape = shape(&error);
            assert_eq!((shape.code, shape.retryable), (WireCode::Unavailable, Some(true)), "{error:?}");
        }
    }

    #[test]
    fn an_integrity_error_is_final_and_names_its_code() {
        let error = shape(&EngineError::Store(StoreError::Integrity("chain")));
        assert_eq!((error.code, error.retryable), (WireCode::Unavailable, None));
        assert_eq!(error.details.unwrap()["code"], "integrity_error");
    }

    #[test]
    fn what_a_store_says_of_itself_stays_inside() {
        let error = shape(&EngineError::Store(StoreError::Unavailable("/var/lib/secret/path".into())));
        assert!(!error.message.contains("secret"));
    }
}
