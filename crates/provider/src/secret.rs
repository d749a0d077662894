//! The API key.

use zeroize::Zeroizing;

/// A provider's API key. No `Debug`, no `Display`, no `Clone`; wiped when dropped.
pub struct ApiKey(Zeroizing<String>);

impl ApiKey {
    /// Takes the key; surrounding white space, as files and shells leave it, is ignored.
    pub fn new(key: impl Into<String>) -> Self {
        let key = Zeroizing::new(key.into());
        Self(Zeroizing::new(key.trim().to_owned()))
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key itself, for the `Authorization` header and nothing else.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// `text` with every occurrence of the key replaced.
    pub(crate) fn redact(&self, text: &str) -> String {
        if self.0.is_empty() { text.to_owned() } else { text.replace(self.0.as_str(), "[key]") }
    }
}
