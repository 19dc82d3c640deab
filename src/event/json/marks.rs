//! Where strings may end: a bit for each byte of a body that is a quote, a backslash or a control character.
//!
//! Found for 64 bytes at a time, without a branch, so that no string is walked over byte by byte.

/// Notes the marks of `text`, 64 bytes to a word, the first byte in the lowest bit. Everything behind the end is marked.
pub fn of(text: &[u8], marks: &mut Vec<u64>) {
    marks.clear();
    let (whole, rest) = text.as_chunks::<64>();
    marks.extend(whole.iter().map(of_word));
    let mut last = [0; 64];
    last[..rest.len()].copy_from_slice(rest);
    marks.push(of_word(&last));
}

/// The first marked place at or behind `at`, which is not behind the end of the text by more than one.
#[inline(always)]
pub fn next(marks: &[u64], at: usize) -> usize {
    let mut word = at / 64;
    let mut ahead = marks.get(word).map_or(1, |w| w >> (at % 64));
    if ahead != 0 {
        return at + ahead.trailing_zeros() as usize;
    }
    loop {
        word += 1;
        ahead = marks.get(word).copied().unwrap_or(1);
        if ahead != 0 {
            return word * 64 + ahead.trailing_zeros() as usize;
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn of_word(bytes: &[u8; 64]) -> u64 {
    // SAFETY: every x86-64 processor has SSE2.
    unsafe { sse2(bytes) }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse2")]
fn sse2(bytes: &[u8; 64]) -> u64 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
    };

    let (quote, slash) = (_mm_set1_epi8(b'"' as i8), _mm_set1_epi8(b'\\' as i8));
    let control = _mm_set1_epi8(0x1f);
    let mut word = 0;
    for part in bytes.as_chunks::<16>().0.iter().rev() {
        let n = u128::from_le_bytes(*part);
        let part = _mm_set_epi64x((n >> 64) as i64, n as i64);
        let text = _mm_or_si128(_mm_cmpeq_epi8(part, quote), _mm_cmpeq_epi8(part, slash));
        let marked = _mm_or_si128(text, _mm_cmpeq_epi8(_mm_min_epu8(part, control), part));
        word = word << 16 | u64::from(_mm_movemask_epi8(marked) as u16);
    }
    word
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn of_word(bytes: &[u8; 64]) -> u64 {
    portable(bytes)
}

/// The same, eight bytes at a time.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn portable(bytes: &[u8; 64]) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const LOW: u64 = 0x7f * ONES;
    // The high bit of each byte that is zero, and no other bit.
    let zero = |w: u64| !(((w & LOW) + LOW) | w | LOW);
    bytes.as_chunks::<8>().0.iter().rev().fold(0, |word, part| {
        let w = u64::from_le_bytes(*part);
        let marked = zero(w ^ (ONES * 0x22)) | zero(w ^ (ONES * 0x5c)) | zero(w & (ONES * 0xe0));
        word << 8 | (marked >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_marked(byte: u8) -> bool {
        byte < 0x20 || byte == b'"' || byte == b'\\'
    }

    proptest! {
        #[test]
        fn every_mark_is_found_in_its_place(text in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut marks = Vec::new();
            of(&text, &mut marks);
            for at in 0..=text.len() {
                let expected = (at..text.len()).find(|i| is_marked(text[*i])).unwrap_or(text.len());
                prop_assert_eq!(next(&marks, at), expected);
            }
            for word in text.as_chunks::<64>().0 {
                prop_assert_eq!(of_word(word), portable(word));
            }
        }
    }
}
