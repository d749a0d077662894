//! Knows whose every tag is, looks at everything that leaves the gateway, and says where a tag came out that does not
//! belong there.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use watertight_testkit::Recorded;
use watertight_testkit::canary::tag::{Audience, Owner, Reading, Tag, Tags};

use crate::figures::Figures;
use crate::names;

/// What stands in an input.
pub(crate) const INPUT: char = 'i';
/// What stands in instructions for one run.
pub(crate) const INSTRUCTION: char = 'x';
/// What a model made up.
pub(crate) const MODEL: char = 'm';
/// What stands in a tool's arguments.
pub(crate) const ARGUMENT: char = 't';
/// What stands in a model's error.
pub(crate) const FAULT: char = 'z';

/// Faults of each sort that are told in full.
const TOLD: u64 = 5;
/// Bytes that are told on each side of a tag.
const AROUND: usize = 100;

/// Where a tag came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Prompt,
    PromptHeader,
    Listener,
    Frame,
    Answer,
    Log,
    Probe,
    Disk,
    Panic,
}

pub(crate) struct Oracle {
    pub(crate) figures: Figures,
    tags: Tags,
    serial: AtomicU32,
    names: Mutex<Names>,
    leaks: Mutex<BTreeMap<Place, u64>>,
    /// Where faults are told.
    say: fn(&str),
}

/// What the provider was told of sessions and their transcripts. Everything is learned from clean prompts: a name that
/// stood for one session must never stand for another, and a session must keep its name.
#[derive(Default)]
struct Names {
    keys: HashMap<String, (u16, u16)>,
    sessions: HashMap<(u16, u16), String>,
    transcripts: HashMap<(String, String), Owner>,
    generations: HashMap<Owner, String>,
}

/// A prompt that was looked at.
pub(crate) struct Prompt {
    /// Whose it is.
    pub(crate) owner: Owner,
    /// Its tags, without those of instructions: these are not to be repeated.
    pub(crate) tags: Vec<Tag>,
    /// That of the input it is to answer.
    pub(crate) input: Tag,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Oracle {
    pub(crate) fn new(seed: u64, say: fn(&str)) -> Self {
        Self {
            figures: Figures::default(),
            tags: Tags::new(seed),
            serial: AtomicU32::new(0),
            names: Mutex::default(),
            leaks: Mutex::default(),
            say,
        }
    }

    /// A new tag.
    pub(crate) fn mint(&self, owner: Owner, sort: char) -> Tag {
        Tag { owner, sort, serial: self.serial.fetch_add(1, Ordering::Relaxed) }
    }

    /// The tag of a new input, and that of the instructions that go with it alone.
    pub(crate) fn mint_input(&self, owner: Owner) -> (Tag, Tag) {
        let serial = self.serial.fetch_add(2, Ordering::Relaxed);
        (Tag { owner, sort: INPUT, serial }, Tag { owner, sort: INSTRUCTION, serial: serial + 1 })
    }

    pub(crate) fn text(&self, tag: Tag) -> String {
        self.tags.text(tag)
    }

    /// Every tag in the bytes must be for the audience.
    pub(crate) fn check(&self, place: Place, audience: Audience, bytes: &[u8]) {
        self.tags.find(bytes, |at, reading| {
            if reading.is_for(audience) {
                self.figures.tags.one();
            } else {
                self.leak(place, &reading, audience, bytes, at);
            }
        });
    }

    /// A frame of a connection of this tenant. What it holds must be of the session it names.
    pub(crate) fn frame(&self, tenant: u16, frame: &str) {
        self.figures.frames.one();
        self.figures.frame_bytes.add(frame.len());
        let is_event = frame.starts_with("{\"type\":\"event\"");
        let mut audience = Audience::Tenant(tenant);
        if is_event
            && let Some((_, rest)) = frame.split_once("\"sessionKey\":\"")
            && let Some((key, _)) = rest.split_once('"')
        {
            match names::session(key) {
                Some(session) => audience = Audience::Session(tenant, session),
                None => self.wrong("a frame names a session nobody made", frame),
            }
        }
        let mut any = false;
        self.tags.find(frame.as_bytes(), |at, reading| {
            any = true;
            if reading.is_for(audience) {
                self.figures.tags.one();
            } else {
                self.leak(Place::Frame, &reading, audience, frame.as_bytes(), at);
            }
        });
        if any && is_event && !matches!(audience, Audience::Session(..)) {
            self.wrong("an event with content names no session", frame);
        }
    }

    /// What the model is sent. None when it cannot be told whose it is.
    pub(crate) fn prompt(&self, request: &Recorded) -> Option<Prompt> {
        self.figures.prompts.one();
        self.figures.prompt_bytes.add(request.raw.len());
        let mut found = Vec::new();
        self.tags.find(&request.raw, |at, reading| found.push((at, reading)));
        let whole = |(at, reading): &(usize, Reading)| match reading {
            Reading::Whole(tag) => Some((*at, *tag)),
            Reading::Cut(_) | Reading::Altered(_) => None,
        };
        let tags: Vec<(usize, Tag)> = found.iter().filter_map(whole).collect();
        // Answers repeat inputs, but nothing repeats one before it was made, and the newest is what is asked.
        let Some((_, input)) = tags.iter().filter(|(_, tag)| tag.sort == INPUT).max_by_key(|(at, _)| *at) else {
            self.wrong("a prompt holds no input", String::from_utf8_lossy(&request.raw));
            return None;
        };
        let audience = Audience::Generation(input.owner);
        let mut clean = true;
        for (at, reading) in &found {
            let instruction =
                matches!(reading, Reading::Whole(tag) if tag.sort == INSTRUCTION && tag.serial != input.serial + 1);
            if !reading.is_for(audience) || instruction {
                clean = false;
                self.leak(Place::Prompt, reading, audience, &request.raw, *at);
            }
        }
        for value in request.headers.values() {
            self.check(Place::PromptHeader, Audience::Nobody, value.as_bytes());
        }
        if clean {
            self.figures.tags.add(found.len());
        }
        self.check_names(request, input.owner, clean);
        let repeatable = tags.iter().map(|(_, tag)| *tag).filter(|tag| tag.sort != INSTRUCTION).collect();
        Some(Prompt { owner: input.owner, tags: repeatable, input: *input })
    }

    fn check_names(&self, request: &Recorded, owner: Owner, clean: bool) {
        let (Some(key), Some(id)) = (request.session_key(), request.session_id()) else {
            return self.wrong("a prompt without its session's names", owner);
        };
        let session = (owner.tenant, owner.session);
        let is_raw = !key.starts_with("wt1_");
        let is_default = usize::from(owner.tenant) % crate::world::TENANTS == 0;
        if is_raw != is_default || (is_raw && key != names::key(owner.session)) {
            self.misnamed(key, owner);
        }
        if is_raw && id != names::generation(owner.generation) {
            self.misnamed(id, owner);
        }
        let mut names = lock(&self.names);
        if clean {
            names.keys.entry(key.to_owned()).or_insert(session);
            names.sessions.entry(session).or_insert_with(|| key.to_owned());
            names.transcripts.entry((key.to_owned(), id.to_owned())).or_insert(owner);
            names.generations.entry(owner).or_insert_with(|| id.to_owned());
        }
        let right = names.keys.get(key).is_none_or(|known| *known == session)
            && names.sessions.get(&session).is_none_or(|known| known == key)
            && names.transcripts.get(&(key.to_owned(), id.to_owned())).is_none_or(|known| *known == owner)
            && names.generations.get(&owner).is_none_or(|known| known == id);
        drop(names);
        if !right {
            self.misnamed(&format!("{key} {id}"), owner);
        }
    }

    fn misnamed(&self, name: &str, owner: Owner) {
        if self.count(Place::PromptHeader) <= TOLD {
            (self.say)(&format!("LEAK PromptHeader: a prompt of {owner} names its session {name}"));
        }
    }

    fn leak(&self, place: Place, reading: &Reading, audience: Audience, bytes: &[u8], at: usize) {
        if self.count(place) <= TOLD {
            let around = &bytes[at.saturating_sub(AROUND)..bytes.len().min(at + AROUND)];
            let around = String::from_utf8_lossy(around);
            (self.say)(&format!("LEAK {place:?}: {reading}, in what is for {audience}: …{around}…"));
        }
    }

    fn count(&self, place: Place) -> u64 {
        self.figures.leaks.one();
        let mut leaks = lock(&self.leaks);
        let count = leaks.entry(place).or_default();
        *count += 1;
        *count
    }

    /// Something that is no leak and must not be.
    pub(crate) fn wrong(&self, what: &str, about: impl Display) {
        self.figures.wrongs.one();
        if self.figures.wrongs.get() <= TOLD {
            let about: String = about.to_string().chars().take(4 * AROUND).collect();
            (self.say)(&format!("WRONG {what}: {about}"));
        }
    }

    /// How many leaks came out where, such as `Prompt 3, Listener 5`.
    pub(crate) fn leaks(&self) -> String {
        let leaks: Vec<String> = lock(&self.leaks).iter().map(|(place, count)| format!("{place:?} {count}")).collect();
        if leaks.is_empty() { "none".to_owned() } else { leaks.join(", ") }
    }

    /// Another store names its sessions anew.
    pub(crate) fn forget_names(&self) {
        *lock(&self.names) = Names::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const OWNER: Owner = Owner { tenant: 0, session: 5, generation: 0 };
    const SAME_KEY: Owner = Owner { tenant: 1, ..OWNER };

    fn oracle() -> Oracle {
        Oracle::new(7, |_| {})
    }

    fn request(key: &str, id: &str, body: &Value) -> Recorded {
        let mut request = Recorded {
            order: 0,
            connection: 0,
            at: std::time::Instant::now(),
            path: "/v1/chat/completions".into(),
            headers: Default::default(),
            raw: body.to_string().into(),
            body: body.clone(),
        };
        request.headers.insert("x-openclaw-session-key", key.parse().expect("a header"));
        request.headers.insert("x-openclaw-session-id", id.parse().expect("a header"));
        request
    }

    /// A prompt of [`OWNER`] whose instructions, history and input hold these tags, under its own names.
    fn prompt(oracle: &Oracle, tags: [Tag; 3]) -> String {
        let texts = tags.map(|tag| oracle.text(tag));
        let _ = oracle.prompt(&request("agent:main:leak-5", "transcript-0", &json!({"messages": texts})));
        oracle.leaks()
    }

    #[test]
    fn a_prompt_may_hold_what_is_its_own() {
        let oracle = oracle();
        let (input, instruction) = oracle.mint_input(OWNER);
        let former = oracle.mint(OWNER, MODEL);
        assert_eq!(prompt(&oracle, [instruction, former, input]), "none");
        assert_eq!(oracle.figures.wrongs.get(), 0);
    }

    #[test]
    fn a_prompt_may_hold_nothing_of_another_session_transcript_or_run() {
        for owner in [SAME_KEY, Owner { session: 6, ..OWNER }, Owner { generation: 1, ..OWNER }] {
            let oracle = oracle();
            let (input, instruction) = oracle.mint_input(OWNER);
            let foreign = oracle.mint(owner, MODEL);
            assert_eq!(prompt(&oracle, [instruction, foreign, input]), "Prompt 1", "{owner}");
        }
        let oracle = oracle();
        let (former, instruction) = oracle.mint_input(OWNER);
        let (input, _) = oracle.mint_input(OWNER);
        assert_eq!(prompt(&oracle, [instruction, former, input]), "Prompt 1", "a former run's instructions");
    }

    #[test]
    fn a_prompt_goes_out_under_its_session_s_own_names() {
        for (owner, key, id, right) in [
            (OWNER, "agent:main:leak-5", "transcript-0", true),
            (OWNER, "agent:main:leak-6", "transcript-0", false),
            (OWNER, "agent:main:leak-5", "transcript-1", false),
            (OWNER, "wt1_a", "wt1_b", false),
            (SAME_KEY, "agent:main:leak-5", "transcript-0", false),
            (SAME_KEY, "wt1_a", "wt1_b", true),
        ] {
            let oracle = oracle();
            let (input, _) = oracle.mint_input(owner);
            oracle.prompt(&request(key, id, &json!([oracle.text(input)])));
            assert_eq!(oracle.leaks() == "none", right, "{owner} {key} {id}");
        }
    }

    #[test]
    fn a_name_never_stands_for_two_sessions_nor_changes() {
        let oracle = oracle();
        let prompt = |owner, key, id| {
            let (input, _) = oracle.mint_input(owner);
            oracle.prompt(&request(key, id, &json!([oracle.text(input)])));
            oracle.figures.leaks.get()
        };
        assert_eq!(prompt(SAME_KEY, "wt1_a", "wt1_1"), 0);
        assert_eq!(prompt(Owner { generation: 1, ..SAME_KEY }, "wt1_a", "wt1_2"), 0);
        assert_eq!(prompt(Owner { generation: 2, ..SAME_KEY }, "wt1_a", "wt1_2"), 1, "another transcript's id");
        assert_eq!(prompt(Owner { tenant: 2, ..OWNER }, "wt1_a", "wt1_3"), 2, "another session's key");
        assert_eq!(prompt(SAME_KEY, "wt1_b", "wt1_1"), 3, "another key for the same session");
    }

    #[test]
    fn a_frame_holds_what_is_of_its_tenant_and_of_the_session_it_names() {
        let own = |oracle: &Oracle, owner| oracle.text(oracle.mint(owner, INPUT));
        for (owner, frame, leaks, wrongs) in [
            (OWNER, r#"{"type":"event","payload":{"sessionKey":"agent:main:leak-5","text":"TAG"}}"#, 0, 0),
            (OWNER, r#"{"type":"event","payload":{"sessionKey":"agent:main:leak-6","text":"TAG"}}"#, 1, 0),
            (SAME_KEY, r#"{"type":"event","payload":{"sessionKey":"agent:main:leak-5","text":"TAG"}}"#, 1, 0),
            (OWNER, r#"{"type":"event","payload":{"text":"TAG"}}"#, 0, 1),
            (OWNER, r#"{"type":"event","payload":{"sessionKey":"agent:main:other","text":"none"}}"#, 0, 1),
            (OWNER, r#"{"type":"res","payload":{"text":"TAG"}}"#, 0, 0),
            (SAME_KEY, r#"{"type":"res","payload":{"text":"TAG"}}"#, 1, 0),
        ] {
            let oracle = oracle();
            oracle.frame(OWNER.tenant, &frame.replace("TAG", &own(&oracle, owner)));
            assert_eq!((oracle.figures.leaks.get(), oracle.figures.wrongs.get()), (leaks, wrongs), "{owner} {frame}");
        }
    }

    #[test]
    fn a_log_line_holds_nothing_of_anybody() {
        let oracle = oracle();
        let text = oracle.text(oracle.mint(OWNER, FAULT));
        oracle.check(Place::Log, Audience::Nobody, format!("it failed: {text}").as_bytes());
        assert_eq!(oracle.leaks(), "Log 1");
    }
}
