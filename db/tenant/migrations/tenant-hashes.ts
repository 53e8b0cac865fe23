// SHA-256 of each migration. Written by `npm run migrations:seal`: do not edit. A migration that has run anywhere never changes.
import type { MigrationHashes } from '../../shared/sealed-migrations.js';

export const hashes: MigrationHashes = {
  '0001_identity': '79665e0b14413ac8c6207dacea15ccbd34d7992d1c66a122993b47b7215dff8e',
  '0002_products': '8b4dfcfdb49e864c42223160cc5537161b070467a7c6effc47c220a1b685251f',
  '0003_sessions': 'a0aa185b1c046727254988febe4c3d7678dd763f34d5558249c10bede7a153d7',
  '0004_permissions': 'e68c1912fc70e8f97487525ccc76e69be8f6bd510635c4038fd6a23b535581c2',
  '0005_audit': '296d7af99086d5d7ca69b74051a5ebdeb6a672e145edc17839de8d98dfee6799',
  '0006_claim': 'f301f9a20a96ce712d22c71fdf3149f879022cd94490531b9f4dad18953aa605',
  '0007_session_generations': 'bb9e8a5194b86150108de7b59e17267cf12d6764d443c4793311f35fe59b7649',
  '0008_schema_version': 'f177057742770b65b297af671e5c0511d02c2dba2dc1aa2661b762f54af10626',
  '0009_schema_needs': 'c7c56538449add67e1f564184dc5110755702efeb80a2e9e0b19aee8ab75f175',
  '0011_idempotency_keys': '74626c6492ca895e89ed0c4ef8e211e16ea7131cd552ebaa47feefb6a0249cdc',
  '0013_fast_lists': 'a69a08d6b8c779f1da80b60f48a82a09b5eaef78c6828e110a7649f825e1ff8c',
  '0014_times_in_range': 'aaa7f04a17098bf1636de05827a8ef0b3bd0e91f48d2a7dabe550dd9d0b643e6',
  '0015_audit_order': '901a87ffc93e705143d089253132596bd4c7646fbfc6bd61ab7ae7e6a783c59a',
  '0016_audit_order_index': '984fcee8264fe432ee3d92094868796a70bd0f8948016bd180703a04f9a29393',
  '0017_audit_stamp': '3604d80b46ce0e2456c36336004429e9aad76ceaf9ae491e72ab417b8f4c7420',
};
