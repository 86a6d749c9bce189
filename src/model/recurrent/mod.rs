//! Layers that carry a state from token to token: weights, and the way of a batch through them.

mod conv;
mod delta;
mod ssm;

pub(super) use conv::ShortConv;
pub(super) use delta::Delta;
pub(super) use ssm::Ssm;

/// `ln(1 + e^x)`.
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `1 / (1 + e^-x)`.
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::softplus;

    #[test]
    fn softplus_neither_overflows_nor_vanishes() {
        assert!((softplus(0.0) - std::f32::consts::LN_2).abs() < 1e-7);
        assert_eq!((softplus(100.0), softplus(-200.0)), (100.0, 0.0));
        assert!((softplus(-10.0) - 4.539_89e-5).abs() < 1e-9);
    }
}
