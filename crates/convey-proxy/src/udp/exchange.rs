//! How far a session has come: datagrams of the client, answers, and whether it is over by their number.

/// What ends a session by number, from the frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbers {
    /// Answers expected to each datagram of the client; `None`: nobody knows.
    pub responses: Option<u32>,
    /// Datagrams of a client in one session; 0: as many as come.
    pub requests: u32,
}

/// Datagrams so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Exchange {
    pub requests: u64,
    pub responses: u64,
    /// The client has gone on after an answer.
    pub is_conversation: bool,
}

impl Exchange {
    /// The client's next datagrams went to the server.
    pub fn asked(&mut self, datagrams: u64) {
        self.is_conversation |= self.responses > 0;
        self.requests += datagrams;
    }

    pub fn answered(&mut self, datagrams: u64) {
        self.responses += datagrams;
    }

    /// How many more datagrams of the client belong to this session.
    pub fn room(&self, numbers: Numbers) -> u64 {
        match u64::from(numbers.requests) {
            0 => u64::MAX,
            requests => requests.saturating_sub(self.requests),
        }
    }

    /// Whether nothing more belongs to it: the client has sent what it may, and every expected answer has come.
    pub fn is_over(&self, numbers: Numbers) -> bool {
        let all_asked = numbers.requests == 0 || self.room(numbers) == 0;
        self.requests > 0 && all_asked && self.has_its_answers(numbers) && numbers.responses.is_some()
    }

    /// Whether no answer is missing, as far as that is known.
    pub fn has_its_answers(&self, numbers: Numbers) -> bool {
        let each = numbers.responses.map_or(0, u64::from);
        self.responses >= each.saturating_mul(self.requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(requests: u64, responses: u64) -> Exchange {
        Exchange { requests, responses, is_conversation: false }
    }

    #[test]
    fn without_numbers_a_session_is_never_over_by_them() {
        let numbers = Numbers { responses: None, requests: 0 };
        assert!(!after(5, 100).is_over(numbers) && after(5, 0).has_its_answers(numbers));
        assert_eq!(after(5, 0).room(numbers), u64::MAX);
    }

    #[test]
    fn a_session_is_over_when_each_datagram_has_its_answers() {
        let numbers = Numbers { responses: Some(2), requests: 0 };
        assert!(!after(1, 1).is_over(numbers) && after(1, 2).is_over(numbers));
        assert!(!after(2, 3).is_over(numbers) && after(2, 4).is_over(numbers));
        assert!(!after(0, 0).is_over(numbers), "nothing was asked yet");
    }

    #[test]
    fn where_no_answer_is_expected_a_session_is_over_with_its_datagrams() {
        assert!(after(1, 0).is_over(Numbers { responses: Some(0), requests: 0 }));
        let three = Numbers { responses: Some(0), requests: 3 };
        assert!(!after(2, 0).is_over(three) && after(3, 0).is_over(three));
    }

    #[test]
    fn a_session_with_a_number_of_requests_waits_for_them_and_for_their_answers() {
        let numbers = Numbers { responses: Some(1), requests: 2 };
        assert!(!after(1, 1).is_over(numbers) && !after(2, 1).is_over(numbers));
        assert!(after(2, 2).is_over(numbers));
        assert_eq!([after(0, 0).room(numbers), after(2, 0).room(numbers)], [2, 0]);
        let open_ended = Numbers { responses: None, requests: 2 };
        assert!(!after(2, 9).is_over(open_ended), "how many answers come, nobody knows");
    }

    #[test]
    fn going_on_after_an_answer_makes_a_conversation() {
        let mut exchange = Exchange::default();
        exchange.asked(3);
        assert!(!exchange.is_conversation);
        exchange.answered(1);
        assert!(!exchange.is_conversation);
        exchange.asked(1);
        assert!(exchange.is_conversation);
    }
}
