//! What may be registered.

use super::*;

#[test]
fn parameters_have_ranges() {
    let good = LoadParams::default();
    assert!(good.validate().is_ok());
    type Edit = fn(&mut LoadParams);
    let cases: &[(&str, Edit, Option<&str>)] = &[
        ("n_ctx", |p| (p.n_ctx, p.n_keep) = (0, 1_000_000), None),
        ("n_ctx", |p| p.n_ctx = 1_000_001, Some("is 1000001")),
        ("n_ctx", |p| p.n_ctx = 1_000_000, None),
        ("n_keep", |p| (p.n_ctx, p.n_keep) = (4096, 4097), Some("from 0 to 4096, is 4097")),
        ("n_keep", |p| (p.n_ctx, p.n_keep) = (4096, 4096), None),
        ("n_parallel", |p| p.n_parallel = 0, Some("from 1 to 256, is 0")),
        ("n_parallel", |p| p.n_parallel = 257, Some("is 257")),
        ("n_batch", |p| p.n_batch = 8193, Some("from 1 to 8192")),
        ("n_ubatch", |p| p.n_ubatch = 2049, Some("from 1 to 2048, is 2049")),
        ("n_ubatch", |p| p.n_ubatch = 0, Some("is 0")),
        ("n_gpu_layers", |p| p.n_gpu_layers = 1001, Some("from 0 to 1000")),
        ("main_gpu_id", |p| p.main_gpu_id = -2, Some("from -1 to 15, is -2")),
        ("main_gpu_id", |p| p.main_gpu_id = 16, Some("is 16")),
    ];
    for (name, edit, want) in cases {
        let mut params = good.clone();
        edit(&mut params);
        match (params.validate(), want) {
            (Ok(()), None) => {}
            (Err(error), Some(part)) => {
                assert!(error.message.contains(part), "{error}");
                assert!(error.param.is_some_and(|param| param.ends_with(name)), "{name}");
            }
            (got, _) => panic!("{name}: {got:?}"),
        }
    }
    for (n_ctx, n_keep, bounded) in [(0, 100, 100), (64, 100, 64), (4096, 100, 100)] {
        let mut params = LoadParams { n_ctx, n_keep, ..good.clone() };
        params.bound_n_keep();
        assert_eq!((params.n_ctx, params.n_keep), (n_ctx, bounded));
    }
    for (id, reference) in [("", "x"), (" a", "x"), ("a\n", "x"), ("a", " ")] {
        assert_eq!(EngineSpec::new(id, reference).validate().unwrap_err().kind, Kind::Invalid);
    }
}
