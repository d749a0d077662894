//! One entry for every case whose surface exists. What is data in the file is read from it, step by step; what is prose
//! there is a function here.
//!
//! * [`keys`]: names of sessions: P03 to P06.
//! * [`authority`]: what a credential gives, and that it stops: P13 to P16.
//! * [`objects`]: what is one's own: P19, P20, P23, P28.
//! * [`door`]: what comes before a credential: P17, P18, P39, P40.
//! * [`crowd`]: many at once, and what is left behind: P25, P31, P35.

mod authority;
mod crowd;
mod door;
mod keys;
mod objects;

use std::pin::Pin;

/// How a case is covered.
pub(crate) enum Entry {
    /// By running it here.
    Run(fn() -> Running),
    /// By these suites.
    Suite(&'static [&'static str]),
}

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

use Entry::{Run, Suite};

/// By id.
pub(crate) static CASES: &[(&str, Entry)] = &[
    ("P03", Run(|| Box::pin(keys::p03()))),
    ("P04", Run(|| Box::pin(keys::p04()))),
    ("P05", Run(|| Box::pin(keys::p05()))),
    ("P06", Run(|| Box::pin(keys::p06()))),
    ("P13", Run(|| Box::pin(authority::p13()))),
    ("P14", Run(|| Box::pin(authority::p14()))),
    ("P15", Run(|| Box::pin(authority::p15()))),
    ("P16", Run(|| Box::pin(authority::p16()))),
    ("P17", Run(|| Box::pin(door::p17()))),
    ("P18", Run(|| Box::pin(door::p18()))),
    ("P19", Run(|| Box::pin(objects::p19()))),
    ("P20", Run(|| Box::pin(objects::p20()))),
    ("P21", Suite(&["tests/adversarial/matrix.rs"])),
    ("P23", Run(|| Box::pin(objects::p23()))),
    ("P25", Run(|| Box::pin(crowd::p25()))),
    ("P26", Suite(&["tests/cancel/main.rs"])),
    ("P28", Run(|| Box::pin(objects::p28()))),
    ("P29", Suite(&["crates/store/tests/sqlite/damage.rs"])),
    ("P30", Suite(&["crates/store/tests/sqlite/damage.rs"])),
    ("P31", Run(|| Box::pin(crowd::p31()))),
    ("P32", Suite(&["tests/crash/main.rs"])),
    ("P33", Suite(&["tests/cuts/faults.rs", "tests/order/main.rs"])),
    ("P35", Run(|| Box::pin(crowd::p35()))),
    ("P39", Run(|| Box::pin(door::p39()))),
    ("P40", Run(|| Box::pin(door::p40()))),
];
