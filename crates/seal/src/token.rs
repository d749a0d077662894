//! Credential tokens (isolation.md §2.2).

use watertight_core::ids::CredentialId;

/// A token in memory. Zeroized on drop; has no `Debug` output.
pub struct Token {
    id: CredentialId,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// The public part.
    pub fn id(&self) -> &CredentialId {
        &self.id
    }
}
