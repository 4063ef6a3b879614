#!/usr/bin/env bash
# The database's roles, for docker-compose.yml; neither is a superuser (docs/operations.md):
# kdecay_owner owns the tables, and kdecay_worker only reads and writes rows.
#
# The image of Postgres runs this once, when it has made a new database. The passwords are those in
# the URLs that the other services read.

set -euo pipefail

secrets=${SECRETS:-/run/secrets}

password_of() {
    local url encoded
    url=$(< "$secrets/$1")
    encoded=${url#*://*:}
    encoded=${encoded%%@*}
    printf '%b' "${encoded//%/\\x}"
}

# By the environment, since every user of a machine can read command lines.
OWNER_PASSWORD=$(password_of owner_url)
WORKER_PASSWORD=$(password_of worker_url)
export OWNER_PASSWORD WORKER_PASSWORD

psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" \
    --dbname "$POSTGRES_DB" << 'SQL'
\getenv owner_password OWNER_PASSWORD
\getenv worker_password WORKER_PASSWORD
SELECT current_database() AS database \gset
CREATE ROLE kdecay_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE kdecay_worker LOGIN PASSWORD :'worker_password' CONNECTION LIMIT 80;
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO kdecay_owner, kdecay_worker;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
CREATE SCHEMA kdecay AUTHORIZATION kdecay_owner;
ALTER ROLE kdecay_owner IN DATABASE :"database" SET search_path = kdecay;
ALTER ROLE kdecay_worker IN DATABASE :"database" SET search_path = kdecay;
-- The tables are made later, by the owner.
GRANT USAGE ON SCHEMA kdecay TO kdecay_worker;
ALTER DEFAULT PRIVILEGES FOR ROLE kdecay_owner IN SCHEMA kdecay
    GRANT SELECT, INSERT, UPDATE ON TABLES TO kdecay_worker;
ALTER DEFAULT PRIVILEGES FOR ROLE kdecay_owner IN SCHEMA kdecay
    GRANT USAGE ON SEQUENCES TO kdecay_worker;
SQL
