import { hash } from 'node:crypto'
import { heapAfterGc } from '@millrace/testkit'
import { createMemory, type Held } from '../src/memory.ts'
import { compact, deepFreeze } from '../src/plain.ts'

/**
 * Run by memory.test.ts in a process of its own, with --expose-gc: fills memory with entries of one kind after the other and
 * prints, a line each, what it counts and what the process has grown by.
 */
const maxBytes = 32 * 1024 * 1024
const prose = 'The quick brown fox jumps over the lazy dog, again and again. '
const usage = {
  input: { uncached: 12, cacheRead: 0, cacheWrite: 0 },
  output: { text: 900, reasoning: 0 },
  estimated: false,
  billed: true
}
const long = (text: string, chars: number): string => text.repeat(Math.ceil(chars / text.length)).slice(0, chars)
const rows = <T>(length: number, make: (index: number) => T): T[] => Array.from({ length }, (_, index) => make(index))

function chat(n: number, text: string): object {
  const start = { type: 'start', provider: 'openai', model: 'gpt-5', id: `chatcmpl-${n}` }
  return { chunks: [start, { type: 'text', text }, { type: 'usage', usage }, { type: 'finish', reason: 'stop' }] }
}

const vector = (n: number): number[] => rows(1536, (at) => Math.sin(n * at + 1))

const shapes: Readonly<Record<string, (n: number) => unknown>> = {
  'an answer of 100 characters': (n) => chat(n, long(`${n} ${prose}`, 100)),
  'an answer of 4 KB': (n) => chat(n, long(`${n} ${prose}`, 4000)),
  'an answer of 5 MB': (n) => chat(n, long(`${n} ${prose}`, 5_000_000)),
  'an answer in Japanese': (n) => chat(n, long(`${n} 速い茶色の狐が怠け者の犬を飛び越える。`, 4000)),
  'an answer of 500 pieces with times': (n) => ({
    chunks: rows(500, (at) => ({ type: 'text', text: ` word${at + n}` })),
    atMs: rows(500, (at) => at * 12)
  }),
  'an embedding': vector,
  'a small value': (n) => ({ n }),
  'a number': (n) => n + 0.5,
  'records with names of their own': (n) =>
    Object.fromEntries(rows(5, (at) => [`user-${n}-${at}`, { [`order-${n}-${at}`]: at }])),
  'token ids as names': (n) => Object.fromEntries(rows(20, (at) => [(n * 31 + at * 97) % 100_000, -100])),
  'a number as a name': (n) => ({ [900 + (n % 100)]: n }),
  'rows of twelve fields': (n) =>
    rows(50, (row) => Object.fromEntries(rows(12, (at) => [`field ${at}`, at % 3 ? row : `value ${n}`]))),
  'text put together from 2,000 pieces': (n) => {
    let text = ''
    for (let at = 0; at < 2000; at++) text += `${(n + at) % 10}p`
    return { text }
  },
  'a piece cut out of 100 KB': (n) => ({ text: `${n}${'x'.repeat(100_000)}`.slice(0, 60) })
}

let serial = 0
function hold(value: unknown, groups: readonly string[]): [string, Held] {
  const key = hash('sha256', `${serial++}`)
  return [
    key,
    {
      value: compact(value),
      storedAt: serial + 0.5,
      ttlMs: 1e9,
      keepUntil: 1e9 + 0.5,
      groups,
      epoch: 0,
      checkedAt: serial + 0.5
    }
  ]
}

async function taken(): Promise<number> {
  return (await heapAfterGc()) + process.memoryUsage().external
}

async function measure(title: string, fill: (memory: ReturnType<typeof createMemory>) => void): Promise<void> {
  const memory = createMemory({ maxBytes, maxEntries: 1_000_000, maxEntryBytes: maxBytes, now: () => 0 })
  const before = await taken()
  fill(memory)
  console.log(
    JSON.stringify({ title, grownBytes: (await taken()) - before, bytes: memory.bytes, entries: memory.entries, maxBytes })
  )
  memory.clear()
}

function fillUp(
  memory: ReturnType<typeof createMemory>,
  make: (n: number) => unknown,
  groups: (n: number) => readonly string[] = () => []
): void {
  const enough = memory.evictions + 3
  for (let n = 0; memory.evictions < enough; n++) memory.set(...hold(make(n), groups(n)))
}

// Once for the code and the shapes themselves, which are not the cache's.
await measure('warm-up', (memory) => Object.values(shapes).forEach((make) => memory.set(...hold(make(0), []))))
for (const [title, make] of Object.entries(shapes)) await measure(title, (memory) => fillUp(memory, make))
await measure('an answer in Japanese, read from a store', (memory) => {
  const text = JSON.stringify(shapes['an answer in Japanese']?.(1))
  for (const enough = memory.evictions + 3; memory.evictions < enough; ) {
    const [key, entry] = hold(null, [])
    memory.set(key, { ...entry, value: deepFreeze(JSON.parse(text)) })
  }
})
await measure('many tags', (memory) => {
  fillUp(
    memory,
    (n) => n,
    (n) => rows(40, (at) => hash('sha256', `${n}-${at}`).slice(0, 32))
  )
})
await measure('all kinds after as many small ones as there is room for', (memory) => {
  fillUp(memory, (n) => n)
  const makes = Object.values(shapes)
  for (let n = 0; n < 2000; n++) memory.set(...hold((makes[n % makes.length] as (typeof makes)[number])(n), []))
  // What was small has gone, and lru-cache keeps its places; a vector's weight leaves nothing to spare for them.
  for (let n = 0; n < 2000; n++) memory.set(...hold(vector(n), []))
})
