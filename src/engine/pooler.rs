//! From the hidden states of a text's tokens to one vector.

use crate::model::Pooling;

/// Takes the rows of one sequence in order of position, in whatever chunks.
#[derive(Debug)]
pub(super) struct Pooler {
    pooling: Pooling,
    /// (hidden). Added up in the order of positions, so that chunks do not change a bit.
    sum: Vec<f64>,
    num_rows: usize,
}

impl Pooler {
    pub(super) fn new(pooling: Pooling, hidden: usize) -> Self {
        Self { pooling, sum: vec![0.0; hidden], num_rows: 0 }
    }

    /// Whether the rows of all tokens are needed, and not of the last alone.
    pub(super) fn wants_all_rows(&self) -> bool {
        self.pooling != Pooling::Last
    }

    /// The next row, (hidden).
    pub(super) fn add(&mut self, row: &[f32]) {
        self.num_rows += 1;
        match self.pooling {
            Pooling::Mean => {
                self.sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
            }
            Pooling::First if self.num_rows > 1 => {}
            Pooling::First | Pooling::Last => {
                self.sum.iter_mut().zip(row).for_each(|(sum, value)| *sum = f64::from(*value));
            }
        }
    }

    /// The vector of the rows so far, (hidden).
    pub(super) fn embedding(&self) -> Vec<f32> {
        let count = match self.pooling {
            Pooling::Mean => self.num_rows.max(1) as f64,
            Pooling::First | Pooling::Last => 1.0,
        };
        self.sum.iter().map(|sum| (sum / count) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_one() {
        let rows = [[1.0, 2.0], [3.0, -2.0], [5.0, 6.0]];
        let cases = [
            (Pooling::Mean, [3.0, 2.0]),
            (Pooling::First, [1.0, 2.0]),
            (Pooling::Last, [5.0, 6.0]),
        ];
        for (pooling, wanted) in cases {
            let mut pooler = Pooler::new(pooling, 2);
            rows.iter().for_each(|row| pooler.add(row));
            assert_eq!(pooler.embedding(), wanted, "{pooling:?}");
        }
    }
}
