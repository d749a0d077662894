//! Every wrapped key opens in its place, and is the one that was committed to.

use std::collections::HashMap;

use watertight_core::Steward;
use watertight_core::ids::{SessionId, TenantId};
use watertight_seal::keyring::{TenantKeys, WrappedTenant};

use super::Verifier;
use crate::StoreError;
use crate::keys::{KeyReport, TenantKeyStatus};
use crate::sqlite::key_status;
use crate::sqlite::keystore::KeyRow;
use crate::verification::{Problem, Progress, Report, VerifyError};

/// Data keys read at a time.
const BATCH: u32 = 1000;

impl Verifier {
    /// Every tenant's keys in numbers.
    pub fn key_status(&self, _steward: &Steward) -> Result<Vec<TenantKeyStatus>, StoreError> {
        key_status::of_all(&self.conn, &self.vault)
    }

    /// Opens every key of one tenant, or of all, and says how far it has come after each thousand. Blocks.
    pub fn verify_keys(
        &self,
        _steward: &Steward,
        tenant: Option<&str>,
        mut progress: impl FnMut(Progress),
    ) -> Result<KeyReport, VerifyError> {
        let names = key_status::names(&self.conn)?;
        if let Some(name) = tenant
            && !names.values().any(|known| known == name)
        {
            return Err(VerifyError::UnknownTenant(name.to_owned()));
        }
        let mut statuses = self.vault.keystore().survey()?;
        statuses.retain(|status| tenant.is_none() || names.get(&status.tenant).map(String::as_str) == tenant);
        let total = statuses.iter().flat_map(|status| &status.epochs).map(|epoch| epoch.data_keys).sum();
        let mut report = KeyReport::default();
        for status in statuses {
            let mut visit = Visit { verifier: self, names: &names, tenant: status.tenant, report: &mut report };
            visit.check(|done| progress(Progress { done, total }))?;
        }
        Ok(report)
    }
}

struct Visit<'a> {
    verifier: &'a Verifier,
    names: &'a HashMap<TenantId, String>,
    tenant: TenantId,
    report: &'a mut KeyReport,
}

impl Visit<'_> {
    fn check(&mut self, mut progress: impl FnMut(u64)) -> Result<(), StoreError> {
        let vault = &self.verifier.vault;
        // Shredded since it was listed.
        let Some(wrapped) = vault.keystore().tenant(self.tenant)? else { return Ok(()) };
        self.report.tenants += 1;
        let keys = match vault.reload(self.tenant) {
            Ok(keys) => keys,
            Err(StoreError::Integrity(_)) => {
                self.found(None, "its tenant key, index key or newest epoch's key does not open: nothing of it does");
                return Ok(());
            }
            Err(fault) => return Err(fault),
        };
        self.epochs(&wrapped, &keys);
        let mut after = None;
        loop {
            let batch = vault.keystore().data_keys_after(self.tenant, after, None, BATCH)?;
            let Some(last) = batch.last() else { return Ok(()) };
            after = Some((last.session, last.key_gen));
            for row in &batch {
                self.data_key(&keys, row)?;
            }
            progress(self.report.data_keys);
        }
    }

    fn epochs(&mut self, wrapped: &WrappedTenant, keys: &TenantKeys) {
        for epoch in &wrapped.epochs {
            if keys.knows_epoch(epoch.epoch) {
                self.report.epochs += 1;
            } else if epoch.epoch < keys.epoch() {
                self.found(None, &format!("the key of its epoch {} does not open", epoch.epoch));
            }
        }
    }

    fn data_key(&mut self, keys: &TenantKeys, row: &KeyRow) -> Result<(), StoreError> {
        let KeyRow { session, key_gen, wrapped } = row;
        let vault = &self.verifier.vault;
        let opened = match keys.open_data_key(*session, *key_gen, wrapped) {
            Ok(_) => Ok(()),
            // It may have been wrapped anew or shredded since the batch was read.
            Err(_) => match vault.keystore().data_key(self.tenant, *session, *key_gen)? {
                None => return Ok(()),
                Some(_) => vault.data_key(self.tenant, *session, *key_gen).map(drop),
            },
        };
        match opened {
            Ok(()) => self.report.data_keys += 1,
            Err(fault @ StoreError::Integrity(_)) => {
                self.found(Some(*session), &format!("its data key {key_gen} of epoch {}: {fault}", wrapped.epoch));
            }
            Err(fault) => return Err(fault),
        }
        Ok(())
    }

    fn found(&mut self, session: Option<SessionId>, what: &str) {
        if self.report.problems.len() >= Report::KEPT {
            self.report.further += 1;
            return;
        }
        let tenant = self.names.get(&self.tenant).cloned().unwrap_or_else(|| self.tenant.to_string());
        self.report.problems.push(Problem {
            tenant: Some(tenant),
            session,
            key: None,
            seq: None,
            receipt: None,
            what: what.to_owned(),
        });
    }
}
