//! Compressed bodies: one coding, decoded within a bound that is counted while decoding.
//!
//! Nothing here trusts a length that a body claims: the decoders' windows are small, and what comes out of them is
//! counted piece by piece.

use std::io::{self, Read};

use axum::http::{HeaderMap, header};
use flate2::bufread::{DeflateDecoder, GzDecoder, ZlibDecoder};
use zstd::stream::read::Decoder as ZstdDecoder;

use crate::error::{ApiError, echo};

/// Largest window of a zstd frame as a power of two, 8 MiB: what RFC 9659 lets a server refuse to go beyond.
const ZSTD_WINDOW_LOG: u32 = 23;
/// Most members of a gzip body, or frames of a zstd body: empty ones cost time and give nothing.
const MAX_MEMBERS: usize = 1024;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950, or RFC 1951 alone, as browsers take it.
    Deflate,
    /// RFC 8878.
    Zstd,
}

impl Coding {
    /// Names for a header.
    pub const NAMES: &str = "gzip, deflate, zstd";

    /// What the headers say. `None`: as it is.
    ///
    /// # Errors
    /// 415 for other codings, and for several.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let values = headers.get_all(header::CONTENT_ENCODING).iter();
        let names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        let mut coding = None;
        for name in names.map(|name| name.trim_ascii().to_ascii_lowercase()) {
            let known = match name.as_slice() {
                b"" | b"identity" => continue,
                b"gzip" | b"x-gzip" => Self::Gzip,
                b"deflate" => Self::Deflate,
                b"zstd" => Self::Zstd,
                other => return Err(ApiError::unknown_coding(&echo(&String::from_utf8_lossy(other)))),
            };
            if coding.replace(known).is_some() {
                return Err(ApiError::several_codings());
            }
        }
        Ok(coding)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
        }
    }

    /// The body as it was before it was compressed.
    ///
    /// # Errors
    /// 413 beyond `max_bytes`; 400 when it is damaged, cut off or goes on after its end.
    pub fn decode(self, body: &[u8], max_bytes: usize) -> Result<Vec<u8>, ApiError> {
        let decoded = match self {
            Self::Gzip => members(body, max_bytes, |part| Ok(GzDecoder::new(part)), GzDecoder::into_inner),
            Self::Zstd => members(body, max_bytes, zstd_frame, ZstdDecoder::finish),
            Self::Deflate if begins_like_zlib(body) => single(ZlibDecoder::new(body), max_bytes, ZlibDecoder::into_inner),
            Self::Deflate => single(DeflateDecoder::new(body), max_bytes, DeflateDecoder::into_inner),
        };
        match decoded {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(ApiError::too_large_decoded(max_bytes)),
            Err(error) => Err(self.damaged(&error)),
        }
    }

    fn damaged(self, error: &io::Error) -> ApiError {
        let name = self.name();
        // The library has no other sign for it.
        if self == Self::Zstd && error.to_string().contains("too much memory") {
            return ApiError::bad_request("The request body needs a zstd window of more than 8 MiB to be decoded.");
        }
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return ApiError::bad_request(format!("The request body ends before its {name} data does."));
        }
        ApiError::bad_request(format!("The request body is not valid {name}, as its Content-Encoding says."))
    }
}

/// Members or frames, one after the other. `None`: more than `max_bytes` come out.
fn members<'b, D: Read>(
    mut body: &'b [u8],
    max_bytes: usize,
    start: impl Fn(&'b [u8]) -> io::Result<D>,
    finish: impl Fn(D) -> &'b [u8],
) -> io::Result<Option<Vec<u8>>> {
    let mut decoded = Vec::new();
    for _ in 0..MAX_MEMBERS {
        let mut decoder = start(body)?;
        if !read_on(&mut decoder, max_bytes, &mut decoded)? {
            return Ok(None);
        }
        body = finish(decoder);
        if body.is_empty() {
            return Ok(Some(decoded));
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// A body without any members.
fn single<'b, D: Read>(
    mut decoder: D,
    max_bytes: usize,
    finish: impl Fn(D) -> &'b [u8],
) -> io::Result<Option<Vec<u8>>> {
    let mut decoded = Vec::new();
    if !read_on(&mut decoder, max_bytes, &mut decoded)? {
        return Ok(None);
    }
    if !finish(decoder).is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Some(decoded))
}

/// Reads to the end, or until there is more than may be.
fn read_on(decoder: &mut impl Read, max_bytes: usize, decoded: &mut Vec<u8>) -> io::Result<bool> {
    let left = max_bytes - decoded.len();
    decoder.take(left as u64 + 1).read_to_end(decoded)?;
    Ok(decoded.len() <= max_bytes)
}

fn zstd_frame(body: &[u8]) -> io::Result<ZstdDecoder<'static, &[u8]>> {
    let mut decoder = ZstdDecoder::with_buffer(body)?.single_frame();
    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
    Ok(decoder)
}

/// Its first two bytes, as one number, are a multiple of 31, and name the method that it has.
fn begins_like_zlib(body: &[u8]) -> bool {
    matches!(body, [method, flags, ..]
        if method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]).is_multiple_of(31))
}
