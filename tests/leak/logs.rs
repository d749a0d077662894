//! Every line the gateway would log at the most talkative level, and every panic, read by the oracle.

use std::io;
use std::sync::Arc;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use watertight_testkit::canary::tag::Audience;

use crate::oracle::{Oracle, Place};

/// From now on, for the whole process.
pub(crate) fn watch(oracle: &Arc<Oracle>) {
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Lines(oracle.clone()));
    let subscriber = tracing_subscriber::registry().with(filter_fn(may_be_logged)).with(lines);
    tracing::subscriber::set_global_default(subscriber).expect("nobody else listens to the log");
    let (oracle, usual) = (oracle.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.to_string();
        oracle.check(Place::Panic, Audience::Nobody, text.as_bytes());
        oracle.wrong("a panic", &text);
        usual(panic);
    }));
}

/// As the program has it: libraries are not heard below `info`, whatever the operator asks for.
fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("watertight") || *metadata.level() <= Level::INFO
}

#[derive(Clone)]
struct Lines(Arc<Oracle>);

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.figures.log_lines.one();
        self.0.check(Place::Log, Audience::Nobody, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
