#!/usr/bin/env node
// The `tenantry` command. The first import stops a Node that is too old, before the imports that such a Node cannot load.
import './lib/node-version.js';
import { runTenantry } from './cli/tenantry.js';

const exit = await runTenantry(process.argv.slice(2));
if (exit !== undefined) process.exitCode = exit;
