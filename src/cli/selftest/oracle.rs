//! What a kernel gave beside what the formula gives.

/// Numbers of a kernel, judged.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Largest `|got - wanted| / size`; infinite if a value is missing or is no number.
    pub(super) error: f64,
    /// All values, for comparison between tiers.
    pub(super) bits: Vec<u32>,
}

impl Findings {
    /// Compares values with pairs of what is wanted and its size: the sum of the magnitudes that were
    /// added up on the way, in which rounding errors are measured.
    pub(super) fn compare(got: &[f32], wanted: &[(f64, f64)]) -> Self {
        let share = |(got, (wanted, size)): (&f32, &(f64, f64))| {
            let error = (f64::from(*got) - wanted).abs() / size.max(f64::MIN_POSITIVE);
            if error.is_nan() { f64::INFINITY } else { error }
        };
        let error = got.iter().zip(wanted).map(share).fold(0.0, f64::max);
        let error = if got.len() == wanted.len() { error } else { f64::INFINITY };
        Self { error, bits: got.iter().map(|value| value.to_bits()).collect() }
    }

    /// Adds the findings of another case.
    pub(super) fn join(mut self, other: Self) -> Self {
        self.error = self.error.max(other.error);
        self.bits.extend(other.bits);
        self
    }
}

/// Always the same arbitrary numbers.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: usize) -> Self {
        Self(seed as u64 + 1)
    }

    pub(super) fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 32) as u32
    }

    /// In -2 to 2, in steps that half floats hold exactly.
    pub(super) fn value(&mut self) -> f32 {
        (self.next() % 2049) as f32 / 512.0 - 2.0
    }

    pub(super) fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }
}
