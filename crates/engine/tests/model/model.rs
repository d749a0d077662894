//! What sessions ought to do: their transcripts, queues, runs and outcomes, without tasks, clocks or a store.

use std::collections::{BTreeMap, VecDeque};

use crate::terms::{Answer, Kind, LIMIT, Outcome, Policy, RESULT, Request, Role, UNKNOWN, View};

/// Between two words of a slow answer, in milliseconds.
const STEP: u64 = 100;
/// How often a run is started anew.
const MAX_RESTARTS: u32 = 3;
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    role: Role,
    text: String,
    /// The run whose input it is or answers.
    turn: u8,
    /// The run that wrote it.
    by: u8,
    asks_tool: bool,
}

#[derive(Clone, Debug)]
struct Run {
    request: Request,
    restarts: u32,
    /// A former process left it open, and it has not begun in this one.
    left: bool,
    over: bool,
}

#[derive(Clone, Debug)]
struct Active {
    run: u8,
    /// The run whose input it answers.
    asking: u8,
    taken_up: Vec<u8>,
    text: String,
    deadline: Option<u64>,
    phase: Phase,
}

#[derive(Clone, Debug)]
enum Phase {
    Calling,
    Words { left: VecDeque<String>, due: u64 },
    Silent,
    Tool,
}

/// One session of one tenant.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    tenant: usize,
    now: u64,
    generations: Vec<(Option<u8>, Vec<Entry>)>,
    live: usize,
    runs: BTreeMap<u8, Run>,
    /// Accepted runs in the order of their inputs.
    order: Vec<u8>,
    active: Option<Active>,
    queue: VecDeque<u8>,
    parked: VecDeque<(usize, Request)>,
    ended: Vec<(u8, Outcome, String)>,
    /// How every run that is over ended, in all processes.
    outcomes: BTreeMap<u8, Outcome>,
    answers: Vec<Option<Answer>>,
    executions: u32,
    calls: u32,
}

impl Session {
    pub(crate) fn new(tenant: usize) -> Self {
        Self {
            tenant,
            now: 0,
            generations: Vec::new(),
            live: 0,
            runs: BTreeMap::new(),
            order: Vec::new(),
            active: None,
            queue: VecDeque::new(),
            parked: VecDeque::new(),
            ended: Vec::new(),
            outcomes: BTreeMap::new(),
            answers: Vec::new(),
            executions: 0,
            calls: 0,
        }
    }

    pub(crate) fn view(&self) -> View {
        let active = self.active.iter();
        let begun = active.flat_map(|active| [active.run].into_iter().chain(active.taken_up.iter().copied()));
        let parked = self.parked.iter().map(|(_, request)| request.run);
        View {
            entries: self.entries().iter().map(|entry| (entry.role, entry.text.clone())).collect(),
            runs: begun.chain(self.queue.iter().copied()).chain(parked).collect(),
            in_flight: self.active.as_ref().map(|active| (active.run, active.text.clone())),
            ended: self.ended.clone(),
            answers: self.answers.clone(),
            executions: self.executions,
            calls: self.calls,
        }
    }

    /// How every run that is over ended.
    pub(crate) fn outcomes(&self) -> &BTreeMap<u8, Outcome> {
        &self.outcomes
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.active.is_none()
    }

    fn entries(&self) -> &[Entry] {
        self.generations.get(self.live).map_or(&[], |(_, entries)| entries)
    }

    fn write(&mut self, role: Role, text: String, (turn, by): (u8, u8), asks_tool: bool) {
        self.generations[self.live].1.push(Entry { role, text, turn, by, asks_tool });
    }

    /// A client sends a turn.
    pub(crate) fn submit(&mut self, request: Request) {
        let ticket = self.answers.len();
        self.answers.push(None);
        let busy = self.active.is_some() || !self.queue.is_empty();
        if request.policy == Policy::Reject && (busy || !self.parked.is_empty()) {
            self.answers[ticket] = Some(self.known(request).unwrap_or(Answer::Busy));
        } else if !self.parked.is_empty() || (busy && self.switches(request)) {
            self.parked.push_back((ticket, request));
        } else {
            self.accept(ticket, request);
            self.go_on();
        }
    }

    fn known(&self, request: Request) -> Option<Answer> {
        let known = self.runs.get(&request.run)?.request;
        let same = known.text(self.tenant) == request.text(self.tenant) && known.switch == request.switch;
        Some(if same { Answer::Known } else { Answer::Conflict })
    }

    fn switches(&self, request: Request) -> bool {
        request.switch.is_some() && self.generations.get(self.live).is_some_and(|(name, _)| *name != request.switch)
    }

    fn accept(&mut self, ticket: usize, request: Request) {
        if let Some(known) = self.known(request) {
            self.answers[ticket] = Some(known);
            return;
        }
        if self.generations.is_empty() {
            self.generations.push((request.switch, Vec::new()));
        } else if self.switches(request) {
            let found = self.generations.iter().position(|(name, _)| *name == request.switch);
            self.live = found.unwrap_or(self.generations.len());
            if found.is_none() {
                self.generations.push((request.switch, Vec::new()));
            }
        }
        let run = request.run;
        self.write(Role::User, request.text(self.tenant), (run, run), false);
        self.runs.insert(run, Run { request, restarts: 0, left: false, over: false });
        self.order.push(run);
        if request.policy == Policy::Interrupt {
            self.queue.push_front(run);
            self.break_off(Outcome::Aborted);
        } else {
            self.queue.push_back(run);
        }
        self.answers[ticket] = Some(Answer::Started);
    }

    /// A caller ends one run or all; the runs it is told of.
    pub(crate) fn abort(&mut self, run: Option<u8>) -> Vec<u8> {
        let wanted = |id: u8| run.is_none_or(|run| run == id);
        let mut told = Vec::new();
        let hit = |active: &Active| wanted(active.run) || active.taken_up.iter().any(|run| wanted(*run));
        if let Some(active) = self.active.as_ref().filter(|active| hit(active)) {
            told.push(active.run);
            self.break_off(Outcome::Aborted);
        }
        for run in std::mem::take(&mut self.queue) {
            if wanted(run) {
                told.push(run);
                self.end(run, Outcome::Aborted, String::new());
            } else {
                self.queue.push_back(run);
            }
        }
        for (ticket, request) in std::mem::take(&mut self.parked) {
            if wanted(request.run) {
                told.push(request.run);
                // A run that was accepted before is answered for, whatever becomes of asking again.
                self.answers[ticket] = Some(self.known(request).unwrap_or(Answer::Aborted));
            } else {
                self.parked.push_back((ticket, request));
            }
        }
        self.go_on();
        told
    }

    /// The tool that runs comes back; false where none runs.
    pub(crate) fn release(&mut self) -> bool {
        let Some(Active { phase: Phase::Tool, run, asking, .. }) = &self.active else { return false };
        let of = (*asking, *run);
        self.write(Role::ToolResult, RESULT.into(), of, false);
        self.call();
        self.go_on();
        true
    }

    /// When something happens by itself next.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let active = self.active.as_ref()?;
        let word = match &active.phase {
            Phase::Words { due, .. } => Some(*due),
            _ => None,
        };
        word.into_iter().chain(active.deadline).min()
    }

    /// Time passes; not beyond what happens next.
    pub(crate) fn pass(&mut self, now: u64) {
        self.now = now;
        let Some(active) = &mut self.active else { return };
        if active.deadline.is_some_and(|deadline| deadline <= now) {
            self.break_off(Outcome::TimedOut);
        } else if let Phase::Words { left, due } = &mut active.phase
            && *due <= now
        {
            active.text.extend(left.pop_front());
            *due = now + STEP;
            if left.is_empty() {
                let text = active.text.clone();
                self.answer(text);
            }
        }
        self.go_on();
    }

    /// The process is stopped and started again.
    pub(crate) fn stop(&mut self) {
        self.break_off(Outcome::Interrupted);
        for (ticket, request) in std::mem::take(&mut self.parked) {
            self.answers[ticket] = Some(self.known(request).unwrap_or(Answer::Draining));
        }
    }

    /// The process dies.
    pub(crate) fn die(&mut self) {
        self.active = None;
        for (ticket, _) in std::mem::take(&mut self.parked) {
            self.answers[ticket] = Some(Answer::Nothing);
        }
    }

    /// The next process has begun.
    pub(crate) fn start(&mut self, now: u64) {
        self.now = now;
        self.ended.clear();
        self.calls = 0;
        let open: Vec<u8> = self.order.iter().copied().filter(|run| !self.runs[run].over).collect();
        // What was at work with tools goes on first.
        let (at_work, waiting): (Vec<u8>, Vec<u8>) = open.into_iter().partition(|run| self.asked_tools(*run));
        self.queue = at_work.into_iter().chain(waiting).collect();
        for run in &self.queue {
            self.runs.get_mut(run).expect("it was accepted").left = true;
        }
        self.go_on();
    }

    fn asked_tools(&self, run: u8) -> bool {
        self.entries().iter().any(|entry| entry.by == run && entry.asks_tool)
    }

    fn end(&mut self, run: u8, outcome: Outcome, text: String) {
        self.runs.get_mut(&run).expect("it was accepted").over = true;
        assert_eq!(self.outcomes.insert(run, outcome), None, "the model ends run {run} twice");
        self.ended.push((run, outcome, text));
    }

    fn conclude(&mut self, outcome: Outcome) {
        if let Some(active) = self.active.take() {
            self.end(active.run, outcome, active.text.clone());
            for taken in active.taken_up {
                self.end(taken, outcome, active.text.clone());
            }
        }
    }

    /// The active run ends before its answer; what it has said stays.
    fn break_off(&mut self, outcome: Outcome) {
        let Some(active) = &self.active else { return };
        if !active.text.is_empty() {
            let (text, of) = (active.text.clone(), (active.asking, active.run));
            self.write(Role::Assistant, text, of, false);
        }
        self.conclude(outcome);
    }

    fn answer(&mut self, text: String) {
        let Some(active) = &mut self.active else { return };
        active.text.clone_from(&text);
        let of = (active.asking, active.run);
        self.write(Role::Assistant, text, of, false);
        self.conclude(Outcome::Completed);
    }

    /// Begins what waits until something takes time.
    fn go_on(&mut self) {
        while self.active.is_none() {
            while let Some((_, first)) = self.parked.front()
                && (self.queue.is_empty() || !self.switches(*first))
            {
                let (ticket, request) = self.parked.pop_front().expect("it is there");
                self.accept(ticket, request);
            }
            let Some(run) = self.queue.pop_front() else { return };
            self.begin(run);
        }
    }

    fn begin(&mut self, id: u8) {
        let run = self.runs.get_mut(&id).expect("it was accepted");
        let left = std::mem::take(&mut run.left);
        if left {
            if run.restarts >= MAX_RESTARTS {
                return self.end(id, Outcome::Interrupted, String::new());
            }
            run.restarts += 1;
        }
        let deadline = run.request.limited.then_some(self.now + LIMIT);
        self.active = Some(Active {
            run: id,
            asking: id,
            taken_up: Vec::new(),
            text: String::new(),
            deadline,
            phase: Phase::Calling,
        });
        if left { self.resume(id) } else { self.call() }
    }

    /// Goes on where the journal ends.
    fn resume(&mut self, id: u8) {
        let own = self.entries().iter().filter(|entry| entry.by == id && entry.role != Role::User);
        let own: Vec<Entry> = own.cloned().collect();
        let Some(asked) = own.iter().rposition(|entry| entry.asks_tool) else { return self.call() };
        let turn = own[asked].turn;
        if turn != id {
            self.take_up(Some(turn));
        }
        if own.len() > asked + 1 {
            return self.call();
        }
        if self.runs[&turn].request.kind == (Kind::Tool { repeatable: true }) {
            self.executions += 1;
            self.active.as_mut().expect("it has begun").phase = Phase::Tool;
        } else {
            self.write(Role::ToolResult, UNKNOWN.into(), (turn, id), false);
            self.call();
        }
    }

    fn take_up(&mut self, last: Option<u8>) {
        let Some(active) = &mut self.active else { return };
        let mut done = false;
        for run in std::mem::take(&mut self.queue) {
            if done || self.runs[&run].request.policy != Policy::Steer {
                self.queue.push_back(run);
            } else {
                done = last == Some(run);
                active.asking = run;
                active.taken_up.push(run);
            }
        }
    }

    /// Asks the model.
    fn call(&mut self) {
        self.take_up(None);
        let Some(Active { run, asking, .. }) = self.active else { return };
        let shown = |entry: &&Entry| entry.turn != asking && !self.queue.contains(&entry.turn);
        let own = self.entries().iter().filter(|entry| entry.turn == asking);
        let users = self.entries().iter().filter(shown).chain(own.clone()).filter(|entry| entry.role == Role::User);
        let users: Vec<String> = users.map(|entry| entry.text.clone()).collect();
        let signed = |text: String| format!("{text}(turn {})", users.len());
        let asked = own.clone().any(|entry| entry.asks_tool);
        let results: Vec<String> =
            own.filter(|entry| entry.role == Role::ToolResult).map(|entry| entry.text.clone()).collect();
        let request = self.runs[&asking].request;
        let (now, of) = (self.now, (asking, run));
        // Those two say nothing first.
        self.calls += u32::from(!matches!(request.kind, Kind::Hang | Kind::Fail));
        let active = self.active.as_mut().expect("it calls");
        active.text.clear();
        match request.kind {
            Kind::Say => {
                let lines = users.iter().enumerate().map(|(at, text)| format!("{}. {text}\n", at + 1));
                let text = signed(lines.collect());
                self.answer(text);
            }
            Kind::Slow(words) => {
                let words: Vec<String> = (1..=words).map(|n| format!("word{n} ")).collect();
                let left = signed(words.concat()).split_inclusive(' ').map(str::to_owned).collect();
                active.phase = Phase::Words { left, due: now + STEP };
            }
            Kind::Hang => active.phase = Phase::Silent,
            Kind::Fail => self.conclude(Outcome::Failed),
            Kind::Die => {
                active.text = "This answer breaks off in the".into();
                self.break_off(Outcome::Failed);
            }
            Kind::Tool { .. } if !asked => {
                active.phase = Phase::Tool;
                self.executions += 1;
                self.write(Role::Assistant, format!("Asking for {}.", request.tool()), of, true);
            }
            Kind::Tool { .. } => {
                let line = |text: &String| {
                    let verb = if text == RESULT { "said" } else { "failed" };
                    format!("{} {verb}: {text}\n", request.tool())
                };
                let text = signed(results.iter().map(line).collect());
                self.answer(text);
            }
        }
    }
}
