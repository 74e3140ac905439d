//! What a figure is over several seeds, and how sure that is.

use std::fmt;

use serde::Serialize;

/// 97.5 % quantiles of Student's t distribution with 1, 2, … degrees of freedom; beyond the last one that of the normal distribution is
/// nearer than the figures are sure.
const T: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];
const NORMAL: f64 = 1.96;

/// A mean over seeds with its 95 % confidence interval (Student's t).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Half the width of the interval; none with a single seed.
    pub half_width: Option<f64>,
    /// By seed.
    pub values: Vec<f64>,
}

impl Estimate {
    /// Estimates from a value of each seed; 0 without any.
    pub fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        if values.is_empty() {
            return Self {
                mean: 0.0,
                half_width: None,
                values: Vec::new(),
            };
        }
        let mean = values.iter().sum::<f64>() / count;
        let half_width = (values.len() > 1).then(|| {
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            let t = T.get(values.len() - 2).copied().unwrap_or(NORMAL);
            t * (squares / (count - 1.0) / count).sqrt()
        });
        Self {
            mean,
            half_width,
            values: values.to_vec(),
        }
    }
}

impl fmt::Display for Estimate {
    /// The mean and half the width of the interval, with the precision that is asked for: `1.03 ±0.02`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(3);
        let text = match self.half_width {
            Some(half) => format!("{:.digits$} ±{half:.digits$}", self.mean),
            None => format!("{:.digits$}", self.mean),
        };
        match f.width() {
            Some(width) => write!(f, "{text:>width$}"),
            None => f.write_str(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_students() {
        assert_eq!(Estimate::of(&[]).mean, 0.0);
        assert_eq!(Estimate::of(&[2.0]).half_width, None);
        let five = Estimate::of(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert!((five.mean - 3.0).abs() < 1e-12);
        // A standard deviation of √2.5 over √5, times 2.776.
        assert!((five.half_width.unwrap() - 2.776 * 0.5_f64.sqrt()).abs() < 1e-9);
        assert_eq!(format!("{five:.1}"), "3.0 ±2.0");
        assert_eq!(Estimate::of(&[1.5; 40]).half_width, Some(0.0));
    }
}
