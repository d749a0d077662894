//! Names, values and units.

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

/// What was measured, in the order it was.
#[derive(Default)]
pub(crate) struct Report(Vec<Figure>);

struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
}

impl Report {
    pub(crate) fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.0.push(Figure { name: name.into(), value, unit });
    }

    /// The middle and the tail of recorded microseconds, in milliseconds.
    pub(crate) fn add_latency(&mut self, name: &str, micros: &Histogram<u64>) {
        for (label, quantile) in [("p50", 0.5), ("p99", 0.99)] {
            self.add(format!("{name} {label}"), micros.value_at_quantile(quantile) as f64 / 1000.0, "ms");
        }
    }

    pub(crate) fn json(&self) -> Value {
        let figures = self.0.iter().map(|f| (f.name.clone(), json!({"value": f.value, "unit": f.unit})));
        Value::Object(figures.collect::<Map<_, _>>())
    }

    pub(crate) fn table(&self) -> String {
        let width = self.0.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
        let line = |f: &Figure| format!("{:width$}  {:>12.3} {}\n", f.name, f.value, f.unit);
        self.0.iter().map(line).collect()
    }
}

/// Recorded microseconds, from 1 µs to a minute.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).unwrap_or_else(|_| unreachable!("the bounds are valid"))
}
