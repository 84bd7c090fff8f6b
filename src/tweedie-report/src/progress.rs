//! How far a report is, on stderr where that is a terminal.

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// A bar for the experiment at work, and the time that is left for all of them.
pub struct Progress {
    bar: ProgressBar,
    begun: Instant,
    /// Seconds that each experiment is said to take.
    expected: Vec<f64>,
}

impl Progress {
    /// For experiments that are expected to take so many seconds each.
    pub fn new(expected: impl Iterator<Item = f64>) -> Self {
        let bar = ProgressBar::new(0);
        let style = "{spinner} {prefix} {msg} [{bar:24}] {elapsed} so far";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or(ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar, begun: Instant::now(), expected: expected.collect() }
    }

    /// The k-th experiment has done some of its steps.
    pub fn tell(&self, k: usize, name: &str, step: usize, of: usize, what: &str) {
        let left = time_left(
            &self.expected,
            k,
            step as f64 / of.max(1) as f64,
            self.begun.elapsed().as_secs_f64(),
        );
        let left = HumanDuration(Duration::from_secs_f64(left.round()));
        self.bar.set_prefix(format!("{}/{} {name}", k + 1, self.expected.len()));
        self.bar.set_length(of as u64);
        self.bar.set_position(step as u64);
        self.bar.set_message(format!("{what} {step}/{of}, about {left} left"));
    }

    /// What is done besides experiments.
    pub fn say(&self, what: &'static str) {
        self.bar.set_prefix("");
        self.bar.set_message(what);
    }

    /// Nothing is left to do.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Seconds left when `share` of the k-th experiment is done: those expected, times how much slower
/// this machine has been than expected.
fn time_left(expected: &[f64], k: usize, share: f64, elapsed: f64) -> f64 {
    // So many seconds as expected stand behind the first guess.
    const PRIOR: f64 = 10.0;
    let done = expected[..k].iter().sum::<f64>() + share.clamp(0.0, 1.0) * expected[k];
    (expected.iter().sum::<f64>() - done) * (PRIOR + elapsed) / (PRIOR + done)
}

#[cfg(test)]
mod tests {
    use super::time_left;

    #[test]
    fn the_time_left_is_reckoned_by_this_machines_speed() {
        let expected = [10.0, 30.0, 20.0];
        assert_eq!(time_left(&expected, 0, 0.0, 0.0), 60.0);
        // As fast as expected; three times slower; done.
        assert_eq!(time_left(&expected, 1, 0.5, 25.0), 35.0);
        assert!((time_left(&expected, 1, 0.5, 75.0) - 35.0 * 85.0 / 35.0).abs() < 1e-12);
        assert_eq!(time_left(&expected, 2, 1.0, 50.0), 0.0);
    }
}
