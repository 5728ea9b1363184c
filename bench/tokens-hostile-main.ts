// Counts one kind of hostile text, longer and longer: `tokens-hostile-main.ts <subject> <kind> <most milliseconds> <sizes>`. Tells
// each time as it comes; leaves out a size that, as the times grow, would take too long.

import { median } from './tables.ts'
import { counter } from './tokens-counters.ts'
import { type Kind, kinds } from './tokens-runs.ts'

const [name = '', kind = '', limit = '', sizes = ''] = process.argv.slice(2)
const make = kinds[kind as Kind]
const count = await counter(name)
// Loads the vocabulary, and lets the compiler see the code.
for (let size = 4000; size < 4020; size++) count(make(size))
process.send?.('ready')

let [last, ms, growth] = [0, 0, 4]
for (const size of sizes.split(',').map(Number)) {
  if (ms * growth ** Math.log2(size / last) > Number(limit)) break
  const times: number[] = []
  let tokens = 0
  // Once where it takes long. A text of its own each time: a counter that remembers texts would know the second.
  for (let shorter = 0; shorter < 5 && (times[0] ?? 0) < 200; shorter++) {
    const text = make(size - shorter)
    // What was needed to make it is not held against the subject.
    process.send?.('made')
    const startedAt = performance.now()
    const counted = count(text)
    times.push(performance.now() - startedAt)
    if (shorter === 0) tokens = counted
  }
  const taken = median(times)
  if (last > 0) growth = (taken / ms) ** (1 / Math.log2(size / last))
  ;[last, ms] = [size, taken]
  process.send?.({ size, ms, tokens })
}
process.disconnect()
