//! Time as a value that is passed in.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use watertight_core::ids::UnixMillis;

/// Tells the time of day. Tests pass their own.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> UnixMillis + Send + Sync>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::from_fn(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
        })
    }

    /// A clock that asks `tell`.
    pub fn from_fn(tell: impl Fn() -> UnixMillis + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// Now.
    pub fn now(&self) -> UnixMillis {
        (self.0)()
    }
}
