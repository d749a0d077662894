//! The file's tenants and principals on a gateway of their own, made through the administrative API.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::{Value, json};
use watertight_testkit::gateway::built_program;
use watertight_testkit::gateway_client::{ConnectError, ConnectOptions, GatewayClient};
use watertight_testkit::{Gateway, GatewaySetup, MockProvider};

use crate::file;
use crate::http::{self, Answer, HERE, header};

/// A running gateway with the fixtures of the file.
pub(crate) struct World {
    pub(crate) gateway: Gateway,
    pub(crate) setup: GatewaySetup,
    pub(crate) provider: MockProvider,
    /// Operators' tokens by tenant.
    operators: BTreeMap<String, String>,
    people: BTreeMap<String, Person>,
}

/// A principal of the file.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) tenant: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) token: String,
    /// The token's public id.
    pub(crate) id: String,
}

impl World {
    /// A gateway with one agent, `main`.
    pub(crate) async fn open() -> Self {
        Self::with_agents(&["main"]).await
    }

    /// A gateway with these agents, the first the default.
    pub(crate) async fn with_agents(agents: &[&str]) -> Self {
        Self::configured(agents, "").await
    }

    /// The same with this in the configuration too.
    pub(crate) async fn configured(agents: &[&str], more: &str) -> Self {
        let provider = MockProvider::start().await;
        let agent = |id: &&str| format!("[[agents]]\nid = \"{id}\"\nmodel = \"p1/m1\"\n\n");
        let agents: Vec<String> = agents.iter().map(agent).collect();
        let agents = agents.concat();
        let base_url = provider.base_url();
        let config = format!("{agents}[providers.p1]\nkind = \"openai\"\nbase_url = \"{base_url}\"\n{more}");
        let setup = GatewaySetup::new(built_program()).config(&config).env("WATERTIGHT_LOG", "debug");
        let gateway = setup.start().await;
        let (operators, people) = (BTreeMap::new(), BTreeMap::new());
        let mut world = Self { gateway, setup, provider, operators, people };
        world.make_fixtures().await;
        world
    }

    async fn make_fixtures(&mut self) {
        let fixtures = file::vectors()["fixtures"].take();
        for tenant in fixtures["tenants"].as_array().expect("tenants") {
            let name = tenant.as_str().expect("a name");
            let made = self.admin_as(&self.gateway.token(), "POST", "/v1/admin/tenants", json!({"name": name})).await;
            self.operators.insert(name.into(), text(&made["operatorToken"]));
        }
        for (name, person) in fixtures["principals"].as_object().expect("principals") {
            let (tenant, scopes) = (text(&person["tenant"]), texts(&person["scopes"]));
            let prefixes = texts(&person["key_grants"]);
            self.make_person(&tenant, name, &scopes, &prefixes).await;
        }
    }

    /// Makes a principal with these grants, and a token for it.
    pub(crate) async fn make_person(&mut self, tenant: &str, name: &str, scopes: &[String], prefixes: &[String]) {
        self.make(tenant, name, "user", scopes, prefixes).await;
    }

    /// The same of any kind: of a service's requests there may be as many as it likes.
    pub(crate) async fn make(&mut self, tenant: &str, name: &str, kind: &str, scopes: &[String], prefixes: &[String]) {
        let principal = json!({"name": name, "kind": kind, "home": false});
        self.admin(tenant, "POST", "/v1/admin/principals", principal).await;
        for prefix in prefixes {
            let grant = json!({"principal": name, "verbs": scopes, "prefix": prefix});
            self.admin(tenant, "POST", "/v1/admin/grants", grant).await;
        }
        let issued = self.admin(tenant, "POST", "/v1/admin/tokens", json!({"principal": name, "scopes": scopes})).await;
        let (token, id) = (text(&issued["token"]), text(&issued["id"]));
        self.people.insert(name.into(), Person { tenant: tenant.into(), scopes: scopes.to_vec(), token, id });
    }

    pub(crate) fn person(&self, name: &str) -> &Person {
        self.people.get(name).unwrap_or_else(|| panic!("the file has no principal {name}"))
    }

    /// The token of the tenant's operator.
    pub(crate) fn operator(&self, tenant: &str) -> &str {
        &self.operators[tenant]
    }

    /// Every token there is.
    pub(crate) fn tokens(&self) -> Vec<String> {
        let people = self.people.values().map(|person| person.token.clone());
        people.chain(self.operators.values().cloned()).collect()
    }

    /// What the tenant's operator asks of the administrative API and gets.
    pub(crate) async fn admin(&self, tenant: &str, method: &str, path: &str, body: Value) -> Value {
        self.admin_as(self.operator(tenant), method, path, body).await
    }

    async fn admin_as(&self, token: &str, method: &str, path: &str, body: Value) -> Value {
        let answer = self.http(token, method, path, &body).await;
        assert_eq!(answer.status, 200, "{method} {path} {body}: {answer:?}");
        answer.json()
    }

    /// What anybody gets who asks with this token; with an empty one for nobody.
    pub(crate) async fn http(&self, token: &str, method: &str, path: &str, body: &Value) -> Answer {
        self.http_from(HERE, token, method, path, body).await
    }

    /// The same from another address.
    pub(crate) async fn http_from(
        &self,
        from: Ipv4Addr,
        token: &str,
        method: &str,
        path: &str,
        body: &Value,
    ) -> Answer {
        let mut headers = vec![header("Host", &self.gateway.address().to_string())];
        if !token.is_empty() {
            headers.push(header("Authorization", &format!("Bearer {token}")));
        }
        let body = if method == "GET" { String::new() } else { body.to_string() };
        let request = http::request(method, path, &headers, &body);
        http::exchange(self.gateway.address(), from, &request).await.expect("an answer")
    }

    /// A connection of this principal with all its scopes.
    pub(crate) async fn socket(&self, name: &str) -> GatewayClient {
        let connected = self.try_socket(name, &ConnectOptions::default()).await;
        connected.unwrap_or_else(|error| panic!("{name} gets no connection: {error}"))
    }

    /// The same with these options; the scopes are the principal's.
    pub(crate) async fn try_socket(&self, name: &str, options: &ConnectOptions) -> Result<GatewayClient, ConnectError> {
        let person = self.person(name);
        let scopes: Vec<&str> = person.scopes.iter().map(String::as_str).collect();
        let options = options.clone().with_scopes(&scopes);
        GatewayClient::connect(&self.gateway.url(), Some(&person.token), &options).await
    }

    /// A connection of the tenant's operator.
    pub(crate) async fn operator_socket(&self, tenant: &str) -> GatewayClient {
        let (url, options) = (self.gateway.url(), ConnectOptions::default());
        GatewayClient::connect(&url, Some(self.operator(tenant)), &options).await.expect("the operator connects")
    }

    /// All that the tenant's sessions show: what must be the same before and after a refusal.
    pub(crate) async fn state(&self, tenant: &str) -> Value {
        let operator = self.operator_socket(tenant).await;
        let listed = operator.request("sessions.list", json!({"limit": 1000})).await.expect("a list");
        let mut state = Vec::new();
        for row in listed["sessions"].as_array().expect("rows") {
            let key = row["key"].clone();
            let history = operator.request("chat.history", json!({"sessionKey": key, "limit": 1000})).await;
            state.push(json!([key, row["sessionId"], history.expect("a history")["messages"]]));
        }
        Value::Array(state)
    }

    /// How often a model was asked.
    pub(crate) fn model_calls(&self) -> usize {
        self.provider.requests().len()
    }
}

/// A turn to its end: the text of the answer, or the error.
pub(crate) async fn turn(client: &GatewayClient, key: &str, message: &str) -> Result<String, Value> {
    turn_as(client, key, message, &uuid::Uuid::new_v4().to_string()).await
}

/// The same under an idempotency key.
pub(crate) async fn turn_as(client: &GatewayClient, key: &str, message: &str, run: &str) -> Result<String, Value> {
    let params = json!({"sessionKey": key, "message": message, "idempotencyKey": run});
    let mut answers = client.send("agent", Some(params)).await;
    let ended = loop {
        let mut answer = answers.next().await.unwrap_or_else(|| json!({"ok": false, "error": {"code": "CLOSED"}}));
        if answer["ok"] != true {
            return Err(answer["error"].take());
        }
        // A run that had ended before is answered once.
        if answer["payload"]["status"] != "accepted" {
            break answer["payload"].take();
        }
    };
    let payloads = ended["result"]["payloads"].as_array().cloned().unwrap_or_default();
    Ok(payloads.iter().filter_map(|payload| payload["text"].as_str()).collect())
}

/// Why a request was refused; the error contract puts the word here.
pub(crate) fn reason(error: &Value) -> &str {
    error["details"]["reasonCode"].as_str().unwrap_or_default()
}

/// A marker nothing else contains.
pub(crate) fn canary() -> String {
    format!("c{}", uuid::Uuid::new_v4().simple())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().expect("a list").iter().map(text).collect()
}
