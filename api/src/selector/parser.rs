//! The grammar of `kubectl -l` (upstream `labels.Parse`), with its error texts.

use std::collections::BTreeSet;

use super::label::{Operator, Requirement, SelectorError};
use crate::field_error::FieldError;
use crate::names;

/// Bytes of a label selector.
const SELECTOR_BYTES_MAX: usize = 32 << 10;
/// Requirements of a label selector, each of which is compared with each object.
const REQUIREMENTS_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    End,
    ClosedParenthesis,
    Comma,
    DoesNotExist,
    DoubleEquals,
    Equals,
    GreaterThan,
    Identifier,
    In,
    LessThan,
    NotEquals,
    NotIn,
    OpenParenthesis,
}

/// Whether the words `in` and `notin` are operators here or just names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Context {
    KeyAndOperator,
    Values,
}

/// Reads a whole selector.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    if text.len() > SELECTOR_BYTES_MAX {
        return Err(SelectorError(format!(
            "the selector is longer than {SELECTOR_BYTES_MAX} bytes"
        )));
    }
    Parser { tokens: scan(text), position: 0 }.selector()
}

fn is_special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn scan(text: &str) -> Vec<(Token, String)> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let Some(first) = rest.chars().next() else { break };
        let (token, length) = if is_special(first) {
            // The longest known operator; only the beginning is looked at.
            match rest {
                run if run.starts_with("==") => (Token::DoubleEquals, 2),
                run if run.starts_with("!=") => (Token::NotEquals, 2),
                run if run.starts_with('=') => (Token::Equals, 1),
                run if run.starts_with('!') => (Token::DoesNotExist, 1),
                run if run.starts_with('(') => (Token::OpenParenthesis, 1),
                run if run.starts_with(')') => (Token::ClosedParenthesis, 1),
                run if run.starts_with(',') => (Token::Comma, 1),
                run if run.starts_with('>') => (Token::GreaterThan, 1),
                _ => (Token::LessThan, 1),
            }
        } else {
            let end = rest
                .find(|c| is_special(c) || matches!(c, ' ' | '\t' | '\r' | '\n'))
                .unwrap_or(rest.len());
            let token = match &rest[..end] {
                "in" => Token::In,
                "notin" => Token::NotIn,
                _ => Token::Identifier,
            };
            (token, end)
        };
        tokens.push((token, rest[..length].to_owned()));
        rest = &rest[length..];
    }
    tokens.push((Token::End, String::new()));
    tokens
}

struct Parser {
    tokens: Vec<(Token, String)>,
    position: usize,
}

impl Parser {
    fn lookahead(&self, context: Context) -> (Token, String) {
        let last = self.tokens.len() - 1;
        let (token, literal) = self.tokens[self.position.min(last)].clone();
        match token {
            Token::In | Token::NotIn if context == Context::Values => (Token::Identifier, literal),
            _ => (token, literal),
        }
    }

    fn consume(&mut self, context: Context) -> (Token, String) {
        let taken = self.lookahead(context);
        self.position += 1;
        taken
    }

    fn selector(mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut requirements = Vec::new();
        loop {
            let (token, literal) = self.lookahead(Context::Values);
            match token {
                Token::Identifier | Token::DoesNotExist => {
                    let requirement = self.requirement().map_err(|error| {
                        SelectorError(format!("unable to parse requirement: {error}"))
                    })?;
                    if requirements.len() == REQUIREMENTS_MAX {
                        return Err(SelectorError(format!(
                            "the selector has more than {REQUIREMENTS_MAX} requirements"
                        )));
                    }
                    requirements.push(requirement);
                    let (token, literal) = self.consume(Context::Values);
                    match token {
                        Token::End => return Ok(requirements),
                        Token::Comma => {
                            let (next, literal) = self.lookahead(Context::Values);
                            if next != Token::Identifier && next != Token::DoesNotExist {
                                return Err(found(&literal, ", expected: identifier after ','"));
                            }
                        }
                        _ => return Err(found(&literal, ", expected: ',' or 'end of string'")),
                    }
                }
                Token::End => return Ok(requirements),
                _ => {
                    return Err(found(&literal, ", expected: !, identifier, or 'end of string'"));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let (key, inferred) = self.key()?;
        if let Some(operator) = inferred {
            return Requirement::new(&key, operator, [], None);
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => self.exact_value()?,
        };
        Requirement::new(&key, operator, values, None)
    }

    fn key(&mut self) -> Result<(String, Option<Operator>), SelectorError> {
        let mut operator = None;
        let (mut token, mut literal) = self.consume(Context::Values);
        if token == Token::DoesNotExist {
            operator = Some(Operator::DoesNotExist);
            (token, literal) = self.consume(Context::Values);
        }
        if token != Token::Identifier {
            return Err(found(&literal, ", expected: identifier"));
        }
        let messages = names::label_key(&literal);
        if !messages.is_empty() {
            let error = FieldError::invalid("<nil>", literal, messages.join("; "));
            return Err(SelectorError(error.to_string()));
        }
        let (next, _) = self.lookahead(Context::Values);
        if matches!(next, Token::End | Token::Comma) && operator.is_none() {
            operator = Some(Operator::Exists);
        }
        Ok((literal, operator))
    }

    fn operator(&mut self) -> Result<Operator, SelectorError> {
        let (token, literal) = self.consume(Context::KeyAndOperator);
        match token {
            Token::In => Ok(Operator::In),
            Token::NotIn => Ok(Operator::NotIn),
            Token::Equals => Ok(Operator::Equals),
            Token::DoubleEquals => Ok(Operator::DoubleEquals),
            Token::NotEquals => Ok(Operator::NotEquals),
            Token::GreaterThan => Ok(Operator::GreaterThan),
            Token::LessThan => Ok(Operator::LessThan),
            _ => Err(found(&literal, ", expected: in, notin, =, ==, !=, gt, lt")),
        }
    }

    fn values(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        let (token, literal) = self.consume(Context::Values);
        if token != Token::OpenParenthesis {
            return Err(found(&literal, " expected: '('"));
        }
        let (token, literal) = self.lookahead(Context::Values);
        match token {
            Token::Identifier | Token::Comma => {
                let values = self.identifiers()?;
                let (token, literal) = self.consume(Context::Values);
                if token != Token::ClosedParenthesis {
                    return Err(found(&literal, ", expected: ')'"));
                }
                Ok(values)
            }
            Token::ClosedParenthesis => {
                self.consume(Context::Values);
                Ok(BTreeSet::new())
            }
            _ => Err(found(&literal, ", expected: ',', ')' or identifier")),
        }
    }

    fn identifiers(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        let mut values = BTreeSet::new();
        loop {
            let (token, literal) = self.consume(Context::Values);
            match token {
                Token::Identifier => {
                    values.insert(literal);
                    let (next, literal) = self.lookahead(Context::Values);
                    match next {
                        Token::Comma => {}
                        Token::ClosedParenthesis => return Ok(values),
                        _ => return Err(found(&literal, ", expected: ',' or ')'")),
                    }
                }
                // Nothing before, between or after commas is an empty value.
                Token::Comma => {
                    if values.is_empty() {
                        values.insert(String::new());
                    }
                    match self.lookahead(Context::Values).0 {
                        Token::ClosedParenthesis => {
                            values.insert(String::new());
                            return Ok(values);
                        }
                        Token::Comma => {
                            self.consume(Context::Values);
                            values.insert(String::new());
                        }
                        _ => {}
                    }
                }
                _ => return Err(found(&literal, ", expected: ',', or identifier")),
            }
        }
    }

    fn exact_value(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        if matches!(self.lookahead(Context::Values).0, Token::End | Token::Comma) {
            return Ok(BTreeSet::from([String::new()]));
        }
        let (token, literal) = self.consume(Context::Values);
        match token {
            Token::Identifier => Ok(BTreeSet::from([literal])),
            _ => Err(found(&literal, ", expected: identifier")),
        }
    }
}

fn found(literal: &str, expected: &str) -> SelectorError {
    SelectorError(format!("found '{literal}'{expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlong_selector_is_refused() {
        let error = parse(&"!".repeat(SELECTOR_BYTES_MAX + 1)).expect_err("it is too long");
        assert_eq!(error.to_string(), "the selector is longer than 32768 bytes");
        assert_eq!(scan("!!==a").len(), 5);
    }

    #[test]
    fn requirements_are_bounded() {
        assert!(parse(&vec!["!a"; REQUIREMENTS_MAX].join(",")).is_ok());
        let error = parse(&vec!["!a"; REQUIREMENTS_MAX + 1].join(",")).expect_err("one too many");
        assert_eq!(error.to_string(), "the selector has more than 256 requirements");
    }
}
