//! The tensor types of GGUF files.

/// A tensor type of the GGUF format. The numbers are those of ggml's `enum ggml_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GgmlType {
    F32,
    F16,
    BF16,
    F64,
    I8,
    I16,
    I32,
    I64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
    IQ2XXS,
    IQ2XS,
    IQ3XXS,
    IQ1S,
    IQ4NL,
    IQ3S,
    IQ2S,
    IQ4XS,
    IQ1M,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
    Q1_0,
    Q2_0,
}

/// Facts of one type.
struct Spec {
    ty: GgmlType,
    id: u32,
    name: &'static str,
    block_len: usize,
    block_bytes: usize,
}

const fn spec(
    ty: GgmlType,
    id: u32,
    name: &'static str,
    (block_len, block_bytes): (usize, usize),
) -> Spec {
    Spec { ty, id, name, block_len, block_bytes }
}

/// In the order of the enum, which [`GgmlType::spec`] relies on.
const SPECS: [Spec; 35] = [
    spec(GgmlType::F32, 0, "F32", (1, 4)),
    spec(GgmlType::F16, 1, "F16", (1, 2)),
    spec(GgmlType::BF16, 30, "BF16", (1, 2)),
    spec(GgmlType::F64, 28, "F64", (1, 8)),
    spec(GgmlType::I8, 24, "I8", (1, 1)),
    spec(GgmlType::I16, 25, "I16", (1, 2)),
    spec(GgmlType::I32, 26, "I32", (1, 4)),
    spec(GgmlType::I64, 27, "I64", (1, 8)),
    spec(GgmlType::Q4_0, 2, "Q4_0", (32, 18)),
    spec(GgmlType::Q4_1, 3, "Q4_1", (32, 20)),
    spec(GgmlType::Q5_0, 6, "Q5_0", (32, 22)),
    spec(GgmlType::Q5_1, 7, "Q5_1", (32, 24)),
    spec(GgmlType::Q8_0, 8, "Q8_0", (32, 34)),
    spec(GgmlType::Q8_1, 9, "Q8_1", (32, 36)),
    spec(GgmlType::Q2K, 10, "Q2_K", (256, 84)),
    spec(GgmlType::Q3K, 11, "Q3_K", (256, 110)),
    spec(GgmlType::Q4K, 12, "Q4_K", (256, 144)),
    spec(GgmlType::Q5K, 13, "Q5_K", (256, 176)),
    spec(GgmlType::Q6K, 14, "Q6_K", (256, 210)),
    spec(GgmlType::Q8K, 15, "Q8_K", (256, 292)),
    spec(GgmlType::IQ2XXS, 16, "IQ2_XXS", (256, 66)),
    spec(GgmlType::IQ2XS, 17, "IQ2_XS", (256, 74)),
    spec(GgmlType::IQ3XXS, 18, "IQ3_XXS", (256, 98)),
    spec(GgmlType::IQ1S, 19, "IQ1_S", (256, 50)),
    spec(GgmlType::IQ4NL, 20, "IQ4_NL", (32, 18)),
    spec(GgmlType::IQ3S, 21, "IQ3_S", (256, 110)),
    spec(GgmlType::IQ2S, 22, "IQ2_S", (256, 82)),
    spec(GgmlType::IQ4XS, 23, "IQ4_XS", (256, 136)),
    spec(GgmlType::IQ1M, 29, "IQ1_M", (256, 56)),
    spec(GgmlType::TQ1_0, 34, "TQ1_0", (256, 54)),
    spec(GgmlType::TQ2_0, 35, "TQ2_0", (256, 66)),
    spec(GgmlType::MXFP4, 39, "MXFP4", (32, 17)),
    spec(GgmlType::NVFP4, 40, "NVFP4", (64, 36)),
    spec(GgmlType::Q1_0, 41, "Q1_0", (128, 18)),
    spec(GgmlType::Q2_0, 42, "Q2_0", (64, 18)),
];

impl GgmlType {
    /// All types, in the order of the enum.
    pub fn all() -> impl Iterator<Item = GgmlType> {
        SPECS.iter().map(|spec| spec.ty)
    }

    /// The type with ggml's number `id`.
    pub fn from_id(id: u32) -> Option<GgmlType> {
        SPECS.iter().find(|spec| spec.id == id).map(|spec| spec.ty)
    }

    /// The type called `name`, in upper or lower case: "Q4_K".
    pub fn from_name(name: &str) -> Option<GgmlType> {
        SPECS.iter().find(|spec| spec.name.eq_ignore_ascii_case(name)).map(|spec| spec.ty)
    }

    /// ggml's number.
    pub fn id(self) -> u32 {
        self.spec().id
    }

    /// The name in upper case: "Q4_K".
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// Values per block.
    pub fn block_len(self) -> usize {
        self.spec().block_len
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        self.spec().block_bytes
    }

    /// Bytes of a row of `k` values; None if `k` is not a whole number of blocks or the bytes
    /// overflow.
    pub fn row_bytes(self, k: usize) -> Option<usize> {
        let Spec { block_len, block_bytes, .. } = *self.spec();
        if !k.is_multiple_of(block_len) {
            return None;
        }
        (k / block_len).checked_mul(block_bytes)
    }

    fn spec(self) -> &'static Spec {
        &SPECS[self as usize]
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (index, spec) in SPECS.iter().enumerate() {
            assert_eq!(spec.ty as usize, index, "{}", spec.name);
            assert_eq!(GgmlType::from_id(spec.id), Some(spec.ty));
            assert_eq!(GgmlType::from_name(spec.name), Some(spec.ty));
        }
        assert_eq!(GgmlType::from_id(4), None);
        assert_eq!(GgmlType::from_name("Q4_2"), None);
    }

    #[test]
    fn row_bytes_want_whole_blocks() {
        assert_eq!(GgmlType::Q4_0.row_bytes(64), Some(36));
        assert_eq!(GgmlType::Q4_0.row_bytes(33), None);
        assert_eq!(GgmlType::Q6K.row_bytes(512), Some(420));
        assert_eq!(GgmlType::F32.row_bytes(usize::MAX), None);
    }
}
