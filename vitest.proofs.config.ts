// `npm run proofs`: the tests that take minutes and are not part of `npm test`.
import { defineConfig } from 'vitest/config';
import tests from './vitest.config.js';

export default defineConfig({ test: { ...tests.test, include: ['tests/**/*.proof.ts'], maxWorkers: 1 } });
