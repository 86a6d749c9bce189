//! Request bodies that come compressed, over real sockets.

use std::io::Write as _;

use flate2::{
    Compression,
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};
use kolosal_server::server::{BodyLimits, Options};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use tokio::io::AsyncWriteExt as _;

use super::socket::Listening;

const BODY: &[u8] = br#"{"model": "m", "prompt": "v", "temperature": 0}"#;
const MAX_BYTES: usize = 1 << 20;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn raw_deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

async fn server() -> Listening {
    let body = BodyLimits { max_bytes: MAX_BYTES, ..BodyLimits::default() };
    let options = Options { body, ..Options::default() };
    Listening::with(options, std::time::Duration::from_secs(1)).await
}

/// The answer to a completion request of this body and coding.
async fn answer(server: &Listening, coding: &str, body: &[u8]) -> String {
    let mut client = server.connect().await;
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n\
         content-encoding: {coding}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.send(&head).await;
    client.stream.write_all(body).await.unwrap();
    client.response().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_known_coding_is_read() {
    let server = server().await;
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..], &zstd(BODY)].concat();
    let (first, second) = BODY.split_at(20);
    let bodies = [
        ("gzip", gzip(BODY)),
        ("x-gzip", gzip(BODY)),
        ("gzip", [gzip(first), gzip(second)].concat()),
        ("deflate", zlib(BODY)),
        ("deflate", raw_deflate(BODY)),
        ("zstd", zstd(BODY)),
        ("zstd", [zstd(first), zstd(second)].concat()),
        ("zstd", skippable),
        ("GZIP, zstd", zstd(&gzip(BODY))),
        ("identity", BODY.to_vec()),
    ];
    for (coding, body) in bodies {
        let answer = answer(&server, coding, &body).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("wxyz"),
            "{coding}: {answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_413_and_a_broken_body_400() {
    let server = server().await;
    let bomb = vec![b' '; 64 << 20];
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 9].to_vec();
    let cases = [
        ("gzip", gzip(&bomb), "413", "1048576 bytes"),
        ("deflate", zlib(&bomb), "413", "1048576 bytes"),
        ("zstd", zstd(&bomb), "413", "1048576 bytes"),
        ("gzip, gzip", gzip(&gzip(&bomb)), "413", "1048576 bytes"),
        ("gzip", BODY.to_vec(), "400", "Content-Encoding"),
        ("gzip", cut(gzip(BODY)), "400", "Content-Encoding"),
        ("zstd", cut(zstd(BODY)), "400", "Content-Encoding"),
        ("zstd", Vec::new(), "400", "Content-Encoding"),
        ("zstd", zstd(b"").repeat(2000), "400", "1024 frames"),
        ("br", BODY.to_vec(), "415", "gzip, deflate and zstd"),
        ("gzip, gzip, gzip", gzip(&gzip(&gzip(BODY))), "415", "limit 2"),
    ];
    for (coding, body, status, text) in cases {
        assert!(body.len() < MAX_BYTES, "{coding}");
        let answer = answer(&server, coding, &body).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{coding}: {answer}");
        assert!(answer.contains(text), "{coding}: {answer}");
    }
    assert!(server.is_alive().await);
}
