-- What is claimed is stored, or will be by whoever claimed it: the place where duplicates are found.
CREATE TABLE claims (
  source_sha256 text PRIMARY KEY CHECK (source_sha256 ~ '^[0-9a-f]{64}$'),
  sha256        text NOT NULL UNIQUE CHECK (sha256 ~ '^[0-9a-f]{64}$'),
  source        text NOT NULL UNIQUE,
  phash         bigint NOT NULL,
  -- The hash in four parts: two hashes that differ in three bits or fewer have one in common.
  bands         integer[] NOT NULL,
  claimed_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX claims_bands ON claims USING gin (bands);

-- The catalogue: an image that is in all three stores, by the digest of its stored bytes.
CREATE TABLE images (
  sha256          text PRIMARY KEY CHECK (sha256 ~ '^[0-9a-f]{64}$'),
  source_sha256   text NOT NULL UNIQUE,
  source          text NOT NULL UNIQUE,
  bucket          text NOT NULL,
  key             text NOT NULL,
  name            text NOT NULL,
  device          text,
  received_at     timestamptz NOT NULL,
  stored_at       timestamptz NOT NULL DEFAULT now(),
  content_type    text NOT NULL,
  bytes           bigint NOT NULL,
  width           integer NOT NULL,
  height          integer NOT NULL,
  original_type   text NOT NULL,
  original_bytes  bigint NOT NULL,
  original_width  integer NOT NULL,
  original_height integer NOT NULL,
  phash           bigint NOT NULL,
  mean            real NOT NULL,
  std             real NOT NULL,
  sharpness       real NOT NULL,
  entropy         real NOT NULL,
  embedding       real[] NOT NULL,
  model           text NOT NULL
);
CREATE INDEX images_name ON images (name text_pattern_ops);
CREATE INDEX images_device ON images (device, received_at);
CREATE INDEX images_received_at ON images (received_at);
CREATE INDEX images_sharpness ON images (sharpness);

-- What became of everything that was received: one row for each, whatever it was.
CREATE TABLE receipts (
  source       text PRIMARY KEY,
  sha256       text NOT NULL,
  name         text NOT NULL,
  device       text,
  content_type text NOT NULL,
  length       bigint NOT NULL,
  received_at  timestamptz NOT NULL,
  recorded_at  timestamptz NOT NULL DEFAULT now(),
  state        text NOT NULL CHECK (state IN ('stored', 'duplicate', 'quarantined')),
  image        text,
  reason       text,
  detail       text NOT NULL DEFAULT '',
  CHECK ((state = 'quarantined') = (image IS NULL)),
  CHECK ((state = 'quarantined') = (reason IS NOT NULL))
);
CREATE INDEX receipts_state ON receipts (state, reason);
CREATE INDEX receipts_image ON receipts (image);
CREATE INDEX receipts_sha256 ON receipts (sha256);
