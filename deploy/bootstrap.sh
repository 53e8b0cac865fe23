#!/usr/bin/env bash
# The only step that needs a superuser: runs bootstrap.sql on each server, and sets the password of each URL's role. Safe to
# repeat: after a change of a URL's password, the next run sets it.
set -euo pipefail

case ${1-} in
  --help | -h)
    echo "Usage: deploy/bootstrap.sh, with DATABASE_URL, MIGRATION_DATABASE_URL, TENANT_DATABASE_URL and POSTGRES_PASSWORD in the
environment

Each of them can come from a file that its name with _FILE names, DATABASE_URL_FILE for one.
POSTGRES_PASSWORD is that of the superuser, whose name is POSTGRES_USER (postgres, where it is not set); a terminal is asked
for it. With DATABASE_TLS=verify-full the servers' certificates are checked against DATABASE_CA_FILE, or against the system's
list, which takes psql 16. Needs psql 15 or later."
    exit
    ;;
esac

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for name in DATABASE_URL MIGRATION_DATABASE_URL TENANT_DATABASE_URL POSTGRES_PASSWORD; do
  file=${name}_FILE
  [[ -n ${!file-} ]] || continue
  if [[ -n ${!name-} ]]; then
    echo "$name and $file are both set: set one of them" >&2
    exit 1
  fi
  if [[ ! -r ${!file} || ! -s ${!file} ]]; then
    echo "$file names a file that cannot be read or is empty: ${!file}" >&2
    exit 1
  fi
  printf -v "$name" '%s' "$(<"${!file}")"
done
: "${DATABASE_URL:?is not set}" "${MIGRATION_DATABASE_URL:?is not set}" "${TENANT_DATABASE_URL:?is not set}"
if [[ -z ${POSTGRES_PASSWORD-} && -t 0 ]]; then
  read -rsp "Password of the superuser ${POSTGRES_USER:-postgres}: " POSTGRES_PASSWORD
  echo
fi
: "${POSTGRES_PASSWORD:?is not set}"

# The superuser's password is sent only to a server that the service itself would trust with its password.
if [[ ${DATABASE_TLS-} == verify-full ]]; then
  export PGSSLMODE=verify-full PGSSLROOTCERT=${DATABASE_CA_FILE:-system}
fi

bootstrap() {
  local name=$1 url=$2
  # Only letters, digits, "-" and "_", so that nothing must be decoded. An empty password is a placeholder, and refused.
  if [[ ! $url =~ ^postgres(ql)?://([[:alnum:]_]+):([[:alnum:]_-]+)@([[:alnum:]._-]+)(:([0-9]+))?/[[:alnum:]_]+$ ]]; then
    echo "$name must look like postgres://role:password@host:5432/database, with a password of letters and digits" >&2
    exit 1
  fi
  local role=${BASH_REMATCH[2]} password=${BASH_REMATCH[3]}
  if ((${#password} < 16)); then
    echo "$name: the password is too short: make one with: openssl rand -hex 32" >&2
    exit 1
  fi
  export PGHOST=${BASH_REMATCH[4]} PGPORT=${BASH_REMATCH[6]:-5432} PGUSER=${POSTGRES_USER:-postgres}
  export PGDATABASE=postgres PGPASSWORD=$POSTGRES_PASSWORD PGCONNECT_TIMEOUT=10

  psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --file "$here/bootstrap.sql"
  # \password sends a SCRAM verifier that psql makes: the password reaches neither the server, nor its log, nor the process
  # list. \password asks twice on the terminal; without a terminal, as under setsid, it reads standard input.
  printf '%s\n%s\n' "$password" "$password" |
    setsid --wait psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --command "\\password $role" 2> >(grep -v '^Enter ' >&2)
  echo "$PGHOST:$PGPORT is ready for $role"
}

bootstrap DATABASE_URL "$DATABASE_URL"
bootstrap MIGRATION_DATABASE_URL "$MIGRATION_DATABASE_URL"
bootstrap TENANT_DATABASE_URL "$TENANT_DATABASE_URL"
