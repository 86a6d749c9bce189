//! Content codings: request bodies that come compressed, within the limits of those that do not.

use std::io::{BufRead, Read};

use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use poem::{Request, http::header};
use ruzstd::decoding::{FrameDecoder, errors::FrameDecoderError, errors::ReadFrameHeaderError};

use super::connection::Held;
use crate::error::{Error, Kind};

/// Frames of zstd in one body: each has tables of its own, however little is in it.
const MAX_FRAMES: usize = 1024;
/// Codings of one body, one within the other.
const MAX_CODINGS: usize = 2;
/// Bytes that are decoded at a time.
const PIECE: usize = 64 << 10;
/// Bytes that a frame of zstd may look back, as RFC 9659 bounds it for HTTP.
const MAX_WINDOW: u64 = 8 << 20;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Deflate,
    Zstd,
}

/// Why a body was not decoded.
#[derive(Debug)]
pub(super) enum Undecoded {
    TooLarge,
    NoRoom,
    Broken(String),
}

/// The codings of a request's body in the order in which they were applied.
///
/// # Errors
/// 415: one that is not known, or too many of them.
pub(super) fn codings(request: &Request) -> Result<Vec<Coding>, Error> {
    let mut codings = Vec::new();
    for value in request.headers().get_all(header::CONTENT_ENCODING) {
        let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        for name in text.split(',').map(str::trim) {
            codings.extend(match name {
                "gzip" | "x-gzip" => Some(Coding::Gzip),
                "deflate" => Some(Coding::Deflate),
                "zstd" => Some(Coding::Zstd),
                "" | "identity" => None,
                other => {
                    let name: String = other.chars().take(64).collect();
                    let text = format!(
                        "a body of the coding {name:?} is not read; gzip, deflate and zstd are, and \
                         bodies without one"
                    );
                    return Err(refused(text));
                }
            });
        }
    }
    if codings.len() > MAX_CODINGS {
        let text = format!("the body has {} codings, limit {MAX_CODINGS}", codings.len());
        return Err(refused(text));
    }
    Ok(codings)
}

fn refused(text: String) -> Error {
    let error = Error::new(Kind::UnsupportedMedia, text).with_param("Content-Encoding");
    error.with_code("unsupported_content_encoding")
}

/// Decodes a body of at most `max` bytes. Blocks; `held` counts the bytes as they come.
///
/// # Errors
/// The body is longer, the budget has no room for it, or it is not of this coding.
pub(super) fn decode(
    coding: Coding,
    body: &[u8],
    max: usize,
    held: &mut Held,
) -> Result<Vec<u8>, Undecoded> {
    let mut sink = Sink { bytes: Vec::new(), max, held };
    match coding {
        Coding::Gzip => sink.take(MultiGzDecoder::new(body))?,
        // The coding is zlib's format; some clients send what is within it alone.
        Coding::Deflate if is_zlib(body) => sink.take(ZlibDecoder::new(body))?,
        Coding::Deflate => sink.take(DeflateDecoder::new(body))?,
        Coding::Zstd => zstd(body, &mut sink)?,
    }
    Ok(sink.bytes)
}

/// What is decoded, within its bounds.
struct Sink<'a> {
    bytes: Vec<u8>,
    max: usize,
    held: &'a mut Held,
}

impl Sink<'_> {
    fn take(&mut self, mut decoder: impl Read) -> Result<(), Undecoded> {
        let mut piece = vec![0; PIECE];
        loop {
            match decoder.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(count) => self.push(&piece[..count])?,
                Err(error) => return Err(Undecoded::Broken(error.to_string())),
            }
        }
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), Undecoded> {
        if self.bytes.len() + piece.len() > self.max {
            return Err(Undecoded::TooLarge);
        }
        if !self.held.grow(piece.len()) {
            return Err(Undecoded::NoRoom);
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
}

/// Whether a body begins as RFC 1950 has it: deflate in the first byte, and both a multiple of 31.
fn is_zlib(body: &[u8]) -> bool {
    let [first, second, ..] = body else { return false };
    first & 0x0f == 8 && u16::from_be_bytes([*first, *second]) % 31 == 0
}

/// All frames of a body, of which some may be for others to read.
fn zstd(body: &[u8], sink: &mut Sink<'_>) -> Result<(), Undecoded> {
    let mut rest = body;
    for _ in 0..MAX_FRAMES {
        let mut frame = FrameDecoder::new();
        // A frame in one segment looks back to its beginning, however long it is.
        frame.set_max_window_size(MAX_WINDOW.max(sink.max as u64));
        let begun = frame.init(&mut rest);
        match begun {
            Ok(()) => {
                let source = &mut rest;
                sink.take(Frame { frame, source })?;
            }
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => rest.consume((length as usize).min(rest.len())),
            Err(FrameDecoderError::WindowSizeTooBig { .. }) => return Err(Undecoded::TooLarge),
            Err(error) => return Err(Undecoded::Broken(error.to_string())),
        }
        if rest.is_empty() {
            return Ok(());
        }
    }
    Err(Undecoded::Broken(format!("it has more than {MAX_FRAMES} frames")))
}

/// One frame, block by block.
struct Frame<'a, 'b> {
    frame: FrameDecoder,
    source: &'a mut &'b [u8],
}

impl Read for Frame<'_, '_> {
    fn read(&mut self, piece: &mut [u8]) -> std::io::Result<usize> {
        use ruzstd::decoding::BlockDecodingStrategy::UptoBlocks;

        while self.frame.can_collect() == 0 && !self.frame.is_finished() {
            let decoded = self.frame.decode_blocks(&mut *self.source, UptoBlocks(1));
            decoded.map_err(std::io::Error::other)?;
        }
        self.frame.read(piece)
    }
}
