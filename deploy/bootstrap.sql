-- Prepares your own PostgreSQL server (15 to 18) for Tenantry: makes three roles and the registry's database, and closes
-- the other databases to PUBLIC. Run it once with psql, as a superuser or as the administrator of a managed server, who has
-- CREATEROLE and CREATEDB (docs/guide/managed-postgresql.md). It is safe to repeat:
--
--     psql -v ON_ERROR_STOP=1 -d postgres -f deploy/bootstrap.sql
--
-- This file sets no password, because such a statement ends up in logs and histories. Set each role's password afterwards
-- in an interactive psql. \password asks for it, and sends the server only a SCRAM verifier:
--
--     \password tenantry_registry
--     \password tenantry_service
--     \password tenantry_provisioner
--
-- Then give the service these settings, and make its tables and the template:
--
--     DATABASE_URL=postgres://tenantry_service:…@host:5432/tenantry_registry
--     MIGRATION_DATABASE_URL=postgres://tenantry_registry:…@host:5432/tenantry_registry
--     TENANT_DATABASE_URL=postgres://tenantry_provisioner:…@host:5432/postgres
--     npm run migrate
--
-- A server for only the registry, or only tenant databases, can run this file too: the unused part does no harm.
-- src/boot/index.ts does the same for the embedded server (bootstrapCluster in db/server/server-admin.ts), and a test
-- compares the two. docs/inside/isolation.md explains each line.

\set ON_ERROR_STOP on

SELECT rolsuper AS superuser, has_parameter_privilege('temp_file_limit', 'SET WITH GRANT OPTION') AS limits_files
FROM pg_roles WHERE rolname = current_user \gset

-- Owns the registry's database and its tables, and runs its migrations. It has no rights elsewhere.
SELECT 'CREATE ROLE tenantry_registry'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tenantry_registry') \gexec
ALTER ROLE tenantry_registry WITH LOGIN NOCREATEDB NOCREATEROLE;

-- The role of the running service: reads and writes the registry's rows, with the rights that the migrations grant.
SELECT 'CREATE ROLE tenantry_service'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tenantry_service') \gexec
ALTER ROLE tenantry_service WITH LOGIN NOCREATEDB NOCREATEROLE;

-- Makes tenants' databases and roles, owns the databases and runs their migrations.
SELECT 'CREATE ROLE tenantry_provisioner'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tenantry_provisioner') \gexec
ALTER ROLE tenantry_provisioner WITH LOGIN CREATEDB CREATEROLE;

\if :superuser
-- Only a superuser may even name this attribute.
ALTER ROLE tenantry_registry NOSUPERUSER;
ALTER ROLE tenantry_service NOSUPERUSER;
ALTER ROLE tenantry_provisioner NOSUPERUSER;
\else
-- Only a member of a role may give it a database, and change the rights on it.
GRANT tenantry_registry TO CURRENT_USER;
\endif

SELECT 'CREATE DATABASE tenantry_registry OWNER tenantry_registry TEMPLATE template0 ENCODING ''UTF8'''
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'tenantry_registry') \gexec

-- By default every role of the server may connect to a new database and make temporary tables in it. A tenant's role must
-- not connect to these.
REVOKE ALL ON DATABASE tenantry_registry, postgres, template1 FROM PUBLIC;

GRANT CONNECT ON DATABASE tenantry_registry TO tenantry_service;

-- The provisioner connects to this database while it makes and drops other databases.
GRANT CONNECT ON DATABASE postgres TO tenantry_provisioner;

\if :superuser
\else
REVOKE tenantry_registry FROM CURRENT_USER;
\endif

-- The provisioner limits the temporary files of a tenant's role, and that role cannot raise the limit.
\if :limits_files
GRANT SET ON PARAMETER temp_file_limit TO tenantry_provisioner;
\else
\warn 'This role may not grant SET ON PARAMETER temp_file_limit: set temp_file_limit for the whole server instead.'
\endif
