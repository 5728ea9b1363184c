// What telemetry adds to a call and to a chunk: with nothing registered, with an SDK whose collector is gone, and with one
// that takes everything; beside what the AI SDK's own telemetry adds to its call. The model server takes 20 ms: faster than
// that no exporter keeps up, and what is dropped costs nothing.
// Flags: see docs/benchmarks.md; --parts=busy,calls,streams
import { start } from './programs.ts'
import { type Comparison, compare, readFlags } from './rig.ts'

const parts = ['busy', 'calls', 'streams']
const { parts: wanted } = readFlags()
for (const part of wanted ?? [])
  if (!parts.includes(part)) throw new TypeError(`there is no part ${part}; name some of ${parts.join(', ')}`)

const program = 'telemetry-main.ts'
const measures: Comparison['measures'] = ['added', 'cpu', 'rate', 'p99']

/** Each state beside the subject without any telemetry. */
const rowsOf = (subject: string, addedAtMost?: number): Comparison['rows'] =>
  ['none again', 'no SDK', 'dead collector', 'full export'].map((state) => ({
    subject: `${subject}: ${state}`,
    base: `${subject}: none`,
    ...(state === 'no SDK' && addedAtMost !== undefined ? { goals: [{ measure: 'added', atMost: addedAtMost }] } : {})
  }))

if (wanted?.includes('busy') ?? true) {
  // As fast as it goes: with a server that takes its time, a few microseconds are lost in what waiting costs.
  const subject = 'adapter.complete'
  await compare({
    title: 'Whole calls, as many as go through',
    program,
    rows: rowsOf(subject, 5).filter((row) => row.subject.endsWith('again') || row.subject.endsWith('no SDK')),
    concurrencies: [50],
    measures,
    ms: 200
  })
}
if (wanted?.includes('calls') ?? true) {
  const ai = 'AI SDK generateText'
  await compare({
    title: 'Whole calls to a server that takes 20 ms',
    program,
    serverDelayMs: 20,
    rows: [...rowsOf('adapter.complete', 5), { subject: `${ai}: full export`, base: `${ai}: none` }],
    concurrencies: [50],
    measures,
    ms: 400
  })
}
if (wanted?.includes('streams') ?? true) {
  await using server = await start('streaming-server-main.ts', [])
  await compare({
    title: 'Streams of 2,000 events, each an HTTP chunk',
    program,
    at: `http://127.0.0.1:${String(server.hello)}/event`,
    rows: rowsOf('adapter.stream'),
    concurrencies: [1, 50],
    measures,
    ms: 400
  })
}
