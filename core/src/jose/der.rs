//! A strict subset of DER (ITU-T X.690): the elements that keys and signatures use.

use zeroize::Zeroizing;

use super::private::Bytes;

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const NULL: u8 = 0x05;
pub(super) const OID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
/// `[1]`, constructed.
pub(super) const CONTEXT_1: u8 = 0xA1;

/// Reads a sequence of elements.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(der: &'a [u8]) -> Self {
        Self(der)
    }

    /// Returns the contents of the next element, if it has this tag. Otherwise nothing is consumed.
    pub(super) fn read(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        // The length has at most two bytes, in the shortest form.
        let (length, least, rest) = match *first {
            short @ 0..=0x7F => (usize::from(short), 0, rest),
            0x81 => {
                let (length, rest) = rest.split_first()?;
                (usize::from(*length), 0x80, rest)
            }
            0x82 => {
                let (length, rest) = rest.split_first_chunk::<2>()?;
                (usize::from(u16::from_be_bytes(*length)), 0x100, rest)
            }
            _ => return None,
        };
        let (contents, after) = rest.split_at_checked(length)?;
        if *found != tag || length < least {
            return None;
        }
        self.0 = after;
        Some(contents)
    }

    /// Returns a reader for the elements inside the next element, if it has this tag.
    pub(super) fn enter(&mut self, tag: u8) -> Option<Self> {
        self.read(tag).map(Self)
    }

    /// Returns a non-negative integer, big-endian, without leading zeros. Zero is the empty slice.
    pub(super) fn unsigned(&mut self) -> Option<&'a [u8]> {
        match self.read(INTEGER)? {
            [0] => Some(&[]),
            [0, positive @ ..] if matches!(positive, [0x80..=0xFF, ..]) => Some(positive),
            positive @ [1..=0x7F, ..] => Some(positive),
            _ => None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Returns an element. Its contents, given in parts, must be shorter than 64 KiB, which holds for
/// all keys.
pub(super) fn element(tag: u8, contents: &[&[u8]]) -> Bytes {
    let length: usize = contents.iter().map(|part| part.len()).sum();
    // A reallocation would leave an unwiped copy in memory.
    let mut out = Zeroizing::new(Vec::with_capacity(4 + length));
    out.push(tag);
    match u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes() {
        [0, short @ 0..=0x7F] => out.push(short),
        [0, long] => out.extend([0x81, long]),
        [high, low] => out.extend([0x82, high, low]),
    }
    contents.iter().for_each(|part| out.extend(*part));
    out
}

/// Returns a non-negative integer as an element. `number` is big-endian, without leading zeros.
pub(super) fn unsigned(number: &[u8]) -> Bytes {
    match number.first() {
        Some(0..=0x7F) => element(INTEGER, &[number]),
        _ => element(INTEGER, &[&[0], number]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_shortest_form_is_read() {
        for (der, number) in [
            (&[2, 1, 5][..], Some(&[5][..])),
            (&[2, 1, 0], Some(&[])),
            (&[2, 2, 0, 0x80], Some(&[0x80])),
            (&[2, 2, 0, 0x7F], None),
            (&[2, 1, 0x80], None),
            (&[2, 0], None),
            (&[2, 2, 5], None),
            (&[2, 0x81, 1, 5], None),
            (&[2, 0x82, 0, 1, 5], None),
            (&[2, 0x80, 5, 0, 0], None),
            (&[3, 1, 5], None),
            (&[], None),
        ] {
            assert_eq!(Reader::new(der).unsigned(), number, "{der:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(number in proptest::collection::vec(any::<u8>(), 0..600)) {
            let number: Vec<u8> = number.into_iter().skip_while(|byte| *byte == 0).collect();
            let der = unsigned(&number);
            let mut reader = Reader::new(&der);
            prop_assert_eq!(reader.unsigned(), Some(&number[..]));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn no_bytes_panic(der: Vec<u8>) {
            let mut reader = Reader::new(&der);
            while let Some(mut inner) = reader.enter(SEQUENCE) {
                let _ = (inner.unsigned(), inner.read(OCTET_STRING));
            }
        }
    }
}
