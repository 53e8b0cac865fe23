#!/usr/bin/env bash
# Builds PgBouncer from the source of Debian 13, for tests with a newer one than Debian 12 has. Needs a C compiler, make, pkg-config,
# libevent-dev and libssl-dev.
#
#     scripts/build-pgbouncer.sh FOLDER    # makes FOLDER/pgbouncer
set -euo pipefail
version=1.24.1
# As the index of Debian 13 (dists/trixie/main/source/Sources) has it.
sha256=da72a3aba13072876d055a3e58dd4aba4a5de4ed6148e73033185245598fd3e0
if [ "$#" != 1 ]; then
  echo 'usage: scripts/build-pgbouncer.sh FOLDER' >&2
  exit 2
fi
mkdir -p "$1"
cd "$1"
archive="pgbouncer_$version.orig.tar.gz"
curl -sSf --retry 3 -o "$archive" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}/pool/main/p/pgbouncer/$archive"
echo "$sha256  $archive" | sha256sum --check --quiet
tar -xzf "$archive"
cd "pgbouncer-$version"
./configure --quiet --without-cares
make --silent -j2
cp pgbouncer ..
