//! Rust source with comments and literals blanked out, so that the checks see only code.

/// Replaces every character of comments and of the inside of literals by a space. Lines stay where
/// they are, and so do the quotes of strings.
pub(crate) fn mask(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut masked = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => line_end(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => comment_end(&chars, at),
            '"' => string_end(&chars, at),
            'r' if !follows_word(&chars, at) => match raw_string_end(&chars, at) {
                Some(end) => end,
                None => at,
            },
            // `br"…"` and `cr"…"`: the prefix is a word character before the r.
            'b' | 'c' if !follows_word(&chars, at) && chars.get(at + 1) == Some(&'r') => {
                raw_string_end(&chars, at + 1).unwrap_or(at)
            }
            '\'' => char_end(&chars, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            masked.push(chars[at]);
            at += 1;
            continue;
        }
        let is_string = chars[at] != '/' && chars[at] != '\'';
        for (offset, &char) in chars[at..end].iter().enumerate() {
            let is_edge = offset == 0 || at + offset + 1 == end;
            masked.push(match char {
                '\n' => '\n',
                _ if is_string && is_edge => '"',
                _ => ' ',
            });
        }
        at = end;
    }
    masked
}

fn follows_word(chars: &[char], at: usize) -> bool {
    at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_')
}

fn line_end(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|&char| char == '\n').map_or(chars.len(), |length| at + length)
}

/// Block comments nest.
fn comment_end(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(chars.len())
}

fn string_end(chars: &[char], at: usize) -> usize {
    let mut end = at + 1;
    while end < chars.len() {
        match chars[end] {
            '\\' => end += 2,
            '"' => return end + 1,
            _ => end += 1,
        }
    }
    chars.len()
}

/// `r"…"`, `r#"…"#` and so on; `None` for an identifier, raw or not.
fn raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at + 1..].iter().take_while(|&&char| char == '#').count();
    if chars.get(at + 1 + hashes) != Some(&'"') {
        return None;
    }
    let closes = |&end: &usize| {
        chars[end] == '"' && chars.len() > end + hashes && chars[end + 1..=end + hashes].iter().all(|&char| char == '#')
    };
    let end = (at + 2 + hashes..chars.len()).find(closes);
    Some(end.map_or(chars.len(), |end| end + 1 + hashes))
}

/// The end of a character literal; `None` for a lifetime.
fn char_end(chars: &[char], at: usize) -> Option<usize> {
    if chars.get(at + 1) == Some(&'\\') {
        let rest = &chars[at + 3.min(chars.len() - at)..];
        return rest.iter().position(|&char| char == '\'').map(|length| at + 3 + length + 1);
    }
    (chars.get(at + 2) == Some(&'\'')).then_some(at + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_comments_and_literals_only() {
        let cases = [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"f("x", y)"#, r#"f(" ", y)"#),
            (r#"f("a\"b") + 1"#, "f(\"    \") + 1"),
            ("let r = r#\"a \" b\"#;", "let r = \"        \";"),
            ("b\"x\" br\"y\"", "b\" \" \"   \""),
            ("'a' '\\'' '\\u{1}' 'b: loop", "                 'b: loop"),
            ("fn f<'a>(r#type: &'a str)", "fn f<'a>(r#type: &'a str)"),
        ];
        for (source, expected) in cases {
            assert_eq!(mask(source), expected, "{source}");
        }
    }
}
