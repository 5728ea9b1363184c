// What one call costs: requests a second and CPU time, beside raw `undici.request`. Flags: see `rig.ts`.
import { compare, median, printTable, ratio } from './rig.ts'

const results = await compare({
  program: 'overhead-main.ts',
  subjects: [
    'undici.request',
    'undici.request again',
    'transport.send',
    'adapter.complete without retry',
    'adapter.complete',
    'undici fetch',
    'global fetch',
    'openai client',
    'openai client on transport.fetch'
  ],
  concurrencies: [1, 50, 200]
})

for (const [concurrency, samples] of results) {
  console.log(`\nWhole calls, ${concurrency} at a time\n`)
  printTable(
    ['subject', 'CPU, times undici.request', 'requests/s, times undici.request', 'CPU us a call', 'requests/s'],
    [...samples].map(([name, taken]) => [
      name,
      ratio(samples, name, ({ cpuUs, units }) => cpuUs / units).toFixed(2),
      ratio(samples, name, ({ units, seconds }) => units / seconds).toFixed(2),
      median(taken.map(({ cpuUs, units }) => cpuUs / units)).toFixed(1),
      median(taken.map(({ units, seconds }) => units / seconds)).toFixed(0)
    ])
  )
}
