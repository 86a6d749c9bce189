//! Runs generic work with the instructions of a tier.
#![allow(clippy::inline_always)]

use super::dot::Dot;
#[cfg(target_arch = "aarch64")]
use super::dot_neon::Neon;
#[cfg(target_arch = "x86_64")]
use super::dot_x86::{Pairs, Vnni512};
use crate::detect::Tier;
use crate::simd::Portable;

/// Work that runs on any implementation of [`Dot`].
pub(super) trait Work {
    type Out;
    /// Implementations must be `#[inline(always)]`.
    fn run<D: Dot>(self, d: D) -> Self::Out;
}

/// Runs `work` with the instructions of `tier`, which must be one that the machine has.
#[inline]
pub(super) fn dispatch<W: Work>(tier: Tier, work: W) -> W::Out {
    debug_assert!(tier.is_available());
    match tier {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `detect` hands out only tiers that the machine has.
        Tier::Avx512Vnni => unsafe { run_avx512_vnni(work) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Tier::AvxVnni => unsafe { run_avx_vnni(work) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Tier::Avx2 => unsafe { run_avx2(work) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Tier::Neon => work.run(unsafe { Neon::<false>::new() }),
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Tier::NeonI8mm => work.run(unsafe { Neon::<true>::new() }),
        _ => work.run(Portable::<true>),
    }
}

/// The columns of activations that a kernel of `tier` takes at once.
pub(super) fn columns(tier: Tier) -> usize {
    dispatch(tier, Shape).0
}

/// Whether kernels of `tier` multiply full tiles of columns by two panels at once.
pub(super) fn takes_two_panels(tier: Tier) -> bool {
    dispatch(tier, Shape).1
}

struct Shape;

impl Work for Shape {
    type Out = (usize, bool);
    #[inline(always)]
    fn run<D: Dot>(self, _: D) -> (usize, bool) {
        (D::COLUMNS, D::TAKES_TWO_PANELS)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn run_avx512_vnni<W: Work>(work: W) -> W::Out {
    // SAFETY: this function is only entered where these features are present.
    work.run(unsafe { Vnni512::new() })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn run_avx_vnni<W: Work>(work: W) -> W::Out {
    // SAFETY: this function is only entered where these features are present.
    work.run(unsafe { Pairs::<true>::new() })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<W: Work>(work: W) -> W::Out {
    // SAFETY: this function is only entered where these features are present.
    work.run(unsafe { Pairs::<false>::new() })
}
