//! Which instruction tier the kernels use on this machine.

use std::cell::Cell;
use std::sync::OnceLock;

/// Sets of instructions the kernels are written for. Every tier gives the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    /// Plain Rust.
    Scalar,
    /// AArch64 with the dot product instructions.
    Neon,
    /// The same with products of 8-bit matrices (`smmla`).
    NeonI8mm,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// The same with AVX-VNNI (256-bit `vpdpbusd`).
    AvxVnni,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    Avx512Vnni,
}

/// Environment variable that forces a lower tier, by name as in [`Tier::name`].
pub const TIER_VARIABLE: &str = "KOLOSAL_CPU_TIER";

impl Tier {
    pub const ALL: [Tier; 6] =
        [Tier::Scalar, Tier::Neon, Tier::NeonI8mm, Tier::Avx2, Tier::AvxVnni, Tier::Avx512Vnni];

    /// Lower-case name, as logged and as read from the environment.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Scalar => "scalar",
            Tier::Neon => "neon",
            Tier::NeonI8mm => "i8mm",
            Tier::Avx2 => "avx2",
            Tier::AvxVnni => "avxvnni",
            Tier::Avx512Vnni => "avx512vnni",
        }
    }

    pub fn from_name(name: &str) -> Option<Tier> {
        Tier::ALL.into_iter().find(|tier| tier.name().eq_ignore_ascii_case(name))
    }

    /// True if this machine can run it.
    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        let avx2 = || {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
        };
        match self {
            Tier::Scalar => true,
            Tier::Neon | Tier::NeonI8mm => false,
            Tier::Avx2 => avx2(),
            Tier::AvxVnni => avx2() && is_x86_feature_detected!("avxvnni"),
            Tier::Avx512Vnni => {
                avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
        }
    }

    /// True if this machine can run it.
    #[cfg(target_arch = "aarch64")]
    pub fn is_available(self) -> bool {
        match self {
            Tier::Scalar => true,
            Tier::Neon => std::arch::is_aarch64_feature_detected!("dotprod"),
            Tier::NeonI8mm => {
                Tier::Neon.is_available() && std::arch::is_aarch64_feature_detected!("i8mm")
            }
            Tier::Avx2 | Tier::AvxVnni | Tier::Avx512Vnni => false,
        }
    }

    /// True if this machine can run it.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub fn is_available(self) -> bool {
        self == Tier::Scalar
    }
}

thread_local! {
    static FORCED: Cell<Option<Tier>> = const { Cell::new(None) };
}

/// The tier to use: the best this machine has, unless [`TIER_VARIABLE`] names another one that
/// it has. Ask on the thread that starts a parallel region and hand the answer to the workers.
#[inline]
pub fn tier() -> Tier {
    static TIER: OnceLock<Tier> = OnceLock::new();
    FORCED.get().unwrap_or_else(|| {
        *TIER.get_or_init(|| {
            let asked = std::env::var(TIER_VARIABLE).ok().and_then(|name| Tier::from_name(&name));
            asked.filter(|tier| tier.is_available()).unwrap_or_else(best)
        })
    })
}

/// All tiers this machine can run, slowest first.
pub fn available() -> Vec<Tier> {
    Tier::ALL.into_iter().filter(|tier| tier.is_available()).collect()
}

/// Runs `f` with [`tier`] forced on this thread: for tests and benchmarks.
/// Panics if the machine lacks the tier.
pub fn with_tier<R>(tier: Tier, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Tier>);
    impl Drop for Restore {
        fn drop(&mut self) {
            FORCED.set(self.0);
        }
    }
    assert!(tier.is_available(), "this machine has no {}", tier.name());
    let _restore = Restore(FORCED.replace(Some(tier)));
    f()
}

fn best() -> Tier {
    Tier::ALL.into_iter().rev().find(|tier| tier.is_available()).unwrap_or(Tier::Scalar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for tier in Tier::ALL {
            assert_eq!(Tier::from_name(tier.name()), Some(tier));
        }
        assert_eq!(Tier::from_name("mmx"), None);
    }

    #[test]
    fn forcing_is_scoped_to_the_closure() {
        let before = tier();
        assert_eq!(with_tier(Tier::Scalar, tier), Tier::Scalar);
        assert_eq!(tier(), before);
        assert!(available().contains(&before));
    }
}
