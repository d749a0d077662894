//! Turns over a WebSocket, with a tenant's own token; the connection is lost again and again.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;
use watertight_testkit::canary::tag::Audience;
use watertight_testkit::gateway_client::GatewayClient;

use crate::dice::Dice;
use crate::model::Manner;
use crate::names;
use crate::oracle::Place;
use crate::session::{Input, Session};
use crate::world::{self, PATIENCE, World};

/// What the client can handle: tool events, and nothing of sessions it did not name.
const CAPS: &[&str] = &["session-scoped-events", "tool-events"];

/// Drives some sessions of one tenant over one connection at a time.
pub(crate) struct SocketLane {
    world: Arc<World>,
    dice: Dice,
    tenant: usize,
    sessions: Vec<Session>,
    client: GatewayClient,
}

impl SocketLane {
    pub(crate) async fn connect(world: Arc<World>, dice: Dice, tenant: usize, sessions: Vec<Session>) -> Self {
        let client = world::connect(&world, tenant, CAPS).await;
        let lane = Self { world, dice, tenant, sessions, client };
        lane.subscribe().await;
        lane
    }

    pub(crate) async fn run(mut self) {
        while self.world.goes_on() {
            let at = self.dice.below(self.sessions.len());
            let mut session = self.sessions.swap_remove(at);
            self.scene(&mut session).await;
            self.sessions.push(session);
            self.client.take_events();
        }
    }

    async fn scene(&mut self, session: &mut Session) {
        if session.is_long() {
            return self.switch(session).await;
        }
        match self.dice.below(100) {
            0..40 => self.chat(session).await,
            40..55 => self.agent(session).await,
            55..64 => self.abort(session).await,
            64..76 => self.vanish(session).await,
            76..80 => self.crowd(session).await,
            80..84 => self.switch(session).await,
            84..90 => self.ask_again(session).await,
            _ => self.read(session).await,
        }
    }

    async fn subscribe(&self) {
        for session in &self.sessions {
            let params = json!({"key": session.key});
            self.ask(session.audience(), "sessions.messages.subscribe", params).await.expect("it may be heard");
        }
    }

    /// Drops the connection without a word, and comes back.
    async fn reconnect(&mut self, session: &Session) {
        self.client = world::connect(&self.world, self.tenant, CAPS).await;
        self.subscribe().await;
        let params = json!({"key": session.key});
        self.ask(session.audience(), "sessions.messages.subscribe", params).await.expect("it may be heard");
        self.world.oracle.figures.reconnects.one();
    }

    fn check(&self, audience: Audience, answer: &Value) {
        let text = answer.to_string();
        self.world.oracle.figures.answer_bytes.add(text.len());
        self.world.oracle.check(Place::Answer, audience, text.as_bytes());
    }

    /// A request whose answer is for this audience.
    async fn ask(&self, audience: Audience, method: &str, params: Value) -> Result<Value, Value> {
        let answer = self.client.request(method, params).await;
        let (Ok(content) | Err(content)) = &answer;
        self.check(audience, content);
        answer
    }

    fn manner(&mut self) -> Manner {
        match self.dice.below(20) {
            0..11 => *self.dice.pick(&[Manner::Say, Manner::Think, Manner::Plain, Manner::Slow]),
            11..15 => Manner::Tools,
            15 => Manner::Hang,
            _ => *self.dice.pick(&Manner::FAULTS),
        }
    }

    fn send_params(&mut self, input: &Input) -> Value {
        let mut params = json!({"sessionKey": names::key(input.tag.owner.session), "message": input.text,
            "idempotencyKey": input.run, "sessionId": input.generation});
        if input.manner == Manner::Hang {
            params["timeoutMs"] = json!(20 + self.dice.below(60));
        }
        params
    }

    /// Sends and waits for the acknowledgement. False when it was refused.
    async fn send(&mut self, session: &mut Session, input: &Input) -> bool {
        let params = self.send_params(input);
        match self.ask(session.audience(), "chat.send", params).await {
            Ok(_) => {
                self.started(session, input);
                true
            }
            Err(error) if error["details"]["code"] == "SESSION_BUSY" || error["retryable"] == true => {
                self.world.oracle.figures.refused.one();
                false
            }
            Err(error) => {
                self.world.oracle.wrong("a turn was refused", format!("{error} {input:?}"));
                false
            }
        }
    }

    fn started(&self, session: &mut Session, input: &Input) {
        self.world.began_turn();
        self.world.oracle.figures.socket_turns.one();
        session.remember(input.clone());
    }

    /// Waits for the run's last event. A complete answer repeats its own input.
    async fn ended(&self, session: &Session, input: &Input) {
        let is_last = |frame: &Value| {
            frame["event"] == "chat"
                && frame["payload"]["runId"] == input.run.as_str()
                && matches!(frame["payload"]["state"].as_str(), Some("final" | "error" | "aborted"))
        };
        match self.client.event_or_close(is_last).await {
            Some(event) => self.judge(session, input, &event["payload"]),
            None => {
                let closed = self.client.closed().await;
                self.world.oracle.wrong("a connection closed", format!("{closed:?} {input:?}"));
            }
        }
    }

    fn judge(&self, session: &Session, input: &Input, payload: &Value) {
        self.check(session.audience(), payload);
        if payload["state"] == "final" {
            self.world.oracle.figures.completed.one();
            if !payload.to_string().contains(&self.world.oracle.text(input.tag)) {
                self.world.oracle.wrong("an answer to another input", format!("{payload} {input:?}"));
            }
        }
    }

    /// The run has ended, whoever heard of it.
    async fn settled(&self, session: &Session, input: &Input) {
        let params = json!({"runId": input.run, "timeoutMs": PATIENCE.as_millis() as u64});
        let waited = self.ask(session.audience(), "agent.wait", params).await;
        if !waited.as_ref().is_ok_and(|waited| waited["endedAt"].is_number()) {
            self.world.oracle.wrong("a run did not end", format!("{waited:?} {input:?}"));
        }
    }

    async fn chat(&mut self, session: &mut Session) {
        if !self.world.goes_on() {
            return;
        }
        let manner = self.manner();
        let input = session.input(&self.world.oracle, manner);
        if self.send(session, &input).await {
            self.ended(session, &input).await;
        }
    }

    async fn agent(&mut self, session: &mut Session) {
        if session.is_new() {
            return self.chat(session).await;
        }
        if self.world.goes_on() {
            let manner = self.manner();
            let input = session.input(&self.world.oracle, manner);
            self.run_agent(session, &input).await;
        }
    }

    async fn run_agent(&mut self, session: &mut Session, input: &Input) {
        let mut params = json!({"sessionKey": session.key, "message": input.text, "idempotencyKey": input.run,
            "sessionId": input.generation});
        if input.instructed {
            params["extraSystemPrompt"] = json!(input.instructions);
        }
        if input.manner == Manner::Hang {
            params["timeout"] = json!(1);
        }
        match self.client.request_final("agent", params).await {
            Ok((accepted, last)) => {
                self.check(session.audience(), &accepted);
                self.started(session, input);
                let (Ok(last) | Err(last)) = &last;
                self.check(session.audience(), last);
            }
            Err(error) => {
                self.check(session.audience(), &error);
                self.world.oracle.wrong("a turn was refused", format!("{error} {input:?}"));
            }
        }
    }

    async fn abort(&mut self, session: &mut Session) {
        if !self.world.goes_on() {
            return;
        }
        let manner = *self.dice.pick(&[Manner::Slow, Manner::Tools, Manner::Say]);
        let input = session.input(&self.world.oracle, manner);
        if !self.send(session, &input).await {
            return;
        }
        sleep(Duration::from_micros(self.dice.below(20_000) as u64)).await;
        let mut params = json!({"sessionKey": session.key});
        if self.dice.one_in(2) {
            params["runId"] = json!(input.run);
        }
        if let Err(error) = self.ask(session.audience(), "chat.abort", params).await {
            self.world.oracle.wrong("an abort failed", error);
        }
        self.world.oracle.figures.aborts.one();
        self.ended(session, &input).await;
    }

    /// Is gone at any point of a turn, comes back and asks what became of it.
    async fn vanish(&mut self, session: &mut Session) {
        if !self.world.goes_on() {
            return;
        }
        let manner = *self.dice.pick(&[Manner::Slow, Manner::Tools, Manner::Say, Manner::Think]);
        let input = session.input(&self.world.oracle, manner);
        if self.dice.one_in(2) {
            // Nobody waits for the acknowledgement: whether the turn began is not known.
            let params = self.send_params(&input);
            let _unread = self.client.send("chat.send", Some(params)).await;
            sleep(Duration::from_micros(self.dice.below(3_000) as u64)).await;
            self.reconnect(session).await;
            if !self.send(session, &input).await {
                return;
            }
        } else {
            if !self.send(session, &input).await {
                return;
            }
            sleep(Duration::from_micros(self.dice.below(15_000) as u64)).await;
            self.reconnect(session).await;
        }
        let params = json!({"sessionKey": session.key, "limit": 20});
        let _ = self.ask(session.audience(), "chat.history", params).await;
        self.settled(session, &input).await;
    }

    /// Several at once, then all their ends.
    async fn crowd(&mut self, session: &mut Session) {
        let mut inputs = Vec::new();
        let mut answers = Vec::new();
        for at in 0..3 + self.dice.below(6) {
            if !self.world.goes_on() {
                break;
            }
            let manner = if at == 0 { Manner::Slow } else { Manner::Say };
            let input = session.input(&self.world.oracle, manner);
            let params = self.send_params(&input);
            answers.push(self.client.send("chat.send", Some(params)).await);
            inputs.push(input);
        }
        for (mut answer, input) in answers.into_iter().zip(&inputs) {
            match answer.next().await {
                Some(frame) if frame["ok"] == true => self.started(session, input),
                other => self.world.oracle.wrong("a turn was refused", format!("{other:?} {input:?}")),
            }
        }
        for input in inputs {
            self.ended(session, &input).await;
        }
    }

    /// `agent` with another `sessionId`.
    async fn switch(&mut self, session: &mut Session) {
        if session.is_new() {
            return self.chat(session).await;
        }
        if self.world.goes_on() {
            let next = session.next_generation();
            let generation = if self.dice.one_in(4) { self.dice.below(usize::from(next)) as u16 } else { next };
            let input = session.input_as(&self.world.oracle, Manner::Say, generation);
            session.switched(generation);
            self.world.oracle.figures.resets.one();
            self.run_agent(session, &input).await;
        }
    }

    async fn ask_again(&mut self, session: &mut Session) {
        if session.past.is_empty() {
            return;
        }
        let input = self.dice.pick(&session.past).clone();
        let mut params = self.send_params(&input);
        let differs = self.dice.one_in(2);
        if differs {
            params["message"] = json!("something else");
        }
        self.world.oracle.figures.resends.one();
        // A run that `agent` began is another request's, too.
        let answer = self.ask(session.audience(), "chat.send", params).await;
        match answer {
            Ok(ack) if ack["status"] == "started" || differs => {
                self.world.oracle.wrong("a resend was not taken for one", format!("{ack} {input:?}"));
            }
            Ok(_) => {}
            Err(_) => self.world.oracle.figures.conflicts.one(),
        }
        self.settled(session, &input).await;
    }

    async fn read(&mut self, session: &mut Session) {
        self.world.oracle.figures.reads.one();
        let (own, all) = (session.audience(), Audience::Tenant(session.owner.tenant));
        let key = &session.key;
        let answer = match self.dice.below(9) {
            0 | 1 => self.ask(own, "chat.history", json!({"sessionKey": key, "limit": 30})).await,
            2 => {
                let page = self.ask(own, "chat.history", json!({"sessionKey": key, "limit": 200})).await;
                match page.as_ref().ok().and_then(|page| page["deltaCursor"].as_str()) {
                    Some(cursor) => self.ask(own, "chat.history", json!({"sessionKey": key, "cursor": cursor})).await,
                    None => page,
                }
            }
            3 => self.ask(own, "chat.startup", json!({"sessionKey": key, "limit": 5})).await,
            4 => {
                let params = json!({"key": key, "includeDerivedTitles": true, "includeLastMessage": true});
                self.ask(own, "sessions.describe", params).await
            }
            5 => {
                let params = json!({"limit": 10, "offset": self.dice.below(40), "includeDerivedTitles": true,
                    "includeLastMessage": true, "includeGlobal": true});
                let page = self.ask(all, "sessions.list", params).await;
                for row in page.as_ref().ok().and_then(|page| page["sessions"].as_array()).into_iter().flatten() {
                    let of = row["key"].as_str().and_then(names::session);
                    let audience = of.map_or(Audience::Nobody, |of| Audience::Session(session.owner.tenant, of));
                    self.check(audience, row);
                }
                page
            }
            6 => self.ask(all, "status", json!({})).await,
            7 => self.ask(all, "health", json!({})).await,
            _ => self.ask(Audience::Nobody, "models.list", json!({})).await,
        };
        if let Err(error) = answer {
            self.world.oracle.wrong("a read failed", error);
        }
    }
}
