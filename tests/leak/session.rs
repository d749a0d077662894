//! One session as the lane that drives it knows it.

use watertight_testkit::canary::tag::{Audience, Owner, Tag};

use crate::model::Manner;
use crate::names;
use crate::oracle::Oracle;

/// Inputs of a transcript before it is left; answers repeat what is in it, so prompts grow.
const LONG: u32 = 10;
/// Runs that are remembered, to be asked for again.
const REMEMBERED: usize = 6;

pub(crate) struct Session {
    /// Place of its tenant in the world.
    pub(crate) tenant: usize,
    pub(crate) owner: Owner,
    pub(crate) key: String,
    /// Transcripts it has.
    generations: u16,
    runs: u32,
    inputs: u32,
    /// Former inputs.
    pub(crate) past: Vec<Input>,
}

/// One input.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) run: String,
    pub(crate) text: String,
    pub(crate) tag: Tag,
    pub(crate) manner: Manner,
    /// Instructions for its run alone.
    pub(crate) instructions: String,
    /// Whether they are sent.
    pub(crate) instructed: bool,
    /// The transcript it goes to.
    pub(crate) generation: String,
    /// Whether that is made live first.
    pub(crate) switches: bool,
    /// Whether a complete answer must repeat it; another input may steer its run.
    pub(crate) is_repeated: bool,
}

impl Session {
    pub(crate) fn new(tenant: usize, number: u16, session: u16) -> Self {
        let owner = Owner { tenant: number, session, generation: 0 };
        Self { tenant, owner, key: names::key(session), generations: 1, runs: 0, inputs: 0, past: Vec::new() }
    }

    /// What its clients may see.
    pub(crate) fn audience(&self) -> Audience {
        Audience::Session(self.owner.tenant, self.owner.session)
    }

    pub(crate) fn input(&mut self, oracle: &Oracle, manner: Manner) -> Input {
        self.input_as(oracle, manner, self.owner.generation)
    }

    /// An input for another transcript. It is not the live one before [`Self::switched`].
    pub(crate) fn input_as(&mut self, oracle: &Oracle, manner: Manner, generation: u16) -> Input {
        let (tag, instruction) = oracle.mint_input(Owner { generation, ..self.owner });
        let input = Input {
            run: names::run(self.owner.session, self.runs),
            text: format!("{} do:{} if you please", oracle.text(tag), manner.word()),
            tag,
            manner,
            instructions: format!("Heed {}.", oracle.text(instruction)),
            instructed: tag.serial % 8 < 2,
            generation: names::generation(generation),
            switches: generation != self.owner.generation,
            is_repeated: true,
        };
        self.runs += 1;
        self.inputs += 1;
        input
    }

    /// Remembers an input that was accepted.
    pub(crate) fn remember(&mut self, input: Input) {
        if self.past.len() == REMEMBERED {
            self.past.remove(0);
        }
        self.past.push(input);
    }

    /// Whether another transcript should be begun.
    pub(crate) fn is_long(&self) -> bool {
        self.inputs >= LONG
    }

    /// Whether nothing was said in it yet.
    pub(crate) fn is_new(&self) -> bool {
        self.runs == 0
    }

    /// The number of a transcript that it does not have yet.
    pub(crate) fn next_generation(&self) -> u16 {
        self.generations
    }

    /// Another transcript is live.
    pub(crate) fn switched(&mut self, generation: u16) {
        self.owner.generation = generation;
        self.inputs = if generation < self.generations { LONG / 2 } else { 1 };
        self.generations = self.generations.max(generation + 1);
    }
}
