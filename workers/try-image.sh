#!/usr/bin/env bash
# Build workers/Dockerfile without a Docker engine, and run a study with its image's worker.
#
#     workers/try-image.sh                                        simulated study, no torch: minutes
#     EXTRAS=worker workers/try-image.sh studies/digits.toml      with torch: needs 20 GB of disk
#     EXTRAS=worker BASE=/folder workers/try-image.sh …           with the base image in this folder
#
# Run it as root, with Debian's buildah, debootstrap and postgresql installed. debootstrap makes a base
# image of Debian with python3, instead of the public one that the Dockerfile names. Exit code 77 means
# that something is missing, and that nothing was built.

set -euo pipefail
cd "$(dirname "$0")/.."

EXTRAS=${EXTRAS-}
BASE=${BASE-}
study=${1:-studies/simulated.toml}

skip() {
    echo "skipped: $1" >&2
    exit 77
}

[ "$(id -u)" = 0 ] || skip "this needs root"
for program in buildah debootstrap; do
    command -v "$program" > /dev/null || skip "apt-get install $program"
done
postgres=$(find /usr/lib/postgresql/*/bin -name initdb -printf '%h\n' 2> /dev/null | tail -1)
[ -n "$postgres" ] || skip "apt-get install postgresql"

folder=$(mktemp -d /tmp/kdecay-image-XXXXXX)
chmod 711 "$folder" # the database's user must be able to enter
driver=vfs
mkdir "$folder/lower" "$folder/upper" "$folder/work" "$folder/both"
overlay="lowerdir=$folder/lower,upperdir=$folder/upper,workdir=$folder/work"
if mount -t overlay overlay -o "$overlay" "$folder/both" 2> /dev/null; then
    umount "$folder/both"
    driver=overlay
fi

image() {
    buildah --root "$folder/images" --runroot "$folder/run" --storage-driver "$driver" "$@"
}

as_postgres() {
    setpriv --reuid postgres --regid postgres --clear-groups "$postgres/$1" "${@:2}"
}

clean_up() {
    as_postgres pg_ctl -D "$folder/data" -m immediate stop > /dev/null 2>&1 || true
    image rm --all > /dev/null 2>&1 || true
    umount -R "$folder"/images/* 2> /dev/null || true
    rm -rf --one-file-system "$folder"
}
trap clean_up EXIT

if [ -z "$BASE" ]; then
    echo "a base image by debootstrap"
    BASE=$folder/debian
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
        "$(sed -n s/^VERSION_CODENAME=//p /etc/os-release)" "$BASE" > "$folder/debootstrap.log" ||
        { tail "$folder/debootstrap.log" && exit 1; }
fi
base=$(image from scratch)
image copy --quiet "$base" "$BASE" / > /dev/null
image commit --quiet --rm "$base" kdecay-try-base > /dev/null

# This machine's pip configuration and certificate authorities.
mine=()
for file in /etc/pip.conf "$HOME/.config/pip/pip.conf" /etc/ssl/certs/ca-certificates.crt; do
    [ -e "$file" ] && mine+=(--volume "$file:${file/#$HOME//root}:ro")
done

build() {
    image build --isolation chroot --format docker --layers --file workers/Dockerfile \
        --build-arg "BASE=localhost/kdecay-try-base" --build-arg "EXTRAS=$EXTRAS" \
        "${mine[@]}" --tag kdecay-try .
}

echo "the image, EXTRAS=$EXTRAS (storage: $driver)"
build > "$folder/build.log" 2>&1 || { tail -40 "$folder/build.log" && exit 1; }

echo "the image again, after a change of the package: the layer of dependencies is reused"
probe=kdecay_search/try_image.py
trap 'rm -f "$probe"; clean_up' EXIT
echo "# made by workers/try-image.sh" > "$probe"
build > "$folder/again.log" 2>&1 || { tail -40 "$folder/again.log" && exit 1; }
rm "$probe"
[ "$(grep -c 'Using cache' "$folder/again.log")" -ge 5 ] || { cat "$folder/again.log" && exit 1; }

echo "a Postgres from $postgres"
password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
install -d -o postgres "$folder/data"
install -o postgres -m 600 /dev/stdin "$folder/password" <<< "$password"
as_postgres initdb -D "$folder/data" -A scram-sha-256 --pwfile "$folder/password" > /dev/null
port=$((20000 + RANDOM % 10000))
as_postgres pg_ctl -w -D "$folder/data" -l "$folder/data/log" \
    -o "-p $port -h 127.0.0.1 -k ''" start > /dev/null

echo "a study by the image's kdecay"
container=$(image from --pull-never kdecay-try)
run() {
    image run --isolation chroot --volume "$PWD/studies:/srv/kdecay/studies:ro" \
        --env "KDECAY_STORAGE=postgresql://postgres@127.0.0.1:$port/postgres" \
        --env "PGPASSWORD=$password" "$container" -- "$@"
}
config=$(image inspect --format '{{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.User}}' "$container")
[ "$config" = "[kdecay] kdecay" ] || { echo "entry point and user are $config" >&2 && exit 1; }
[ "$(run id -un)" = kdecay ]
run kdecay launch "$study" --workers 0 --detach
run kdecay worker --drain
run kdecay list
run kdecay list | grep -q ' done ' || { echo "the study is not done" >&2 && exit 1; }
