//! Explains what is wrong with a JSON text in the words of Go's encoding/json.

/// What is being read when a character comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    FirstElement,
    FirstKey,
    Key,
    AfterKey,
    AfterValue,
}

/// The error, or `None` if the text is valid as far as this scanner sees.
pub fn explain(body: &[u8]) -> Option<String> {
    let mut scanner = Scanner { body, at: 0 };
    scanner.run().err()
}

struct Scanner<'a> {
    body: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn run(&mut self) -> Result<(), String> {
        // Whether each open bracket is an object.
        let mut open: Vec<bool> = Vec::new();
        let mut state = State::Value;
        loop {
            while self.peek().is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')) {
                self.at += 1;
            }
            if state == State::AfterValue && open.is_empty() {
                return match self.peek() {
                    None => Ok(()),
                    Some(_) => Err(self.invalid("after top-level value")),
                };
            }
            let Some(byte) = self.peek() else { return Err(end()) };
            state = match (state, byte) {
                (State::FirstElement, b']') | (State::FirstKey, b'}') => {
                    self.at += 1;
                    open.pop();
                    State::AfterValue
                }
                (State::Value | State::FirstElement, b'{') => {
                    self.at += 1;
                    open.push(true);
                    State::FirstKey
                }
                (State::Value | State::FirstElement, b'[') => {
                    self.at += 1;
                    open.push(false);
                    State::FirstElement
                }
                (State::Value | State::FirstElement, _) => {
                    self.scalar(byte)?;
                    State::AfterValue
                }
                (State::FirstKey | State::Key, b'"') => {
                    self.string()?;
                    State::AfterKey
                }
                (State::FirstKey | State::Key, _) => {
                    return Err(self.invalid("looking for beginning of object key string"));
                }
                (State::AfterKey, b':') => {
                    self.at += 1;
                    State::Value
                }
                (State::AfterKey, _) => return Err(self.invalid("after object key")),
                (State::AfterValue, _) => {
                    let in_object = open.last() == Some(&true);
                    let close = if in_object { b'}' } else { b']' };
                    if byte == close {
                        open.pop();
                    } else if byte != b',' {
                        return Err(self.invalid(if in_object {
                            "after object key:value pair"
                        } else {
                            "after array element"
                        }));
                    }
                    self.at += 1;
                    match (byte == b',', in_object) {
                        (true, true) => State::Key,
                        (true, false) => State::Value,
                        (false, _) => State::AfterValue,
                    }
                }
            };
        }
    }

    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn scalar(&mut self, byte: u8) -> Result<(), String> {
        match byte {
            b'"' => self.string(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            b'-' | b'0'..=b'9' => self.number(),
            _ => Err(self.invalid("looking for beginning of value")),
        }
    }

    fn literal(&mut self, literal: &str) -> Result<(), String> {
        for expected in literal.chars() {
            match self.peek() {
                None => return Err(end()),
                Some(byte) if char::from(byte) == expected => self.at += 1,
                Some(_) => {
                    let context = format!("in literal {literal} (expecting {expected:?})");
                    return Err(self.invalid(&context));
                }
            }
        }
        Ok(())
    }

    fn string(&mut self) -> Result<(), String> {
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err(end()),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    match self.peek() {
                        None => return Err(end()),
                        Some(b'u') => {
                            for _ in 0..4 {
                                self.at += 1;
                                match self.peek() {
                                    None => return Err(end()),
                                    Some(byte) if byte.is_ascii_hexdigit() => {}
                                    Some(_) => {
                                        return Err(
                                            self.invalid("in \\u hexadecimal character escape")
                                        );
                                    }
                                }
                            }
                        }
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {}
                        Some(_) => return Err(self.invalid("in string escape code")),
                    }
                    self.at += 1;
                }
                Some(0..0x20) => return Err(self.invalid("in string literal")),
                Some(_) => self.at += 1,
            }
        }
    }

    fn number(&mut self) -> Result<(), String> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits("in numeric literal")?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    fn digits(&mut self, context: &str) -> Result<(), String> {
        match self.peek() {
            None => return Err(end()),
            Some(byte) if byte.is_ascii_digit() => {}
            Some(_) => return Err(self.invalid(context)),
        }
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    fn invalid(&self, context: &str) -> String {
        let character = match self.peek() {
            Some(b'\'') => r"'\''".to_owned(),
            Some(b'"') => "'\"'".to_owned(),
            Some(byte) if byte.is_ascii() => match byte {
                b'\n' | b'\r' | b'\t' | b'\\' => format!("{:?}", char::from(byte)),
                0x20..0x7f => format!("'{}'", char::from(byte)),
                _ => format!("'\\x{byte:02x}'"),
            },
            Some(byte) => format!("'{}'", char::from(byte)),
            None => return end(),
        };
        format!("invalid character {character} {context}")
    }
}

fn end() -> String {
    "unexpected end of JSON input".to_owned()
}
