// What one chunk of a stream costs, and when the first text comes, beside the ways others read the same events; then what a
// stream holds in memory, what a reader that pauses pulls, and how soon the server sees that nobody reads on.
// Flags: see docs/benchmarks.md; --parts=event,packed,cut,memory,long,paused,stop

import { start } from './programs.ts'
import { type Comparison, compare, readFlags } from './rig.ts'
import { memory } from './streaming-memory.ts'
import { long, paused } from './streaming-probe.ts'
import { stop } from './streaming-stop.ts'
import { type Shape, shapes } from './streaming-traffic.ts'

const raw = 'undici.request bytes'
const base = 'undici.request with eventsource-parser'
const text = 'adapter.stream text'
const client = 'openai client'

const rows: Comparison['rows'] = [
  { subject: `${base} again`, base },
  { subject: raw, base },
  { subject: 'undici.request and a line split', base },
  { subject: text, base, goals: [{ measure: 'cpu', atMost: 0.7 }] },
  { subject: 'adapter.stream', base, goals: [{ measure: 'cpu', atMost: 1.2 }] },
  { subject: 'adapter.stream with operators', base },
  { subject: client, base },
  { subject: text, base: raw, goals: [{ measure: 'first', atMost: 1.2, at: [1] }] },
  { subject: text, base: client, goals: [{ measure: 'rate', atLeast: 5 }] },
  { subject: 'adapter.stream', base: client },
  { subject: text, base: 'LangChain ChatOpenAI.stream', goals: [{ measure: 'rate', atLeast: 9 }] },
  { subject: text, base: 'AI SDK streamText', goals: [{ measure: 'rate', atLeast: 18 }] }
]

const titles: Readonly<Record<Shape, string>> = {
  event: 'Streams of 2,000 events, each an HTTP chunk',
  packed: 'Streams of 2,000 events in HTTP chunks of 16 KB',
  cut: 'Streams of 2,000 events in HTTP chunks of 61 bytes, through lines and letters'
}

const { parts, only, rounds } = readFlags()
const others = {
  memory: () => memory(only),
  long: () => long(only),
  paused: () => paused(only, rounds),
  stop: () => stop(only, rounds)
}
for (const part of parts ?? []) {
  const known = [...shapes, ...Object.keys(others)]
  if (!known.includes(part)) throw new TypeError(`there is no part ${part}; name some of ${known.join(', ')}`)
}
for (const shape of shapes) {
  if (!(parts?.includes(shape) ?? true)) continue
  await using server = await start('streaming-server-main.ts', [])
  await compare({
    title: titles[shape],
    program: 'streaming-main.ts',
    at: `http://127.0.0.1:${String(server.hello)}/${shape}`,
    rows,
    concurrencies: [1, 50],
    measures: ['cpu', 'rate', 'first'],
    ms: 150
  })
}
for (const [part, run] of Object.entries(others)) if (parts?.includes(part) ?? true) await run()
