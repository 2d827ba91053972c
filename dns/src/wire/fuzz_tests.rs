//! No message makes the reader panic, and what it makes of one is well-formed.

use super::*;

#[test]
fn queries() {
    fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/query"), |bytes| {
        match Query::parse(bytes) {
            Ok(query) => {
                for code in [Rcode::NoError, Rcode::ServFail, Rcode::BadVers] {
                    assert!(query.failure(code).len() >= HEADER);
                }
                let mut answer = Reply::new(&query, Rcode::NoError, true);
                let address = "192.0.2.1".parse().expect("an address");
                answer.record(Section::Answer, Owner::Question, kind::A, 30, |data| {
                    write_address(data, address);
                });
                let limit = query.limit(true);
                assert!(answer.finish(limit).len() <= limit);
                assert!(query.truncated().len() >= HEADER);
                assert!(query.question().len() > 4);
            }
            Err(Unanswerable::Refuse(refusal)) => assert!(refusal.len() >= HEADER),
            Err(Unanswerable::Ignore) => {}
        }
    });
}

#[test]
fn responses() {
    fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/response"), |bytes| {
        // Whatever was asked: the question is the one that the response repeats.
        let Some(end) = bytes.get(HEADER..).and_then(|_| skip_name(bytes, HEADER)) else { return };
        let Some(question) = bytes.get(HEADER..end + 4) else { return };
        let id = u16::from_be_bytes([bytes[0], bytes[1]]);
        let Some(response) = read_response(bytes, id, question) else { return };
        for record in response.answers.iter().chain(&response.others) {
            assert!(record.end <= bytes.len());
            record.owner(bytes);
            record.soa_minimum(bytes);
            record.expanded_data(bytes);
        }
    });
}
