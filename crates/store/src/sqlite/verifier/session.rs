//! One session: its rows open, its entries follow each other link by link up to the head, its generations end where they
//! were closed, the runs its inputs name are there, its receipts hold.

use std::collections::HashMap;

use rusqlite::Connection;
use watertight_core::ids::{EntryId, PrincipalId, RunId, SessionId};
use watertight_core::receipt::Receipt;
use watertight_core::run::RunOutcome;
use watertight_core::session::SessionRecord;
use watertight_core::transcript::EntryBody;
use watertight_seal::chain;
use watertight_seal::keyring::TenantKeys;

use super::Tenant;
use crate::StoreError;
use crate::sqlite::rows::{self, Ending, EntryRaw, RecordSite, RunRaw, Session, SessionRaw};
use crate::sqlite::vault::Vault;
use crate::verification::{Problem, Report};

/// The check of one session, in one read transaction.
pub(super) struct Visit<'a> {
    conn: &'a Connection,
    vault: &'a Vault,
    keys: &'a TenantKeys,
    tenant: &'a Tenant,
    session: SessionId,
    key: Option<String>,
    report: &'a mut Report,
}

/// Where the entries of a session stand.
pub(super) type Places = HashMap<EntryId, u64>;

/// What the entries were found to be.
struct Walked {
    /// The last entry's place; 0 without any.
    last: u64,
    /// The chain up to and with it.
    chain: [u8; 32],
    /// Where each entry stands.
    places: Places,
    /// Where each generation ends.
    endings: HashMap<u32, Ending>,
    /// Inputs and the runs they name.
    inputs: Vec<(u64, EntryId, RunId)>,
}

impl<'a> Visit<'a> {
    pub(super) fn new(
        conn: &'a Connection,
        vault: &'a Vault,
        keys: &'a TenantKeys,
        tenant: &'a Tenant,
        session: SessionId,
        report: &'a mut Report,
    ) -> Self {
        Self { conn, vault, keys, tenant, session, key: None, report }
    }

    /// Names the session in what is found.
    pub(super) fn keyed(self, session: &SessionRecord) -> Self {
        Self { key: Some(session.key().as_str().to_owned()), ..self }
    }

    /// Checks everything; returns how many runs the entries name and have.
    pub(super) fn check(mut self, receipts: &[Receipt]) -> Result<u64, StoreError> {
        self.report.sessions += 1;
        let raw = SessionRaw::find(self.conn, self.keys.tenant(), self.session);
        let Some(raw) = self.intact(None, raw)?.flatten() else {
            self.found(None, "the session has no row that can be read");
            self.walk(receipts)?;
            return Ok(0);
        };
        let head = raw.head();
        let opened = raw.open(self.vault);
        let session = self.intact(None, opened)?;
        self.key = session.as_ref().map(|session| session.record.key().as_str().to_owned());
        let walked = self.walk(receipts)?;
        if head.seq.0 > walked.last {
            self.missing(walked.last + 1, head.seq.0);
        } else if head.seq.0 < walked.last {
            self.found(Some(head.seq.0 + 1), "it is stored beyond the end that the session's head names");
        } else if !chain::same(&head.chain, &walked.chain) {
            self.found(None, "the head does not carry the chain of the last entry");
        }
        let Some(session) = session else { return Ok(0) };
        self.generations(&session, &walked)?;
        let mut named = 0;
        for (seq, entry, run) in &walked.inputs {
            named += u64::from(self.run_of(&session.record, *seq, *entry, run, &walked.places)?);
        }
        Ok(named)
    }

    /// Goes through the entries in order.
    fn walk(&mut self, receipts: &[Receipt]) -> Result<Walked, StoreError> {
        let links = self.keys.chain(self.session);
        let sql = format!("{} WHERE e.tenant = ?1 AND e.session = ?2 ORDER BY e.seq", EntryRaw::SELECT_ALONE);
        let mut statement = self.conn.prepare_cached(&sql)?;
        let mut rows = statement.query((self.keys.tenant().as_bytes(), self.session.as_bytes()))?;
        let mut walked =
            Walked { last: 0, chain: chain::START, places: Places::new(), endings: HashMap::new(), inputs: Vec::new() };
        // Each link is checked against the one stored before it: one changed entry is one problem.
        let mut linked = true;
        let mut proven: HashMap<u64, [u8; 32]> = HashMap::new();
        while let Some(row) = rows.next()? {
            let Some(raw) = self.intact(Some(walked.last + 1), EntryRaw::read(row).map_err(StoreError::from))? else {
                linked = false;
                continue;
            };
            if raw.seq <= walked.last {
                self.found(Some(raw.seq), "there are two entries of this place");
                continue;
            }
            if raw.seq > walked.last + 1 {
                self.missing(walked.last + 1, raw.seq - 1);
                linked = false;
            }
            if linked && !raw.follows(&walked.chain, &links) {
                self.found(Some(raw.seq), "it is not the entry that was stored here: its link in the chain is another");
            }
            if let Some(body) = self.body(&raw)? {
                self.report.entries += 1;
                if let Some(run) = body.run
                    && body.turn == Some(raw.id())
                {
                    walked.inputs.push((raw.seq, raw.id(), run));
                }
            }
            let before = walked.endings.insert(raw.generation(), raw.ending());
            if linked && raw.message_seq != before.map_or(0, |before| before.message_seq) + 1 {
                self.found(Some(raw.seq), "it is not the next message of its generation");
            }
            walked.places.insert(raw.id(), raw.seq);
            walked.last = raw.seq;
            walked.chain = *raw.chain();
            linked = true;
            if receipts.iter().any(|receipt| receipt.seq.0 == raw.seq) {
                proven.insert(raw.seq, *raw.chain());
            }
        }
        for receipt in receipts {
            let what = match proven.get(&receipt.seq.0) {
                Some(chain) if chain::same(chain, &receipt.chain) => continue,
                Some(_) => "the entry, or one before it, is not the one the receipt was given for",
                None => "the entry of this receipt is not there",
            };
            let problem = self.problem(Some(receipt.seq.0), what.to_owned());
            self.report.push(Problem { receipt: Some(*receipt), ..problem });
        }
        Ok(walked)
    }

    fn body(&mut self, raw: &EntryRaw) -> Result<Option<EntryBody>, StoreError> {
        let site = RecordSite { vault: self.vault, tenant: self.keys.tenant(), session: self.session };
        let opened = raw.body(&site);
        self.intact(Some(raw.seq), opened)
    }

    /// Each generation's id opens, and the entries of each end where its closing, or the head, says.
    fn generations(&mut self, session: &Session, walked: &Walked) -> Result<(), StoreError> {
        let ids = rows::generations(self.conn, self.vault, self.keys.tenant(), self.session);
        let Some(generations) = self.intact(None, ids)? else { return Ok(()) };
        let closed = rows::endings(self.conn, self.keys, session);
        let Some(mut endings) = self.intact(None, closed)? else { return Ok(()) };
        endings.insert(
            session.record.generation_no().0,
            Ending { message_seq: session.head.message_seq, leaf: session.head.leaf },
        );
        for (expected, generation) in (1..).zip(&generations) {
            if generation.no.0 != expected {
                self.found(None, &format!("its generation {expected} is missing"));
                return Ok(());
            }
        }
        let empty = Ending { message_seq: 0, leaf: None };
        for (no, ending) in endings {
            if walked.endings.get(&no).copied().unwrap_or(empty) != ending {
                self.found(None, &format!("its generation {no} does not end where the head or its closing says"));
            }
        }
        if walked.endings.keys().any(|no| !generations.iter().any(|generation| generation.no.0 == *no)) {
            self.found(None, "it has entries of a generation that is not there");
        }
        Ok(())
    }

    /// The run that an input names: there is one, it opens, and its answer is there. Whether there is one.
    fn run_of(
        &mut self,
        session: &SessionRecord,
        seq: u64,
        input: EntryId,
        run: &RunId,
        places: &Places,
    ) -> Result<bool, StoreError> {
        let found = self.find_run(session, input, run);
        let Some(found) = self.intact(Some(seq), found)? else { return Ok(false) };
        match found {
            Some(raw) => {
                let opens = self.run(session, &raw, places)?;
                self.report.runs += u64::from(opens);
                Ok(true)
            }
            None => {
                self.found(Some(seq), "its run is not there: the run's id could be used again");
                Ok(false)
            }
        }
    }

    /// The run itself: it opens, its input and its answer are entries of the session. Whether it opens.
    pub(super) fn run(&mut self, session: &SessionRecord, raw: &RunRaw, places: &Places) -> Result<bool, StoreError> {
        let seq = places.get(&raw.input).copied();
        if seq.is_none() {
            self.found(None, "the input of one of its runs is not there");
        }
        let opened = raw.open(self.vault, session);
        let Some(run) = self.sound(seq, "its run: ", opened)? else { return Ok(false) };
        if let Some(RunOutcome::Completed { answer, .. }) = &run.outcome
            && !places.contains_key(answer)
        {
            self.found(seq, "the answer of its run is not there");
        }
        Ok(true)
    }

    /// The run of this id whose input this is. Its principal is the session's owner in most cases.
    fn find_run(&self, session: &SessionRecord, input: EntryId, run: &RunId) -> Result<Option<RunRaw>, StoreError> {
        let find = |principal: PrincipalId| {
            let hash = self.keys.run_hash(principal, run);
            let raw = RunRaw::find(self.conn, self.keys.tenant(), principal, &hash)?;
            Ok::<_, StoreError>(raw.filter(|raw| raw.session == self.session && raw.input == input))
        };
        if let Some(raw) = find(session.owner())? {
            return Ok(Some(raw));
        }
        let mut statement = self.conn.prepare_cached("SELECT principal FROM principals WHERE tenant = ?1")?;
        let mut principals = statement.query([self.keys.tenant().as_bytes()])?;
        while let Some(row) = principals.next()? {
            if let Some(raw) = find(PrincipalId::from_bytes(row.get(0)?))? {
                return Ok(Some(raw));
            }
        }
        Ok(None)
    }

    /// Where the session's entries stand, without opening them.
    pub(super) fn places(&self) -> Result<Places, StoreError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT entry, seq FROM entries INDEXED BY entries_by_place WHERE tenant = ?1 AND session = ?2",
        )?;
        let places = statement.query_map((self.keys.tenant().as_bytes(), self.session.as_bytes()), |row| {
            Ok((EntryId::from_bytes(row.get(0)?), rows::unsigned(row, 1)?))
        })?;
        Ok(places.collect::<Result<_, _>>()?)
    }

    fn missing(&mut self, from: u64, to: u64) {
        if from == to {
            self.found(Some(from), "the entry is missing");
        } else {
            self.found(Some(from), &format!("the entries {from} to {to} are missing"));
        }
    }

    pub(super) fn found(&mut self, seq: Option<u64>, what: &str) {
        let problem = self.problem(seq, what.to_owned());
        self.report.push(problem);
    }

    fn problem(&self, seq: Option<u64>, what: String) -> Problem {
        Problem {
            tenant: Some(self.tenant.name.clone()),
            session: Some(self.session),
            key: self.key.clone(),
            seq,
            receipt: None,
            what,
        }
    }

    /// The value, or none when its record is damaged, which is noted; other faults stay faults.
    fn intact<T>(&mut self, seq: Option<u64>, result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        self.sound(seq, "", result)
    }

    pub(super) fn sound<T>(
        &mut self,
        seq: Option<u64>,
        of: &str,
        result: Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(fault @ StoreError::Integrity(_)) => {
                self.found(seq, &format!("{of}{fault}"));
                Ok(None)
            }
            Err(fault) => Err(fault),
        }
    }
}
