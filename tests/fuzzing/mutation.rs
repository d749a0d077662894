//! Inputs from a seed: valid ones, changed a little.

use fastrand::Rng;

/// Longest input made, in bytes.
const LONGEST: usize = 4096;

/// What means something to a parser here and is not hit by chance.
const WORDS: [&str; 46] = [
    ":",
    "::",
    "..",
    "%",
    "%3A",
    "%00",
    "agent:",
    "AGENT:",
    "agent:main:",
    "main",
    "global",
    "unknown",
    "subagent:",
    "cron",
    "matrix:channel:!Ab",
    "signal:group:",
    ":thread:",
    "\u{feff}",
    "\u{85}",
    "\u{a0}",
    "\u{130}",
    "\u{212a}",
    "\u{3a3}",
    "e\u{301}",
    "\u{202e}",
    "\0",
    "\u{1}",
    "\u{1b}",
    "\u{7f}",
    "\r\n",
    "\n\n",
    "data:",
    "data",
    "event: x",
    ": ",
    "{",
    "}",
    "[",
    "\"",
    "null",
    "1e999",
    "-0.0",
    "18446744073709551616",
    "\\u0000",
    "\\ud800",
    "[[agents]]\n",
];

/// The next input: a seed, or pieces of two, with a few changes.
pub(crate) fn mutate(dice: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut data = seeds[dice.usize(..seeds.len())].clone();
    for _ in 0..=dice.usize(..5) {
        change(dice, &mut data, seeds);
    }
    data.truncate(LONGEST);
    data
}

fn change(dice: &mut Rng, data: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let at = dice.usize(..=data.len());
    let end = at + dice.usize(..=(data.len() - at).min(32));
    match dice.u8(..9) {
        0 if at < data.len() => data[at] ^= 1 << dice.u8(..8),
        1 if at < data.len() => data[at] = dice.u8(..),
        2 => drop(data.drain(at..end)),
        3 => data.insert(at, dice.u8(..)),
        4 => drop(data.splice(at..at, data[at..end].to_vec())),
        5 | 6 => {
            let word = WORDS[dice.usize(..WORDS.len())].as_bytes().to_vec();
            let end = if dice.bool() { at } else { end };
            data.splice(at..end, word);
        }
        7 => {
            let other = &seeds[dice.usize(..seeds.len())];
            data.truncate(at);
            data.extend_from_slice(&other[dice.usize(..=other.len())..]);
        }
        _ => data.truncate(at),
    }
}
