//! The pure middle of Watertight: no async, no I/O, no clock, no randomness.
//!
//! The whole isolation argument can be read here, in this order:
//!
//! * [`ids`]: the names of things. None of them carries authority.
//! * [`key`]: session keys, their two grammars, and the injective composition of opaque segments.
//! * [`principal`]: who calls and the credentials that prove it.
//! * [`device`]: device keys, and what approving one gives.
//! * [`grant`]: which verbs on which keys a principal holds.
//! * [`session`]: a session's row and its changing description.
//! * [`scope`]: the capability chain that ends in [`SessionScope`], the only way to touch a session.
//!
//! And what happens inside a session:
//!
//! * [`transcript`]: entries, blocks, tool calls, usage, provenance.
//! * [`run`]: one input and everything done to answer it; states and outcomes.
//! * [`turn`]: the turn state machine.
//! * [`receipt`]: what a client keeps to prove that an entry is still there.
//! * [`error`]: stable error codes.

pub mod device;
pub mod error;
pub mod grant;
pub mod ids;
pub mod key;
pub mod principal;
pub mod receipt;
pub mod run;
pub mod scope;
pub mod session;
pub mod transcript;
pub mod turn;

pub use error::ErrorCode;
pub use receipt::Receipt;
pub use scope::{Caller, Denied, KeyPermit, SessionScope, Steward, TenantAdmin};
