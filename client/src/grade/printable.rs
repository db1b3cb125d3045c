//! Text of others, made fit to be shown anywhere: on a terminal, in XML, in YAML.

use serde_json::Value;

/// The same, with every character that is not seen written out as Rust does (`\u{1b}`): those that control a terminal,
/// that XML forbids, that turn the direction of writing. Newlines and tabs stay.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' | '\\' | '"' | '\'' => shown.push(character),
            _ => shown.extend(character.escape_debug()),
        }
    }
    shown
}

/// The same of every text in a value.
pub fn printable_value(value: Value) -> Value {
    match value {
        Value::String(text) => printable(&text).into(),
        Value::Array(values) => values.into_iter().map(printable_value).collect(),
        Value::Object(map) => {
            map.into_iter().map(|(name, value)| (printable(&name), printable_value(value))).collect()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_is_written_out_and_the_rest_stays() {
        let plain = "two lines\n\t\"quoted\" \\ ]]> <&> # SKIP 中文 é";
        assert_eq!(printable(plain), plain);
        let hostile = "\x1b[2J\r\0\x7f\u{85}\u{2028}\u{202e}\u{feff}\u{ffff}";
        let shown = "\\u{1b}[2J\\r\\0\\u{7f}\\u{85}\\u{2028}\\u{202e}\\u{feff}\\u{ffff}";
        assert_eq!(printable(hostile), shown);
    }
}
