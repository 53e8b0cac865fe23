// V8 learns which code makes objects that live long, and then allocates what this code makes among the old objects. The start
// teaches it wrongly: there, most objects stay, for example when the API description is made. Requests run some of the same code,
// and only the slow collector would then find that their objects are dead (docs/inside/performance.md). So this switches the
// learning off.
import { setFlagsFromString } from 'node:v8';

setFlagsFromString('--no-allocation-site-pretenuring');
