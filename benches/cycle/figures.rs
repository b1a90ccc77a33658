//! Times of pairs, and what is said of them.

use std::fmt;
use std::time::Duration;

/// The pairs of one case.
#[derive(Default)]
pub(crate) struct Figures {
    ours: Vec<f64>,
    bare: Vec<f64>,
    ratios: Vec<f64>,
    requests: u64,
}

impl Figures {
    pub(crate) fn add(&mut self, ours: Duration, bare: Duration, requests: u64) {
        self.ours.push(ours.as_secs_f64());
        self.bare.push(bare.as_secs_f64());
        self.ratios.push(ours.as_secs_f64() / bare.as_secs_f64());
        self.requests = requests;
    }

    /// The median of the pairs' ratios.
    pub(crate) fn ratio(&self) -> f64 {
        spread(&self.ratios).1
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, times) in [("ours", &self.ours), ("bare", &self.bare)] {
            let (least, median, most) = spread(times);
            writeln!(
                f,
                "  {name}   {median:.3} s  ({least:.3} to {most:.3}), {} requests",
                self.requests
            )?;
        }
        let (least, median, most) = spread(&self.ratios);
        write!(f, "  ratio  {median:.2}  ({least:.2} to {most:.2})")
    }
}

/// The least, the median and the most.
fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median = if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    };
    (sorted[0], median, sorted[sorted.len() - 1])
}
