-- Shred epochs that turn, and what was shredded.

ALTER TABLE epoch_keys ADD COLUMN made_at INTEGER NOT NULL DEFAULT 0;  -- 0: not known, so its turn is due

-- What may not come back: its keys were deleted in the transaction that wrote the row. Kept for good, since a copy of the
-- store may be put back at any time.
CREATE TABLE shredded (
    tenant  BLOB NOT NULL,
    session BLOB NOT NULL,  -- empty: the whole tenant
    PRIMARY KEY (tenant, session)
) STRICT, WITHOUT ROWID;
