//! Compressed bodies: one coding, decoded within a bound that is counted while decoding.
//!
//! Nothing here trusts a length that a body claims: the decoders' windows are small, and what comes out of them is
//! counted piece by piece.

use std::io::{self, Read};

use axum::http::{HeaderMap, header};
use flate2::bufread::GzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::read::Decoder as ZstdDecoder;

use crate::error::{ApiError, echo};

/// Largest window of a zstd frame as a power of two, 8 MiB: what RFC 9659 lets a server refuse to go beyond.
const ZSTD_WINDOW_LOG: u32 = 23;
/// Most members of a gzip body, or frames of a zstd body: empty ones cost time and give nothing.
const MAX_MEMBERS: usize = 1024;
/// Bytes that are decoded between two looks at their number.
const PIECE: usize = 32 << 10;

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
            Self::Deflate => inflate(body, max_bytes),
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
        if self == Self::Zstd && error.to_string().contains("Frame requires too much memory") {
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

/// By hand, since the library's reader takes a stream that was cut off for one that has ended.
fn inflate(body: &[u8], max_bytes: usize) -> io::Result<Option<Vec<u8>>> {
    let mut state = Decompress::new(begins_like_zlib(body));
    let (mut decoded, mut piece) = (Vec::new(), vec![0; PIECE]);
    loop {
        let (taken, given) = (state.total_in(), state.total_out());
        let status = state.decompress(&body[taken as usize..], &mut piece, FlushDecompress::None)?;
        decoded.extend_from_slice(&piece[..(state.total_out() - given) as usize]);
        if decoded.len() > max_bytes {
            return Ok(None);
        }
        let is_stuck = (taken, given) == (state.total_in(), state.total_out());
        match status {
            Status::StreamEnd if state.total_in() == body.len() as u64 => return Ok(Some(decoded)),
            Status::StreamEnd => return Err(io::ErrorKind::InvalidData.into()),
            Status::Ok | Status::BufError if is_stuck => return Err(io::ErrorKind::UnexpectedEof.into()),
            Status::Ok | Status::BufError => {}
        }
    }
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use axum::http::HeaderValue;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    const LIMIT: usize = 1 << 20;
    const TEXT: &[u8] = b"{\"messages\": [{\"role\": \"user\", \"content\": \"hi hi hi hi hi hi hi\"}]}";

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn raw(text: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(text, 3).unwrap()
    }

    type Encoder = fn(&[u8]) -> Vec<u8>;
    const ALL: [(Coding, Encoder); 4] =
        [(Coding::Gzip, gzip), (Coding::Deflate, zlib), (Coding::Deflate, raw), (Coding::Zstd, zstd)];

    /// What it decodes to, or the status of the error.
    fn decoded(coding: Coding, body: &[u8], limit: usize) -> Result<Vec<u8>, u16> {
        coding.decode(body, limit).map_err(|error| error.status().as_u16())
    }

    #[test]
    fn every_coding_is_decoded_to_the_byte_and_no_further() {
        for (coding, encode) in ALL {
            assert_eq!(decoded(coding, &encode(TEXT), TEXT.len()).as_deref(), Ok(TEXT), "{coding:?}");
            assert_eq!(decoded(coding, &encode(TEXT), TEXT.len() - 1), Err(413), "{coding:?}");
            assert_eq!(decoded(coding, &encode(b""), 0).as_deref(), Ok(b"".as_slice()), "{coding:?}");
        }
    }

    #[test]
    fn bombs_end_at_the_limit() {
        let zeros = vec![0; 200 << 20];
        for (coding, encode) in ALL {
            let bomb = encode(&zeros);
            assert!(bomb.len() < LIMIT, "it fits into a body");
            assert_eq!(decoded(coding, &bomb, LIMIT), Err(413), "{coding:?}");
        }
        let bombs = zstd(&zeros[..LIMIT / 4]).repeat(8);
        assert_eq!(decoded(Coding::Zstd, &bombs, LIMIT), Err(413), "several frames count together");
    }

    #[test]
    fn what_is_cut_off_damaged_or_followed_by_more_is_refused() {
        for (coding, encode) in ALL {
            let whole = encode(TEXT);
            for length in 1..whole.len() {
                assert_eq!(decoded(coding, &whole[..length], LIMIT), Err(400), "{coding:?} {length}");
            }
            let longer = [&whole, b"junk".as_slice()].concat();
            assert_eq!(decoded(coding, &longer, LIMIT), Err(400), "{coding:?}");
            assert_eq!(decoded(coding, TEXT, LIMIT), Err(400), "{coding:?}");
        }
        for coding in [Coding::Gzip, Coding::Zstd] {
            let (_, encode) = ALL.into_iter().find(|(known, _)| *known == coding).unwrap();
            assert_eq!(decoded(coding, &encode(b"").repeat(MAX_MEMBERS + 1), LIMIT), Err(400), "{coding:?}");
        }
    }

    #[test]
    fn members_and_frames_follow_each_other() {
        let skipped = [b"\x50\x2a\x4d\x18\x03\0\0\0abc".as_slice(), &zstd(b"a"), &zstd(b"b")].concat();
        assert_eq!(decoded(Coding::Zstd, &skipped, LIMIT).as_deref(), Ok(b"ab".as_slice()));
        let endless = b"\x50\x2a\x4d\x18\xff\xff\xff\xffabc";
        assert_eq!(decoded(Coding::Zstd, endless, LIMIT), Err(400));
        let members = [gzip(b"a"), gzip(b"b")].concat();
        assert_eq!(decoded(Coding::Gzip, &members, LIMIT).as_deref(), Ok(b"ab".as_slice()));
    }

    /// A frame whose window is 2 to this power, with the text in a raw block.
    fn frame_with_window(log: u8) -> Vec<u8> {
        let block = ((TEXT.len() as u32) << 3 | 1).to_le_bytes();
        [&[0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3], &block[..3], TEXT].concat()
    }

    #[test]
    fn large_windows_are_refused() {
        assert_eq!(decoded(Coding::Zstd, &frame_with_window(23), LIMIT).as_deref(), Ok(TEXT));
        for log in [24, 27, 31, 41] {
            let error = Coding::Zstd.decode(&frame_with_window(log), LIMIT).unwrap_err();
            assert!(error.to_body().error.message.contains("8 MiB"), "{log}: {error:?}");
        }
    }

    #[test]
    fn headers_name_one_coding() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, HeaderValue::from_str(value).unwrap());
            }
            Coding::of(&headers).map_err(|error| error.status().as_u16())
        };
        for (values, coding) in [
            (&[] as &[&str], Ok(None)),
            (&["identity"], Ok(None)),
            (&["", "Identity, identity"], Ok(None)),
            (&["GZIP"], Ok(Some(Coding::Gzip))),
            (&["x-gzip"], Ok(Some(Coding::Gzip))),
            (&["identity, zstd "], Ok(Some(Coding::Zstd))),
            (&["deflate"], Ok(Some(Coding::Deflate))),
            (&["br"], Err(415)),
            (&["gzip", "br"], Err(415)),
            (&["gzip, gzip"], Err(415)),
            (&["gzip", "zstd"], Err(415)),
            (&["gzip;q=1"], Err(415)),
        ] {
            assert_eq!(of(values), coding, "{values:?}");
        }
    }
}
