//! What a program has said: its beginning and its end, however much it says.

use std::collections::VecDeque;

/// So much of the beginning is kept, in bytes: there stands what the program set out to do.
const HEAD: usize = 16 << 10;
/// So much of the end is kept, in bytes: there stands why it ended.
const TAIL: usize = 48 << 10;

/// What a program has written to its standard output and error, in that order. Bounded: what is neither beginning nor
/// end is left out. May repeat health data: no `Debug`.
#[derive(Clone, Default)]
pub struct Output {
    head: Vec<u8>,
    left_out: u64,
    tail: VecDeque<u8>,
}

impl Output {
    /// Takes what was said next.
    pub fn push(&mut self, said: &[u8]) {
        let (first, rest) = said.split_at(said.len().min(HEAD - self.head.len()));
        self.head.extend(first);
        let (passed, last) = rest.split_at(rest.len().saturating_sub(TAIL));
        let too_many = (self.tail.len() + last.len()).saturating_sub(TAIL);
        self.tail.drain(..too_many);
        self.tail.extend(last);
        self.left_out += (passed.len() + too_many) as u64;
    }

    /// How many bytes were said, left out or not.
    pub fn said(&self) -> u64 {
        (self.head.len() + self.tail.len()) as u64 + self.left_out
    }

    /// As text. What is not UTF-8 is replaced; a line of its own says how much was left out. Control characters are as
    /// they came: whoever shows it has to make them harmless.
    pub fn text(&self) -> String {
        let (start, end) = self.tail.as_slices();
        let tail = [start, end].concat();
        if self.left_out == 0 {
            let all = [self.head.as_slice(), &tail].concat();
            return String::from_utf8_lossy(&all).into_owned();
        }
        format!(
            "{}\n[… {} bytes left out …]\n{}",
            String::from_utf8_lossy(&self.head),
            self.left_out,
            String::from_utf8_lossy(&tail)
        )
    }

    /// As bytes that [`Output::from_bytes`] reads: the number left out and the length of the beginning, then both parts.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (start, end) = self.tail.as_slices();
        let head = self.head.len() as u64;
        let numbers = [self.left_out.to_le_bytes(), head.to_le_bytes()].concat();
        [&numbers, self.head.as_slice(), start, end].concat()
    }

    /// Reads what [`Output::to_bytes`] gave; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (left_out, rest) = bytes.split_first_chunk()?;
        let (head, rest) = rest.split_first_chunk()?;
        let head = usize::try_from(u64::from_le_bytes(*head)).ok()?;
        let (head, tail) = rest.split_at_checked(head)?;
        (head.len() <= HEAD && tail.len() <= TAIL).then(|| Self {
            head: head.to_vec(),
            left_out: u64::from_le_bytes(*left_out),
            tail: tail.iter().copied().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(said: &[u8]) -> Output {
        let mut output = Output::default();
        output.push(said);
        output
    }

    #[test]
    fn the_beginning_and_the_end_are_kept_and_what_is_between_is_counted() {
        let all: Vec<u8> = (0..1_000_000_u32)
            .flat_map(|n| format!("{n:06}\n").into_bytes())
            .collect();
        for pieces in [7, 4096, 100_000, all.len()] {
            let mut output = Output::default();
            all.chunks(pieces).for_each(|piece| output.push(piece));
            assert_eq!(output.said(), all.len() as u64);
            let text = output.text();
            assert!(text.starts_with("000000\n000001\n"), "{pieces}");
            assert!(text.ends_with("999998\n999999\n"), "{pieces}");
            let left_out = format!("\n[… {} bytes left out …]\n", all.len() - HEAD - TAIL);
            assert!(text.contains(&left_out), "{pieces}");
            assert_eq!(output.head.len() + output.tail.len(), HEAD + TAIL);
        }
    }

    #[test]
    fn what_fits_is_kept_whole_and_what_is_no_text_is_replaced() {
        let whole = "ä".repeat(HEAD.midpoint(TAIL) - 1);
        // A character that lies across the two parts is one.
        let odd = format!("x{whole}");
        assert_eq!(of(odd.as_bytes()).text(), odd);
        assert_eq!(of(b"a\xff\0b").text(), "a\u{fffd}\0b");
    }

    #[test]
    fn bytes_give_back_what_they_were_made_of_and_nothing_else_is_read() {
        for said in [&b""[..], b"short", &vec![7; 3 * (HEAD + TAIL)]] {
            let output = of(said);
            let mut again = Output::from_bytes(&output.to_bytes()).unwrap();
            assert_eq!(again.to_bytes(), output.to_bytes());
            again.push(b"more");
            assert_eq!(again.said(), said.len() as u64 + 4);
        }
        assert!(Output::from_bytes(b"").is_none());
        assert!(Output::from_bytes(&[0xff; 40]).is_none());
        assert!(Output::from_bytes(&vec![0; 1 << 20]).is_none());
    }
}
