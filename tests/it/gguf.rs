//! The GGUF reader against hostile files, and the writer against the reader.
#![allow(clippy::unwrap_used)]

mod allocator;

use std::fs;
use std::path::Path;

use kolosal_kernels::quant::GgmlType;
use kolosal_server::model::gguf::{Access, Array, Gguf, GgufError, Value, Writer, limits};
use proptest::prelude::*;

/// Opens `bytes` and returns the result with the number of bytes allocated on the way.
fn open_counted(bytes: &[u8]) -> (Result<Gguf, GgufError>, usize) {
    let bytes = bytes.to_vec();
    let before = allocator::allocated();
    let result = Gguf::from_bytes(bytes);
    (result, allocator::allocated() - before)
}

/// More than any honest parse takes per byte of file, little enough to notice a lie.
fn allocation_max(file_len: usize) -> usize {
    16 * 1024 + 24 * file_len
}

const U8: u32 = 0;
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const U64: u32 = 10;
const TENSOR_F32: u32 = 0;
const TENSOR_Q4_0: u32 = 2;
const TENSOR_Q4_K: u32 = 12;

/// A file written field by field, so that each field can lie.
#[derive(Clone, Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn header(num_tensors: u64, num_keys: u64) -> Self {
        Self::default().bytes(b"GGUF").u32(3).u64(num_tensors).u64(num_keys)
    }
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
    fn u32(self, v: u32) -> Self {
        self.bytes(&v.to_le_bytes())
    }
    fn u64(self, v: u64) -> Self {
        self.bytes(&v.to_le_bytes())
    }
    fn string(self, s: impl AsRef<[u8]>) -> Self {
        self.u64(s.as_ref().len() as u64).bytes(s.as_ref())
    }
    fn key(self, key: &str, ty: u32) -> Self {
        self.string(key).u32(ty)
    }
    fn tensor(self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Self {
        let raw = self.string(name).u32(dims.len() as u32);
        dims.iter().fold(raw, |raw, &d| raw.u64(d)).u32(ty).u64(offset)
    }
    /// Pads to the data section and appends `len` bytes of data.
    fn data(mut self, len: usize) -> Self {
        let start = self.0.len().next_multiple_of(32);
        self.0.resize(start + len, 0);
        self
    }
    fn nested_arrays(self, depth: usize) -> Self {
        let raw = self.key("deep", ARRAY);
        (1..depth).fold(raw, |raw, _| raw.u32(ARRAY).u64(1)).u32(U8).u64(1).bytes(&[7])
    }
}

fn one_key(ty: u32) -> Raw {
    Raw::header(0, 1).key("k", ty)
}

fn one_tensor(dims: &[u64], ty: u32, offset: u64) -> Raw {
    Raw::header(1, 0).tensor("t", dims, ty, offset).data(4096)
}

fn aligned_to(alignment: u32) -> Raw {
    Raw::header(1, 1)
        .key("general.alignment", U32)
        .u32(alignment)
        .tensor("t", &[8], TENSOR_F32, 0)
        .data(1 << 12)
}

/// Hostile headers and metadata, each with a part of the message it must be refused with.
fn bad_metadata() -> Vec<(&'static str, Raw, &'static str)> {
    let with = |version: u32| Raw::default().bytes(b"GGUF").u32(version).u64(0).u64(0);
    vec![
        ("empty", Raw::default(), "not a GGUF file"),
        ("one byte", Raw::default().bytes(b"G"), "not a GGUF file"),
        ("old format", Raw::default().bytes(b"lmgg").u32(1).u64(0).u64(0), "not a GGUF file"),
        ("html page", Raw::default().bytes(b"<!DOCTYPE html><html>"), "not a GGUF file"),
        ("zip", Raw::default().bytes(b"PK\x03\x04aaaaaaaaaaaaaaaa"), "not a GGUF file"),
        ("magic alone", Raw::default().bytes(b"GGUF"), "file ends early: version"),
        ("version 0", with(0), "version 0"),
        ("version 1", with(1), "version 1"),
        ("version 4", with(4), "version 4"),
        ("version 2^32-1", with(u32::MAX), "version 4294967295"),
        ("big-endian 3", with(3u32.swap_bytes()), "big-endian"),
        ("big-endian 2", with(2u32.swap_bytes()), "big-endian"),
        ("no counts", Raw::default().bytes(b"GGUF").u32(3), "number of tensors"),
        ("2^64-1 tensors", Raw::header(u64::MAX, 0), "the limit is 131072"),
        ("2^63 keys", Raw::header(0, 1 << 63), "the limit is 65536"),
        ("100000 tensors, no bytes", Raw::header(100_000, 0), "needs 3300000 bytes"),
        ("60000 keys, no bytes", Raw::header(0, 60_000), "needs 840000 bytes"),
        (
            "key of 2^64-1",
            Raw::header(0, 1).u64(u64::MAX).bytes(&[0; 20]),
            "length of metadata key",
        ),
        ("key of 65536", Raw::header(0, 1).u64(65536).bytes(&[65; 70000]), "the limit is 65535"),
        ("key past the end", Raw::header(0, 1).u64(100).bytes(&[65; 20]), "100 bytes"),
        ("empty key", Raw::header(0, 1).key("", U32).u32(1).bytes(&[0; 8]), "empty"),
        ("key not UTF-8", Raw::header(0, 1).string([0xff, 0xfe]).u32(U32).u32(1), "not UTF-8"),
        ("value type 13", one_key(13).bytes(&[0; 8]), "unknown value type 13"),
        ("value type 2^32-1", one_key(u32::MAX).bytes(&[0; 8]), "unknown value type"),
        ("bool of 2", one_key(BOOL).bytes(&[2]), "2 is not a bool"),
        ("no value", Raw::header(0, 1).key("abcdefgh", U64), "file ends early"),
        ("string of 1 GB", one_key(STRING).u64(1 << 30), "the limit is 268435456"),
        ("string of 2^64-1", one_key(STRING).u64(u64::MAX).bytes(&[1; 9]), "length of k"),
        ("string past the end", one_key(STRING).u64(1 << 20).bytes(&[1; 9]), "1048576 bytes"),
        ("array of type 13", one_key(ARRAY).u32(13).u64(1).bytes(&[0; 8]), "unknown element type"),
        ("array without length", one_key(ARRAY).u32(U8), "file ends early"),
        ("array of 2^64-1", one_key(ARRAY).u32(U8).u64(u64::MAX).bytes(&[0; 9]), "the limit is"),
        ("array of 2^61 f32", one_key(ARRAY).u32(F32).u64(1 << 61).bytes(&[0; 9]), "the limit is"),
        ("100 M strings", one_key(ARRAY).u32(STRING).u64(100_000_000), "needs 800000000 bytes"),
        ("100 M u8", one_key(ARRAY).u32(U8).u64(100_000_000), "needs 100000000 bytes"),
        ("100 M arrays", one_key(ARRAY).u32(ARRAY).u64(100_000_000), "needs 1200000000 bytes"),
        ("array of bools 3", one_key(ARRAY).u32(BOOL).u64(2).bytes(&[1, 3]), "3 is not a bool"),
        (
            "array of strings, one too long",
            one_key(ARRAY).u32(STRING).u64(2).string("a").u64(1 << 20).bytes(&[0; 30]),
            "needs 1048576 bytes",
        ),
        ("5 nested arrays", Raw::header(0, 1).nested_arrays(5), "nest deeper than 4"),
        ("100000 nested arrays", Raw::header(0, 1).nested_arrays(100_000), "nest deeper than 4"),
        (
            "the same key twice",
            Raw::header(0, 2).key("k", U32).u32(1).key("k", U32).u32(2),
            "metadata key \"k\" occurs twice",
        ),
        (
            "the same key with another type",
            Raw::header(0, 2).key("k", U32).u32(1).key("k", STRING).string("abcd"),
            "occurs twice",
        ),
        ("alignment 0", aligned_to(0), "0 is not a power of two"),
        ("alignment 3", aligned_to(3), "3 is not a power of two"),
        ("alignment 2^31", aligned_to(1 << 31), "the limit is 65536"),
        (
            "alignment is a string",
            Raw::header(0, 1).key("general.alignment", STRING).string("32"),
            "\"general.alignment\" is a string",
        ),
        (
            "alignment is an array",
            Raw::header(0, 1).key("general.alignment", ARRAY).u32(U32).u64(1).u32(32),
            "is an array of 1 u32",
        ),
        (
            "alignment is negative",
            Raw::header(0, 1).key("general.alignment", I32).u32(-32i32 as u32),
            "is -32, not a number that fits u64",
        ),
        (
            "one of several files",
            Raw::header(0, 1).key("split.count", U32).u32(2),
            "only a part of a split model",
        ),
    ]
}

/// Hostile tensor descriptions.
fn bad_tensors() -> Vec<(&'static str, Raw, &'static str)> {
    let two = |a: u64, b: u64| {
        Raw::header(2, 0)
            .tensor("a", &[64], TENSOR_F32, a)
            .tensor("b", &[64], TENSOR_F32, b)
            .data(1024)
    };
    let named = |name: &[u8]| {
        Raw::header(1, 0).string(name).u32(1).u64(8).u32(TENSOR_F32).u64(0).data(4096)
    };
    vec![
        ("no dimensions", one_tensor(&[], TENSOR_F32, 0), "0 dimensions"),
        ("5 dimensions", one_tensor(&[1; 5], TENSOR_F32, 0), "5 dimensions"),
        ("2^32-1 dimensions", Raw::header(1, 0).string("t").u32(u32::MAX).data(99), "dimensions"),
        ("zero dimension", one_tensor(&[8, 0], TENSOR_F32, 0), "a dimension of 0"),
        ("dimension of 2^64-1", one_tensor(&[u64::MAX], TENSOR_F32, 0), "a dimension of 18446744"),
        ("dimension of 2^63", one_tensor(&[1 << 63], TENSOR_F32, 0), "a dimension of 92233720"),
        ("2^42 values", one_tensor(&[1 << 42], TENSOR_F32, 0), "do not lie inside the file"),
        ("2^40 x 2^40", one_tensor(&[1 << 40; 2], TENSOR_F32, 0), "overflow"),
        ("2^40 x 2^40 in blocks", one_tensor(&[1 << 40; 2], TENSOR_Q4_K, 0), "overflow"),
        ("2^16 to the fourth", one_tensor(&[1 << 16; 4], TENSOR_F32, 0), "overflow"),
        ("2^62 values", one_tensor(&[1 << 62], TENSOR_F32, 0), "t\": "),
        ("2^62 values in blocks", one_tensor(&[1 << 62], TENSOR_Q4_K, 0), "do not lie inside"),
        ("rows of 33 in Q4_0", one_tensor(&[33], TENSOR_Q4_0, 0), "do not fit blocks of 32"),
        ("rows of 32 in Q4_K", one_tensor(&[32, 8], TENSOR_Q4_K, 0), "do not fit blocks of 256"),
        ("type 4 (removed)", one_tensor(&[32], 4, 0), "has the unknown type 4"),
        ("type 1000", one_tensor(&[32], 1000, 0), "tensor \"t\" has the unknown type 1000"),
        ("type 2^32-1", one_tensor(&[32], u32::MAX, 0), "unknown type 4294967295"),
        ("offset beyond the end", one_tensor(&[8], TENSOR_F32, 4096), "do not lie inside the file"),
        ("end beyond the end", one_tensor(&[32], TENSOR_F32, 4096 - 96), "do not lie inside"),
        ("offset of 2^64-32", one_tensor(&[8], TENSOR_F32, u64::MAX - 31), "do not lie inside"),
        ("offset of 2^63", one_tensor(&[8], TENSOR_F32, 1 << 63), "do not lie inside"),
        ("misaligned offset", one_tensor(&[8], TENSOR_F32, 4), "offset 4 is not a multiple of 32"),
        ("no data", Raw::header(1, 0).tensor("t", &[8], TENSOR_F32, 0), "do not lie inside"),
        ("the same place", two(0, 0), "tensor \"b\": overlaps tensor \"a\""),
        ("overlap by half", two(0, 128), "overlaps"),
        ("overlap by half, backwards", two(128, 0), "overlaps"),
        (
            "the same name",
            Raw::header(2, 0)
                .tensor("a", &[8], TENSOR_F32, 0)
                .tensor("a", &[8], TENSOR_F32, 32)
                .data(64),
            "tensor \"a\" occurs twice",
        ),
        ("empty name", named(b""), "empty"),
        ("name not UTF-8", named(&[0xc3]), "not UTF-8"),
        ("name of 257 bytes", named(&[65; 257]), "length of tensor name is 257"),
        ("name past the end", Raw::header(1, 0).u64(200).bytes(&[65; 40]), "200 bytes"),
        (
            "file ends in the dimensions",
            Raw::header(1, 0).string("a-tensor-name-of-some-length").u32(2).u64(1),
            "file ends early: a-tensor-name-of-some-length",
        ),
    ]
}

#[test]
fn a_load_ends_when_nobody_wants_it() {
    use std::sync::atomic::{AtomicU32, Ordering};

    let reads = std::sync::Arc::new(AtomicU32::new(0));
    let counted = std::sync::Arc::clone(&reads);
    let bytes = crate::tiny::Tiny::default().bytes();
    let wanted = move || counted.fetch_add(1, Ordering::SeqCst) < 5;
    let gguf = Gguf::from_bytes(bytes).unwrap().while_wanted(wanted);
    let options = kolosal_server::model::RunnerOptions::default();
    let error = kolosal_server::model::load_runner(&gguf, &options).err().expect("it ends");
    assert!(error.to_string().contains("no longer wanted"), "{error}");
    assert_eq!(reads.load(Ordering::SeqCst), 6, "nothing is read after it");
}

#[test]
fn malformed_files_are_refused_without_large_allocations() {
    let mut cases = bad_metadata();
    cases.extend(bad_tensors());
    assert!(cases.len() >= 60, "{} cases", cases.len());
    for (name, Raw(bytes), expected) in cases {
        let (result, allocated) = open_counted(&bytes);
        let message = result.map(|_| ()).expect_err(name).to_string();
        assert!(message.contains(expected), "{name}: {message}");
        assert!(allocated <= allocation_max(bytes.len()), "{name}: {allocated} bytes allocated");
    }
}

/// A file with every kind of value and a few tensors.
fn valid() -> Writer<'static> {
    let mut writer = Writer::new();
    writer
        .set("general.architecture", "test")
        .set("u8", 1u8)
        .set("i8", -1i8)
        .set("u16", 2u16)
        .set("i16", -2i16)
        .set("u32", 3u32)
        .set("i32", -3i32)
        .set("u64", u64::MAX)
        .set("i64", i64::MIN)
        .set("f32", 0.5f32)
        .set("f64", 0.25f64)
        .set("bool", true)
        .set("nul", "a\0b\0")
        .set("not utf-8", Box::<[u8]>::from(&[0xff, 0x00, 0xfe][..]))
        .set("strings", vec!["", "a\0", "ü"])
        .set("i32s", vec![1i32, -1])
        .set("u8s", vec![1u8, 255])
        .set("f32s", vec![1.0f32, f32::NAN.copysign(1.0)])
        .set("bools", vec![true, false])
        .set("u64s", Vec::<u64>::new())
        .set("nested", Array::Array(vec![Array::U8(vec![1]), Array::String(vec![])]));
    let f32s: Vec<u8> = (0..12).flat_map(|i| (i as f32).to_le_bytes()).collect();
    writer.tensor("a", &[3, 4], GgmlType::F32, f32s).unwrap();
    writer.tensor("b.weight", &[2, 32], GgmlType::Q4_0, vec![7; 36]).unwrap();
    writer.tensor("c", &[1, 1, 2, 1], GgmlType::F16, vec![1; 4]).unwrap();
    writer
}

#[test]
fn every_truncation_of_a_valid_file_is_refused() {
    let bytes = valid().to_bytes();
    let end_of_data = bytes.len() - (32 - 4);
    for len in 0..end_of_data {
        let (result, allocated) = open_counted(&bytes[..len]);
        assert!(result.is_err(), "{len} of {} bytes open", bytes.len());
        assert!(allocated <= allocation_max(len), "{len}: {allocated} bytes allocated");
    }
    assert!(Gguf::from_bytes(bytes[..end_of_data].to_vec()).is_ok(), "padding is optional");
}

#[test]
fn what_was_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    valid().write(&path).unwrap();
    for access in [Access::OnDemand, Access::AtOnce] {
        let gguf = Gguf::open_with(&path, access).unwrap();
        let meta = gguf.metadata();
        assert_eq!(meta.architecture().unwrap(), "test");
        assert_eq!(meta.len(), 21);
        assert_eq!(meta.iter().nth(1), Some(("u8", &Value::U8(1))));
        assert_eq!(meta.u32("u8").unwrap(), Some(1));
        assert_eq!(meta.u64("u64").unwrap(), Some(u64::MAX));
        assert_eq!(meta.i64("i64").unwrap(), Some(i64::MIN));
        assert_eq!(meta.f32("f64").unwrap(), Some(0.25));
        assert_eq!(meta.bool("bool").unwrap(), Some(true));
        assert_eq!(meta.str("nul").unwrap(), Some("a\0b\0"));
        assert_eq!(meta.get("not utf-8"), Some(&Value::String([0xff, 0x00, 0xfe].into())));
        let strings: Vec<&[u8]> = vec![b"", b"a\0", "ü".as_bytes()];
        assert!(meta.strings("strings").unwrap().unwrap().iter().map(|s| &**s).eq(strings));
        assert_eq!(&*meta.i32s("u8s").unwrap().unwrap(), [1, 255]);
        assert_eq!(meta.u32s("u32").unwrap(), Some(vec![3]));
        assert_eq!(meta.u32s("u64s").unwrap(), Some(vec![]));
        assert_eq!(meta.bools("bools").unwrap(), Some(&[true, false][..]));
        assert_eq!(meta.f32s("absent").unwrap(), None);

        let a = gguf.tensor("a").unwrap();
        assert_eq!((&a.shape[..], a.ty, a.num_elements()), (&[3, 4][..], GgmlType::F32, 12));
        assert_eq!(&gguf.data(a).unwrap()[4..8], 1f32.to_le_bytes());
        let b = gguf.tensor("b.weight").unwrap();
        assert_eq!((&b.shape[..], gguf.data(b).unwrap()), (&[2, 32][..], vec![7; 36]));
        assert_eq!(gguf.tensors().len(), 3);
        assert!(gguf.tensor("d").is_none());
        assert_eq!(gguf.file_bytes(), fs::metadata(&path).unwrap().len());
        assert_eq!(gguf.paths(), std::slice::from_ref(&path));
        gguf.check_unchanged().unwrap();
    }
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "no temporary file stays: {left:?}");
}

#[test]
fn values_of_another_type_are_refused_by_name() {
    let gguf = Gguf::from_bytes(valid().to_bytes()).unwrap();
    let meta = gguf.metadata();
    let refused = [
        meta.u32("u64").map(|_| ()),
        meta.u32("i8").map(|_| ()),
        meta.u32("f32").map(|_| ()),
        meta.u32("bool").map(|_| ()),
        meta.i64("u64").map(|_| ()),
        meta.f32("u32").map(|_| ()),
        meta.bool("u8").map(|_| ()),
        meta.str("u8").map(|_| ()),
        meta.str("not utf-8").map(|_| ()),
        meta.strings("nul").map(|_| ()),
        meta.strings("u8s").map(|_| ()),
        meta.f32s("u8s").map(|_| ()),
        meta.f32s("f32").map(|_| ()),
        meta.i32s("i32").map(|_| ()),
        meta.i32s("f32s").map(|_| ()),
        meta.u32s("i32s").map(|_| ()),
        meta.u32s("nested").map(|_| ()),
        meta.bools("u8s").map(|_| ()),
    ];
    for (i, result) in refused.into_iter().enumerate() {
        result.expect_err(&format!("case {i}"));
    }
    let error = meta.f32s("u8s").unwrap_err().to_string();
    assert_eq!(error, "metadata key \"u8s\" is an array of 2 u8, not an array of f32");
    let empty = Gguf::from_bytes(Writer::new().to_bytes()).unwrap();
    assert!(matches!(empty.metadata().architecture(), Err(GgufError::Missing { .. })));
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let mut writer = Writer::new();
    writer.tensor("a", &[8], GgmlType::F32, vec![0; 32]).unwrap();
    for (name, shape, len) in [
        ("a", &[8][..], 32),
        ("", &[8], 32),
        ("b", &[8], 31),
        ("b", &[], 4),
        ("b", &[0], 0),
        ("b", &[1, 1, 1, 1, 8], 32),
        ("b", &[usize::MAX, 2], 32),
        (&"n".repeat(limits::NAME_BYTES as usize + 1), &[8], 32),
    ] {
        let result = writer.tensor(name, shape, GgmlType::F32, vec![0; len]).map(|_| ());
        result.expect_err(&format!("{name:?} {shape:?}"));
    }
}

#[test]
fn alignment_is_honoured_both_ways() {
    for alignment in [1u32, 8, 32, 64, 4096] {
        let mut writer = valid();
        writer.set("general.alignment", alignment);
        let gguf = Gguf::from_bytes(writer.to_bytes()).unwrap();
        assert_eq!(gguf.alignment(), u64::from(alignment));
        assert_eq!(gguf.data(gguf.tensor("b.weight").unwrap()).unwrap(), [7; 36], "{alignment}");
    }
}

#[test]
fn version_2_is_the_same_format() {
    let mut bytes = valid().to_bytes();
    bytes[4] = 2;
    assert_eq!(Gguf::from_bytes(bytes).unwrap().version(), 2);
}

/// Writes file `number` of `count` with its own tensor; `edit` may spoil it.
fn shard(dir: &Path, number: u16, count: u16, edit: impl FnOnce(&mut Writer<'_>)) {
    let mut writer = Writer::new();
    writer.set("split.no", number - 1).set("split.count", count).set("split.tensors.count", 3i32);
    if number == 1 {
        writer.set("general.architecture", "test");
    }
    let data = vec![number as u8; 32];
    writer.tensor(&format!("t{number}"), &[8], GgmlType::F32, data).unwrap();
    edit(&mut writer);
    writer.write(&dir.join(format!("m-{number:05}-of-{count:05}.gguf"))).unwrap();
}

#[test]
fn split_models_open_from_any_of_their_files() {
    let dir = tempfile::tempdir().unwrap();
    (1..=3).for_each(|n| shard(dir.path(), n, 3, |_| {}));
    for number in 1..=3 {
        let gguf = Gguf::open(&dir.path().join(format!("m-0000{number}-of-00003.gguf"))).unwrap();
        assert_eq!(gguf.metadata().architecture().unwrap(), "test");
        assert_eq!(gguf.paths().len(), 3);
        for t in 1..=3u8 {
            let tensor = gguf.tensor(&format!("t{t}")).unwrap();
            assert_eq!(gguf.data(tensor).unwrap(), [t; 32]);
        }
    }
}

#[test]
fn broken_split_models_are_refused() {
    type Spoil = fn(&Path);
    let cases: [(&str, Spoil, &str); 8] = [
        (
            "missing",
            |d| fs::remove_file(d.join("m-00002-of-00003.gguf")).unwrap(),
            "2 of 3 is miss",
        ),
        ("wrong number", |d| shard(d, 2, 3, |w| _ = w.set("split.no", 2u16)), "split.no is 2"),
        ("no number", |d| shard(d, 2, 3, |w| _ = w.set("split.no", "x")), "split.no"),
        ("wrong count", |d| shard(d, 2, 3, |w| _ = w.set("split.count", 4u16)), "split.count is 4"),
        (
            "the same file twice",
            |d| {
                let (from, to) = (d.join("m-00001-of-00003.gguf"), d.join("m-00003-of-00003.gguf"));
                fs::copy(from, to).unwrap();
            },
            "twice or misnamed",
        ),
        (
            "a tensor twice",
            |d| {
                shard(d, 3, 3, |w| {
                    w.tensor("t1", &[8], GgmlType::F32, vec![0; 32]).unwrap();
                });
            },
            "tensor \"t1\" occurs twice",
        ),
        (
            "wrong total",
            |d| shard(d, 1, 3, |w| _ = w.set("split.tensors.count", 9u32)),
            "split.tensors.count is 9",
        ),
        (
            "garbage",
            |d| fs::write(d.join("m-00002-of-00003.gguf"), b"<html>").unwrap(),
            "m-00002-of-00003.gguf: not a GGUF file",
        ),
    ];
    for (name, spoil, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        (1..=3).for_each(|n| shard(dir.path(), n, 3, |_| {}));
        spoil(dir.path());
        let error = Gguf::open(&dir.path().join("m-00001-of-00003.gguf")).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    let dir = tempfile::tempdir().unwrap();
    shard(dir.path(), 1, 3, |_| {});
    let renamed = dir.path().join("model.gguf");
    fs::rename(dir.path().join("m-00001-of-00003.gguf"), &renamed).unwrap();
    let error = Gguf::open(&renamed).unwrap_err().to_string();
    assert!(error.contains("is one of 3 files but is not named like"), "{error}");
}

#[test]
fn only_regular_files_open() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Gguf::open(dir.path()), Err(GgufError::NotAFile { .. })));
    assert!(matches!(Gguf::open(&dir.path().join("none")), Err(GgufError::Io { .. })));
    #[cfg(unix)]
    {
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::os::unix::fs::symlink(&a, &b).unwrap();
        std::os::unix::fs::symlink(&b, &a).unwrap();
        assert!(matches!(Gguf::open(&a), Err(GgufError::Io { .. })), "a loop of links");
        assert!(matches!(Gguf::open(Path::new("/dev/zero")), Err(GgufError::NotAFile { .. })));
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(matches!(Gguf::open(&socket), Err(GgufError::NotAFile { .. })));
    }
}

#[test]
fn a_file_that_changed_its_size_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    valid().write(&path).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.set_len(gguf.file_bytes() + 1).unwrap();
    assert!(matches!(gguf.check_unchanged(), Err(GgufError::Changed { .. })));
    file.set_len(gguf.file_bytes() / 4).unwrap();
    let last = gguf.tensors().last().unwrap();
    assert!(matches!(gguf.data(last), Err(GgufError::Changed { .. })));
}

#[test]
fn a_file_that_was_written_to_is_noticed_and_one_that_was_replaced_is_read_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    valid().write(&path).unwrap();
    let (gguf, whole) =
        (Gguf::open(&path).unwrap(), Gguf::open_with(&path, Access::AtOnce).unwrap());
    fs::rename(&path, dir.path().join("old.gguf")).unwrap();
    fs::write(&path, b"another").unwrap();
    gguf.check_unchanged().unwrap();
    let file = fs::OpenOptions::new().write(true).open(dir.path().join("old.gguf")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert!(matches!(gguf.check_unchanged(), Err(GgufError::Written { .. })));
    whole.check_unchanged().unwrap();
}

/// Metadata of several MB are read piece by piece.
#[test]
fn a_long_vocabulary_is_read_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let mut writer = valid();
    let text = |i: usize| format!("{i:0>40}").into_bytes().into_boxed_slice();
    writer.set("long", Array::String((0..150_000).map(text).collect()));
    writer.write(&path).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let strings = gguf.metadata().strings("long").unwrap().unwrap();
    assert_eq!((strings.len(), &strings[149_999]), (150_000, &text(149_999)));
    assert_eq!(gguf.data(gguf.tensor("b.weight").unwrap()).unwrap(), [7; 36]);
    // Wherever such a file is cut, it is an error.
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    for len in [1 << 20, 3 << 20, gguf.file_bytes() - 100] {
        file.set_len(len).unwrap();
        assert!(Gguf::open(&path).is_err(), "{len}");
    }
}

/// Touches everything that an open file offers.
fn walk(gguf: &Gguf) {
    for (key, value) in gguf.metadata().iter() {
        assert_eq!(gguf.metadata().get(key).map(Value::type_name), Some(value.type_name()));
    }
    for tensor in gguf.tensors() {
        assert_eq!(gguf.data(tensor).unwrap().len(), tensor.num_bytes());
        assert!(tensor.num_elements() > 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
    ) {
        let mut bytes = valid().to_bytes();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let (result, allocated) = open_counted(&bytes);
        prop_assert!(allocated <= allocation_max(bytes.len()));
        if let Ok(gguf) = result {
            walk(&gguf);
        }
    }

    #[test]
    fn noise_behind_a_valid_magic_never_panics(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Raw::default().bytes(b"GGUF").u32(3).bytes(&noise).0;
        if let Ok(gguf) = Gguf::from_bytes(bytes) {
            walk(&gguf);
        }
    }

    #[test]
    fn written_values_are_read_back(
        texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9),
        numbers in prop::collection::vec(any::<i32>(), 0..9),
        scalar in any::<u64>(),
        rows in 1usize..5,
    ) {
        let texts: Vec<Box<[u8]>> = texts.into_iter().map(Into::into).collect();
        let mut writer = Writer::new();
        writer.set("t", Array::String(texts.clone())).set("n", numbers.clone()).set("s", scalar);
        writer.tensor("w", &[rows, 32], GgmlType::Q8_0, vec![rows as u8; rows * 34]).unwrap();
        let gguf = Gguf::from_bytes(writer.to_bytes()).unwrap();
        prop_assert_eq!(gguf.metadata().strings("t").unwrap(), Some(&texts[..]));
        let read = gguf.metadata().i32s("n").unwrap().unwrap();
        prop_assert_eq!(&*read, &numbers[..]);
        prop_assert_eq!(gguf.metadata().u64("s").unwrap(), Some(scalar));
        prop_assert_eq!(gguf.data(&gguf.tensors()[0]).unwrap().len(), rows * 34);
    }
}
