//! Runs generic kernels with the lanes of the machine: the one place where they are compiled for each.

#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};
use super::{Portable, Simd};
use crate::detect;

/// Work that runs on any lane type.
pub(crate) trait Kernel {
    type Out;
    /// Implementations must be `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Out;
}

/// Which lane type runs a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Plain Rust; `fma` is fused. NEON machines run this one: the compiler vectorises it.
    Portable,
    /// Plain Rust for x86 processors without FMA.
    #[cfg(target_arch = "x86_64")]
    Unfused,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The level of [`detect::tier`].
    pub(crate) fn current() -> Level {
        match detect::tier() {
            #[cfg(target_arch = "x86_64")]
            detect::Tier::Avx512Vnni => Level::Avx512,
            #[cfg(target_arch = "x86_64")]
            detect::Tier::AvxVnni | detect::Tier::Avx2 => Level::Avx2,
            _ => Level::plain(),
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn plain() -> Level {
        if std::arch::is_x86_feature_detected!("fma") { Level::Portable } else { Level::Unfused }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn plain() -> Level {
        Level::Portable
    }

    /// Every level that this machine runs, for tests that compare them.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Level> {
        #[cfg(target_arch = "x86_64")]
        let more = [(Level::Avx2, has_avx2()), (Level::Avx512, has_avx512())];
        #[cfg(not(target_arch = "x86_64"))]
        let more: [(Level, bool); 0] = [];
        let more = more.into_iter().filter_map(|(level, is_there)| is_there.then_some(level));
        std::iter::once(Level::Portable).chain(more).collect()
    }
}

/// Runs `kernel` with the lanes of `level`. Falls back to plain Rust where the machine lacks them.
pub(crate) fn dispatch<K: Kernel>(level: Level, kernel: K) -> K::Out {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 if has_avx512() => {
            // SAFETY: the features that `run_avx512` enables are all present.
            unsafe { run_avx512(kernel) }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 if has_avx2() => {
            // SAFETY: the features that `run_avx2` enables are all present.
            unsafe { run_avx2(kernel) }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Unfused => kernel.run(Portable::<false>),
        _ => kernel.run(Portable::<true>),
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx2") && has!("fma") && has!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has_avx2() && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl")
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Out {
    // SAFETY: this function is only entered where these features are present.
    kernel.run(unsafe { Avx512::new() })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Out {
    // SAFETY: this function is only entered where these features are present.
    kernel.run(unsafe { Avx2::new() })
}
