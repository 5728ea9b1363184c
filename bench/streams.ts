// What one chunk of a stream costs, and when the first text comes, beside a bare line split. Flags: see docs/benchmarks.md.
import { compare } from './rig.ts'

const base = 'undici.request and a line split'

await compare({
  title: 'Streams of 2,000 events',
  program: 'streams-main.ts',
  rows: [
    { subject: 'undici.request and a line split again', base },
    { subject: 'adapter.stream', base },
    { subject: 'openai client', base },
    { subject: 'adapter.stream', base: 'openai client' }
  ],
  concurrencies: [1, 50],
  measures: ['cpu', 'rate', 'first'],
  ms: 150
})
