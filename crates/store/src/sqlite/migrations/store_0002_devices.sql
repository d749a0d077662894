-- Devices, requests to become one, and codes that invite one. A record is sealed under its tenant in its own place, so
-- that a row that was changed, moved, or made without the keys opens for nobody.

CREATE TABLE devices (
    tenant BLOB NOT NULL REFERENCES tenants (tenant),
    device BLOB NOT NULL,  -- SHA-256 of its public key
    family BLOB NOT NULL,  -- of its tokens
    record BLOB NOT NULL,  -- sealed
    PRIMARY KEY (tenant, device)
) STRICT, WITHOUT ROWID;

CREATE INDEX devices_by_key ON devices (device);
CREATE INDEX devices_by_family ON devices (tenant, family);

CREATE TABLE pairings (
    tenant  BLOB NOT NULL REFERENCES tenants (tenant),
    request BLOB NOT NULL,
    device  BLOB NOT NULL,
    record  BLOB NOT NULL,  -- sealed
    PRIMARY KEY (tenant, request),
    UNIQUE (tenant, device)
) STRICT, WITHOUT ROWID;

CREATE TABLE setup_codes (
    code_hash BLOB NOT NULL PRIMARY KEY,  -- keyed
    tenant    BLOB NOT NULL REFERENCES tenants (tenant),
    record    BLOB NOT NULL  -- sealed
) STRICT, WITHOUT ROWID;

CREATE INDEX setup_codes_by_tenant ON setup_codes (tenant);
