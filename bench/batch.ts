// What a batch takes of time over the least it could, of CPU and memory, and what its journal costs; beside bare loops, fixed
// windows of Promise.all, and the libraries that do the same.
// Flags: see docs/benchmarks.md; --parts=makespan,cpu,memory,journal
import { journal } from './batch-journal.ts'
import { makespans } from './batch-makespan.ts'
import { memory } from './batch-memory.ts'
import { compare, readFlags } from './rig.ts'

const parts = ['makespan', 'cpu', 'memory', 'journal']
const { only, rounds, parts: wanted = parts } = readFlags()
for (const part of wanted)
  if (!parts.includes(part)) throw new TypeError(`there is no part ${part}; name some of ${parts.join(', ')}`)

const base = 'bare loops'

if (wanted.includes('makespan')) await makespans(only, rounds)
if (wanted.includes('cpu')) {
  for (const from of ['generator', 'array']) {
    await compare({
      title: `A million empty items from ${from === 'array' ? 'an array' : 'an async generator'}`,
      program: 'batch-main.ts',
      at: from,
      rows: [
        { subject: `${base} again`, base },
        { subject: 'batch', base, goals: [{ measure: 'added', atMost: 0.3 }] },
        { subject: 'batch in input order', base },
        { subject: 'batch longest first', base },
        { subject: 'fixed windows', base },
        { subject: 'p-limit', base },
        { subject: 'p-queue', base },
        { subject: 'LangChain .batch', base }
      ],
      concurrencies: [1],
      warmAt: 1,
      measures: ['added', 'cpu', 'rate'],
      ms: 1
    })
  }
}
if (wanted.includes('memory')) await memory(only)
if (wanted.includes('journal')) await journal()
