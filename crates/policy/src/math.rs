//! What `core` cannot do with floating-point numbers.

/// The square root of a positive number by Newton's method (`core` has none); 0 for others.
///
/// The start is the number with its exponent halved, at most 6 % off; four steps square that error four times.
pub(crate) fn square_root(x: f64) -> f64 {
    if x <= 0.0 || !x.is_finite() {
        return 0.0;
    }
    let mut root = f64::from_bits((x.to_bits() >> 1) + (1023 << 51));
    for _ in 0..4 {
        root = 0.5 * (root + x / root);
    }
    root
}
