//! What was measured, its JSON, and the tables that are printed.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::mock::Seen;
use crate::process::Each;
use crate::user::Surface;

/// Recorded microseconds, from 1 µs to a minute.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).unwrap_or_else(|_| unreachable!("the bounds are valid"))
}

/// The middle and the tail, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
}

impl Quantiles {
    /// None of nothing.
    pub(crate) fn of(micros: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| micros.value_at_quantile(quantile) as f64 / 1000.0;
        (!micros.is_empty()).then(|| Self { p50: at(0.5), p90: at(0.9), p99: at(0.99) })
    }
}

/// Everything that was measured.
#[derive(Default, Serialize)]
pub(crate) struct Report {
    /// Cores the three programs share.
    pub(crate) cores: usize,
    /// Files a process may have open.
    pub(crate) open_files: u64,
    pub(crate) settings: serde_json::Value,
    /// One synced commit, over all samples of the run.
    pub(crate) commit_ms: Option<Quantiles>,
    /// The same for each sample, in the order they were taken.
    pub(crate) commit_samples_ms: Vec<Quantiles>,
    pub(crate) loads: Vec<Load>,
    pub(crate) added: Vec<Added>,
    /// What else was measured.
    pub(crate) others: Vec<Other>,
    /// What the model was asked.
    pub(crate) model: Option<Seen>,
    pub(crate) targets: Vec<Target>,
    pub(crate) errors: u64,
    pub(crate) leaks: u64,
    /// Some of the errors and leaks, in words.
    pub(crate) examples: Vec<String>,
}

/// One surface under one load.
#[derive(Serialize)]
pub(crate) struct Load {
    pub(crate) surface: Surface,
    pub(crate) shape: Shape,
    pub(crate) sessions: usize,
    pub(crate) turns: u64,
    pub(crate) turns_per_second: f64,
    pub(crate) acknowledged_ms: Option<Quantiles>,
    pub(crate) first_token_ms: Option<Quantiles>,
    pub(crate) final_ms: Option<Quantiles>,
    pub(crate) cpu_ms_per_turn: Each,
    /// Turns a second if all cores did nothing but these turns.
    pub(crate) allowed_per_second: f64,
    pub(crate) gateway_resident_mib: (f64, f64),
    pub(crate) errors: u64,
    pub(crate) leaks: u64,
}

/// How turns follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Shape {
    /// The next turn when the last is answered.
    FullSpeed,
    /// So many a second in all, whatever the answers take.
    Paced(f64),
    /// One session, the next turn when the last is answered.
    Alone,
}

impl Shape {
    fn words(self) -> String {
        match self {
            Self::FullSpeed => "full speed".to_owned(),
            Self::Paced(rate) => format!("paced {rate:.0}/s"),
            Self::Alone => "alone".to_owned(),
        }
    }
}

/// What the gateway adds to the first token, in milliseconds.
#[derive(Serialize)]
pub(crate) struct Added {
    pub(crate) shape: Shape,
    pub(crate) p50: f64,
    pub(crate) p50_bound: f64,
    pub(crate) p99: f64,
    pub(crate) p99_bound: f64,
}

/// A figure that is no load.
#[derive(Serialize)]
pub(crate) struct Other {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
}

/// A figure and what it should be.
#[derive(Serialize)]
pub(crate) struct Target {
    pub(crate) figure: String,
    pub(crate) value: f64,
    pub(crate) bound: f64,
    pub(crate) at_least: bool,
    pub(crate) unit: &'static str,
    pub(crate) met: bool,
    /// OpenClaw 2026.9.6 on two cores.
    pub(crate) openclaw: &'static str,
}

impl Report {
    pub(crate) fn note(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.others.push(Other { name: name.into(), value, unit });
    }

    /// `value` should be at most `bound`.
    pub(crate) fn at_most(
        &mut self,
        figure: impl Into<String>,
        value: f64,
        bound: f64,
        unit: &'static str,
        openclaw: &'static str,
    ) {
        let (figure, met) = (figure.into(), value <= bound);
        self.targets.push(Target { figure, value, bound, at_least: false, unit, met, openclaw });
    }

    /// `value` should be at least `bound`.
    pub(crate) fn at_least(&mut self, figure: impl Into<String>, value: f64, bound: f64, unit: &'static str) {
        let (figure, met) = (figure.into(), value >= bound);
        self.targets.push(Target { figure, value, bound, at_least: true, unit, met, openclaw: "" });
    }

    pub(crate) fn load(&self, surface: Surface, shape: impl Fn(Shape) -> bool) -> Option<&Load> {
        self.loads.iter().find(|load| load.surface == surface && shape(load.shape))
    }

    pub(crate) fn fault(&mut self, problem: String) {
        self.errors += 1;
        self.examples.push(problem);
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if !self.loads.is_empty() {
            text += &self.load_table();
        }
        if let Some(all) = self.commit_ms {
            let mut rows = vec![["one synced commit", "p50 ms", "p90 ms", "p99 ms"].map(str::to_owned).to_vec()];
            let samples = self.commit_samples_ms.iter().enumerate().map(|(at, q)| (format!("sample {}", at + 1), *q));
            for (name, q) in samples.chain([("all samples".to_owned(), all)]) {
                rows.push(vec![name, millis(q.p50), millis(q.p90), millis(q.p99)]);
            }
            text += &table(&rows);
        }
        if !self.others.is_empty() {
            let mut rows = vec![vec!["also measured".to_owned(), String::new(), String::new()]];
            rows.extend(self.others.iter().map(|o| vec![o.name.clone(), number(o.value), o.unit.to_owned()]));
            text += &table(&rows);
        }
        if !self.targets.is_empty() {
            let heads = ["figure", "value", "target", "unit", "", "OpenClaw 2026.9.6"];
            let mut rows = vec![heads.map(str::to_owned).to_vec()];
            rows.extend(self.targets.iter().map(|t| {
                let bound = format!("{} {}", if t.at_least { ">=" } else { "<=" }, number(t.bound));
                let met = if t.met { "met" } else { "NOT MET" };
                vec![t.figure.clone(), number(t.value), bound, t.unit.into(), met.into(), t.openclaw.into()]
            }));
            text += &table(&rows);
        }
        let _ = writeln!(text, "{} errors, {} leaks", self.errors, self.leaks);
        for example in &self.examples {
            let _ = writeln!(text, "  {example}");
        }
        text
    }

    fn load_table(&self) -> String {
        let heads = [
            "ms",
            "sessions",
            "turns/s",
            "ack p50",
            "p90",
            "p99",
            "first p50",
            "p90",
            "p99",
            "final p50",
            "p90",
            "p99",
            "CPU gateway",
            "model",
            "load",
            "allows/s",
            "reached",
            "RSS MiB",
            "err",
            "leak",
        ];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        for load in &self.loads {
            let mut row = vec![
                format!("{}, {}", load.surface.name(), load.shape.words()),
                load.sessions.to_string(),
                format!("{:.0}", load.turns_per_second),
            ];
            for quantiles in [load.acknowledged_ms, load.first_token_ms, load.final_ms] {
                match quantiles {
                    Some(q) => row.extend([q.p50, q.p90, q.p99].map(millis)),
                    None => row.extend(["-", "-", "-"].map(str::to_owned)),
                }
            }
            let Each { gateway, model, generator } = load.cpu_ms_per_turn;
            row.extend([gateway, model, generator].map(|cpu| format!("{cpu:.3}")));
            row.push(format!("{:.0}", load.allowed_per_second));
            row.push(format!("{:.0} %", load.turns_per_second / load.allowed_per_second * 100.0));
            let (before, after) = load.gateway_resident_mib;
            row.push(format!("{before:.0}-{after:.0}"));
            row.extend([load.errors.to_string(), load.leaks.to_string()]);
            rows.push(row);
        }
        table(&rows)
    }
}

fn millis(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}

fn number(value: f64) -> String {
    if value.abs() < 10.0 {
        format!("{value:.3}")
    } else if value.abs() < 1000.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// Columns as wide as they must be; the first is aligned left. An empty line follows.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let width = widths[at];
            let _ = if at == 0 { write!(line, "{cell:width$}") } else { write!(line, "  {cell:>width$}") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_met_at_its_bound() {
        let mut report = Report::default();
        report.at_most("a", 1.0, 1.0, "ms", "");
        report.at_most("b", 1.1, 1.0, "ms", "");
        report.at_least("c", 1.0, 1.0, "%");
        report.at_least("d", 0.9, 1.0, "%");
        assert_eq!(report.targets.iter().map(|target| target.met).collect::<Vec<_>>(), [true, false, true, false]);
    }

    #[test]
    fn columns_line_up() {
        let rows = [["a", "12"], ["long", "3"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "a     12\nlong   3\n\n");
    }
}
