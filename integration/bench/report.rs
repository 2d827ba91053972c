//! The table of budgets with what was measured, for people and as JSON.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// One line of the table.
pub struct Row {
    pub what: String,
    /// The budget in the design's words.
    pub budget: String,
    pub measured: String,
    /// Whether the budget is kept; `None` for a figure without one.
    pub within: Option<bool>,
    /// The figures behind `measured`, for machines.
    pub values: Value,
}

/// What was measured so far.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds a line and shows it at once, since the whole takes minutes.
    pub fn add(&mut self, row: Row) {
        eprintln!("  {}: {}{}", row.what, row.measured, mark(&row));
        self.rows.push(row);
    }

    /// A figure with an upper bound, in `unit`.
    pub fn at_most(&mut self, what: &str, measured: f64, bound: f64, unit: &str) {
        self.add(Row {
            what: what.to_owned(),
            budget: format!("≤ {} {unit}", number(bound)),
            measured: format!("{} {unit}", number(measured)),
            within: Some(measured <= bound),
            values: json!({ "value": measured, "unit": unit }),
        });
    }

    /// A figure with a lower bound, in `unit`.
    pub fn at_least(&mut self, what: &str, measured: f64, bound: f64, unit: &str) {
        self.add(Row {
            what: what.to_owned(),
            budget: format!("≥ {} {unit}", number(bound)),
            measured: format!("{} {unit}", number(measured)),
            within: Some(measured >= bound),
            values: json!({ "value": measured, "unit": unit }),
        });
    }

    /// A figure that explains others and has no budget.
    pub fn note(&mut self, what: &str, measured: f64, unit: &str) {
        self.add(Row {
            what: what.to_owned(),
            budget: String::new(),
            measured: format!("{} {unit}", number(measured)),
            within: None,
            values: json!({ "value": measured, "unit": unit }),
        });
    }

    /// Durations against bounds of their median and, if given, their 99th percentile.
    pub fn times(&mut self, what: &str, times: &Times, p50_ms: f64, p99_ms: Option<f64>) {
        let (p50, p99) = (times.quantile_ms(0.5), times.quantile_ms(0.99));
        let bound = p99_ms.map_or(String::new(), |ms| format!(", p99 ≤ {} ms", number(ms)));
        self.add(Row {
            what: what.to_owned(),
            budget: format!("p50 ≤ {} ms{bound}", number(p50_ms)),
            measured: format!("p50 {} ms, p99 {} ms", number(p50), number(p99)),
            within: Some(p50 <= p50_ms && p99_ms.is_none_or(|bound| p99 <= bound)),
            values: json!({ "p50_ms": p50, "p99_ms": p99, "samples": times.count() }),
        });
    }

    /// Durations that explain others and have no budget.
    pub fn times_of(&mut self, what: &str, times: &Times) {
        let (p50, p99) = (times.quantile_ms(0.5), times.quantile_ms(0.99));
        self.add(Row {
            what: what.to_owned(),
            budget: String::new(),
            measured: format!("p50 {} ms, p99 {} ms", number(p50), number(p99)),
            within: None,
            values: json!({ "p50_ms": p50, "p99_ms": p99, "samples": times.count() }),
        });
    }

    /// A measurement that did not come to its end.
    pub fn failed(&mut self, what: &str, why: &str) {
        self.add(Row {
            what: what.to_owned(),
            budget: String::new(),
            measured: format!("failed: {}", why.lines().next().unwrap_or_default()),
            within: Some(false),
            values: json!({ "failed": why }),
        });
    }

    /// The table; missed budgets are marked.
    pub fn table(&self) -> String {
        let width = |column: fn(&Row) -> &str, title: &str| {
            self.rows
                .iter()
                .map(|row| column(row).chars().count())
                .max()
                .unwrap_or(0)
                .max(title.len())
        };
        let (what, budget, measured) = (
            width(|row| &row.what, "what"),
            width(|row| &row.budget, "budget"),
            width(|row| &row.measured, "measured"),
        );
        let mut table =
            format!("| {:what$} | {:budget$} | {:measured$} |\n", "what", "budget", "measured");
        table += &format!("| {:-<what$} | {:-<budget$} | {:-<measured$} |\n", "", "", "");
        for row in &self.rows {
            table += &format!(
                "| {:what$} | {:budget$} | {:measured$} |{}\n",
                row.what,
                row.budget,
                row.measured,
                mark(row)
            );
        }
        table
    }

    /// Writes the figures as JSON.
    pub fn write(&self, path: &Path) {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "what": row.what, "budget": row.budget, "measured": row.measured,
                    "within": row.within, "values": row.values,
                })
            })
            .collect();
        let text = serde_json::to_string_pretty(&rows).unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text + "\n").unwrap();
    }

    /// How many budgets were missed.
    pub fn missed(&self) -> usize {
        self.rows.iter().filter(|row| row.within == Some(false)).count()
    }
}

fn mark(row: &Row) -> &'static str {
    if row.within == Some(false) { " MISSED" } else { "" }
}

/// Three significant digits, thousands separated.
fn number(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 1000.0 {
        let digits = format!("{value:.0}");
        let (sign, digits) = digits.strip_prefix('-').map_or(("", &*digits), |rest| ("-", rest));
        let mut grouped = String::from(sign);
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        return grouped;
    }
    let decimals = match magnitude {
        m if m == 0.0 || m >= 100.0 || value.fract() == 0.0 => 0,
        m if m >= 10.0 => 1,
        m if m >= 0.1 => 2,
        _ => 4,
    };
    format!("{value:.decimals$}")
}

/// Samples of a duration.
#[derive(Default)]
pub struct Times {
    milliseconds: Vec<f64>,
}

impl Times {
    pub fn add(&mut self, duration: Duration) {
        self.add_ms(duration.as_secs_f64() * 1000.0);
    }

    /// Adds a difference, which may be negative.
    pub fn add_ms(&mut self, milliseconds: f64) {
        self.milliseconds.push(milliseconds);
    }

    pub fn count(&self) -> usize {
        self.milliseconds.len()
    }

    /// The nearest-rank quantile (`q` from 0 to 1).
    pub fn quantile_ms(&self, q: f64) -> f64 {
        let mut sorted = self.milliseconds.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (q * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
    }

    pub fn median_ms(&self) -> f64 {
        self.quantile_ms(0.5)
    }
}
