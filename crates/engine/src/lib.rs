//! Sessions at work.
//!
//! What a surface uses:
//!
//! * [`engine`]: the one door: authenticate, submit, wait, abort, read, listen, drain.
//! * [`devices`]: how a device comes to be known, and who says what it may do.
//! * [`admission`]: from credential to caller, from key to permit, from row to scope. The only module that calls
//!   core's capability functions.
//! * [`request`]: what a surface asks for, in our words.
//! * [`report`]: what became of a run.
//! * [`view`]: sessions, transcripts, agents and models as lists and descriptions show them.
//! * [`event`]: what happens in a session.
//! * [`hub`]: one bus per session; who may listen is decided when the bus and the listener meet.
//! * [`state_dir`]: the state directory and who holds it.
//! * [`rotation`]: how keys are replaced.
//! * [`verification`]: proving what a state directory holds.
//! * [`error`]: what a surface has to report.
//!
//! What happens inside:
//!
//! * `registry`: handing mail to actors, starting them.
//! * `places`: which sessions have an actor.
//! * `sync`: the locks of what is checked for every order of threads.
//! * `actor`: one task per active session: its mailbox, its queue, the turn under way.
//! * `prompt`: what a model is shown of a session.
//! * `transcript`: reading the end of a transcript.
//! * [`tools`]: server-side tools and their broker.
//! * `runs`: runs under way, for those who wait for their end.
//! * `catalog`: the configured agents and providers.
//! * `steward`: housekeeping: keys, store, tenants.
//! * `recovery`: runs that nobody is running.
//! * [`clock`]: time as a value.

mod actor;
pub mod admission;
mod catalog;
pub mod clock;
#[cfg(watertight_leak)]
mod deliberate_leak;
pub mod devices;
pub mod engine;
pub mod error;
pub mod event;
pub mod hub;
#[cfg(all(test, watertight_loom))]
mod interleavings;
mod places;
mod prompt;
mod recovery;
mod registry;
pub mod report;
pub mod request;
mod runs;
pub mod state_dir;
mod steward;
mod sync;
pub mod tools;
mod transcript;
pub mod view;

pub use engine::Engine;
pub use error::EngineError;
pub use steward::{rotation, verification};
