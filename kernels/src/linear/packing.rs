//! Which packed form the weights of a type take.

use super::float::FloatFormat;
use super::format::Format;
use crate::quant::GgmlType;

/// How a type is packed. One per [`Format`] and [`super::float::FloatFormat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Iq4Nl,
    Mxfp4,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Xs,
    Book,
    F32,
    F16,
    Bf16,
}

/// Runs an expression with the type `$t` bound to the format of a packing: the first for formats
/// of codes, the second for floats.
macro_rules! with_format {
    ($packing:expr, $t:ident => $codes:expr, $u:ident => $floats:expr) => {{
        use $crate::linear::packing::Packing;
        use $crate::linear::{float, format};
        macro_rules! bind {
            ($name:ty, $body:expr, $alias:ident) => {{
                type $alias = $name;
                $body
            }};
        }
        match $packing {
            Packing::Q4_0 => bind!(format::Q4_0, $codes, $t),
            Packing::Q4_1 => bind!(format::Q4_1, $codes, $t),
            Packing::Q5_0 => bind!(format::Q5_0, $codes, $t),
            Packing::Q5_1 => bind!(format::Q5_1, $codes, $t),
            Packing::Q8_0 => bind!(format::Q8_0, $codes, $t),
            Packing::Iq4Nl => bind!(format::Iq4Nl, $codes, $t),
            Packing::Mxfp4 => bind!(format::Mxfp4, $codes, $t),
            Packing::Q2K => bind!(format::Q2K, $codes, $t),
            Packing::Q3K => bind!(format::Q3K, $codes, $t),
            Packing::Q4K => bind!(format::Q4K, $codes, $t),
            Packing::Q5K => bind!(format::Q5K, $codes, $t),
            Packing::Q6K => bind!(format::Q6K, $codes, $t),
            Packing::Iq4Xs => bind!(format::Iq4Xs, $codes, $t),
            Packing::Book => bind!(format::Book, $codes, $t),
            Packing::F32 => bind!(float::F32, $floats, $u),
            Packing::F16 => bind!(float::F16, $floats, $u),
            Packing::Bf16 => bind!(float::Bf16, $floats, $u),
        }
    }};
}
pub(super) use with_format;

impl Packing {
    pub(super) fn of(ty: GgmlType) -> Option<Packing> {
        Some(match ty {
            GgmlType::Q4_0 => Packing::Q4_0,
            GgmlType::Q4_1 => Packing::Q4_1,
            GgmlType::Q5_0 => Packing::Q5_0,
            GgmlType::Q5_1 => Packing::Q5_1,
            GgmlType::Q8_0 | GgmlType::Q8_1 => Packing::Q8_0,
            GgmlType::IQ4NL => Packing::Iq4Nl,
            GgmlType::MXFP4 => Packing::Mxfp4,
            GgmlType::Q2K => Packing::Q2K,
            GgmlType::Q3K => Packing::Q3K,
            GgmlType::Q4K => Packing::Q4K,
            GgmlType::Q5K => Packing::Q5K,
            GgmlType::Q6K => Packing::Q6K,
            GgmlType::IQ4XS => Packing::Iq4Xs,
            GgmlType::IQ1S
            | GgmlType::IQ1M
            | GgmlType::IQ2XXS
            | GgmlType::IQ2XS
            | GgmlType::IQ2S
            | GgmlType::IQ3XXS
            | GgmlType::IQ3S
            | GgmlType::TQ1_0
            | GgmlType::TQ2_0 => Packing::Book,
            GgmlType::F32 | GgmlType::F64 => Packing::F32,
            GgmlType::F16 => Packing::F16,
            GgmlType::BF16 => Packing::Bf16,
            GgmlType::I8
            | GgmlType::I16
            | GgmlType::I32
            | GgmlType::I64
            | GgmlType::Q8K
            | GgmlType::NVFP4
            | GgmlType::Q1_0
            | GgmlType::Q2_0 => return None,
        })
    }

    /// Bytes of a step of 16 rows, and columns of a step.
    pub(super) fn step(self) -> (usize, usize) {
        with_format!(self, T => (T::BYTES, T::LAYOUT.columns()), U => (U::BYTES, 1))
    }

    pub(super) fn is_float(self) -> bool {
        matches!(self, Packing::F32 | Packing::F16 | Packing::Bf16)
    }
}
