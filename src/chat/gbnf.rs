//! llama.cpp's GBNF, translated to the Lark dialect that our grammar compiler reads.
//!
//! GBNF in short: `name ::= alternatives`, `"literal"`, `[class]`, `.`, `( … )`, the suffixes
//! `* + ? {n} {n,} {n,m}`, `#` comments, and `root` as start rule.

use std::fmt::Write;

/// Rules in a grammar.
const RULES_MAX: usize = 5_000;
/// Groups within groups.
const DEPTH_MAX: usize = 64;
/// Repetitions that `{n,m}` may ask for.
const REPEAT_MAX: usize = 2_000;

/// Translates a grammar.
///
/// # Errors
/// A sentence that names line and problem.
pub(super) fn to_lark(source: &str) -> Result<String, String> {
    let mut parser = Parser { source, at: 0, defined: Vec::new(), used: Vec::new() };
    let mut out = String::new();
    parser.skip(Blank::Lines);
    while !parser.rest().is_empty() {
        parser.rule(&mut out)?;
        parser.skip(Blank::Lines);
        if parser.defined.len() > RULES_MAX {
            return Err(format!("grammar has more than {RULES_MAX} rules"));
        }
    }
    if !parser.defined.iter().any(|name| name == "root") {
        return Err("grammar has no rule 'root'".to_owned());
    }
    if let Some(missing) = parser.used.iter().find(|name| !parser.defined.contains(name)) {
        return Err(format!("grammar uses rule '{missing}' and does not define it"));
    }
    Ok(out)
}

/// How far blanks reach.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blank {
    /// Within a line.
    Line,
    /// Over line ends, as within groups.
    Lines,
}

struct Parser<'a> {
    source: &'a str,
    at: usize,
    defined: Vec<String>,
    used: Vec<String>,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    fn error<T>(&self, problem: &str) -> Result<T, String> {
        let line = self.source[..self.at].matches('\n').count() + 1;
        Err(format!("grammar line {line}: {problem}"))
    }

    fn skip(&mut self, blank: Blank) {
        while let Some(c) = self.peek() {
            if c == '#' {
                let end = self.rest().find('\n').unwrap_or(self.rest().len());
                self.at += end;
            } else if c == ' ' || c == '\t' || (blank == Blank::Lines && (c == '\n' || c == '\r')) {
                self.at += 1;
            } else {
                break;
            }
        }
    }

    fn name(&mut self) -> Result<String, String> {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
        let name = &rest[..end.unwrap_or(rest.len())];
        if name.is_empty() {
            return self.error("expected a rule name");
        }
        self.at += name.len();
        Ok(name.to_owned())
    }

    fn rule(&mut self, out: &mut String) -> Result<(), String> {
        let name = self.name()?;
        self.skip(Blank::Line);
        if !self.eat("::=") {
            return self.error("expected '::='");
        }
        if self.defined.contains(&name) {
            return self.error(&format!("rule '{name}' is defined twice"));
        }
        self.skip(Blank::Lines);
        let body = self.alternatives(0)?;
        self.skip(Blank::Line);
        if !self.rest().is_empty() && !self.rest().starts_with(['\n', '\r']) {
            return self.error("expected the end of the rule");
        }
        let _ = writeln!(out, "{}: {body}", lark_name(&name));
        self.defined.push(name);
        Ok(())
    }

    fn alternatives(&mut self, depth: usize) -> Result<String, String> {
        if depth > DEPTH_MAX {
            return self.error(&format!("groups nest deeper than {DEPTH_MAX}"));
        }
        let blank = if depth > 0 { Blank::Lines } else { Blank::Line };
        let mut branches = vec![self.sequence(depth, blank)?];
        while self.eat("|") {
            self.skip(Blank::Lines);
            branches.push(self.sequence(depth, blank)?);
        }
        Ok(branches.join(" | "))
    }

    fn sequence(&mut self, depth: usize, blank: Blank) -> Result<String, String> {
        let mut items = Vec::new();
        loop {
            let item = match self.peek() {
                Some('"') => self.literal()?,
                Some('[') => self.class()?,
                Some('.') => {
                    self.at += 1;
                    r"/[^\n]|\n/".to_owned()
                }
                Some('(') => {
                    self.at += 1;
                    self.skip(Blank::Lines);
                    let body = self.alternatives(depth + 1)?;
                    if !self.eat(")") {
                        return self.error("expected ')'");
                    }
                    format!("({body})")
                }
                Some(c) if c.is_ascii_alphanumeric() || c == '_' => {
                    let name = self.name()?;
                    let lark = lark_name(&name);
                    self.used.push(name);
                    lark
                }
                _ => break,
            };
            let suffix = self.suffix()?;
            items.push(item + &suffix);
            self.skip(blank);
        }
        Ok(if items.is_empty() { "\"\"".to_owned() } else { items.join(" ") })
    }

    fn suffix(&mut self) -> Result<String, String> {
        match self.peek() {
            Some(c @ ('*' | '+' | '?')) => {
                self.at += 1;
                Ok(c.to_string())
            }
            Some('{') => {
                self.at += 1;
                let Some(end) = self.rest().find('}') else {
                    return self.error("expected '}'");
                };
                let body = self.rest()[..end].replace(' ', "");
                self.at += end + 1;
                let (low, high) = match body.split_once(',') {
                    Some((low, high)) => (low, Some(high)),
                    None => (body.as_str(), None),
                };
                let number = |text: &str| text.parse::<usize>().ok().filter(|n| *n <= REPEAT_MAX);
                let range = match (number(low), high) {
                    (Some(low), None) => Some(format!("{{{low},{low}}}")),
                    (Some(low), Some("")) => Some(format!("{{{low},}}")),
                    (Some(low), Some(high)) => number(high)
                        .filter(|high| *high >= low)
                        .map(|high| format!("{{{low},{high}}}")),
                    _ => None,
                };
                match range {
                    Some(range) => Ok(range),
                    None => self.error(&format!(
                        "bad repetition '{{{body}}}' (at most {REPEAT_MAX} times)"
                    )),
                }
            }
            _ => Ok(String::new()),
        }
    }

    fn literal(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.take() {
                None | Some('\n') => return self.error("literal without closing quote"),
                Some('"') => return Ok(quote(&text)),
                Some('\\') => text.push(self.escape()?),
                Some(c) => text.push(c),
            }
        }
    }

    fn class(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut class = String::from("/[");
        if self.eat("^") {
            class.push('^');
        }
        loop {
            match self.take() {
                None | Some('\n') => return self.error("character class without closing bracket"),
                Some(']') => break,
                Some('-') => class.push('-'),
                Some('\\') => {
                    let c = self.escape()?;
                    let _ = write!(class, r"\u{{{:x}}}", c as u32);
                }
                Some(c) => {
                    let _ = write!(class, r"\u{{{:x}}}", c as u32);
                }
            }
        }
        if class.ends_with('[') || class.ends_with('^') {
            return self.error("empty character class");
        }
        class.push_str("]/");
        Ok(class)
    }

    fn escape(&mut self) -> Result<char, String> {
        let hex_len = match self.take() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some(c) if c.is_ascii_punctuation() => return Ok(c),
            _ => return self.error("unknown escape"),
        };
        let digits = self.rest().get(..hex_len);
        let c = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).map(char::from_u32);
        match c {
            Some(Some(c)) => {
                self.at += hex_len;
                Ok(c)
            }
            _ => self.error(&format!("escape needs {hex_len} hexadecimal digits of a character")),
        }
    }
}

/// Lark's rules are lower case without dashes; the prefix keeps names from meeting keywords, and
/// capitals are spelled out so that distinct names stay distinct.
fn lark_name(name: &str) -> String {
    if name == "root" {
        return "start".to_owned();
    }
    let mut out = String::from("g_");
    for c in name.chars() {
        match c {
            '-' => out.push_str("_d"),
            '_' => out.push_str("__"),
            c if c.is_ascii_uppercase() => {
                out.push_str("_c");
                out.push(c.to_ascii_lowercase());
            }
            c => out.push(c),
        }
    }
    out
}

/// A Lark string literal.
pub(super) fn quote(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn translates_rules_literals_classes_and_repetitions() {
        let source = "# a list\nroot ::= item (\", \" item){0,3}\nitem ::= [a-z]+ | \"\\\"\" num-1 \"\\\"\"\nnum-1 ::= [0-9]{2}\n";
        assert_eq!(
            to_lark(source).unwrap(),
            "start: g_item (\", \" g_item){0,3}\n\
             g_item: /[\\u{61}-\\u{7a}]/+ | \"\\\"\" g_num_d1 \"\\\"\"\n\
             g_num_d1: /[\\u{30}-\\u{39}]/{2,2}\n"
        );
    }

    #[test]
    fn names_what_is_wrong() {
        let deep = format!("root ::= {}\"a\"{}", "(".repeat(100), ")".repeat(100));
        for (source, problem) in [
            ("", "no rule 'root'"),
            ("root ::= missing", "'missing'"),
            ("root ::= \"a", "closing quote"),
            ("root ::= [a", "closing bracket"),
            ("root ::= []", "empty character class"),
            ("root ::= \"a\"{9999999}", "at most 2000"),
            ("root ::= \"a\"{3,1}", "bad repetition"),
            ("root = \"a\"", "'::='"),
            ("root ::= (\"a\"", "')'"),
            ("root ::= \"\\q\"", "escape"),
            ("root ::= \"a\"\nroot ::= \"b\"", "twice"),
            (deep.as_str(), "deeper than 64"),
        ] {
            let error = to_lark(source).unwrap_err();
            assert!(error.contains(problem), "{source}: {error}");
        }
    }
}
