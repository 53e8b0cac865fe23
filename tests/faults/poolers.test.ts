// The installed PgBouncer in front of PostgreSQL. The proof of the same name does the same with a newer one.
import { fileOf, skipNote } from '../support/programs.js';
import { describePooler } from '../support/pooler-matrix.js';

describePooler('a pooler of pgbouncer', () => fileOf('pgbouncer') ?? '', skipNote('pgbouncer'));
