//! Entry points for fuzzing: no message makes the reader panic, and its answers are well-formed.

use super::*;

/// Reads a query and answers it in every way.
pub fn query(bytes: &[u8]) {
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
}

/// Reads the response of an upstream resolver.
pub fn response(bytes: &[u8]) {
    // The question of the query is taken to be the one that the response repeats.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_of_queries_is_answered() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/query"), query);
    }

    #[test]
    fn corpus_of_responses_is_read() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/response"), response);
    }
}
