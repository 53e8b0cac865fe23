// SHA-256 of each migration. Written by `npm run migrations:seal`: do not edit. A migration that has run anywhere never changes.
import type { MigrationHashes } from '../../shared/sealed-migrations.js';

export const hashes: MigrationHashes = {
  '0001_registry': 'a1233a544288b17777bea899c9d7189cf9dd901164c2a47a8844b0897e233a7c',
  '0002_events': 'e6bd0baa3e0db2209ee90bb7a1f9e857a4615551411bafe461b883cbedbd1605',
  '0003_slot_leases': '89be2847ca986e849594f72c6aa131cfb19fb58ccdfa539d0f021d11c08eca49',
  '0004_sessions': '5a0899e70002f26b5e1b9dbc0fdd97db1c507bf550bdb40790cb4aa5f9e66ce3',
  '0005_audit': '428d5d83e9aa5b2276d9beb69f0c6f7ffbbbaeef4b22e2e4b9e1e428b7f4f494',
  '0006_lifecycle': '6b2f263c90613e14c1068274cf45e11a0b76011ffa1e8eb4dfee5e2ff1121c17',
  '0010_resealing': 'a64561f96f7262bac50b88dfe543f6e2150fee1df03bdd5a2148bd388ba71c10',
  '0011_evidence': 'acda2f120b8d76a68a6eb059cdfd0eaf515204cfe84f9ff12ac8871ddc96aee7',
  '0012_session_generations': 'a60b16b038681b9fd440bf3cedc663f0e220abe048f70f592b766854848299f3',
  '0013_full_notify_queue': 'd10cd171c50ebec70b22ecea9ead1eb2e26cc21e2cc1eaed007bc50ce8f35b43',
  '0014_changes': '5136d126c10c2d3973e7e75834ee78a3e8c95b3bc979ab29c365e0c9d00390cc',
  '0015_replicas': '62be3136d60fc89075538df57d431b39474164a0e0cdd30468408afad01ad35d',
  '0016_operations': '530f8d73e5b8317f05102872fde09cbb25f665da3b63c75db78c5f1bb0999568',
  '0017_worklists': '2ae2f0fca79922e2e87b588a0e227b4e46aad422991e8453b746a72cc899c84f',
  '0018_request_answers': '0706c5ba3fdd3e3b46227e59a72bf3a6a221b1b5a2c951e81172b0e6ab421fae',
  '0019_times_and_text': 'd639f32a0141b34cb39daa2efd3969cb63eb5d614287bbd47c85dd5b907bd9d1',
  '0020_audit_order': '901a87ffc93e705143d089253132596bd4c7646fbfc6bd61ab7ae7e6a783c59a',
  '0021_audit_indexes': '4283d07edace0d1229f97a5eefedaafe35261bcc589b558a684e21832946357e',
  '0022_audit_stamp': '3604d80b46ce0e2456c36336004429e9aad76ceaf9ae491e72ab417b8f4c7420',
  '0023_audit_retention': '0f5a719008ca6ce60df4ae7e2d5f1163b1de502e5c0913e462a0cbe964005093',
  '0024_read_cache': '9fc03368d231f8e7fd0e18cd41051c27b4b59cbea9bcace557ce5ea9154b2a0f',
  '0025_rollouts': '0ece81994e2dee164bf0b30abc5f7f0b5b8bf3bc2e9d68c3a8302c2b1fcffec1',
  '0026_epochs': 'f5554ac95984f86648f55af2b9da6312cb42f839fcef45fc78eda5a808b3b630',
};
