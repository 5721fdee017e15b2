//! What came of it.

use serde::Serialize;

/// One number.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
}

/// One stage.
#[derive(Clone, Debug, Serialize)]
pub struct StageReport {
    /// Which.
    pub stage: String,
    /// How long it took, in seconds.
    pub wall_s: f64,
    /// CPU time of the server, in seconds.
    pub server_cpu_s: f64,
    /// CPU time of the simulated clients, in seconds.
    pub swarm_cpu_s: f64,
    /// The share of the machine that the simulated clients used, 0 to 1.
    pub swarm_share: f64,
    /// What else was measured.
    pub figures: Vec<Figure>,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Nodes in all.
    pub clients: usize,
    /// Who sees whom.
    pub policy: &'static str,
    /// Processors that server and clients shared.
    pub processors: usize,
    /// The stages, in order.
    pub stages: Vec<StageReport>,
}

impl StageReport {
    pub(crate) fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure { name: name.into(), value, unit });
    }
}

/// The value below which this share of them lies; they must be sorted.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place in a list"
    )]
    let at = (last as f64 * share).ceil() as usize;
    sorted.get(at.min(last)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_there() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), 51.0);
        assert_eq!(percentile(&values, 0.99), 100.0);
        assert_eq!(percentile(&values, 1.0), 100.0);
        assert!(percentile(&[], 0.5).is_nan());
    }
}
