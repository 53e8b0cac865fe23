// How a command shows the keys that encrypt database passwords.
import type { KeyUse } from '../../operations/reencryption.js';
import type { Output } from '../terminal/output.js';
import { tableOf } from '../terminal/table.js';

export function outputKeys(out: Output, keys: readonly KeyUse[]): void {
  out.show({ keys }, (width) =>
    tableOf(
      [
        { head: 'KEY', of: ({ kid }) => kid ?? 'none' },
        { head: 'HELD', of: ({ held }) => held },
        { head: 'CURRENT', of: ({ current }) => current },
        { head: 'PASSWORDS', of: ({ rows }) => rows },
      ],
      keys,
      width,
    ),
  );
  for (const { kid, held, current, rows } of keys)
    if (held && !current && rows === 0)
      out.note(`No password has the key "${kid ?? ''}": remove it from ENCRYPTION_KEYS.`);
    else if (!held && rows > 0) out.note(`${rows} passwords have a key that ENCRYPTION_KEYS does not hold.`);
}
