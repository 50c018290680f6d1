use super::*;

/// Every field filled with something of its own.
fn flow(is_v4: bool, field: PortField) -> Flow {
    Flow {
        client: if is_v4 { 0xffff << 32 | 0xc633_6407 } else { 0x2001_0db8_1111_2222_3333_4444_5555_6666 },
        next: [0x1234_5678, 0x9abc_def0],
        in_flight: if field == PortField::InFlight { [15, 0x98] } else { [0, 0] },
        last_seen: 0xab_cdef,
        client_port: 40_001,
        port: if field == PortField::Port { 443 } else { 0 },
        frontend: 0xf00d,
        server: 0xbeef,
        nat_port: 0xcafe,
        pool: 0xfeed,
        claim: 0xfff,
        window: [30, 17],
        scale: [14, 15],
        state: FlowState::UdpStream,
        flags: 0b10_1101,
    }
}

fn zeros<const WORDS: usize>() -> [AtomicU32; WORDS] {
    array::from_fn(|_| AtomicU32::new(0))
}

fn survives<const WORDS: usize>(flow: &Flow, field: PortField) -> [u32; WORDS] {
    let words = zeros::<WORDS>();
    let entry = Entry(&words);
    entry.write(flow, field);
    entry.control().store(control(flow), Relaxed);
    assert_eq!(entry.read(field).as_ref(), Some(flow));
    let words = words.map(AtomicU32::into_inner);
    assert_eq!(read_entry(&words, field == PortField::Port), Ok(Some(*flow)));
    words
}

#[test]
fn every_field_is_read_as_it_was_written_in_both_families_and_modes() {
    for field in [PortField::Port, PortField::InFlight] {
        let full = flow(true, field);
        let words: [u32; 8] = survives(&full, field);
        assert_eq!(
            (words[0], words[1]),
            (8 | 0b10_1101 << 4 | 30 << 10 | 17 << 15 | 0xfff << 20, 0xfeab_cdef)
        );
        let words: [u32; 16] = survives(&flow(false, field), field);
        assert_eq!(words[11..], [0; 5], "spare");
        for state in (1..9).map(|n| FlowState::from_number(n).unwrap()) {
            survives::<8>(&Flow { state, ..full }, field);
        }
        // One field at a time: none lies in another.
        let blank = Flow { client: 0xffff << 32, state: FlowState::SynSent, ..Flow::default() };
        for one in [
            Flow { client: full.client, ..blank },
            Flow { next: [u32::MAX, 0], ..blank },
            Flow { next: [0, u32::MAX], ..blank },
            Flow { in_flight: full.in_flight, ..blank },
            Flow { last_seen: Ticks::MASK, ..blank },
            Flow { client_port: u16::MAX, ..blank },
            Flow { port: full.port, ..blank },
            Flow { frontend: u16::MAX, ..blank },
            Flow { server: u16::MAX, ..blank },
            Flow { nat_port: u16::MAX, ..blank },
            Flow { pool: u16::MAX, ..blank },
            Flow { window: [31, 0], ..blank },
            Flow { window: [0, 31], ..blank },
            Flow { scale: [15, 0], ..blank },
            Flow { scale: [0, 15], ..blank },
            Flow { flags: 63, ..blank },
            Flow { claim: 0xfff, ..blank },
        ] {
            survives::<8>(&one, field);
        }
    }
}

#[test]
fn an_entry_of_zeros_is_free_and_one_that_was_being_written_is_no_flow() {
    assert_eq!(read_entry(&[0; 8], false), Ok(None));
    let mut words: [u32; 8] = survives(&flow(true, PortField::InFlight), PortField::InFlight);
    words[0] = claimed(words[0]);
    assert_eq!(read_entry(&words, false), Ok(None));
    assert_eq!(claim_of(words[0]), 0, "claims go round");
    words[0] = freed(words[0]);
    assert_eq!(read_entry(&words, false), Ok(None));
}

#[test]
fn a_state_that_does_not_exist_or_a_client_of_the_other_family_is_damage() {
    for state in 9..15 {
        assert!(read_entry(&[state, 0, 0, 0, 0, 0, 0, 0], false).is_err());
    }
    let mut mapped = [0; 16];
    mapped[0] = 3;
    (mapped[4], mapped[5]) = (0xffff, 1);
    assert!(read_entry(&mapped, true).is_err());
    assert!(read_entry(&[3; 7], true).is_err());
    assert_eq!(read_entry(&[], true), Ok(None));
}
