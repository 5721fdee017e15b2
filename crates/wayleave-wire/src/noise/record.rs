//! Records: type, length, ciphertext. The counter stands big-endian in the nonce, one for each direction (protocol.md 1.5).

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::frame;

const HEADER: usize = 3;
const TAG: usize = 16;
const MAX_CIPHERTEXT: usize = 4093;
/// How much one record carries.
pub const MAX_PLAINTEXT: usize = MAX_CIPHERTEXT - TAG;

/// Why records can't be sealed or opened. Each ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Another type than a record's.
    #[error("a frame of type {0} where only records may come")]
    Type(u8),
    /// Longer or shorter than a record can be.
    #[error("a record of {0} bytes; it has 16 to 4093")]
    Length(usize),
    /// The tag does not fit.
    #[error("a record that was changed, lost or repeated on its way")]
    Tag,
    /// The counter is used up.
    #[error("no more records can be sent on this connection")]
    Exhausted,
}

/// The key of one direction. The library's own key has room for any cipher's schedule, 16 times as much, in each connection; it is made
/// anew where it is used, in less time than one record takes.
struct Key([u8; 32]);

impl Key {
    fn expanded(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &self.0).expect("a ChaCha20-Poly1305 key has 32 bytes"))
    }
}

#[derive(Debug, Default)]
struct Counter(u64);

impl Counter {
    fn nonce(&mut self) -> Result<Nonce, RecordError> {
        if self.0 == u64::MAX {
            return Err(RecordError::Exhausted);
        }
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.0.to_be_bytes());
        self.0 += 1;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

/// Seals what one side sends.
pub struct Sealer {
    key: Key,
    counter: Counter,
}

impl Sealer {
    pub(super) fn new(bytes: &[u8; 32]) -> Self {
        Self { key: Key(*bytes), counter: Counter::default() }
    }

    /// Appends to `out` the records that carry `plaintext`, each as full as can be.
    ///
    /// # Errors
    ///
    /// The counter is used up.
    pub fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), RecordError> {
        out.reserve(plaintext.len() + plaintext.len().div_ceil(MAX_PLAINTEXT) * (HEADER + TAG));
        let key = self.key.expanded();
        for chunk in plaintext.chunks(MAX_PLAINTEXT) {
            let nonce = self.counter.nonce()?;
            let length = u16::try_from(chunk.len() + TAG).unwrap_or(u16::MAX);
            out.push(frame::RECORD);
            out.extend(length.to_be_bytes());
            let start = out.len();
            out.extend(chunk);
            let sealed = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut out[start..]);
            out.extend(sealed.map_err(|_| RecordError::Exhausted)?.as_ref());
        }
        Ok(())
    }
}

/// Opens what one side receives: bytes are fed as they come, and come out as plaintext.
pub struct Opener {
    key: Key,
    counter: Counter,
    /// Bytes fed and not opened: less than one record once [`Self::next`] has said `None`.
    pending: Vec<u8>,
    /// How many of them were opened already.
    taken: usize,
}

impl Opener {
    pub(super) fn new(bytes: &[u8; 32]) -> Self {
        Self { key: Key(*bytes), counter: Counter::default(), pending: Vec::new(), taken: 0 }
    }

    /// Takes in bytes as they came.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.taken == self.pending.len() {
            self.pending.clear();
            self.taken = 0;
        }
        self.pending.extend(bytes);
    }

    /// Opens the next record whose bytes are all there. Empty records are legal and passed over. An idle connection keeps no
    /// buffer.
    ///
    /// # Errors
    ///
    /// What came is no record, or was changed.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator of results would hide that the first error is the last item"
    )]
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, RecordError> {
        loop {
            let rest = &self.pending[self.taken..];
            if rest.is_empty() {
                self.pending = Vec::new();
                self.taken = 0;
                return Ok(None);
            }
            if rest[0] != frame::RECORD {
                return Err(RecordError::Type(rest[0]));
            }
            let Some(length) = rest.get(1..HEADER).map(|b| usize::from(u16::from_be_bytes([b[0], b[1]]))) else {
                return Ok(None);
            };
            if !(TAG..=MAX_CIPHERTEXT).contains(&length) {
                return Err(RecordError::Length(length));
            }
            let Some(ciphertext) = rest.get(HEADER..HEADER + length) else { return Ok(None) };
            let mut record = ciphertext.to_vec();
            let nonce = self.counter.nonce()?;
            let opened =
                self.key.expanded().open_in_place(nonce, Aad::empty(), &mut record).map_err(|_| RecordError::Tag)?;
            let plain = opened.len();
            self.taken += HEADER + length;
            if plain > 0 {
                record.truncate(plain);
                return Ok(Some(record));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Sealer, Opener) {
        (Sealer::new(&[7; 32]), Opener::new(&[7; 32]))
    }

    #[test]
    fn a_long_text_goes_in_full_records_and_comes_out_whole() {
        let (mut sealer, mut opener) = pair();
        let text: Vec<u8> = (0..20_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        let mut wire = Vec::new();
        sealer.seal(&text, &mut wire).unwrap();
        assert_eq!(wire.len(), 20_000 + 5 * (HEADER + TAG));
        let mut got = Vec::new();
        for piece in wire.chunks(1000) {
            opener.feed(piece);
            while let Some(plain) = opener.next().unwrap() {
                got.extend(plain);
            }
        }
        assert_eq!(got, text);
        assert_eq!(opener.pending.capacity(), 0, "an idle connection keeps no buffer");
    }

    #[test]
    fn counters_above_255_stand_big_endian() {
        let (mut sealer, mut opener) = pair();
        for i in 0..600_u32 {
            let mut wire = Vec::new();
            sealer.seal(&i.to_be_bytes(), &mut wire).unwrap();
            opener.feed(&wire);
            assert_eq!(opener.next().unwrap(), Some(i.to_be_bytes().to_vec()));
        }
        let mut counter = Counter(256);
        assert_eq!(counter.nonce().unwrap().as_ref(), &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for (bytes, error) in [
            (vec![3, 0, 20], RecordError::Type(3)),
            (vec![4, 0, 15], RecordError::Length(15)),
            (vec![4, 0x0f, 0xfe], RecordError::Length(4094)),
            ([vec![4, 0, 20], vec![0; 20]].concat(), RecordError::Tag),
        ] {
            let (_, mut opener) = pair();
            opener.feed(&bytes);
            assert_eq!(opener.next(), Err(error));
        }
    }

    #[test]
    fn a_repeated_record_is_refused() {
        let (mut sealer, mut opener) = pair();
        let mut wire = Vec::new();
        sealer.seal(b"x", &mut wire).unwrap();
        opener.feed(&[wire.clone(), wire].concat());
        assert!(opener.next().unwrap().is_some());
        assert_eq!(opener.next(), Err(RecordError::Tag));
    }

    #[test]
    fn empty_records_are_passed_over() {
        let (mut sealer, mut opener) = pair();
        let mut wire = vec![4, 0, 16];
        let nonce = sealer.counter.nonce().unwrap();
        let tag = sealer.key.expanded().seal_in_place_separate_tag(nonce, Aad::empty(), &mut []).unwrap();
        wire.extend(tag.as_ref());
        sealer.seal(b"x", &mut wire).unwrap();
        opener.feed(&wire);
        assert_eq!(opener.next().unwrap().as_deref(), Some(&b"x"[..]));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(pieces in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..60), 0..8)) {
            let (_, mut opener) = pair();
            for piece in pieces {
                opener.feed(&piece);
                if opener.next().is_err() { break }
            }
        }
    }
}
