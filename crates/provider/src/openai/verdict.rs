//! What a status or an error body means.

use std::time::Duration;

use http::StatusCode;
use watertight_wire::openai::ApiProblem;

use crate::fault::Fault;

/// What an answer with an error status means.
pub(crate) fn of_status(status: StatusCode, retry_after: Option<Duration>, problem: &ApiProblem) -> Fault {
    match status.as_u16() {
        300..=399 => Fault::Redirect,
        401 | 403 => Fault::Auth,
        402 => Fault::OutOfQuota,
        404 => Fault::NotFound,
        // A conflict is a lock somebody else holds for a moment.
        408 | 409 | 500..=599 => Fault::Failed,
        429 if is_quota(problem) => Fault::OutOfQuota,
        429 => Fault::RateLimited { retry_after },
        _ if problem.is_context_length() => Fault::ContextLength,
        _ if is_refusal(problem) => Fault::Refusal,
        _ => Fault::Rejected,
    }
}

/// What an error inside an answer with a good status means.
pub(crate) fn of_problem(problem: &ApiProblem) -> Fault {
    let code = problem.code.as_deref().unwrap_or_default();
    if problem.is_context_length() {
        Fault::ContextLength
    } else if is_refusal(problem) {
        Fault::Refusal
    } else if is_quota(problem) {
        Fault::OutOfQuota
    } else if code.contains("rate_limit") || code == "429" {
        Fault::RateLimited { retry_after: None }
    } else if code.contains("api_key") || code.contains("authentication") || code == "401" {
        Fault::Auth
    } else if code.contains("invalid_request") || code == "400" {
        Fault::Rejected
    } else {
        Fault::Failed
    }
}

fn is_quota(problem: &ApiProblem) -> bool {
    problem.code.as_deref() == Some("insufficient_quota")
}

fn is_refusal(problem: &ApiProblem) -> bool {
    matches!(problem.code.as_deref(), Some("content_filter" | "content_policy_violation"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(code: &str, message: &str) -> ApiProblem {
        ApiProblem { message: message.into(), code: (!code.is_empty()).then(|| code.into()) }
    }

    #[test]
    fn statuses_and_codes_lead_to_what_a_caller_can_do() {
        let of = |status: u16, code: &str, message: &str| {
            of_status(StatusCode::from_u16(status).unwrap(), None, &problem(code, message))
        };
        assert_eq!(of(302, "", ""), Fault::Redirect);
        assert_eq!(of(401, "invalid_api_key", "x"), Fault::Auth);
        assert_eq!(of(404, "model_not_found", "x"), Fault::NotFound);
        assert_eq!(of(409, "", ""), Fault::Failed);
        assert_eq!(of(529, "overloaded_error", ""), Fault::Failed);
        assert_eq!(of(429, "rate_limit_exceeded", ""), Fault::RateLimited { retry_after: None });
        assert_eq!(of(429, "insufficient_quota", ""), Fault::OutOfQuota);
        assert_eq!(of(400, "context_length_exceeded", ""), Fault::ContextLength);
        assert_eq!(of(413, "", "the prompt is too long"), Fault::ContextLength);
        assert_eq!(of(400, "content_filter", ""), Fault::Refusal);
        assert_eq!(of(422, "", "bad tools"), Fault::Rejected);
    }

    #[test]
    fn an_error_inside_the_stream_is_read_the_same_way() {
        assert_eq!(of_problem(&problem("context_length_exceeded", "")), Fault::ContextLength);
        assert_eq!(of_problem(&problem("rate_limit_exceeded", "")), Fault::RateLimited { retry_after: None });
        assert_eq!(of_problem(&problem("invalid_api_key", "")), Fault::Auth);
        assert_eq!(of_problem(&problem("invalid_request_error", "")), Fault::Rejected);
        assert_eq!(of_problem(&problem("", "boom")), Fault::Failed);
    }
}
