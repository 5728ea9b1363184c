// What one call costs: requests a second and CPU time, beside raw `undici.request`. Flags: see docs/benchmarks.md.
import { compare, type Row } from './rig.ts'

const base = 'undici.request'
const lean: Row['goals'] = [
  { measure: 'cpu', atMost: 1.15 },
  { measure: 'rate', atLeast: 0.9 }
]
const unhurried: Row['goals'] = [
  { measure: 'rate', atLeast: 0.97 },
  { measure: 'p99', atMost: 1.2 }
]
const everything: Row['goals'] = [{ measure: 'cpu', atMost: 1.35 }]

const rows: readonly Row[] = [
  { subject: 'undici.request again', base },
  { subject: 'undici dispatch handler', base },
  { subject: 'transport.send', base },
  { subject: 'adapter.complete without retry', base, goals: lean },
  { subject: 'adapter.complete', base },
  { subject: 'adapter.complete with telemetry', base, goals: everything },
  { subject: 'undici fetch', base },
  { subject: 'global fetch', base },
  { subject: 'openai client', base },
  { subject: 'AI SDK generateText', base },
  { subject: 'LangChain ChatOpenAI.invoke', base },
  {
    subject: 'openai client on transport.fetch',
    base: 'openai client',
    goals: [{ measure: 'rate', atLeast: 1.8 }]
  },
  {
    subject: 'AI SDK generateText on transport.fetch',
    base: 'AI SDK generateText',
    goals: [{ measure: 'rate', atLeast: 1.6 }]
  }
]

const program = 'overhead-main.ts'
await compare({
  title: 'Whole calls',
  program,
  rows,
  concurrencies: [1, 50, 200],
  goalsAt: [50, 200],
  measures: ['cpu', 'rate'],
  ms: 150
})
await compare({
  title: 'Whole calls to a server that takes 20 ms',
  program,
  serverDelayMs: 20,
  rows: [
    { subject: 'undici.request again', base },
    { subject: 'transport.send', base },
    { subject: 'adapter.complete', base, goals: unhurried },
    { subject: 'adapter.complete with telemetry', base, goals: unhurried },
    { subject: 'openai client', base }
  ],
  concurrencies: [200],
  measures: ['cpu', 'rate', 'p99'],
  ms: 400
})
