//! The methods. Adding one is one line here and one function in its family's file.
//!
//! Every entry says who may call it: the field has no default, so an entry without it does not compile. Scopes are
//! checked here, before the parameters are looked at; what the caller may do with the session it names is decided by
//! the engine.

use std::future::Future;
use std::pin::Pin;

use watertight_core::grant::{Verb, VerbSet};
use watertight_wire::openclaw::ErrorShape;

use super::call::{Call, Outcome};
use super::{agent, chat, devices, sessions, system};

/// A method.
pub(crate) struct Method {
    pub(crate) name: &'static str,
    pub(crate) authorization: Authorization,
    pub(crate) listing: Listing,
    pub(crate) order: Order,
    pub(crate) handler: Handler,
}

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authorization {
    /// Every connection that was let in, also without a scope.
    Anyone,
    /// A connection that holds this verb.
    Requires(Verb),
}

/// Whether hello names a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listing {
    /// Named.
    Advertised,
    /// Callable, but not named, as upstream has it.
    Unlisted,
}

/// Whether the requests of one connection keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// They may overtake each other.
    Free,
    /// Those that name one session start one after another.
    InSession,
}

/// Carries out a request.
pub(crate) type Handler = fn(Call) -> Pin<Box<dyn Future<Output = Outcome> + Send>>;

const READ: Authorization = Authorization::Requires(Verb::Read);
const WRITE: Authorization = Authorization::Requires(Verb::Write);
const PAIRING: Authorization = Authorization::Requires(Verb::Pairing);
use Authorization::Anyone;
use Listing::{Advertised, Unlisted};
use Order::{Free, InSession};

/// Sorted by name.
#[rustfmt::skip]
pub(crate) static METHODS: &[Method] = &[
    Method { name: "agent", authorization: WRITE, listing: Advertised, order: InSession, handler: |call| Box::pin(agent::run(call)) },
    Method { name: "agent.wait", authorization: WRITE, listing: Advertised, order: Free, handler: |call| Box::pin(agent::wait(call)) },
    Method { name: "agents.list", authorization: READ, listing: Advertised, order: Free, handler: |call| Box::pin(system::agents(call)) },
    Method { name: "chat.abort", authorization: WRITE, listing: Advertised, order: InSession, handler: |call| Box::pin(chat::abort(call)) },
    Method { name: "chat.history", authorization: READ, listing: Advertised, order: Free, handler: |call| Box::pin(chat::history(call)) },
    Method { name: "chat.send", authorization: WRITE, listing: Advertised, order: InSession, handler: |call| Box::pin(chat::send(call)) },
    Method { name: "chat.startup", authorization: READ, listing: Advertised, order: Free, handler: |call| Box::pin(chat::startup(call)) },
    Method { name: "device.pair.approve", authorization: PAIRING, listing: Advertised, order: Free, handler: |call| Box::pin(devices::pair_approve(call)) },
    Method { name: "device.pair.list", authorization: PAIRING, listing: Advertised, order: Free, handler: |call| Box::pin(devices::pair_list(call)) },
    Method { name: "device.pair.reject", authorization: PAIRING, listing: Advertised, order: Free, handler: |call| Box::pin(devices::pair_reject(call)) },
    Method { name: "device.pair.remove", authorization: PAIRING, listing: Advertised, order: Free, handler: |call| Box::pin(devices::pair_remove(call)) },
    Method { name: "device.pair.setupCode", authorization: PAIRING, listing: Unlisted, order: Free, handler: |call| Box::pin(devices::setup_code(call)) },
    Method { name: "device.token.revoke", authorization: PAIRING, listing: Advertised, order: Free, handler: |call| Box::pin(devices::token_revoke(call)) },
    Method { name: "device.token.rotate", authorization: PAIRING, listing: Advertised, order: Free, handler: |call| Box::pin(devices::token_rotate(call)) },
    Method { name: "health", authorization: Anyone, listing: Advertised, order: Free, handler: |call| Box::pin(system::health(call)) },
    Method { name: "models.list", authorization: READ, listing: Advertised, order: Free, handler: |call| Box::pin(system::models(call)) },
    Method { name: "sessions.describe", authorization: READ, listing: Advertised, order: Free, handler: |call| Box::pin(sessions::describe(call)) },
    Method { name: "sessions.list", authorization: READ, listing: Advertised, order: Free, handler: |call| Box::pin(sessions::list(call)) },
    Method { name: "sessions.messages.subscribe", authorization: READ, listing: Advertised, order: InSession, handler: |call| Box::pin(sessions::messages_subscribe(call)) },
    Method { name: "sessions.messages.unsubscribe", authorization: READ, listing: Advertised, order: InSession, handler: |call| Box::pin(sessions::messages_unsubscribe(call)) },
    Method { name: "sessions.resolve", authorization: READ, listing: Unlisted, order: Free, handler: |call| Box::pin(sessions::resolve(call)) },
    Method { name: "sessions.send", authorization: WRITE, listing: Advertised, order: InSession, handler: |call| Box::pin(sessions::send(call)) },
    Method { name: "sessions.steer", authorization: WRITE, listing: Unlisted, order: InSession, handler: |call| Box::pin(sessions::steer(call)) },
    Method { name: "sessions.subscribe", authorization: READ, listing: Advertised, order: Free, handler: |call| Box::pin(sessions::subscribe(call)) },
    Method { name: "status", authorization: READ, listing: Advertised, order: Free, handler: |call| Box::pin(system::status(call)) },
    Method { name: "system-presence", authorization: READ, listing: Advertised, order: Free, handler: |call| Box::pin(std::future::ready(system::presence(&call))) },
];

/// The method of this name.
pub(crate) fn find(name: &str) -> Option<&'static Method> {
    METHODS.binary_search_by(|method| method.name.cmp(name)).ok().map(|at| &METHODS[at])
}

/// What clients do by themselves: it keeps no credential from ending for want of use.
const NOISE: [&str; 6] = [
    "health",
    "sessions.messages.subscribe",
    "sessions.messages.unsubscribe",
    "sessions.subscribe",
    "status",
    "system-presence",
];

impl Method {
    /// Whether a call shows that somebody uses the credential.
    pub(crate) fn is_use(&self) -> bool {
        !NOISE.contains(&self.name)
    }
}

/// The methods hello names.
pub(crate) fn advertised() -> Vec<&'static str> {
    METHODS.iter().filter(|method| method.listing == Advertised).map(|method| method.name).collect()
}

impl Authorization {
    /// Whether a connection that holds `verbs` may call.
    pub(crate) fn check(self, verbs: VerbSet) -> Result<(), ErrorShape> {
        match self {
            Anyone => Ok(()),
            Self::Requires(verb) if verbs.allows(verb) => Ok(()),
            Self::Requires(verb) => Err(ErrorShape::missing_scope(verb)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_without_duplicates_so_that_every_method_is_found() {
        assert!(METHODS.is_sorted_by(|a, b| a.name < b.name));
        for method in METHODS {
            assert!(std::ptr::eq(find(method.name).unwrap(), method), "{}", method.name);
        }
        assert!(find("nope.method").is_none());
    }

    #[test]
    fn only_health_needs_no_scope() {
        let open: Vec<_> = METHODS.iter().filter(|method| method.authorization == Anyone).map(|m| m.name).collect();
        assert_eq!(open, ["health"]);
    }

    #[test]
    fn noise_is_made_by_methods_that_exist() {
        assert!(NOISE.iter().all(|name| find(name).is_some_and(|method| !method.is_use())));
        assert!(find("chat.send").unwrap().is_use());
    }

    #[test]
    fn hello_names_all_methods_but_the_unlisted() {
        let advertised = advertised();
        assert!(advertised.contains(&"chat.send"));
        let unlisted: Vec<_> =
            METHODS.iter().map(|method| method.name).filter(|name| !advertised.contains(name)).collect();
        assert_eq!(unlisted, ["device.pair.setupCode", "sessions.resolve", "sessions.steer"]);
    }

    #[test]
    fn a_scope_is_named_when_it_is_missing() {
        let read: VerbSet = [Verb::Read].into_iter().collect();
        assert!(READ.check(read).is_ok() && Anyone.check(VerbSet::NONE).is_ok());
        assert_eq!(WRITE.check(read).unwrap_err().message, "missing scope: operator.write");
    }
}
