-- Sessions and everything under them. What a client chose or said is sealed or a keyed hash; see isolation.md 2.8.
-- Ids are 16 random bytes, hashes 32 bytes, times milliseconds since the Unix epoch.

CREATE TABLE store (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    store_id BLOB NOT NULL,    -- the same in the keystore that belongs to this store
    clean    INTEGER NOT NULL, -- 1 when the last process closed the store in order
    opens    INTEGER NOT NULL  -- how often it was opened; the keystore keeps step
) STRICT;

CREATE TABLE tenants (
    tenant     BLOB NOT NULL PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,  -- as the configuration names it
    operator   BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    mac        BLOB NOT NULL  -- over every other column, as in the two tables below
) STRICT, WITHOUT ROWID;

CREATE TABLE principals (
    tenant     BLOB NOT NULL REFERENCES tenants (tenant),
    principal  BLOB NOT NULL,
    kind       INTEGER NOT NULL,
    name_hash  BLOB NOT NULL,     -- keyed
    name       BLOB NOT NULL,     -- sealed under the tenant
    disabled   INTEGER NOT NULL,
    auth_epoch INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    mac        BLOB NOT NULL,
    PRIMARY KEY (tenant, principal),
    UNIQUE (tenant, name_hash)
) STRICT, WITHOUT ROWID;

CREATE TABLE credentials (
    credential  TEXT NOT NULL PRIMARY KEY,  -- public part of the token
    tenant      BLOB NOT NULL,
    principal   BLOB NOT NULL,
    kind        INTEGER NOT NULL,
    family      BLOB NOT NULL,     -- revoked together
    secret_hash BLOB NOT NULL,
    ceiling     INTEGER NOT NULL,
    not_after   INTEGER,
    idle        INTEGER,           -- longest time without use, in milliseconds
    used_at     INTEGER NOT NULL,  -- to the minute
    revoked     INTEGER NOT NULL,
    label       BLOB,              -- sealed under the tenant
    created_at  INTEGER NOT NULL,
    mac         BLOB NOT NULL,
    FOREIGN KEY (tenant, principal) REFERENCES principals (tenant, principal)
) STRICT, WITHOUT ROWID;

CREATE INDEX credentials_by_principal ON credentials (tenant, principal);
CREATE INDEX credentials_by_family ON credentials (tenant, family);

CREATE TABLE grants (
    tenant    BLOB NOT NULL,
    principal BLOB NOT NULL,
    grant_id  BLOB NOT NULL,
    verbs     INTEGER NOT NULL,
    prefix    BLOB NOT NULL,  -- sealed under the tenant
    not_after INTEGER,
    PRIMARY KEY (tenant, principal, grant_id),
    FOREIGN KEY (tenant, principal) REFERENCES principals (tenant, principal)
) STRICT, WITHOUT ROWID;

-- Who changed what anybody may do, and when. Chained; the head says where it ends.
CREATE TABLE audit (
    tenant BLOB NOT NULL REFERENCES tenants (tenant),
    seq    INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    event  BLOB NOT NULL,  -- sealed under the tenant
    chain  BLOB NOT NULL,
    PRIMARY KEY (tenant, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit_heads (
    tenant BLOB NOT NULL PRIMARY KEY REFERENCES tenants (tenant),
    seq    INTEGER NOT NULL,
    chain  BLOB NOT NULL,
    mac    BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    tenant           BLOB NOT NULL REFERENCES tenants (tenant),
    session          BLOB NOT NULL,
    key_hash         BLOB NOT NULL,
    key              BLOB NOT NULL,     -- sealed
    agent_tag        INTEGER NOT NULL,  -- 64 bits of the keyed hash of `agent:<id>`; 0 for a sentinel
    sentinel         INTEGER NOT NULL,  -- 1 for `global` and `unknown`
    owner            BLOB NOT NULL,
    lifecycle        INTEGER NOT NULL,
    generation       INTEGER NOT NULL,  -- the live one
    lease_epoch      INTEGER NOT NULL,
    head_seq         INTEGER NOT NULL,
    head_chain       BLOB NOT NULL,
    head_message_seq INTEGER NOT NULL,
    head_leaf        BLOB,
    head_mac         BLOB NOT NULL,
    meta             BLOB NOT NULL,     -- sealed
    label_hash       BLOB,              -- keyed, of the label in `meta`
    archived         INTEGER NOT NULL,
    pinned           INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    PRIMARY KEY (tenant, session),
    UNIQUE (tenant, key_hash)
) STRICT;

-- Lists: order, filters and count are answered from the index alone.
CREATE INDEX sessions_by_update
    ON sessions (tenant, pinned DESC, updated_at DESC, session, archived, sentinel, agent_tag);

CREATE INDEX sessions_by_label ON sessions (tenant, label_hash) WHERE label_hash IS NOT NULL;

-- How many there are, so that a list knows its total without counting. Kept by the triggers alone.
CREATE TABLE session_counts (
    tenant    BLOB NOT NULL,
    agent_tag INTEGER NOT NULL,
    archived  INTEGER NOT NULL,
    sentinel  INTEGER NOT NULL,
    sessions  INTEGER NOT NULL,
    PRIMARY KEY (tenant, agent_tag, archived, sentinel)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER sessions_counted AFTER INSERT ON sessions BEGIN
    INSERT INTO session_counts VALUES (NEW.tenant, NEW.agent_tag, NEW.archived, NEW.sentinel, 1)
        ON CONFLICT DO UPDATE SET sessions = sessions + 1;
END;

CREATE TRIGGER sessions_recounted AFTER UPDATE OF agent_tag, archived, sentinel ON sessions
WHEN OLD.archived <> NEW.archived OR OLD.agent_tag <> NEW.agent_tag OR OLD.sentinel <> NEW.sentinel BEGIN
    UPDATE session_counts SET sessions = sessions - 1
        WHERE tenant = OLD.tenant AND agent_tag = OLD.agent_tag AND archived = OLD.archived AND sentinel = OLD.sentinel;
    INSERT INTO session_counts VALUES (NEW.tenant, NEW.agent_tag, NEW.archived, NEW.sentinel, 1)
        ON CONFLICT DO UPDATE SET sessions = sessions + 1;
END;

CREATE TRIGGER sessions_discounted AFTER DELETE ON sessions BEGIN
    UPDATE session_counts SET sessions = sessions - 1
        WHERE tenant = OLD.tenant AND agent_tag = OLD.agent_tag AND archived = OLD.archived AND sentinel = OLD.sentinel;
END;

CREATE TABLE session_prefixes (
    tenant      BLOB NOT NULL,
    prefix_hash BLOB NOT NULL,  -- of each run of leading segments, the whole key included
    session     BLOB NOT NULL,
    PRIMARY KEY (tenant, prefix_hash, session),
    FOREIGN KEY (tenant, session) REFERENCES sessions (tenant, session)
) STRICT, WITHOUT ROWID;

CREATE TABLE generations (
    tenant          BLOB NOT NULL,
    session         BLOB NOT NULL,
    generation      INTEGER NOT NULL,
    id_hash         BLOB NOT NULL,
    id              BLOB NOT NULL,  -- sealed
    created_at      INTEGER NOT NULL,
    -- Where it ended when another generation became live. The live one ends at the session's head.
    end_lifecycle   INTEGER,
    end_message_seq INTEGER,
    end_leaf        BLOB,
    end_mac         BLOB,
    PRIMARY KEY (tenant, session, generation),
    FOREIGN KEY (tenant, session) REFERENCES sessions (tenant, session)
) STRICT, WITHOUT ROWID;

CREATE INDEX generations_by_id ON generations (tenant, id_hash, session);

-- With a rowid: new entries of all sessions land on the same pages, which keeps a group commit small.
CREATE TABLE entries (
    tenant      BLOB NOT NULL,
    session     BLOB NOT NULL,
    seq         INTEGER NOT NULL,
    generation  INTEGER NOT NULL,
    message_seq INTEGER NOT NULL,
    entry       BLOB NOT NULL,
    lifecycle   INTEGER NOT NULL,
    role        INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    body        BLOB NOT NULL,  -- sealed
    chain       BLOB NOT NULL,
    FOREIGN KEY (tenant, session) REFERENCES sessions (tenant, session)
) STRICT;

CREATE INDEX entries_by_place ON entries (tenant, session, seq, generation, message_seq, entry);

CREATE TABLE runs (
    tenant      BLOB NOT NULL,
    principal   BLOB NOT NULL,
    run_hash    BLOB NOT NULL,
    session     BLOB NOT NULL,
    generation  INTEGER NOT NULL,
    input       BLOB NOT NULL,
    state       INTEGER NOT NULL,
    how         TEXT,           -- how it ended, so that an interrupted run needs no key
    request     BLOB NOT NULL,  -- sealed
    outcome     BLOB,           -- sealed
    accepted_at INTEGER NOT NULL,
    started_at  INTEGER,
    ended_at    INTEGER,
    restarts    INTEGER NOT NULL,  -- how often a later process started it anew
    PRIMARY KEY (tenant, principal, run_hash),
    FOREIGN KEY (tenant, session) REFERENCES sessions (tenant, session)
) STRICT, WITHOUT ROWID;

-- What a start looks for: sessions with runs that nobody ended, and those of one session. Moving a run on leaves it alone.
CREATE INDEX runs_open ON runs (tenant, session, accepted_at) WHERE state < 6;
