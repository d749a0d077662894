//! When a failed request is tried again.

use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;

use crate::fault::Fault;
use crate::openai::options::RetryBudget;

impl RetryBudget {
    /// How long to wait before the next request, or none if the failure is final. `retry` counts from 0, `jitter` is
    /// between 0 and 1.
    pub(crate) fn delay(&self, retry: u32, fault: &Fault, elapsed: Duration, jitter: f64) -> Option<Duration> {
        if retry >= self.retries {
            return None;
        }
        let delay = match fault {
            Fault::RateLimited { retry_after: Some(asked) } => (*asked <= self.max_retry_after).then_some(*asked)?,
            Fault::Unreachable | Fault::Failed | Fault::RateLimited { retry_after: None } => {
                let full = self.base_delay.saturating_mul(1 << retry.min(16));
                full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
            }
            _ => return None,
        };
        (elapsed.saturating_add(delay) <= self.total).then_some(delay)
    }
}

/// The wait a provider asks for: `retry-after-ms`, else `Retry-After` in seconds. The date form is not understood and
/// counts as absent.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    number("retry-after-ms")
        .map(Duration::from_millis)
        .or_else(|| number(RETRY_AFTER.as_str()).map(Duration::from_secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS_500: Duration = Duration::from_millis(500);

    fn delay(retry: u32, fault: &Fault, elapsed_s: u64, jitter: f64) -> Option<Duration> {
        RetryBudget::default().delay(retry, fault, Duration::from_secs(elapsed_s), jitter)
    }

    #[test]
    fn the_wait_doubles_and_is_shortened_at_random_by_half_at_most() {
        assert_eq!(delay(0, &Fault::Failed, 0, 0.0), Some(MS_500));
        assert_eq!(delay(1, &Fault::Unreachable, 0, 0.0), Some(MS_500 * 2));
        assert_eq!(delay(1, &Fault::Failed, 0, 1.0), Some(MS_500));
    }

    #[test]
    fn the_budget_ends_by_count_and_by_time() {
        assert_eq!(delay(2, &Fault::Failed, 0, 0.0), None);
        assert_eq!(delay(0, &Fault::Failed, 60, 0.0), None);
    }

    #[test]
    fn a_short_retry_after_is_honoured_and_a_long_one_ends_the_call() {
        let asked = |s| Fault::RateLimited { retry_after: Some(Duration::from_secs(s)) };
        assert_eq!(delay(0, &asked(20), 0, 0.5), Some(Duration::from_secs(20)));
        assert_eq!(delay(0, &asked(21), 0, 0.5), None);
        assert_eq!(delay(0, &asked(15), 50, 0.5), None, "it would pass the total");
    }

    #[test]
    fn what_another_request_cannot_mend_is_final() {
        for fault in [Fault::Auth, Fault::Rejected, Fault::OutOfQuota, Fault::EndedEarly, Fault::ContextLength] {
            assert_eq!(delay(0, &fault, 0, 0.0), None, "{fault:?}");
        }
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_milliseconds() {
        let read = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            retry_after(&pairs.collect())
        };
        assert_eq!(read(&[("retry-after", " 3 ")]), Some(Duration::from_secs(3)));
        assert_eq!(read(&[("retry-after", "9"), ("retry-after-ms", "40")]), Some(Duration::from_millis(40)));
        assert_eq!(read(&[("retry-after", "Fri, 20 Nov 2026 10:00:00 GMT")]), None);
        assert_eq!(read(&[]), None);
    }
}
