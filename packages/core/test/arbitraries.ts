import fc from 'fast-check'
import type { Completion, FinishReason, NoteSource, Reasoning } from '../src/index.ts'

const text = fc.string({ unit: 'binary', maxLength: 20 })
const some = fc.string({ minLength: 1, maxLength: 8 })
const count = fc.nat(1_000_000)
const json = fc.jsonValue({ maxDepth: 3 }) as fc.Arbitrary<never>
const sources: readonly NoteSource[] = ['cache', 'retry', 'hedge', 'fallback', 'limits', 'tokens', 'provider']
const finishes: readonly FinishReason[] = ['stop', 'length', 'tool-calls', 'content-filter', 'cut', 'other']

// Only the last block can be unsigned: a signature is what ends one.
const reasoning: fc.Arbitrary<Reasoning[]> = fc
  .tuple(
    fc.array(fc.record({ text, signature: some }), { maxLength: 3 }),
    fc.option(fc.record({ text: some }), { nil: undefined })
  )
  .map(([signed, open]) => (open === undefined ? signed : [...signed, open]))

/** Any completion as `collect` can give one. */
export const completions: fc.Arbitrary<Completion> = fc.record(
  {
    provider: some,
    model: some,
    id: some,
    text,
    refusal: text,
    reasoning,
    toolCalls: fc.array(fc.record({ id: some, name: some, arguments: text }), { maxLength: 3 }),
    extras: fc.array(fc.record({ name: some, value: json }), { maxLength: 3 }),
    finish: fc.constantFrom(...finishes),
    usage: fc.record({
      input: fc.record({ uncached: count, cacheRead: count, cacheWrite: count }),
      output: fc.record({ text: count, reasoning: count }),
      estimated: fc.boolean(),
      billed: fc.boolean()
    }),
    notes: fc.dictionary(fc.constantFrom(...sources), fc.dictionary(some, json, { maxKeys: 2 }), {
      maxKeys: 3,
      noNullPrototype: true
    })
  },
  { requiredKeys: ['provider', 'model', 'text', 'reasoning', 'toolCalls', 'extras', 'finish', 'notes'], noNullPrototype: true }
)
