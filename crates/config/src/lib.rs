//! The typed configuration and its parser. Nothing here reads the process environment or opens a socket: the caller
//! passes what it found in as [`Sources`].
//!
//! * [`settings`]: what a configuration says, after every check.
//! * [`load`]: from file, environment and flags, in rising precedence, to a [`Config`].
//! * [`error`]: everything that is wrong, at once, each with file, key and line.
//! * [`secret`]: text that is never printed.
//!
//! `section` walks a TOML table and remembers where each value stands, `environment` knows the variables.

mod agents;
mod environment;
pub mod error;
mod gateway;
pub mod load;
mod providers;
pub mod secret;
mod section;
pub mod settings;

pub use error::{ConfigError, ConfigErrors};
pub use load::{Overrides, SecretUse, Sources};
pub use secret::Secret;
pub use settings::{
    Agent, Auth, Config, Gateway, Keys, ModelName, OpenAi, Origin, Provider, SessionHeader, Tenant, TlsFiles,
};
