//! Callers whose token is a device's, and the right to keep devices.

use watertight_core::Caller;
use watertight_core::device::{DeviceKeeper, ProvenDevice, authenticate_device, keep_devices};
use watertight_core::grant::VerbSet;
use watertight_core::principal::PrincipalKind;
use watertight_seal::token::TokenKind;

use super::{Access, Admission, AuthFailure};
use crate::error::EngineError;

impl Admission {
    /// Verifies a device's token, which opens nothing without the proof of the device's key, and loads its grants.
    pub(crate) async fn device_caller(
        &self,
        device: &ProvenDevice,
        text: &str,
        requested: VerbSet,
    ) -> Result<Access, AuthFailure> {
        loop {
            let seen = self.in_use.changes();
            let caller = self.verified_device(device, text).await?;
            if let Some(access) = self.admitted(caller, seen, Some(requested)).await? {
                return Ok(access);
            }
        }
    }

    async fn verified_device(&self, device: &ProvenDevice, text: &str) -> Result<Caller, AuthFailure> {
        let (token, proof) = self.proof_of(text)?;
        let found = self.store.device_credential(token.id()).await.map_err(|_| AuthFailure::Unavailable)?;
        let (record, bond) = found.ok_or(AuthFailure::Mismatch)?;
        authenticate_device(&record, &proof, &bond, device, self.clock.now()).map_err(|_| AuthFailure::Mismatch)
    }

    /// The right to keep devices, as far as the caller's credential and grants give it at this moment.
    pub(crate) fn keep_devices(&self, access: &Access) -> Result<DeviceKeeper, EngineError> {
        let now = self.clock.now();
        access.stands(now)?;
        keep_devices(&access.caller, &access.live.grants(), now).map_err(|_| EngineError::NotKeeper)
    }
}

impl Access {
    /// The same, holding at most `verbs`.
    #[must_use]
    pub(crate) fn narrowed(self, verbs: VerbSet) -> Self {
        Self { caller: self.caller.narrowed(verbs), ..self }
    }

    /// Whether it is an operator's, and proved by a secret that is nobody's but the operator's.
    pub(crate) fn is_operator_secret(&self) -> bool {
        let own = self.caller.terms().is_none_or(|terms| terms.kind == TokenKind::Operator);
        own && self.caller.kind() == PrincipalKind::Operator
    }
}
