// docs/reference/log.md, from the schema of the log and the catalogue of security events. `npm run docs:reference` writes it, and
// tests compare.
import path from 'node:path';
import { logFields, type LogField } from '../../src/observability/log-fields.js';
import { LOG_LINES_TOTAL } from '../../src/observability/log-lines.js';
import { securityEvents, type SecurityEventDefinition } from '../../src/observability/security-catalogue.js';
import { BURST, LINES_PER_SECOND, ONE_WINDOW, SECURITY_EVENTS_TOTAL } from '../../src/observability/security-events.js';

const GENERATOR = 'scripts/docs-reference.ts';

export const LOG_PAGE = path.resolve(import.meta.dirname, '../../docs/reference/log.md');

const fields: readonly (readonly [string, LogField])[] = Object.entries(logFields);
const events: readonly (readonly [string, SecurityEventDefinition])[] = Object.entries(securityEvents);

const seconds = (ms: number): string => `${ms / 1_000} s`;
const code = (name: string): string => `\`${name}\``;

/** The text of docs/reference/log.md. */
export function logPage(): string {
  return `# Log

<!-- Written by ${GENERATOR}: do not edit. Change src/observability/log-fields.ts or src/observability/security-catalogue.ts, then run npm run docs:reference -->

Standard output has one JSON object a line. [Logs](../guide/logs.md) shows how to read it and how to change its level.
On a terminal the same lines are formatted for people. The lines that are no JSON are those at the first start that show
the operator's sign-in.

Each request has exactly one line with the \`msg\` \`request\`, or \`request aborted by the client\`. A request to bytes that
are not HTTP has none. No line has a password, a key, a token, a hash, an e-mail address, the text of a query, or the
message of a driver.

## Fields

No line has any other field. A name has one meaning and one type everywhere.

| field | type | meaning | in |
| --- | --- | --- | --- |
${fields.map(([name, { type, nullable, meaning, lines }]) => `| ${code(name)} | ${type}${nullable ? ' or null' : ''} | ${meaning} | ${lines} |`).join('\n')}

## Levels

| level | meaning |
| --- | --- |
| \`fatal\` | the process could not stop in order |
| \`error\` | a defect, or something that a person must look at: also every unexpected 5xx |
| \`warn\` | a fault that the service expects and handles, such as a database that is down: also an intended 503 |
| \`info\` | what happens every day: a line for each request |
| \`debug\` | why a request was refused (\`err\`), and every change that this replica hears of |
| \`trace\` | nothing more today |

## Security events

Such a line has \`security\` (true) and \`event\`, and the fields in the table. An event of a request also has its \`reqId\`,
\`traceId\`, \`address\`, and \`userId\` or \`operatorId\` of the caller. An act without a caller is the service's own.

| event | level | lines | what happened | fields |
| --- | --- | --- | --- | --- |
${events.map(eventRow).join('\n')}

\`reason\` of \`access-token-refused\` is \`header\` (no key of this service has the header of the token: made up, or of a
removed key), \`signature\`, or \`claims\`. An expired token is no event, and neither is a request without a token. The
reasons of \`sign-in-failed\` are those of the [audit](../guide/audit.md#what-is-audited). \`reason\` of \`weak-setup\` is
\`superuser\`, \`open-database\` or \`audit-rewritable\`; these lines are written at the start and are not counted.
\`sign-in-throttled\` and \`confirmation-throttled\` happen once for each wait, at its first refused attempt.

### Limits

A flood of events does not become a flood of lines. For each event and replica:

- At most ${BURST} lines are written at once, and ${LINES_PER_SECOND} a second after that.
- Of an event marked \`first\`, only the first from an address in ${seconds(ONE_WINDOW)} has a line.
- Lines that were left out are counted: \`${SECURITY_EVENTS_TOTAL.name}\` counts every event at once. ${seconds(ONE_WINDOW)} after the
  first that was left out, one line says how many (\`leftOut\`).

## Names in metrics

The log and the metrics use the same names, except for these. Ids of users and requests are only in the log.

| log | metrics |
| --- | --- |
${fields.flatMap(([name, { label }]: readonly [string, LogField]) => (label === undefined ? [] : [`| ${code(name)} | the label ${code(label)} |`])).join('\n')}
| \`duration\`, in ms | \`tenantry_http_request_duration_seconds\`, in seconds |
| \`openFor\`, in ms | every duration in metrics is in seconds |

\`method\`, \`route\`, \`status\`, \`code\`, \`event\`, \`level\`, \`cluster\`, \`scope\`, \`kind\`, \`state\`, \`job\`, \`reason\` and \`realm\`
are labels of the same name. \`${LOG_LINES_TOTAL.name}\` counts the lines by \`level\`.
`;
}

function eventRow([name, event]: readonly [string, SecurityEventDefinition]): string {
  const { level, description, onlyFirst } = event;
  const lines = onlyFirst ? '`first`' : 'each';
  return `| ${code(name)} | ${level} | ${lines} | ${description} | ${event.fields.map(code).join(', ')} |`;
}
