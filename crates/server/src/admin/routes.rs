//! What can be asked. Every handler takes [`Admin`] first: nothing is read or parsed for a stranger.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::{any, delete, get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use watertight_core::grant::{Grant, Verb, VerbSet};
use watertight_core::ids::{CredentialId, GrantId, PrincipalId, UnixMillis};
use watertight_core::principal::PrincipalKind;
use watertight_engine::engine::administration::{
    AuditRow, CredentialRow, DEFAULT_IDLE, DEFAULT_LIFETIME, GrantRow, Issued, NewToken, PrincipalRow, RevokeTarget,
    parse_prefix,
};
use zeroize::Zeroizing;

use super::{Admin, Answer, Json, Knock, Problem, Query, nowhere, ok, openapi, whole};
use crate::gateway::Gateway;

pub(super) fn router() -> Router<Arc<Gateway>> {
    Router::new()
        .route("/v1/auth/refresh", post(refresh))
        .route("/v1/admin/openapi.json", get(openapi::describe))
        .route("/v1/admin/tenants", get(tenants).post(add_tenant))
        .route("/v1/admin/principals", get(principals).post(add_principal))
        .route("/v1/admin/principals/{name}/disable", post(disable))
        .route("/v1/admin/principals/{name}/enable", post(enable))
        .route("/v1/admin/principals/{name}/revoke", post(revoke_principal))
        .route("/v1/admin/tokens", get(tokens).post(issue))
        .route("/v1/admin/tokens/{id}/revoke", post(revoke_token))
        .route("/v1/admin/grants", get(grants).post(grant))
        .route("/v1/admin/grants/{id}", delete(ungrant))
        .route("/v1/admin/access/explain", get(explain))
        .route("/v1/admin/audit", get(audit))
        .route("/v1/admin/keys/rotate", post(rotate_keys))
        .route("/v1/admin/{*rest}", any(nowhere))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Refresh {
    refresh_token: String,
}

async fn refresh(knock: Knock, Json(body): Json<Refresh>) -> Answer {
    let (engine, token) = (knock.gateway.engine.clone(), Zeroizing::new(body.refresh_token));
    // In a task of its own: a pair that was stored must not be lost for a client that blinked.
    let traded = tokio::spawn(async move { engine.refresh(&token).await }).await;
    let traded = traded.unwrap_or(Err(watertight_engine::admission::AuthFailure::Unavailable));
    ok(issued(&knock.judged(traded)?))
}

fn issued(pair: &Issued) -> Value {
    json!({
        "id": pair.id.as_str(),
        "token": pair.token.as_str(),
        "expiresAtMs": pair.not_after,
        "refreshToken": pair.refresh.as_ref().map(|text| text.as_str()),
    })
}

async fn tenants(admin: Admin) -> Answer {
    ok(json!({"tenants": admin.gateway.engine.tenants(&admin.access).await?}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

async fn add_tenant(admin: Admin, Json(body): Json<Named>) -> Answer {
    let Admin { gateway, access } = admin;
    let name = body.name.clone();
    let token = whole(async move { gateway.engine.add_tenant(&access, &body.name).await }).await?;
    ok(json!({"name": name, "operatorToken": token.as_str()}))
}

async fn principals(admin: Admin) -> Answer {
    let rows = admin.gateway.engine.principals(&admin.access).await?;
    ok(json!({"principals": rows.iter().map(principal).collect::<Vec<_>>()}))
}

fn principal(row: &PrincipalRow) -> Value {
    json!({
        "id": row.id, "name": row.name, "kind": row.kind.name(), "disabled": row.disabled, "createdAtMs": row.created_at,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPrincipal {
    name: String,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    home: Option<bool>,
}

async fn add_principal(admin: Admin, Json(body): Json<NewPrincipal>) -> Answer {
    let kind = body.kind.as_deref().unwrap_or("user");
    let kind = PrincipalKind::parse(kind).ok_or_else(|| Problem::invalid("kind is user, service or operator."))?;
    let home = body.home.unwrap_or(kind == PrincipalKind::User);
    let Admin { gateway, access } = admin;
    let row = whole(async move { gateway.engine.add_principal(&access, &body.name, kind, home).await }).await?;
    ok(principal(&row))
}

async fn disable(admin: Admin, Path(name): Path<String>) -> Answer {
    set_disabled(admin, name, true).await
}

async fn enable(admin: Admin, Path(name): Path<String>) -> Answer {
    set_disabled(admin, name, false).await
}

async fn set_disabled(admin: Admin, name: String, disabled: bool) -> Answer {
    let Admin { gateway, access } = admin;
    let closed = whole(async move { gateway.engine.set_principal_disabled(&access, &name, disabled).await }).await?;
    ok(json!({"ok": true, "closed": closed}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    #[serde(default)]
    principal: Option<String>,
}

async fn tokens(admin: Admin, Query(of): Query<Of>) -> Answer {
    let rows = admin.gateway.engine.tokens(&admin.access, of.principal.as_deref()).await?;
    let names = names(&admin).await?;
    ok(json!({"tokens": rows.iter().map(|row| token(row, &names)).collect::<Vec<_>>()}))
}

/// The principals' names by their ids.
async fn names(admin: &Admin) -> Result<Names, Problem> {
    let rows = admin.gateway.engine.principals(&admin.access).await?;
    Ok(rows.into_iter().map(|row| (row.id, row.name)).collect())
}

type Names = HashMap<PrincipalId, String>;

fn token(row: &CredentialRow, names: &Names) -> Value {
    json!({
        "id": row.id.as_str(), "kind": row.kind.name(), "principal": names.get(&row.principal), "scopes": row.ceiling.names(),
        "expiresAtMs": row.not_after, "idleMs": row.idle, "usedAtMs": row.used_at, "revoked": row.revoked,
        "label": row.label, "createdAtMs": row.created_at,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewTokenBody {
    principal: String,
    scopes: Vec<String>,
    /// Milliseconds; 0 means until it is revoked.
    #[serde(default)]
    lifetime_ms: Option<u64>,
    /// Milliseconds; 0 means any time.
    #[serde(default)]
    idle_ms: Option<u64>,
    #[serde(default)]
    refresh: bool,
    #[serde(default)]
    label: Option<String>,
}

async fn issue(admin: Admin, Json(body): Json<NewTokenBody>) -> Answer {
    let time = |millis: Option<u64>, default: Duration| match millis {
        None => Some(default),
        Some(0) => None,
        Some(millis) => Some(Duration::from_millis(millis)),
    };
    let new = NewToken {
        ceiling: verbs(&body.scopes)?,
        principal: body.principal,
        lifetime: time(body.lifetime_ms, DEFAULT_LIFETIME),
        idle: time(body.idle_ms, DEFAULT_IDLE),
        refresh: body.refresh,
        label: body.label,
    };
    let Admin { gateway, access } = admin;
    let pair = whole(async move { gateway.engine.issue_token(&access, new).await }).await?;
    ok(issued(&pair))
}

fn verbs(names: &[String]) -> Result<VerbSet, Problem> {
    VerbSet::parse(names.iter().map(String::as_str)).map_err(|name| {
        let known: Vec<_> = Verb::ALL.into_iter().map(Verb::name).collect();
        Problem::invalid(format!("{name:?} is not a scope. Known are {}.", known.join(", ")))
    })
}

async fn revoke_token(admin: Admin, Path(id): Path<String>) -> Answer {
    // Also a whole token, as it may have been found somewhere.
    let public = id.split('_').nth(1).filter(|_| id.starts_with("wt")).unwrap_or(&id);
    let id = CredentialId::parse(public).ok_or_else(|| Problem::invalid("A token's id is 16 hex digits."))?;
    revoke(admin, RevokeTarget::Token(id)).await
}

async fn revoke_principal(admin: Admin, Path(name): Path<String>) -> Answer {
    revoke(admin, RevokeTarget::Principal(name)).await
}

async fn revoke(admin: Admin, target: RevokeTarget) -> Answer {
    let Admin { gateway, access } = admin;
    let done = whole(async move { gateway.engine.revoke(&access, target).await }).await?;
    let ids: Vec<&str> = done.credentials.iter().map(CredentialId::as_str).collect();
    ok(json!({"revoked": ids, "closed": done.closed}))
}

async fn grants(admin: Admin, Query(of): Query<Of>) -> Answer {
    let rows = admin.gateway.engine.grants(&admin.access, of.principal.as_deref()).await?;
    let names = names(&admin).await?;
    ok(json!({"grants": rows.iter().map(|row| grant_row(row, names.get(&row.principal))).collect::<Vec<_>>()}))
}

fn grant_row(row: &GrantRow, principal: Option<&String>) -> Value {
    json!({
        "id": row.id, "principal": principal, "verbs": row.grant.verbs.names(),
        "prefix": row.grant.prefix.to_string(), "expiresAtMs": row.grant.not_after,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewGrant {
    principal: String,
    verbs: Vec<String>,
    prefix: String,
    #[serde(default)]
    lifetime_ms: Option<i64>,
}

async fn grant(admin: Admin, Json(body): Json<NewGrant>) -> Answer {
    let not_after = match body.lifetime_ms {
        None => None,
        Some(millis @ 1..) => Some(admin.gateway.engine.now().plus_millis(millis)),
        Some(_) => return Err(Problem::invalid("lifetimeMs must be at least 1.")),
    };
    let grant = Grant { verbs: verbs(&body.verbs)?, prefix: parse_prefix(&body.prefix)?, not_after };
    let (Admin { gateway, access }, name) = (admin, body.principal.clone());
    let row = whole(async move { gateway.engine.grant(&access, &body.principal, grant).await }).await?;
    ok(grant_row(&row, Some(&name)))
}

async fn ungrant(admin: Admin, Path(id): Path<String>) -> Answer {
    let id = uuid::Uuid::parse_str(&id).map_err(|_| Problem::invalid("A grant's id is a UUID."))?;
    let Admin { gateway, access } = admin;
    whole(async move { gateway.engine.ungrant(&access, GrantId::from_bytes(*id.as_bytes())).await }).await?;
    ok(json!({"ok": true}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    principal: String,
    key: String,
    verb: String,
}

async fn explain(admin: Admin, Query(question): Query<Question>) -> Answer {
    let verb = Verb::parse(&question.verb).ok_or_else(|| Problem::invalid("There is no such verb."))?;
    let found = admin.gateway.engine.explain(&admin.access, &question.principal, &question.key, verb).await?;
    ok(json!({
        "allowed": found.allowed, "key": found.key, "reason": found.reason,
        "by": found.by.as_ref().map(|row| grant_row(row, Some(&question.principal))),
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WhichKeys {
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    master: bool,
}

async fn rotate_keys(admin: Admin, Json(body): Json<WhichKeys>) -> Answer {
    let Admin { gateway, access } = admin;
    if body.master && body.tenant.is_some() {
        return Err(Problem::invalid("The master key is no tenant's: leave one of the two out."));
    }
    if body.master {
        let file = whole(async move { gateway.engine.replace_master_key(&access).await }).await?;
        return ok(json!({"ok": true, "masterKey": file}));
    }
    let rotated = whole(async move { gateway.engine.replace_keys(&access, body.tenant.as_deref()).await }).await?;
    let tenants: Vec<Value> = rotated
        .iter()
        .map(|row| {
            json!({
                "tenant": row.tenant, "epoch": row.turned.epoch, "rewrapped": row.turned.rewrapped,
                "damaged": row.turned.damaged, "epochsLeft": row.turned.epochs_left,
            })
        })
        .collect();
    ok(json!({"ok": true, "tenants": tenants}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    limit: Option<u32>,
}

async fn audit(admin: Admin, Query(range): Query<Range>) -> Answer {
    let engine = &admin.gateway.engine;
    let rows = engine.audit(&admin.access, range.after, range.limit.unwrap_or(100)).await?;
    let newest = engine.audit_end(&admin.access).await?;
    ok(json!({"events": rows.iter().map(event).collect::<Vec<_>>(), "newest": newest}))
}

fn event(row: &AuditRow) -> Value {
    let mut chain = String::with_capacity(2 * row.chain.len());
    for byte in row.chain {
        // A string takes everything.
        let _ = write!(chain, "{byte:02x}");
    }
    let UnixMillis(at) = row.at;
    json!({
        "seq": row.seq, "atMs": at, "action": row.event.action, "principal": row.event.principal,
        "credential": row.event.credential, "object": row.event.object, "chain": chain,
    })
}
