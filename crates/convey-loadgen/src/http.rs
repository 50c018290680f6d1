//! As much HTTP/1.1 as a bench needs: the head's end, and a body length.

/// Where one answer stands while its bytes arrive.
#[derive(Debug, Default)]
pub struct Answer {
    head: Vec<u8>,
    body_left: Option<usize>,
}

/// What a piece of an answer led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    Partial,
    /// The answer is complete.
    Complete,
    /// This is no HTTP answer with a Content-Length.
    Malformed,
}

impl Answer {
    /// Takes the next bytes. An answer longer than its Content-Length is malformed: nobody asked for more.
    pub fn take(&mut self, piece: &[u8]) -> Progress {
        let left = match self.body_left {
            Some(left) => left.checked_sub(piece.len()),
            None => {
                // The whole head is almost always in the first piece, so it is rarely copied.
                let joined;
                let seen: &[u8] = if self.head.is_empty() {
                    piece
                } else {
                    self.head.extend_from_slice(piece);
                    joined = std::mem::take(&mut self.head);
                    &joined
                };
                let Some(end) = head_end(seen) else {
                    if seen.len() > 16 * 1024 {
                        return Progress::Malformed;
                    }
                    self.head = seen.to_vec();
                    return Progress::Partial;
                };
                let Some(length) = content_length(seen.get(..end).unwrap_or_default()) else {
                    return Progress::Malformed;
                };
                length.checked_sub(seen.len() - end)
            }
        };
        match left {
            None => Progress::Malformed,
            Some(0) => {
                self.body_left = None;
                Progress::Complete
            }
            Some(left) => {
                self.body_left = Some(left);
                Progress::Partial
            }
        }
    }
}

/// Index after the blank line, if it is there.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

fn content_length(head: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(head).ok()?;
    if !text.starts_with("HTTP/1.") {
        return None;
    }
    text.split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_split_anywhere_completes_with_its_last_byte() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        for at in 1..whole.len() {
            let mut answer = Answer::default();
            assert_eq!(answer.take(&whole[..at]), Progress::Partial, "split at {at}");
            assert_eq!(answer.take(&whole[at..]), Progress::Complete, "split at {at}");
        }
    }

    #[test]
    fn more_bytes_than_announced_are_malformed() {
        let mut answer = Answer::default();
        assert_eq!(answer.take(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab"), Progress::Malformed);
    }

    #[test]
    fn an_answer_that_is_not_http_is_malformed() {
        assert_eq!(Answer::default().take(b"SSH-2.0\r\n\r\n"), Progress::Malformed);
    }
}
