//! The size of the release binary.

use coracle_integration::node::binary;

use crate::report::Report;

const BUDGET_MB: f64 = 20.0;

pub fn measure(report: &mut Report) {
    let bytes = std::fs::metadata(binary()).unwrap().len();
    report.at_most("release binary", bytes as f64 / 1e6, BUDGET_MB, "MB");
}
