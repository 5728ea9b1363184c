// What one chunk of a stream costs, and when the first text comes, beside a bare line split. Flags: see `rig.ts`.
import { compare, median, printTable, ratio } from './rig.ts'

const results = await compare({
  program: 'streams-main.ts',
  subjects: ['undici.request and a line split', 'undici.request and a line split again', 'adapter.stream', 'openai client'],
  concurrencies: [1, 50]
})

for (const [concurrency, samples] of results) {
  console.log(`\nStreams of 2,000 events, ${concurrency} at a time\n`)
  printTable(
    ['subject', 'CPU, times the line split', 'first text, times the line split', 'CPU us a chunk', 'chunks/s', 'first text, ms'],
    [...samples].map(([name, taken]) => [
      name,
      ratio(samples, name, ({ cpuUs, units }) => cpuUs / units).toFixed(2),
      ratio(samples, name, ({ firstMs = Number.NaN }) => firstMs).toFixed(2),
      median(taken.map(({ cpuUs, units }) => cpuUs / units)).toFixed(2),
      median(taken.map(({ units, seconds }) => units / seconds)).toFixed(0),
      median(taken.map(({ firstMs = Number.NaN }) => firstMs)).toFixed(1)
    ])
  )
}
