import { describe, expect, it } from 'vitest'
import { type Chunk, inputTokens, isContent, outputTokens, type Usage } from '../src/index.ts'

const usage: Usage = {
  input: { uncached: 1, cacheRead: 20, cacheWrite: 300 },
  output: { text: 4, reasoning: 50 },
  estimated: false,
  billed: true
}

describe('usage', () => {
  it('adds up', () => {
    expect(inputTokens(usage)).toBe(321)
    expect(outputTokens(usage)).toBe(54)
  })
})

describe('isContent', () => {
  it.each<[Chunk, boolean]>([
    [{ type: 'text', text: 'a' }, true],
    [{ type: 'text', text: '' }, false],
    [{ type: 'refusal', text: 'a' }, true],
    [{ type: 'refusal', text: '' }, false],
    [{ type: 'reasoning', text: 'a' }, true],
    [{ type: 'reasoning', text: '' }, false],
    [{ type: 'reasoning', text: '', signature: 's' }, true],
    [{ type: 'tool-call', index: 0, arguments: '' }, true],
    [{ type: 'extra', name: 'e', value: null }, true],
    [{ type: 'start', provider: 'p', model: 'm' }, false],
    [{ type: 'note', from: 'cache', facts: {} }, false],
    [{ type: 'usage', usage }, false],
    [{ type: 'finish', reason: 'stop' }, false]
  ])('says of %j: %s', (chunk, content) => {
    expect(isContent(chunk)).toBe(content)
  })
})
