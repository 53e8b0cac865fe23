// V8 learns which code makes objects that live long, and then allocates what this code makes among the old objects. The start
// teaches it wrongly: there, most objects stay, for example when the API description is made. Requests run some of the same code,
// and their objects would then be found dead by the slow collector only (docs/inside/performance.md). So V8 must not learn it.
import { setFlagsFromString } from 'node:v8';

setFlagsFromString('--no-allocation-site-pretenuring');
