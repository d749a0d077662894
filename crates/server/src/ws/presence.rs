//! Who is here (gateway-ws.md §3). A caller sees the gateway and the connections of its own principal; an administrator
//! sees its whole tenant.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use uuid::Uuid;
use watertight_core::grant::Verb;
use watertight_core::ids::{PrincipalId, TenantId, UnixMillis};
use watertight_engine::admission::Access;
use watertight_wire::openclaw::connect::Client;
use watertight_wire::openclaw::hello::PresenceEntry;

/// Most connections in one list; the latest are kept.
const MAX_LISTED: usize = 200;

/// Every connection that has been let in.
pub(crate) struct Roll {
    gateway: PresenceEntry,
    members: Mutex<BTreeMap<u64, Member>>,
    /// Raised with every change.
    version: watch::Sender<u64>,
}

struct Member {
    tenant: TenantId,
    principal: PrincipalId,
    entry: PresenceEntry,
}

/// A connection's line in the roll. Dropping it removes the line.
pub(crate) struct Line<'a> {
    roll: &'a Roll,
    id: u64,
}

impl Roll {
    pub(crate) fn new(version: &str, since: UnixMillis) -> Self {
        let gateway = PresenceEntry {
            host: Some("watertight".to_owned()),
            version: Some(version.to_owned()),
            platform: Some(std::env::consts::OS.to_owned()),
            device_family: None,
            model_identifier: None,
            time_zone: None,
            mode: "gateway".to_owned(),
            reason: "self",
            ts: since.0,
            roles: Vec::new(),
            scopes: Vec::new(),
            instance_id: None,
        };
        Self { gateway, members: Mutex::default(), version: watch::Sender::new(1) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection.
    pub(crate) fn enter(&self, access: &Access, entry: PresenceEntry) -> Line<'_> {
        let (tenant, principal) = access.identity();
        let mut id = 0;
        self.version.send_modify(|version| {
            *version += 1;
            id = *version;
        });
        self.lock().insert(id, Member { tenant, principal, entry });
        Line { roll: self, id }
    }

    /// The list as this caller may see it: the gateway first, then the connections, oldest first.
    pub(crate) fn list(&self, access: &Access) -> Vec<PresenceEntry> {
        let (tenant, principal) = access.identity();
        let whole_tenant = access.verbs().allows(Verb::Admin);
        let members = self.lock();
        let visible = members
            .values()
            .rev()
            .filter(|member| member.tenant == tenant && (whole_tenant || member.principal == principal))
            .take(MAX_LISTED);
        let mut list: Vec<PresenceEntry> = visible.map(|member| member.entry.clone()).collect();
        list.push(self.gateway.clone());
        list.reverse();
        list
    }

    /// The version of the list now.
    pub(crate) fn version(&self) -> u64 {
        *self.version.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.roll.lock().remove(&self.id);
        self.roll.version.send_modify(|version| *version += 1);
    }
}

/// The line of a client.
pub(crate) fn entry(client: &Client, scopes: &[String], conn_id: Uuid, now: UnixMillis) -> PresenceEntry {
    let mode = serde_json::to_value(client.mode).ok().and_then(|mode| mode.as_str().map(str::to_owned));
    let shown = |text: &Option<String>| text.as_deref().map(shown);
    PresenceEntry {
        host: shown(&client.display_name),
        version: Some(self::shown(&client.version)),
        platform: Some(self::shown(&client.platform)),
        device_family: shown(&client.device_family),
        model_identifier: shown(&client.model_identifier),
        time_zone: shown(&client.time_zone),
        mode: mode.unwrap_or_default(),
        reason: "connect",
        ts: now.0,
        roles: vec!["operator"],
        scopes: scopes.to_vec(),
        instance_id: Some(shown(&client.instance_id).unwrap_or_else(|| conn_id.to_string())),
    }
}

/// What a client says of itself goes to others: without control characters, and short.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}
