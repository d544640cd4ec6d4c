//! Limits on a program's text, checked before the compiler sees it, because the compiler recurses. Pure.
//!
//! The scan knows just enough of VRL's tokens to skip strings, regular expressions and comments. It counts
//! open brackets, and operators that follow one another in one expression (`a + b + c`, `!!!a`, `else if`),
//! since each of them is one more level of the syntax tree. It may count too much, never too little.

use snafu::Snafu;

/// The largest program, bytes.
pub const MAX_SOURCE_BYTES: usize = 16 * 1024;

/// How deep brackets may nest.
pub const MAX_NESTING_LEVELS: usize = 64;

/// How many operators the expressions that enclose one place may hold together.
pub const MAX_CHAINED_OPERATORS: usize = 256;

/// How deep closures (`for_each(…) -> |…| { … }`) may nest. The compiler looks at the body of each twice, so its
/// time doubles with every level.
pub const MAX_CLOSURE_LEVELS: usize = 6;

/// How deep the arguments of calls may hold calls. For some functions the compiler looks at an argument more
/// than once, so its time may double with every level.
pub const MAX_CALL_LEVELS: usize = 16;

/// The largest array index in a path; an assignment to it fills the array up to there.
pub const MAX_ARRAY_INDEX: usize = 9_999;

/// Why a program is not even handed to the compiler.
#[derive(Debug, Eq, PartialEq, Snafu)]
pub enum LimitError {
    /// It is too long.
    #[snafu(display("the program has {bytes} bytes; at most {MAX_SOURCE_BYTES} are allowed"))]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Brackets nest too deep.
    #[snafu(display("line {line}: the program nests deeper than {MAX_NESTING_LEVELS} levels"))]
    TooDeep {
        /// Where, counted from 1.
        line: usize,
    },
    /// Closures nest too deep.
    #[snafu(display("line {line}: closures nest deeper than {MAX_CLOSURE_LEVELS} levels"))]
    TooManyClosures {
        /// Where, counted from 1.
        line: usize,
    },
    /// Calls nest too deep.
    #[snafu(display(
        "line {line}: calls nest deeper than {MAX_CALL_LEVELS} levels; give inner results a name"
    ))]
    TooManyCalls {
        /// Where, counted from 1.
        line: usize,
    },
    /// One expression has too many operators.
    #[snafu(display(
        "line {line}: an expression chains more than {MAX_CHAINED_OPERATORS} operators; split it into several"
    ))]
    TooManyOperators {
        /// Where, counted from 1.
        line: usize,
    },
    /// A path has a huge array index.
    #[snafu(display("line {line}: an array index is larger than {MAX_ARRAY_INDEX}"))]
    IndexTooLarge {
        /// Where, counted from 1.
        line: usize,
    },
}

/// Checks a program's text against all limits.
pub(crate) fn check_limits(source: &str) -> Result<(), LimitError> {
    if source.len() > MAX_SOURCE_BYTES {
        return TooLongSnafu { bytes: source.len() }.fail();
    }
    Scan::new(source.as_bytes()).run()
}

/// One pass over the text.
struct Scan<'a> {
    source: &'a [u8],
    at: usize,
    line: usize,
    /// The outside, and every open bracket in it.
    levels: Vec<Level>,
    /// The sum of `Level::operators`.
    chained: usize,
    /// Whether a `->` waits for the body of its closure.
    closure_begins: bool,
    /// Whether the last token asks for more, so that a line break does not end the expression.
    open_ended: bool,
}

/// What the scan knows of one open bracket.
#[derive(Default)]
struct Level {
    /// The number of operators so far in the current expression.
    operators: usize,
    /// What it encloses.
    encloses: Enclosed,
}

/// What a bracket encloses.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
enum Enclosed {
    /// The arguments of a call.
    Arguments,
    /// The body of a closure.
    Closure,
    #[default]
    Other,
}

impl<'a> Scan<'a> {
    fn new(source: &'a [u8]) -> Self {
        Self {
            source,
            at: 0,
            line: 1,
            levels: vec![Level::default()],
            chained: 0,
            closure_begins: false,
            open_ended: false,
        }
    }

    fn run(mut self) -> Result<(), LimitError> {
        while let Some(&byte) = self.source.get(self.at) {
            match byte {
                b'#' => self.skip_comment(),
                b'"' => self.skip_quoted(b'"'),
                b'r' | b's' | b't' if self.starts_prefixed_literal() => {
                    self.at += 1;
                    self.skip_quoted(b'\'');
                }
                b'\n' => self.end_line(),
                b',' | b';' => self.end_expression(),
                b'(' | b'[' | b'{' => self.open(byte)?,
                b')' | b']' | b'}' => self.close(),
                byte if is_word(byte) => self.word()?,
                byte if is_operator(byte) => self.operator()?,
                byte => {
                    self.open_ended &= byte.is_ascii_whitespace();
                    self.at += 1;
                }
            }
        }
        Ok(())
    }

    fn skip_comment(&mut self) {
        while self.source.get(self.at).is_some_and(|byte| *byte != b'\n') {
            self.at += 1;
        }
    }

    /// `r'…'`, `s'…'` and `t'…'`, unless the letter ends a longer word.
    fn starts_prefixed_literal(&self) -> bool {
        self.source.get(self.at + 1) == Some(&b'\'') && !self.previous().is_some_and(is_word)
    }

    fn skip_quoted(&mut self, quote: u8) {
        self.at += 1;
        while let Some(&byte) = self.source.get(self.at) {
            self.at += 1;
            match byte {
                b'\\' => self.at += 1,
                b'\n' => self.line += 1,
                byte if byte == quote => break,
                _ => {}
            }
        }
        self.open_ended = false;
    }

    fn end_line(&mut self) {
        self.line += 1;
        self.at += 1;
        if !self.open_ended && !self.next_line_continues() {
            self.reset_operators();
        }
    }

    /// Whether the next token is an operator or `else`, which belongs to what stands before the line break.
    fn next_line_continues(&self) -> bool {
        let rest = &self.source[self.at..];
        let Some(start) = rest.iter().position(|byte| !byte.is_ascii_whitespace()) else { return false };
        // A comment may stand between the two; what follows it is not looked at.
        let token = &rest[start..];
        token[0] == b'#' || is_operator(token[0]) || token.starts_with(b"else")
    }

    fn end_expression(&mut self) {
        self.at += 1;
        self.open_ended = false;
        self.reset_operators();
    }

    fn reset_operators(&mut self) {
        if let Some(level) = self.levels.last_mut() {
            self.chained -= std::mem::take(&mut level.operators);
        }
    }

    fn open(&mut self, bracket: u8) -> Result<(), LimitError> {
        if bracket == b'[' && self.previous().is_some_and(ends_path) {
            self.check_index()?;
        }
        let encloses = match bracket {
            b'{' if std::mem::take(&mut self.closure_begins) => Enclosed::Closure,
            b'(' if self.previous().is_some_and(ends_function_name) => Enclosed::Arguments,
            _ => Enclosed::Other,
        };
        self.levels.push(Level { operators: 0, encloses });
        if self.levels.len() > MAX_NESTING_LEVELS + 1 {
            return TooDeepSnafu { line: self.line }.fail();
        }
        if self.open_levels(Enclosed::Closure) > MAX_CLOSURE_LEVELS {
            return TooManyClosuresSnafu { line: self.line }.fail();
        }
        if self.open_levels(Enclosed::Arguments) > MAX_CALL_LEVELS {
            return TooManyCallsSnafu { line: self.line }.fail();
        }
        self.open_ended = false;
        self.at += 1;
        Ok(())
    }

    fn open_levels(&self, encloses: Enclosed) -> usize {
        self.levels.iter().filter(|level| level.encloses == encloses).count()
    }

    fn check_index(&self) -> Result<(), LimitError> {
        let digits = self.source[self.at + 1..]
            .iter()
            .skip_while(|byte| byte.is_ascii_whitespace() || **byte == b'-')
            .take_while(|byte| byte.is_ascii_digit() || **byte == b'_')
            .filter(|byte| byte.is_ascii_digit());
        let index = digits
            .fold(0_usize, |index, digit| index.saturating_mul(10).saturating_add(usize::from(digit - b'0')));
        if index > MAX_ARRAY_INDEX { IndexTooLargeSnafu { line: self.line }.fail() } else { Ok(()) }
    }

    fn close(&mut self) {
        self.reset_operators();
        if self.levels.len() > 1 {
            self.levels.pop();
        }
        self.open_ended = false;
        self.at += 1;
    }

    fn word(&mut self) -> Result<(), LimitError> {
        let start = self.at;
        while self.source.get(self.at).copied().is_some_and(is_word) {
            self.at += 1;
        }
        self.open_ended = false;
        // These words nest what follows them without a bracket.
        if matches!(&self.source[start..self.at], b"else" | b"if" | b"return" | b"abort") {
            self.count_operator()?;
        }
        Ok(())
    }

    fn operator(&mut self) -> Result<(), LimitError> {
        let first = self.source[self.at];
        self.closure_begins |= self.source[self.at..].starts_with(b"->");
        self.at += 1;
        // Prefixes nest one by one (`!!a`, `--a`); other operators are one token however long (`&&`, `??=`).
        if !matches!(first, b'!' | b'-') {
            while self
                .source
                .get(self.at)
                .copied()
                .is_some_and(|next| is_operator(next) && !matches!(next, b'!' | b'-'))
            {
                self.at += 1;
            }
        }
        self.open_ended = true;
        self.count_operator()
    }

    fn count_operator(&mut self) -> Result<(), LimitError> {
        if let Some(level) = self.levels.last_mut() {
            level.operators += 1;
            self.chained += 1;
        }
        if self.chained > MAX_CHAINED_OPERATORS {
            return TooManyOperatorsSnafu { line: self.line }.fail();
        }
        Ok(())
    }

    fn previous(&self) -> Option<u8> {
        self.at.checked_sub(1).map(|before| self.source[before])
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'@') || !byte.is_ascii()
}

fn is_operator(byte: u8) -> bool {
    matches!(byte, b'+' | b'-' | b'*' | b'/' | b'=' | b'<' | b'>' | b'!' | b'&' | b'|' | b'?')
}

/// Whether a `(` right behind this byte begins the arguments of a call.
fn ends_function_name(byte: u8) -> bool {
    is_word(byte) || byte == b'!'
}

/// Whether a `[` right behind this byte indexes a path rather than begins an array.
fn ends_path(byte: u8) -> bool {
    is_word(byte) || matches!(byte, b'.' | b']' | b')' | b'}' | b'"' | b'%')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_programs_pass() {
        let many_lines = ".a = .b + 1\n".repeat(1_000);
        for source in [
            "",
            ".line = split(%topic, \"/\")[3]",
            many_lines.as_str(),
            "# ((((((\n.a = \"((((\" + 'x'",
            ".a = r'\\((((' # [[[[",
            ".a[9999] = 1",
            ".list = [100000, 200000]",
        ] {
            assert_eq!(check_limits(source), Ok(()), "{source:.40}");
        }
    }

    #[test]
    fn nesting_is_counted_to_the_level() {
        let nested = |levels: usize| format!("{}1{}", "(".repeat(levels), ")".repeat(levels));
        assert_eq!(check_limits(&nested(64)), Ok(()));
        assert_eq!(check_limits(&nested(65)), Err(LimitError::TooDeep { line: 1 }));
        assert_eq!(
            check_limits(&format!("\n\n{}", "[".repeat(10_000))),
            Err(LimitError::TooDeep { line: 3 })
        );
        assert_eq!(check_limits(&"{".repeat(10_000)), Err(LimitError::TooDeep { line: 1 }));
    }

    #[test]
    fn chains_of_operators_are_refused_in_every_form() {
        for source in [
            format!(".a = 1{}", " + 1".repeat(2_000)),
            format!(".a = 1{}", " +\n 1".repeat(2_000)),
            format!(".a = 1{}", "\n ?? 1".repeat(2_000)),
            format!(".a = {}true", "!".repeat(2_000)),
            format!(".a = {}1", "-".repeat(2_000)),
            format!("if true {{ 1 }}{}", " else if true { 1 }".repeat(500)),
            format!("if true {{ 1 }}{}", "\nelse if true { 1 }".repeat(500)),
            format!("{}1", "a = ".repeat(2_000)),
            format!("{}1", "a + (1 + 1) * ".repeat(500)),
        ] {
            assert!(
                matches!(check_limits(&source), Err(LimitError::TooManyOperators { .. })),
                "{source:.40}"
            );
        }
    }

    #[test]
    fn closures_nest_a_few_levels_only() {
        let nested =
            |levels: usize| format!("{}1{}", "for_each(.) -> |_i, _v| {".repeat(levels), "}".repeat(levels));
        assert_eq!(check_limits(&nested(6)), Ok(()));
        assert_eq!(check_limits(&nested(7)), Err(LimitError::TooManyClosures { line: 1 }));
        assert_eq!(check_limits(&"for_each(.) -> |_i, _v| { 1 }\n".repeat(100)), Ok(()));
    }

    #[test]
    fn calls_nest_some_levels_only() {
        let nested = |levels: usize| format!("{}.a{}", "upcase!(".repeat(levels), ")".repeat(levels));
        assert_eq!(check_limits(&nested(16)), Ok(()));
        assert_eq!(check_limits(&nested(17)), Err(LimitError::TooManyCalls { line: 1 }));
        assert_eq!(check_limits(&"upcase(.a)\n".repeat(100)), Ok(()));
    }

    #[test]
    fn a_huge_index_is_refused() {
        for source in
            [".a[10000] = 1", "x[1_000_000] = 1", ".a[0][ -99999999999999999999 ] = 1", ".[10000] = 1"]
        {
            assert_eq!(check_limits(source), Err(LimitError::IndexTooLarge { line: 1 }), "{source}");
        }
    }

    #[test]
    fn length_is_checked_first() {
        let source = "(".repeat(MAX_SOURCE_BYTES + 1);
        assert_eq!(check_limits(&source), Err(LimitError::TooLong { bytes: MAX_SOURCE_BYTES + 1 }));
    }
}
