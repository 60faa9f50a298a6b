//! Times, their percentiles, and tables of them.

use std::time::{Duration, Instant};

/// How long `work` takes, and what it gives.
pub(crate) fn timed<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<(Duration, T), E> {
    let begun = Instant::now();
    let value = work()?;
    Ok((begun.elapsed(), value))
}

/// Times of one thing that was done often.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    /// One more.
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// More of them.
    pub(crate) fn append(&mut self, mut more: Samples) {
        self.0.append(&mut more.0);
    }

    /// The time that `percent` of them do not exceed (nearest rank); zero without any.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }

    /// The median.
    pub(crate) fn p50(&self) -> Duration {
        self.percentile(50)
    }

    /// `median / 99th percentile`, as a table's cell.
    pub(crate) fn cell(&self) -> String {
        format!("{} / {}", show(self.p50()), show(self.percentile(99)))
    }
}

/// The value that `percent` of them do not exceed (nearest rank); 0 without any.
pub(crate) fn quantile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// A time with three digits that count: microseconds below one millisecond, seconds from one on.
pub(crate) fn show(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    match micros {
        m if m < 1e3 => format!("{m:.0} µs"),
        m if m < 1e4 => format!("{:.2} ms", m / 1e3),
        m if m < 1e6 => format!("{:.1} ms", m / 1e3),
        m => format!("{:.2} s", m / 1e6),
    }
}

/// One time over another.
pub(crate) fn ratio(of: Duration, to: Duration) -> String {
    if to.is_zero() { "–".to_owned() } else { format!("{:.2}", of.as_secs_f64() / to.as_secs_f64()) }
}

/// Prints a Markdown table.
pub(crate) fn table(title: &str, head: &[&str], rows: &[Vec<String>]) {
    let line = |cells: &[String]| println!("| {} |", cells.join(" | "));
    println!("\n### {title}\n");
    line(&head.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>());
    line(&vec!["---".to_owned(); head.len()]);
    rows.iter().for_each(|row| line(row));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(micros: impl Iterator<Item = u64>) -> Samples {
        Samples(micros.map(Duration::from_micros).collect())
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let hundred = samples((1..=100).rev());
        assert_eq!(hundred.p50(), Duration::from_micros(50));
        assert_eq!(hundred.percentile(99), Duration::from_micros(99));
        assert_eq!(samples(1..=3).p50(), Duration::from_micros(2));
        assert_eq!(samples(7..=7).percentile(99), Duration::from_micros(7));
        assert_eq!(Samples::default().p50(), Duration::ZERO);
        assert_eq!([10, 50, 90].map(|percent| quantile(&[3.0, 1.0, 2.0], percent)), [1.0, 2.0, 3.0]);
        assert_eq!(quantile(&[], 50), 0.0);
    }

    #[test]
    fn times_keep_three_digits() {
        let shown = [231, 1_234, 12_345, 1_234_567].map(|m| show(Duration::from_micros(m)));
        assert_eq!(shown, ["231 µs", "1.23 ms", "12.3 ms", "1.23 s"]);
        assert_eq!(ratio(Duration::from_millis(5), Duration::from_millis(4)), "1.25");
    }
}
