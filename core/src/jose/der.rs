//! A strict subset of DER (ITU-T X.690): the elements that keys and signatures use.

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
            [0, positive @ ..] if positive.first().is_some_and(|first| *first >= 0x80) => {
                Some(positive)
            }
            [0, ..] | [] => None,
            positive @ [first, ..] if *first < 0x80 => Some(positive),
            _ => None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Appends an element. Its contents must be shorter than 64 KiB, which holds for all keys.
pub(super) fn push(out: &mut Vec<u8>, tag: u8, contents: &[u8]) {
    out.push(tag);
    let length = u16::try_from(contents.len()).unwrap_or(u16::MAX);
    match length.to_be_bytes() {
        [0, short @ 0..=0x7F] => out.push(short),
        [0, long] => out.extend([0x81, long]),
        [high, low] => out.extend([0x82, high, low]),
    }
    out.extend(contents);
}

/// Appends a non-negative integer. `number` is big-endian, without leading zeros.
pub(super) fn push_unsigned(out: &mut Vec<u8>, number: &[u8]) {
    match number.first() {
        Some(0..=0x7F) => push(out, INTEGER, number),
        _ => {
            let mut padded = zeroize::Zeroizing::new(Vec::with_capacity(number.len() + 1));
            padded.push(0);
            padded.extend(number);
            push(out, INTEGER, &padded);
        }
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
            let mut der = Vec::new();
            push_unsigned(&mut der, &number);
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
