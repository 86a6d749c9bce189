//! The lanes of every tier against plain loops.

use super::*;

struct Everything<'a> {
    a: &'a [f32; LANES],
    b: &'a [f32; LANES],
    c: &'a [f32; LANES],
}

impl Kernel for Everything<'_> {
    type Out = Vec<u32>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<u32> {
        let (a, b, c) = (s.load(self.a), s.load(self.b), s.load(self.c));
        let mut half = [0; LANES];
        s.store_f16(a, &mut half);
        let results = [
            s.add(a, b),
            s.sub(a, b),
            s.mul(a, b),
            s.div(a, b),
            s.fma(a, b, c),
            s.fnma(a, b, c),
            s.max(a, b),
            s.min(a, b),
            s.round(a),
            s.abs(a),
            s.copy_sign(a, b),
            s.scale_by_pow2(s.splat(1.5), s.round(b)),
            s.select(s.less(a, b), a, b),
            s.select(s.lanes(3, 11), a, b),
            s.select(s.lanes(0, 99), a, b),
            s.select(s.lanes(9, 4), a, b),
            s.load_f16(&half),
            s.load_part(&self.a[..5]),
        ];
        let mut out = Vec::new();
        for result in results {
            let mut lanes = [0.0; LANES];
            s.store(result, &mut lanes);
            out.extend(lanes.map(f32::to_bits));
        }
        out.extend([s.reduce_add(a).to_bits(), s.reduce_max(a).to_bits()]);
        out.push(u32::from(s.bits(s.less(a, b))));
        let mut part = [7.0; 3];
        s.store_part(a, &mut part);
        out.extend(part.map(f32::to_bits));
        out
    }
}

#[test]
fn every_tier_computes_the_same_bits() {
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 65536.0 - 128.0
    };
    for round in 0..200 {
        let mut lanes = || std::array::from_fn(|_| random());
        let (mut a, b, c): ([f32; LANES], [f32; LANES], [f32; LANES]) = (lanes(), lanes(), lanes());
        // Halves that are subnormal, tiny, too large, and exactly between two neighbours.
        if round % 2 == 0 {
            a[..6].copy_from_slice(&[1e-6, -3e-8, 65520.0, 65519.0, 2049.0, 2051.0]);
        }
        let expected = dispatch(Level::Portable, Everything { a: &a, b: &b, c: &c });
        for level in Level::all() {
            let got = dispatch(level, Everything { a: &a, b: &b, c: &c });
            assert_eq!(got, expected, "{level:?}");
        }
    }
}

struct Halves<'a>(&'a [u16; LANES]);

impl Kernel for Halves<'_> {
    type Out = ([f32; LANES], [u16; LANES]);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Out {
        let (mut wide, mut back) = ([0.0; LANES], [0; LANES]);
        s.store(s.load_f16(self.0), &mut wide);
        s.store_f16(s.load(&wide), &mut back);
        (wide, back)
    }
}

#[test]
fn every_half_is_widened_exactly_and_comes_back() {
    for first in (0..=u16::MAX).step_by(LANES) {
        let halves: [u16; LANES] = std::array::from_fn(|i| first + i as u16);
        for level in Level::all() {
            let (wide, back) = dispatch(level, Halves(&halves));
            for i in 0..LANES {
                let half = half::f16::from_bits(halves[i]);
                if half.is_nan() {
                    let back = half::f16::from_bits(back[i]);
                    assert!(wide[i].is_nan() && back.is_nan(), "{level:?} {:x}", halves[i]);
                } else {
                    assert_eq!(wide[i].to_bits(), half.to_f32_const().to_bits(), "{level:?}");
                    assert_eq!(back[i], halves[i], "{level:?}");
                }
            }
        }
    }
}

/// What makes a function of its own out of code that holds intrinsics: README.md tells why it must not.
fn strays(text: &str, is_only_intrinsics: bool) -> Vec<&str> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    let is_stray = |line: &&str| {
        let line = line.trim_start();
        let makes_arrays = ["from_fn(", "array::map"].iter().any(|call| line.contains(call));
        let holds = ["| s.", "| d.", "| op!", "| math::"].iter().any(|body| line.contains(body));
        let closes = [".map(", "(|", "= |", "move |", ", |"].iter().any(|form| line.contains(form));
        !line.starts_with("//") && (makes_arrays || holds || (is_only_intrinsics && closes))
    };
    code.lines().filter(is_stray).collect()
}

#[test]
fn no_closure_holds_intrinsics() {
    let intrinsics = [
        ("simd/x86.rs", include_str!("x86.rs")),
        ("simd/neon.rs", include_str!("neon.rs")),
        ("linear/dot_x86.rs", include_str!("../linear/dot_x86.rs")),
        ("linear/dot_neon.rs", include_str!("../linear/dot_neon.rs")),
    ];
    let generic = [
        ("simd/mod.rs", include_str!("mod.rs")),
        ("linear/dot.rs", include_str!("../linear/dot.rs")),
        ("linear/format.rs", include_str!("../linear/format.rs")),
        ("linear/kernel.rs", include_str!("../linear/kernel.rs")),
        ("linear/float.rs", include_str!("../linear/float.rs")),
        ("linear/quantise.rs", include_str!("../linear/quantise.rs")),
        ("attention/tile.rs", include_str!("../attention/tile.rs")),
        ("activation.rs", include_str!("../activation.rs")),
        ("elementwise.rs", include_str!("../elementwise.rs")),
        ("math.rs", include_str!("../math.rs")),
        ("norm.rs", include_str!("../norm.rs")),
        ("rope.rs", include_str!("../rope.rs")),
    ];
    for (files, is_only_intrinsics) in [(&intrinsics[..], true), (&generic[..], false)] {
        for (file, text) in files {
            assert_eq!(strays(text, is_only_intrinsics), Vec::<&str>::new(), "{file}");
        }
    }
    assert_eq!(strays("a.map(|a| op!(shift(a)))", true).len(), 1);
    assert_eq!(strays("    y.map_or_else(|| s.zero(), |y| s.load(y))", false).len(), 1);
}
