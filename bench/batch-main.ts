// Empty items through one way, in a process of its own: `batch-main.ts <way> <array or generator>`.
import { openWay } from './batch-ways.ts'
import { takeTurns } from './turns.ts'

const [name = '', where = ''] = process.argv.slice(2)
/** A turn is one batch, or more: what costs far more an item is given fewer of them. */
const count = name === 'LangChain .batch' ? 10_000 : name.startsWith('p-') ? 100_000 : 1_000_000
const array = Array.from({ length: count }, (_, index) => index)
const expected = (count * (count - 1)) / 2
const run = await openWay(name)

async function* generate(): AsyncGenerator<number> {
  for (let item = 0; item < count; item++) yield item
}

takeTurns(async () => {
  const items = where === 'array' ? array : generate()
  const sum = await run({ items, work: async (item) => item, concurrency: 10, lengthOf: (item) => item })
  if (sum !== expected) throw new Error(`${name} gives ${sum}, not ${expected}`)
  return { units: count }
})
