-- Wrapped keys only. Kept apart from the store so that a backup of the store alone never brings a shredded key back.

CREATE TABLE keystore (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    store_id BLOB NOT NULL,  -- the same in the store that belongs to this keystore
    pepper   BLOB NOT NULL,
    opens    INTEGER NOT NULL  -- the store's count at its last opening
) STRICT;

CREATE TABLE tenant_keys (
    tenant     BLOB NOT NULL PRIMARY KEY,
    tenant_key BLOB NOT NULL,  -- under the master key
    index_root BLOB NOT NULL,  -- under the tenant key
    epoch      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE epoch_keys (
    tenant    BLOB NOT NULL REFERENCES tenant_keys (tenant),
    epoch     INTEGER NOT NULL,
    epoch_key BLOB NOT NULL,  -- under the tenant key
    PRIMARY KEY (tenant, epoch)
) STRICT, WITHOUT ROWID;

CREATE TABLE data_keys (
    tenant     BLOB NOT NULL,
    session    BLOB NOT NULL,
    key_gen    INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    data_key   BLOB NOT NULL,  -- under the epoch key
    commitment BLOB NOT NULL,
    pooled     INTEGER NOT NULL,  -- 1 until the session is known to be in the store; 2 when that can no longer be known
    PRIMARY KEY (tenant, session, key_gen),
    FOREIGN KEY (tenant, epoch) REFERENCES epoch_keys (tenant, epoch)
) STRICT, WITHOUT ROWID;

CREATE INDEX data_keys_pooled ON data_keys (tenant, session) WHERE pooled = 1;
