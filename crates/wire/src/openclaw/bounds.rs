//! Depth and size of a JSON text before it is parsed (isolation.md §2.10).

/// Deepest nesting of arrays and objects.
pub const MAX_DEPTH: usize = 64;
/// Most object keys in one text.
pub const MAX_KEYS: usize = 10_000;
/// Most values in one text, counted by the commas between them. A parsed value takes many times its text's memory.
pub const MAX_VALUES: usize = 50_000;

/// A text beyond the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfBounds {
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// More than [`MAX_KEYS`] object keys.
    #[error("more than {MAX_KEYS} object keys")]
    TooManyKeys,
    /// More than [`MAX_VALUES`] values.
    #[error("more than {MAX_VALUES} values")]
    TooManyValues,
}

/// Scans the text once, without parsing it. A text that is no JSON may pass: the parser says so later.
pub fn check(text: &str) -> Result<(), OutOfBounds> {
    let mut depth = 0_usize;
    let mut keys = 0_usize;
    let mut values = 1_usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in text.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(OutOfBounds::TooDeep);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b':' => {
                keys += 1;
                if keys > MAX_KEYS {
                    return Err(OutOfBounds::TooManyKeys);
                }
            }
            b',' => {
                values += 1;
                if values > MAX_VALUES {
                    return Err(OutOfBounds::TooManyValues);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_and_colons_inside_strings_do_not_count() {
        let text = format!(r#"{{"a":"{}\"{}"}}"#, "[".repeat(500), ":".repeat(20_000));
        assert_eq!(check(&text), Ok(()));
    }

    #[test]
    fn depth_and_keys_are_bounded() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert_eq!(check(&nested(MAX_DEPTH)), Ok(()));
        assert_eq!(check(&nested(MAX_DEPTH + 1)), Err(OutOfBounds::TooDeep));
        let keys = |n: usize| format!("{{{}}}", vec![r#""k":1"#; n].join(","));
        assert_eq!(check(&keys(MAX_KEYS)), Ok(()));
        assert_eq!(check(&keys(MAX_KEYS + 1)), Err(OutOfBounds::TooManyKeys));
    }

    #[test]
    fn values_are_bounded() {
        let zeros = |n: usize| format!("[{}]", vec!["0"; n].join(","));
        assert_eq!(check(&zeros(MAX_VALUES)), Ok(()));
        assert_eq!(check(&zeros(MAX_VALUES + 1)), Err(OutOfBounds::TooManyValues));
        let text = format!(r#"["{}"]"#, ",".repeat(MAX_VALUES));
        assert_eq!(check(&text), Ok(()));
    }
}
