#!/usr/bin/env bash
# Fills the secrets of the example files in, once: writes tenantry.env, migration.env and superuser.env.
set -euo pipefail

case ${1-} in
  --help | -h)
    echo "Usage: deploy/make-env.sh [folder]

Writes tenantry.env, migration.env and superuser.env with new secrets into the folder (this script's own, where none is
given), readable by their owner only. Refuses to replace any of them."
    exit
    ;;
esac

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-$here}
umask 077

for file in tenantry.env migration.env superuser.env; do
  if [[ -e $folder/$file ]]; then
    echo "$folder/$file is there already, with the secrets in use: nothing was written" >&2
    exit 1
  fi
done

# In the shell alone: what stands in the arguments of a program is there for everybody to read while it runs.
fill() {
  local line
  while IFS= read -r line; do
    case $line in
      *DATABASE_URL=*:@*) line=${line/:@/:$(openssl rand -hex 32)@} ;;
      JWT_KEYS=) line+=k1:$(openssl genpkey -algorithm ed25519 -outform DER | openssl base64 -A) ;;
      ENCRYPTION_KEYS=) line+=k1:$(openssl rand -base64 32) ;;
      OPERATOR_PASSWORD=) line+=$(openssl rand -hex 16) ;;
      POSTGRES_PASSWORD=) line+=$(openssl rand -hex 32) ;;
    esac
    printf '%s\n' "$line"
  done
}

fill <"$here/example.env" >"$folder/tenantry.env"
fill <"$here/example.migration.env" >"$folder/migration.env"
fill <"$here/example.superuser.env" >"$folder/superuser.env"
echo "Wrote $folder/tenantry.env, $folder/migration.env and $folder/superuser.env"
