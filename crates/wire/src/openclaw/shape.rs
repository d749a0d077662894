//! What an object may hold, and the exact words for what it may not.
//!
//! Upstream describes its parameters by JSON schemas and words their violations; clients read some of those words
//! (gateway-ws.md §1.3). A [`Shape`] is the part of such a schema we need. It lists every field upstream allows, the
//! type that is then deserialized only those we use.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::failure::ErrorShape;

/// What a value may be.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Anything.
    Any,
    /// Text of this many characters.
    Text {
        /// At least.
        min: usize,
        /// At most.
        max: usize,
    },
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// One of these texts, where not all are upstream's: a violation names them.
    Word(&'static [&'static str]),
    /// A whole number in this range.
    Integer {
        /// At least.
        min: i64,
        /// At most.
        max: i64,
    },
    /// Any number.
    Number,
    /// True or false.
    Boolean,
    /// A list of this many values of one shape.
    List {
        /// Shape of each value.
        of: &'static Shape,
        /// At least.
        min: usize,
        /// At most.
        max: usize,
    },
    /// An object whose values all have one shape.
    Map(&'static Shape),
    /// An object with these fields.
    Object {
        /// Its fields.
        fields: &'static [Field],
        /// Whether other fields are allowed.
        open: bool,
    },
    /// Any of these shapes.
    Either(&'static [Shape]),
    /// `null` or this shape.
    OrNull(&'static Shape),
}

/// A field of an object.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    name: &'static str,
    required: bool,
    shape: Shape,
}

/// A field that must be there.
pub const fn required(name: &'static str, shape: Shape) -> Field {
    Field { name, required: true, shape }
}

/// A field that may be left out.
pub const fn optional(name: &'static str, shape: Shape) -> Field {
    Field { name, required: false, shape }
}

/// Anything.
pub const fn any() -> Shape {
    Shape::Any
}

/// Text of at least `min` characters.
pub const fn text(min: usize) -> Shape {
    Shape::Text { min, max: usize::MAX }
}

/// Text of `min` to `max` characters.
pub const fn text_within(min: usize, max: usize) -> Shape {
    Shape::Text { min, max }
}

/// One of these texts.
pub const fn one_of(words: &'static [&'static str]) -> Shape {
    Shape::OneOf(words)
}

/// One of these texts, where not all are upstream's.
pub const fn word(words: &'static [&'static str]) -> Shape {
    Shape::Word(words)
}

/// The largest whole number every JSON implementation keeps exactly.
const MAX_SAFE: i64 = 9_007_199_254_740_991;

/// A whole number of at least `min`.
pub const fn integer(min: i64) -> Shape {
    Shape::Integer { min, max: MAX_SAFE }
}

/// A whole number from `min` to `max`.
pub const fn integer_within(min: i64, max: i64) -> Shape {
    Shape::Integer { min, max }
}

/// True or false.
pub const fn boolean() -> Shape {
    Shape::Boolean
}

/// A list of values of one shape.
pub const fn list(of: &'static Shape) -> Shape {
    Shape::List { of, min: 0, max: usize::MAX }
}

/// An object with these fields and no others.
pub const fn closed(fields: &'static [Field]) -> Shape {
    Shape::Object { fields, open: false }
}

/// An object with these fields and perhaps others.
pub const fn open(fields: &'static [Field]) -> Shape {
    Shape::Object { fields, open: true }
}

/// Most violations put into words for one request.
const MAX_PROBLEMS: usize = 8;

/// Everything that does not fit, in upstream's words; none when all fits.
pub fn problems(shape: &Shape, value: &Value) -> Option<String> {
    let mut found = Vec::new();
    shape.check(value, "", &mut found);
    (!found.is_empty()).then(|| found.join("; "))
}

/// Parses the parameters of `method`. Absent parameters count as `{}`.
pub fn parse<'a, T: Deserialize<'a>>(
    method: &str,
    shape: &Shape,
    params: Option<&'a RawValue>,
) -> Result<T, ErrorShape> {
    let text = match params.map(RawValue::get) {
        None | Some("null") => "{}",
        Some(text) => text,
    };
    let refuse = |problem: String| {
        let names_a_key = ["at /sessionKey", "at /key"].iter().any(|field| problem.starts_with(field));
        let error = ErrorShape::invalid(format!("invalid {method} params: {problem}"));
        if names_a_key { error.because("invalid_session_key") } else { error }
    };
    let value: Value = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
    if let Some(problem) = problems(shape, &value) {
        return Err(refuse(problem));
    }
    drop(value);
    // Deserialized from the text, not from the value: a field given twice is refused, never silently the last one.
    let mut json = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let at = if path == "." { "at root".to_owned() } else { format!("at /{}", path.replace('.', "/")) };
        let problem = error.into_inner().to_string();
        let problem = problem.split(" at line ").next().unwrap_or_default().to_owned();
        refuse(format!("{at}: {problem}"))
    })
}

impl Shape {
    fn check(&self, value: &Value, path: &str, found: &mut Vec<String>) {
        if found.len() >= MAX_PROBLEMS {
            return;
        }
        let mut say = |problem: String| {
            found.push(if path.is_empty() { problem } else { format!("at {path}: {problem}") });
        };
        match (self, value) {
            (Self::Any, _)
            | (Self::Boolean, Value::Bool(_))
            | (Self::Number, Value::Number(_))
            | (Self::OrNull(_), Value::Null) => {}
            (Self::Text { min, max }, Value::String(text)) => {
                let length = text.chars().count();
                if length < *min {
                    say(format!("must NOT have fewer than {min} characters"));
                } else if length > *max {
                    say(format!("must NOT have more than {max} characters"));
                }
            }
            (Self::OneOf(words) | Self::Word(words), Value::String(text)) if words.contains(&text.as_str()) => {}
            (Self::Integer { min, max }, Value::Number(number)) => match whole(number) {
                Some(number) if number < *min => say(format!("must be >= {min}")),
                Some(number) if number > *max => say(format!("must be <= {max}")),
                Some(_) => {}
                None => say("must be integer".into()),
            },
            (Self::List { of, min, max }, Value::Array(items)) => {
                if items.len() < *min {
                    say(format!("must NOT have fewer than {min} items"));
                } else if items.len() > *max {
                    say(format!("must NOT have more than {max} items"));
                }
                for (at, item) in items.iter().enumerate() {
                    of.check(item, &format!("{path}/{at}"), found);
                }
            }
            (Self::Map(of), Value::Object(entries)) => {
                for (name, item) in entries {
                    of.check(item, &format!("{path}/{}", pointer(name)), found);
                }
            }
            (Self::Object { fields, open }, Value::Object(entries)) => {
                for field in fields.iter().filter(|field| field.required && !entries.contains_key(field.name)) {
                    say(format!("must have required property '{}'", field.name));
                }
                for (name, item) in entries {
                    if found.len() >= MAX_PROBLEMS {
                        break;
                    }
                    match fields.iter().find(|field| field.name == name) {
                        Some(field) => field.shape.check(item, &format!("{path}/{name}"), found),
                        None if *open => {}
                        None => {
                            let at = if path.is_empty() { "root" } else { path };
                            found.push(format!("at {at}: unexpected property '{}'", printable(name)));
                        }
                    }
                }
            }
            (Self::OrNull(of), value) => of.check(value, path, found),
            (Self::Either(shapes), value) => {
                let mut least: Option<Vec<String>> = None;
                for shape in *shapes {
                    let mut own = Vec::new();
                    shape.check(value, path, &mut own);
                    if own.is_empty() {
                        return;
                    }
                    if least.as_ref().is_none_or(|best| own.len() < best.len()) {
                        least = Some(own);
                    }
                }
                found.extend(least.into_iter().flatten());
            }
            (Self::Text { .. }, _) => say("must be string".into()),
            (Self::OneOf(_), _) => say("must be equal to one of the allowed values".into()),
            (Self::Word(words), _) => say(format!("must be one of {}", words.join(", "))),
            (Self::Integer { .. }, _) => say("must be integer".into()),
            (Self::Number, _) => say("must be number".into()),
            (Self::Boolean, _) => say("must be boolean".into()),
            (Self::List { .. }, _) => say("must be array".into()),
            (Self::Map(_) | Self::Object { .. }, _) => say("must be object".into()),
        }
    }
}

/// The number if it is whole, also when it is written `1.0`.
fn whole(number: &serde_json::Number) -> Option<i64> {
    number.as_i64().or_else(|| {
        let float = number.as_f64()?;
        (float.fract() == 0.0 && float.abs() <= MAX_SAFE as f64).then_some(float as i64)
    })
}

/// For a field whose shape is [`Shape::Integer`], which takes `1.0` for the whole number it is.
pub(super) fn whole_number<'de, D: Deserializer<'de>, T: TryFrom<i64>>(input: D) -> Result<T, D::Error> {
    whole_as(&serde_json::Number::deserialize(input)?)
}

/// The same for a field that may be left out; beside `#[serde(default)]`.
pub(super) fn optional_whole_number<'de, D: Deserializer<'de>, T: TryFrom<i64>>(
    input: D,
) -> Result<Option<T>, D::Error> {
    Option::<serde_json::Number>::deserialize(input)?.map(|number| whole_as(&number)).transpose()
}

fn whole_as<T: TryFrom<i64>, E: serde::de::Error>(number: &serde_json::Number) -> Result<T, E> {
    whole(number).and_then(|number| T::try_from(number).ok()).ok_or_else(|| E::custom("must be a smaller integer"))
}

/// A property name as a JSON pointer spells it.
fn pointer(name: &str) -> String {
    printable(name).replace('~', "~0").replace('/', "~1")
}

/// A client's property name made safe to echo.
fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    static WORDS: Shape = one_of(&["a", "b"]);
    static SHAPE: Shape = closed(&[
        required("key", text_within(1, 4)),
        optional("limit", integer_within(1, 10)),
        optional("on", boolean()),
        optional("words", list(&WORDS)),
        optional("client", closed(&[required("id", WORDS)])),
        optional("either", Shape::Either(&[boolean(), one_of(&["all"])])),
        optional("word", word(&["x", "y"])),
    ]);

    fn said(value: Value) -> String {
        problems(&SHAPE, &value).unwrap_or_default()
    }

    #[test]
    fn violations_read_as_upstream_words_them() {
        assert_eq!(said(json!({"key": "k"})), "");
        assert_eq!(said(json!({})), "must have required property 'key'");
        assert_eq!(said(json!({"key": "k", "extra": 1})), "at root: unexpected property 'extra'");
        assert_eq!(said(json!({"key": "k", "client": {}})), "at /client: must have required property 'id'");
        assert_eq!(
            said(json!({"key": "k", "client": {"id": "c"}})),
            "at /client/id: must be equal to one of the allowed values"
        );
        assert_eq!(said(json!({"key": "k", "client": {"id": "a", "x": 1}})), "at /client: unexpected property 'x'");
        assert_eq!(said(json!({"key": ""})), "at /key: must NOT have fewer than 1 characters");
        assert_eq!(said(json!({"key": "12345"})), "at /key: must NOT have more than 4 characters");
        assert_eq!(said(json!({"key": 1, "on": 1})), "at /key: must be string; at /on: must be boolean");
        assert_eq!(said(json!({"key": "k", "limit": 0})), "at /limit: must be >= 1");
        assert_eq!(said(json!({"key": "k", "limit": 11})), "at /limit: must be <= 10");
        assert_eq!(said(json!({"key": "k", "limit": 1.5})), "at /limit: must be integer");
        assert_eq!(said(json!({"key": "k", "limit": 2.0})), "");
        assert_eq!(
            said(json!({"key": "k", "words": ["a", "c"]})),
            "at /words/1: must be equal to one of the allowed values"
        );
        assert_eq!(said(json!({"key": "k", "either": "all"})), "");
        assert_eq!(said(json!({"key": "k", "word": "x"})), "");
        for bad in [json!("z"), json!(1), json!(null)] {
            assert_eq!(said(json!({"key": "k", "word": bad})), "at /word: must be one of x, y");
        }
        assert_eq!(said(json!([])), "must be object");
    }

    #[test]
    fn a_property_name_cannot_smuggle_control_characters_or_flood_the_answer() {
        let name = format!("x\u{1b}[2J{}", "y".repeat(1000));
        let said = said(json!({"key": "k", name: 1}));
        assert!(said.len() < 120 && !said.contains('\u{1b}'), "{said}");
        let many: serde_json::Map<String, Value> = (0..100).map(|n| (format!("x{n}"), Value::Null)).collect();
        assert!(problems(&SHAPE, &many.into()).unwrap().len() < 1000);
    }

    #[derive(Debug, Deserialize)]
    struct Key {
        key: String,
    }

    #[test]
    fn a_field_given_twice_is_refused() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let good = raw(r#"{"key":"a"}"#);
        assert_eq!(parse::<Key>("m", &SHAPE, Some(&good)).unwrap().key, "a");
        let twice = raw(r#"{"key":"a","key":"b"}"#);
        let error = parse::<Key>("m", &SHAPE, Some(&twice)).unwrap_err();
        assert_eq!(error.message, "invalid m params: at root: duplicate field `key`");
        assert_eq!(
            parse::<Key>("m", &SHAPE, None).unwrap_err().message,
            "invalid m params: must have required property 'key'"
        );
    }
}
