//! Walking a TOML table while remembering where everything stands and what was asked for.

use std::cell::RefCell;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{ConfigError, Source};

/// Collects what is wrong with one file.
pub(crate) struct Problems<'d> {
    pub(crate) path: &'d Path,
    text: &'d str,
    found: RefCell<Vec<ConfigError>>,
}

impl<'d> Problems<'d> {
    pub(crate) fn new(path: &'d Path, text: &'d str) -> Self {
        Self { path, text, found: RefCell::default() }
    }

    pub(crate) fn report(&self, place: &Place, message: impl Into<String>) {
        let line = (place.line > 0).then_some(place.line);
        self.found.borrow_mut().push(ConfigError {
            source: Source::File(self.path.to_owned()),
            line,
            key: place.key.clone(),
            message: message.into(),
        });
    }

    /// Something wrong with a variable or a flag.
    pub(crate) fn report_source(&self, source: Source, message: impl Into<String>) {
        self.found.borrow_mut().push(ConfigError { source, line: None, key: String::new(), message: message.into() });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    pub(crate) fn syntax(&self, error: &toml::de::Error) {
        let place = Place { key: String::new(), line: error.span().map_or(0, |span| self.line_of(span.start)) };
        // The message alone: the full text of the error quotes the line, which may hold a secret.
        self.report(&place, format!("not valid TOML: {}", error.message().trim()));
    }

    /// The errors in the order of the file.
    pub(crate) fn into_errors(self) -> Vec<ConfigError> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|error| error.line);
        found
    }

    fn line_of(&self, offset: usize) -> usize {
        self.text.char_indices().take_while(|(at, _)| *at < offset).filter(|(_, c)| *c == '\n').count() + 1
    }
}

/// A key of the file and its line, from 1; 0 where the file has none.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) key: String,
    pub(crate) line: usize,
}

/// A value and where it stands.
pub(crate) struct Found<T> {
    pub(crate) value: T,
    pub(crate) at: Place,
}

/// One table. What was not asked for by the time of [`Section::finish`] is an unknown key.
pub(crate) struct Section<'d, 'i> {
    pub(crate) at: Place,
    table: &'d DeTable<'i>,
    known: Vec<&'static str>,
    pub(crate) problems: &'d Problems<'d>,
}

impl<'d, 'i> Section<'d, 'i> {
    pub(crate) fn root(table: &'d DeTable<'i>, problems: &'d Problems<'d>) -> Self {
        Self::new(Place { key: String::new(), line: 0 }, table, problems)
    }

    fn new(at: Place, table: &'d DeTable<'i>, problems: &'d Problems<'d>) -> Self {
        Self { at, table, known: Vec::new(), problems }
    }

    pub(crate) fn string(&mut self, key: &'static str) -> Option<Found<String>> {
        self.typed(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    pub(crate) fn boolean(&mut self, key: &'static str) -> Option<Found<bool>> {
        self.typed(key, "true or false", DeValue::as_bool)
    }

    /// A whole number from 1 to `most`.
    pub(crate) fn number(&mut self, key: &'static str, most: u32) -> Option<u32> {
        let problems = self.problems;
        let Found { value, at } = self.typed(key, "a whole number", |value| match value {
            DeValue::Integer(number) => Some(i64::from_str_radix(number.as_str(), number.radix()).ok()),
            _ => None,
        })?;
        let number = value.and_then(|number| u32::try_from(number).ok()).filter(|number| (1..=most).contains(number));
        if number.is_none() {
            problems.report(&at, format!("must be from 1 to {most}"));
        }
        number
    }

    /// The strings of the array under `key`, each in its place.
    pub(crate) fn strings(&mut self, key: &'static str) -> Vec<Found<String>> {
        let Some(array) = self.typed(key, "a list of strings", DeValue::as_array) else { return Vec::new() };
        let mut strings = Vec::new();
        for (index, item) in array.value.iter().enumerate() {
            let at =
                Place { key: format!("{}[{index}]", array.at.key), line: self.problems.line_of(item.span().start) };
            match item.get_ref().as_str() {
                Some(text) => strings.push(Found { value: text.to_owned(), at }),
                None => self.problems.report(&at, "must be a string"),
            }
        }
        strings
    }

    /// The table under `key`.
    pub(crate) fn section(&mut self, key: &'static str) -> Option<Section<'d, 'i>> {
        let (problems, found) = (self.problems, self.typed(key, "a table", DeValue::as_table)?);
        Some(Section::new(found.at, found.value, problems))
    }

    /// The tables of the array under `key`.
    pub(crate) fn list(&mut self, key: &'static str) -> Vec<Section<'d, 'i>> {
        let Some(array) = self.typed(key, "a list of tables", DeValue::as_array) else { return Vec::new() };
        let mut sections = Vec::new();
        for (index, item) in array.value.iter().enumerate() {
            let at = Place { key: format!("{key}[{index}]"), line: self.problems.line_of(item.span().start) };
            match item.get_ref().as_table() {
                Some(table) => sections.push(Section::new(at, table, self.problems)),
                None => self.problems.report(&at, "must be a table"),
            }
        }
        sections
    }

    /// The tables of the table under `key`, by name.
    pub(crate) fn named(&mut self, key: &'static str) -> Vec<(String, Section<'d, 'i>)> {
        let Some(outer) = self.section(key) else { return Vec::new() };
        let mut sections = Vec::new();
        for (name, value) in outer.table {
            let at = outer.place(name);
            match value.get_ref().as_table() {
                Some(table) => sections.push((name.get_ref().to_string(), Section::new(at, table, self.problems))),
                None => self.problems.report(&at, "must be a table"),
            }
        }
        sections
    }

    /// The place of `key` if it is there while `companion` is not.
    pub(crate) fn lonely(&self, key: &str, companion: &str) -> Option<Place> {
        let (name, _) = self.table.get_key_value(key)?;
        (!self.table.contains_key(companion)).then(|| self.place(name))
    }

    /// A place inside the section for a key that is missing.
    pub(crate) fn missing(&self, key: &str) -> Place {
        Place { key: self.path_of(key), line: self.at.line }
    }

    /// Reports the keys that nobody asked for.
    pub(crate) fn finish(self) {
        for name in self.table.keys() {
            let text = name.get_ref().as_ref();
            if !self.known.contains(&text) {
                self.problems.report(&self.place(name), unknown("key", text, self.known.iter().copied()));
            }
        }
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        kind: &str,
        read: impl FnOnce(&'d DeValue<'i>) -> Option<T>,
    ) -> Option<Found<T>> {
        self.known.push(key);
        let (name, value) = self.table.get_key_value(key)?;
        let at = self.place(name);
        let value: &'d Spanned<DeValue<'i>> = value;
        let read = read(value.get_ref());
        if read.is_none() {
            self.problems.report(&at, format!("must be {kind}, not {}", article(value.get_ref().type_str())));
        }
        Some(Found { value: read?, at })
    }

    fn place(&self, name: &Spanned<std::borrow::Cow<'i, str>>) -> Place {
        Place { key: self.path_of(name.get_ref()), line: self.problems.line_of(name.span().start) }
    }

    fn path_of(&self, key: &str) -> String {
        // A quoted key may hold what a terminal would obey.
        let key = key.escape_debug();
        if self.at.key.is_empty() { key.to_string() } else { format!("{}.{key}", self.at.key) }
    }
}

/// `unknown <what> "<given>"`, with the known word that was probably meant.
pub(crate) fn unknown<'k>(what: &str, given: &str, known: impl Iterator<Item = &'k str> + Clone) -> String {
    let near = known
        .clone()
        .map(|word| (strsim::damerau_levenshtein(word, given), word))
        .filter(|(distance, word)| *distance <= 1 + word.len() / 4)
        .min();
    let hint = match near {
        Some((_, word)) => format!("did you mean \"{word}\"?"),
        None => format!("known are: {}", known.collect::<Vec<_>>().join(", ")),
    };
    format!("unknown {what} \"{}\"; {hint}", given.escape_debug())
}

/// Whether `name` can name a provider or a tenant: `[a-z0-9][a-z0-9_-]{0,63}`.
pub(crate) fn check_name(name: &str, at: &Place, problems: &Problems<'_>) {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let well_formed = name.len() <= 64
        && name.bytes().next().is_some_and(word)
        && name.bytes().all(|b| word(b) || matches!(b, b'_' | b'-'));
    if !well_formed {
        problems.report(at, "names are 1 to 64 of a-z, 0-9, '_' and '-', starting with a letter or digit");
    }
}

fn article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {kind}")
}
