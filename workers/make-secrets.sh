#!/usr/bin/env bash
# Make the secrets of docker-compose.yml: random passwords of the database, in files.
#
#     workers/make-secrets.sh [FOLDER]          default: secrets, beside docker-compose.yml
#
# Only you can enter the folder, and that protects the files. They are readable for all users, since
# Compose mounts them as they are, and a container's user is not you. A folder that exists is kept.

set -euo pipefail

folder=${1:-$(dirname "$0")/../secrets}
mkdir -m 700 "$folder" || { echo "kept: remove $folder first to make new passwords" >&2; exit 1; }

password() {
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}

password > "$folder/superuser_password"
for role in owner worker; do
    echo "postgresql://kdecay_$role:$(password)@db/kdecay" > "$folder/${role}_url"
done
chmod 444 "$folder"/*
echo "made: $folder"
