//! The body of a request that comes in chunks (RFC 9112, section 7.1).
//!
//! As strict as `head.rs`, and for the same reason: where this body ends is where the next request begins. No I/O: the
//! connection hands in bytes as they arrive, in pieces of any size.

use crate::head::{BadRequest, is_token_byte, is_value_byte};

/// Digits of a chunk size: 16 are all of 64 bits, and a limit keeps leading zeros from going on for ever.
const MAX_CHUNK_DIGITS: usize = 16;

/// Bytes of chunk extensions and trailer fields with one body, all of them ignored. Nobody is known to send many.
const MAX_EXTRAS: usize = 4 * 1024;

/// Takes the chunks out of a chunked body, from pieces of any size (RFC 9112, section 7.1).
///
/// ```text
/// chunked-body = *( 1*HEXDIG [ chunk-ext ] CRLF chunk-data CRLF ) 1*"0" [ chunk-ext ] CRLF *( field-line CRLF ) CRLF
/// ```
///
/// Extensions and trailers are read by their grammar's outline and dropped: no handler could do anything with them. The
/// body grows as bytes arrive, never by what a chunk size promises.
pub(crate) struct ChunkedBody {
    body: Vec<u8>,
    max: usize,
    state: ChunkState,
    extras: usize,
}

/// What the next byte belongs to. The number is the size of the chunk at hand, or what is left of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    Size { size: usize, digits: usize },
    SpaceAfterSize(usize),
    Extension(usize),
    SizeLf(usize),
    Data(usize),
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Done,
}

impl ChunkedBody {
    /// A body of more than `max` bytes is [`BadRequest::BodyTooLarge`], as soon as a chunk size says so.
    pub(crate) fn new(max: usize) -> ChunkedBody {
        let state = ChunkState::Size { size: 0, digits: 0 };
        ChunkedBody { body: Vec::new(), max, state, extras: 0 }
    }

    /// Takes what belongs to the body: how many bytes that were, and whether it is complete. What is not consumed then
    /// is the next request.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(usize, bool), BadRequest> {
        let mut at = 0;
        while at < bytes.len() && self.state != ChunkState::Done {
            if let ChunkState::Data(left) = self.state {
                let length = left.min(bytes.len() - at);
                self.body.extend_from_slice(&bytes[at..at + length]);
                at += length;
                self.state = if length == left { ChunkState::DataCr } else { ChunkState::Data(left - length) };
            } else {
                self.state = self.after(bytes[at])?;
                at += 1;
            }
        }
        Ok((at, self.state == ChunkState::Done))
    }

    pub(crate) fn into_body(self) -> Vec<u8> {
        self.body
    }

    /// The state after one byte of framing.
    fn after(&mut self, byte: u8) -> Result<ChunkState, BadRequest> {
        use ChunkState::*;
        match (self.state, byte) {
            (Size { size, digits }, _) if byte.is_ascii_hexdigit() => self.digit(size, digits, byte),
            (Size { digits: 1.., size }, b'\r') => Ok(SizeLf(size)),
            // White space before a semicolon is grammar ("bad white space"); padding before CRLF is not.
            (Size { digits: 1.., size } | SpaceAfterSize(size), b' ' | b'\t') => self.extra(SpaceAfterSize(size)),
            (Size { digits: 1.., size } | SpaceAfterSize(size), b';') => self.extra(Extension(size)),
            (Extension(size), b'\r') => Ok(SizeLf(size)),
            (Extension(size), _) if is_value_byte(byte) => self.extra(Extension(size)),
            (SizeLf(0), b'\n') => Ok(TrailerStart),
            (SizeLf(size), b'\n') => Ok(Data(size)),
            (DataCr, b'\r') => Ok(DataLf),
            (DataLf, b'\n') => Ok(Size { size: 0, digits: 0 }),
            (TrailerStart, b'\r') => Ok(LastLf),
            (TrailerStart | TrailerName, _) if is_token_byte(byte) => self.extra(TrailerName),
            (TrailerName, b':') => self.extra(TrailerValue),
            (TrailerValue, b'\r') => Ok(TrailerLf),
            (TrailerValue, _) if is_value_byte(byte) => self.extra(TrailerValue),
            (TrailerLf, b'\n') => Ok(TrailerStart),
            (LastLf, b'\n') => Ok(Done),
            (TrailerStart | TrailerName, _) => Err(BadRequest::FieldName),
            (Extension(_) | SizeLf(_) | DataLf | TrailerValue | TrailerLf | LastLf, _) => Err(BadRequest::LineEnd),
            _ => Err(BadRequest::Chunk),
        }
    }

    fn digit(&self, size: usize, digits: usize, byte: u8) -> Result<ChunkState, BadRequest> {
        if digits == MAX_CHUNK_DIGITS {
            return Err(BadRequest::Chunk);
        }
        let value = char::from(byte).to_digit(16).ok_or(BadRequest::Chunk)? as usize;
        let size = size.checked_mul(16).map(|size| size | value).ok_or(BadRequest::BodyTooLarge)?;
        // More digits only make it larger, so it is known now.
        if size > self.max - self.body.len() {
            return Err(BadRequest::BodyTooLarge);
        }
        Ok(ChunkState::Size { size, digits: digits + 1 })
    }

    /// Counts a byte that is read and dropped.
    fn extra(&mut self, next: ChunkState) -> Result<ChunkState, BadRequest> {
        self.extras += 1;
        if self.extras > MAX_EXTRAS { Err(BadRequest::ChunkExtras) } else { Ok(next) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unchunk(bytes: &[u8], piece: usize, max: usize) -> Result<(Vec<u8>, usize, bool), BadRequest> {
        let mut chunked = ChunkedBody::new(max);
        let (mut consumed, mut done) = (0, false);
        for bytes in bytes.chunks(piece) {
            let (length, complete) = chunked.feed(bytes)?;
            consumed += length;
            done = complete;
        }
        Ok((chunked.into_body(), consumed, done))
    }

    #[test]
    fn a_chunked_body_is_read_in_pieces_of_any_size() {
        let table: &[(&[u8], &[u8])] = &[
            (b"0\r\n\r\n", b""),
            (b"1\r\na\r\n0\r\n\r\n", b"a"),
            (b"A\r\n0123456789\r\n0000000000000002\r\n\r\n\r\n00\r\n\r\n", b"0123456789\r\n"),
            (b"1;a=b;c=\"d;\te\"\r\na\r\n1 \t;x\r\nb\r\n0;x\r\n\r\n", b"ab"),
            (b"1\r\na\r\n0\r\nX: y\r\nContent-Length:5\r\nZ:\xff\r\n\r\n", b"a"),
        ];
        for (bytes, body) in table {
            for piece in 1..=bytes.len() {
                assert_eq!(
                    unchunk(bytes, piece, 64),
                    Ok((body.to_vec(), bytes.len(), true)),
                    "{}",
                    bytes.escape_ascii()
                );
            }
            for end in 0..bytes.len() {
                assert!(!unchunk(&bytes[..end], 64, 64).unwrap().2, "{end} of {}", bytes.escape_ascii());
            }
            let followed = [bytes, &b"GET / HTTP/1.1\r\n"[..]].concat();
            assert_eq!(unchunk(&followed, 200, 64), Ok((body.to_vec(), bytes.len(), true)));
        }
    }

    #[test]
    fn a_chunked_body_that_can_be_read_in_two_ways_is_refused() {
        let table: &[(&[u8], BadRequest)] = &[
            (b"\r", BadRequest::Chunk),
            (b"\n", BadRequest::Chunk),
            (b" ", BadRequest::Chunk),
            (b";", BadRequest::Chunk),
            (b"g", BadRequest::Chunk),
            (b"-", BadRequest::Chunk),
            (b"0x", BadRequest::Chunk),
            (b"1_", BadRequest::Chunk),
            (b"1 \r", BadRequest::Chunk),
            (b"1 1", BadRequest::Chunk),
            (b"00000000000000001", BadRequest::Chunk),
            (b"1\n", BadRequest::Chunk),
            (b"1\ra", BadRequest::LineEnd),
            (b"1;a\n", BadRequest::LineEnd),
            (b"1;a\0", BadRequest::LineEnd),
            (b"1;a\rb", BadRequest::LineEnd),
            (b"1\r\nab", BadRequest::Chunk),
            (b"1\r\na\n", BadRequest::Chunk),
            (b"1\r\na\r\r", BadRequest::LineEnd),
            (b"0\r\nGET ", BadRequest::FieldName),
            (b"0\r\n ", BadRequest::FieldName),
            (b"0\r\n:", BadRequest::FieldName),
            (b"0\r\nX\r", BadRequest::FieldName),
            (b"0\r\nX: y\0", BadRequest::LineEnd),
            (b"0\r\nX: y\n", BadRequest::LineEnd),
            (b"0\r\nX: y\rZ", BadRequest::LineEnd),
            (b"0\r\n\n", BadRequest::FieldName),
            (b"0\r\n\rx", BadRequest::LineEnd),
            (b"41", BadRequest::BodyTooLarge),
            (b"3f\r\n012345678901234567890123456789012345678901234567890123456789012\r\n2", BadRequest::BodyTooLarge),
            (b"ffffffffffffffff", BadRequest::BodyTooLarge),
        ];
        for (bytes, refusal) in table {
            for piece in [1, 3, 200] {
                assert_eq!(unchunk(bytes, piece, 64), Err(*refusal), "{}", bytes.escape_ascii());
            }
        }
        assert_eq!(unchunk(b"00000000000000000", 1, 64), Err(BadRequest::Chunk));
        // As many digits as a `usize` has are a size, however large; one more is none, on 32 bits and on 64.
        let digits = "f".repeat(usize::BITS as usize / 4);
        assert_eq!(unchunk(digits.as_bytes(), 1, usize::MAX), Ok((Vec::new(), digits.len(), false)));
        assert!(unchunk(format!("{digits}f").as_bytes(), 1, usize::MAX).is_err());
        assert_eq!(unchunk(b"1", 1, 0), Err(BadRequest::BodyTooLarge));
    }

    #[test]
    fn chunk_extensions_and_trailers_are_bounded_over_the_whole_body() {
        let extras = |extensions: usize, trailers: usize| {
            let extension = |length: usize| format!(";{}", "x".repeat(length - 1));
            let (first, last) = (extension(extensions / 2), extension(extensions - extensions / 2));
            let body = format!("1{first}\r\na\r\n0{last}\r\nX:{}\r\nY:\r\n\r\n", "x".repeat(trailers - 4));
            unchunk(body.as_bytes(), 100, 64).map(|(body, _, done)| (body, done))
        };
        for (extensions, trailers) in [(MAX_EXTRAS - 4, 4), (2, MAX_EXTRAS - 2), (1000, MAX_EXTRAS - 1000)] {
            assert_eq!(extras(extensions, trailers), Ok((b"a".to_vec(), true)));
            assert_eq!(extras(extensions + 1, trailers), Err(BadRequest::ChunkExtras));
            assert_eq!(extras(extensions, trailers + 1), Err(BadRequest::ChunkExtras));
        }
    }
}
