//! Text that is never printed.

use zeroize::Zeroizing;

/// A password, token or API key. No `Debug`, no `Display`, no `Clone`; wiped when dropped.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text as it is.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself: for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}
