//! Who is here (gateway-ws.md §3). A caller sees the gateway and the connections of its own principal; an administrator
//! sees its whole tenant.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;
use watertight_core::grant::Verb;
use watertight_core::ids::{PrincipalId, TenantId, UnixMillis};
use watertight_engine::admission::Access;
use watertight_wire::openclaw::connect::Client;
use watertight_wire::openclaw::hello::PresenceEntry;
use watertight_wire::openclaw::reply::Presence;

/// An entry as JSON, written once for all the lists it stands in.
type Entry = Arc<RawValue>;

/// Most connections in one list; the latest are kept.
const MAX_LISTED: usize = 32;
/// Members of a circle that one [`Circle::pause`] more is made for: everybody is told of everybody.
const MEMBERS_PER_PAUSE: u32 = 64;

/// Every connection that has been let in.
pub(crate) struct Roll {
    gateway: Entry,
    /// Connections of one principal at the most.
    per_principal: usize,
    circles: Mutex<HashMap<Whose, Arc<Circle>>>,
}

/// A tenant, or one principal in it.
type Whose = (TenantId, Option<PrincipalId>);

/// Connections that one sort of caller sees, with a version of their own: nobody hears of what they do not see.
pub(crate) struct Circle {
    gateway: Entry,
    list: Mutex<List>,
    /// Raised with every change, after it.
    version: watch::Sender<u64>,
    health_version: AtomicU64,
}

#[derive(Default)]
struct List {
    next_id: u64,
    members: BTreeMap<u64, Entry>,
    /// The list, until it changes.
    written: Option<Written>,
}

/// A list as JSON.
#[derive(Clone)]
pub(crate) struct Written {
    /// The entries: the gateway first, then the connections, oldest first.
    pub(crate) entries: Arc<RawValue>,
    /// The payload of the event that tells them.
    pub(crate) payload: Arc<RawValue>,
    /// Which list it is.
    pub(crate) version: u64,
}

/// A connection's line in the roll. Dropping it removes the line.
pub(crate) struct Line<'a> {
    roll: &'a Roll,
    /// Its tenant's circle and its principal's.
    places: [(Whose, Arc<Circle>, u64); 2],
    whole_tenant: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Roll {
    pub(crate) fn new(version: &str, since: UnixMillis, per_principal: usize) -> Self {
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
        Self { gateway: written(&gateway), per_principal, circles: Mutex::default() }
    }

    /// Adds a connection; none when its principal has as many as it may.
    pub(crate) fn enter(&self, access: &Access, entry: PresenceEntry) -> Option<Line<'_>> {
        let (tenant, principal) = access.identity();
        self.enter_as(tenant, principal, access.verbs().allows(Verb::Admin), entry)
    }

    fn enter_as(
        &self,
        tenant: TenantId,
        principal: PrincipalId,
        whole_tenant: bool,
        entry: PresenceEntry,
    ) -> Option<Line<'_>> {
        let entry = written(&entry);
        // Held throughout, so that no circle is forgotten in between.
        let mut circles = lock(&self.circles);
        let own = (tenant, Some(principal));
        if circles.get(&own).is_some_and(|circle| lock(&circle.list).members.len() >= self.per_principal) {
            return None;
        }
        let places = [(tenant, None), own].map(|whose| {
            let circle = circles.entry(whose).or_insert_with(|| Arc::new(Circle::new(self.gateway.clone()))).clone();
            let id = circle.add(entry.clone());
            (whose, circle, id)
        });
        Some(Line { roll: self, places, whole_tenant })
    }
}

impl Line<'_> {
    /// The connections this one sees.
    pub(crate) fn circle(&self) -> Arc<Circle> {
        let [(_, tenant, _), (_, principal, _)] = &self.places;
        if self.whole_tenant { tenant.clone() } else { principal.clone() }
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let mut circles = lock(&self.roll.circles);
        for (whose, circle, id) in &self.places {
            if circle.remove(*id) {
                circles.remove(whose);
            }
        }
    }
}

impl Circle {
    fn new(gateway: Entry) -> Self {
        Self { gateway, list: Mutex::default(), version: watch::Sender::new(1), health_version: AtomicU64::new(0) }
    }

    fn add(&self, entry: Entry) -> u64 {
        let mut list = lock(&self.list);
        let id = list.next_id;
        list.next_id += 1;
        list.members.insert(id, entry);
        self.changed(&mut list);
        id
    }

    /// Whether nobody is left.
    fn remove(&self, id: u64) -> bool {
        let mut list = lock(&self.list);
        list.members.remove(&id);
        self.changed(&mut list);
        list.members.is_empty()
    }

    /// Raised under the list's lock, so that a list is never older than the version read before it.
    fn changed(&self, list: &mut List) {
        list.written = None;
        self.version.send_modify(|version| *version += 1);
    }

    /// The list now. Written once for everybody who sees this circle.
    pub(crate) fn list(&self) -> Written {
        let mut list = lock(&self.list);
        if let Some(written) = &list.written {
            return written.clone();
        }
        let mut entries: Vec<&RawValue> = list.members.values().rev().take(MAX_LISTED).map(|entry| &**entry).collect();
        entries.push(&self.gateway);
        entries.reverse();
        let entries = written(&entries);
        let payload = written(&Presence { presence: &entries });
        let made = Written { entries, payload, version: *self.version.borrow() };
        list.written = Some(made.clone());
        made
    }

    /// The version of the list now.
    pub(crate) fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// The version of the health snapshot that is made now.
    pub(crate) fn next_health_version(&self) -> u64 {
        self.health_version.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Hears of every change from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// When one connection is told the next time, if it was told now: the more there are, the more rarely.
    pub(crate) fn told(&self, pause: Duration) -> Instant {
        let members = u32::try_from(lock(&self.list).members.len()).unwrap_or(u32::MAX);
        Instant::now() + pause.saturating_mul(1 + members / MEMBERS_PER_PAUSE)
    }
}

/// JSON of what cannot fail to be written: texts, numbers and other JSON.
fn written(value: &impl Serialize) -> Arc<RawValue> {
    to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned()).into()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn roll() -> Roll {
        Roll::new("1", UnixMillis(1), 3)
    }

    fn line(host: String) -> PresenceEntry {
        PresenceEntry {
            host: Some(host),
            version: None,
            platform: None,
            device_family: None,
            model_identifier: None,
            time_zone: None,
            mode: "test".into(),
            reason: "connect",
            ts: 1,
            roles: Vec::new(),
            scopes: Vec::new(),
            instance_id: None,
        }
    }

    fn entries(circle: &Circle) -> Vec<serde_json::Value> {
        serde_json::from_str(circle.list().entries.get()).unwrap()
    }

    fn enter(roll: &Roll, tenant: u8, principal: u8, whole_tenant: bool) -> Option<Line<'_>> {
        let entry = line(format!("{tenant}-{principal}"));
        let (tenant, principal) = (TenantId::from_bytes([tenant; 16]), PrincipalId::from_bytes([principal; 16]));
        roll.enter_as(tenant, principal, whole_tenant, entry)
    }

    fn hosts(line: &Line<'_>) -> Vec<String> {
        entries(&line.circle()).into_iter().skip(1).map(|entry| entry["host"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_caller_sees_its_own_connections_and_an_administrator_its_tenants() {
        let roll = roll();
        let admin = enter(&roll, 1, 1, true).unwrap();
        let user = enter(&roll, 1, 2, false).unwrap();
        let stranger = enter(&roll, 2, 2, true).unwrap();
        assert_eq!(hosts(&admin), ["1-1", "1-2"]);
        assert_eq!(hosts(&user), ["1-2"]);
        assert_eq!(hosts(&stranger), ["2-2"]);
        drop(user);
        assert_eq!(hosts(&admin), ["1-1"]);
    }

    #[test]
    fn nobody_hears_of_changes_they_do_not_see() {
        let roll = roll();
        let admin = enter(&roll, 1, 1, true).unwrap();
        let user = enter(&roll, 1, 2, false).unwrap();
        let (admins, users) = (admin.circle(), user.circle());
        let before = (admins.version(), users.version());
        drop(enter(&roll, 2, 2, true));
        assert_eq!((admins.version(), users.version()), before);
        drop(enter(&roll, 1, 3, false));
        assert_eq!((admins.version(), users.version()), (before.0 + 2, before.1));
    }

    #[test]
    fn a_list_is_written_once_and_anew_after_a_change() {
        let roll = roll();
        let line = enter(&roll, 1, 1, true).unwrap();
        let circle = line.circle();
        let first = circle.list();
        assert!(Arc::ptr_eq(&first.payload, &circle.list().payload));
        let _second = enter(&roll, 1, 2, false);
        let next = circle.list();
        assert!(next.version > first.version);
        assert!(next.payload.get().contains("1-2") && !first.payload.get().contains("1-2"));
        assert_eq!(next.payload.get(), format!("{{\"presence\":{}}}", next.entries));
    }

    #[test]
    fn connections_of_a_principal_are_bounded_and_leave_nothing_behind() {
        let roll = roll();
        let lines: Vec<_> = (0..3).map(|_| enter(&roll, 1, 1, false).unwrap()).collect();
        assert!(enter(&roll, 1, 1, false).is_none());
        assert!(enter(&roll, 1, 2, false).is_some());
        drop(lines);
        assert!(lock(&roll.circles).is_empty());
    }

    #[test]
    fn a_crowd_is_told_of_more_rarely() {
        let roll = Roll::new("1", UnixMillis(1), 1000);
        let pause = Duration::from_secs(1);
        let lines: Vec<_> = (0..640).map(|_| enter(&roll, 1, 1, false).unwrap()).collect();
        let circle = lines[0].circle();
        assert!(circle.told(pause) > Instant::now() + pause * 9);
        assert_eq!(entries(&circle).len(), MAX_LISTED + 1);
    }
}
