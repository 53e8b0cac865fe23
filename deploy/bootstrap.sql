-- Prepares a PostgreSQL server (15 to 18) of your own for Tenantry: three roles, the registry's database, and no database
-- left that every role may enter. Once, as a superuser, with psql; safe to repeat:
--
--     psql -v ON_ERROR_STOP=1 -d postgres -f deploy/bootstrap.sql
--
-- No password stands here, because a statement that sets one ends up in logs and histories. Give each role its own in an
-- interactive psql afterwards; \password asks for it and sends the server a SCRAM verifier made on your side:
--
--     \password tenantry_registry
--     \password tenantry_service
--     \password tenantry_provisioner
--
-- Then tell the service, and let it make its tables and the template:
--
--     DATABASE_URL=postgres://tenantry_service:…@host:5432/tenantry_registry
--     MIGRATION_DATABASE_URL=postgres://tenantry_registry:…@host:5432/tenantry_registry
--     TENANT_DATABASE_URL=postgres://tenantry_provisioner:…@host:5432/postgres
--     npm run migrate
--
-- A server for the registry alone, or for tenant databases alone, can run it too: the part that is not used does no harm.
-- src/boot/index.ts does the same for the embedded server (bootstrapCluster in db/server/server-admin.ts), and a test compares the two.
-- docs/inside/isolation.md says what each line is for.

\set ON_ERROR_STOP on

-- Owns the registry's database and its tables, and runs its migrations; may do nothing outside it.
SELECT 'CREATE ROLE tenantry_registry'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tenantry_registry') \gexec
ALTER ROLE tenantry_registry WITH LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;

-- Reads and writes the registry's rows, by the rights that the migrations give it: what the service runs with.
SELECT 'CREATE ROLE tenantry_service'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tenantry_service') \gexec
ALTER ROLE tenantry_service WITH LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;

-- Makes tenants' databases and roles, owns the databases and runs their migrations.
SELECT 'CREATE ROLE tenantry_provisioner'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tenantry_provisioner') \gexec
ALTER ROLE tenantry_provisioner WITH LOGIN NOSUPERUSER CREATEDB CREATEROLE;

SELECT 'CREATE DATABASE tenantry_registry OWNER tenantry_registry TEMPLATE template0 ENCODING ''UTF8'''
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'tenantry_registry') \gexec

-- A new database lets every role of the server connect and make temporary tables: a tenant's role must not enter these.
REVOKE ALL ON DATABASE tenantry_registry, postgres, template1 FROM PUBLIC;

GRANT CONNECT ON DATABASE tenantry_registry TO tenantry_service;

-- Where the provisioner stands while it makes and drops other databases.
GRANT CONNECT ON DATABASE postgres TO tenantry_provisioner;

-- So that it can bound the temporary files of a tenant's role, which that role cannot lift.
GRANT SET ON PARAMETER temp_file_limit TO tenantry_provisioner;
