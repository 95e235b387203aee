//! One function: a text as a JSON string (RFC 8259, section 7). Events often carry JSON and a crate without
//! dependencies has no serialiser to offer, but quoting is the part that people get wrong by hand.

use std::fmt::Write;

/// `text` as a JSON string, with its quotation marks.
///
/// ```
/// assert_eq!(tidings::json_string("say \"hi\"\n"), r#""say \"hi\"\n""#);
/// ```
pub fn json_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // U+2028 and U+2029 are legal JSON but end a line in older JavaScript, where such texts are pasted.
            c if c < ' ' || matches!(c, '\u{7f}' | '\u{2028}' | '\u{2029}') => {
                let _ = write!(out, "\\u{:04x}", c as u32); // writing to a String cannot fail
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_what_the_grammar_asks_for() {
        for (text, json) in [
            ("", r#""""#),
            ("plain 你好 🎉", r#""plain 你好 🎉""#),
            ("\"\\/", r#""\"\\/""#),
            ("\r\n\t\0\u{1f}\u{7f}", r#""\r\n\t\u0000\u001f\u007f""#),
            ("\u{2028}", r#""\u2028""#),
        ] {
            assert_eq!(json_string(text), json);
        }
    }
}
