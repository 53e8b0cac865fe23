#!/usr/bin/env bash
# Makes the files that docker-compose.yml reads: tenantry.env with the settings, and a file for each secret in secrets/.
# Run it once.
set -euo pipefail

case ${1-} in
  --help | -h)
    echo "Usage: deploy/make-env.sh [folder]

Writes tenantry.env and secrets/ with new secrets into the folder (this script's own, where none is given). Only the owner can
enter secrets/; the files in it can be read by the users that containers run as. Refuses to replace either of them."
    exit
    ;;
esac

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-$here}
secrets=$folder/secrets

for made in "$secrets" "$folder/tenantry.env"; do
  if [[ -e $made ]]; then
    echo "$made is there already, with what is in use: nothing was written" >&2
    exit 1
  fi
done

hex() {
  openssl rand -hex 32
}
# All secrets are made before the first is written. Each has its own assignment, because set -e ends the shell for a command
# that fails in an assignment, and not for one in an argument.
service=$(hex)
provisioner=$(hex)
owner=$(hex)
superuser=$(hex)
redis=$(hex)
operator=$(openssl rand -hex 16)
grafana=$(openssl rand -hex 16)
signing=$(openssl genpkey -algorithm ed25519 -outform DER | openssl base64 -A)
encryption=$(openssl rand -base64 32)

# A container's user is not the owner of the files, and a bind mount keeps owner and mode. So every user may read a file, but
# only the owner can enter the folder. Each file is mounted into containers alone.
umask 022
mkdir -m 700 "$secrets"

# printf is built into the shell: every user can read the arguments of a running program.
put() {
  printf '%s\n' "$2" >"$secrets/$1"
}
put database_url "postgres://tenantry_service:$service@registry:5432/tenantry_registry"
put tenant_database_url "postgres://tenantry_provisioner:$provisioner@tenants:5432/postgres"
put migration_database_url "postgres://tenantry_registry:$owner@registry:5432/tenantry_registry"
put postgres_password "$superuser"
put redis_url "redis://:$redis@redis:6379"
put redis_auth "requirepass $redis"
put jwt_keys "k1:$signing"
put encryption_keys "k1:$encryption"
put operator_password "$operator"
put grafana_password "$grafana"
cp "$here/example.env" "$folder/tenantry.env"
echo "Wrote $folder/tenantry.env and the secrets in $secrets"
