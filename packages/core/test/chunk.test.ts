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
    [{ type: 'reasoning', text: '', signature: '' }, false],
    [{ type: 'tool-call', index: 0, arguments: '{' }, true],
    [{ type: 'tool-call', index: 0, id: 'i', arguments: '' }, true],
    [{ type: 'tool-call', index: 0, name: 'n', arguments: '' }, true],
    [{ type: 'tool-call', index: 0, arguments: '' }, false],
    [{ type: 'tool-call', index: 0, id: '', name: '', arguments: '' }, false],
    [{ type: 'extra', name: 'e', value: 0 }, true],
    [{ type: 'extra', name: 'e', value: false }, true],
    [{ type: 'extra', name: 'e', value: 'a' }, true],
    [{ type: 'extra', name: 'e', value: [null] }, true],
    [{ type: 'extra', name: 'logprobs', value: { content: [{}], refusal: null } }, true],
    [{ type: 'extra', name: 'logprobs', value: { content: [], refusal: null } }, false],
    [{ type: 'extra', name: 'e', value: { data: '', id: undefined } }, false],
    [{ type: 'extra', name: 'e', value: null }, false],
    [{ type: 'extra', name: 'e', value: '' }, false],
    [{ type: 'extra', name: 'e', value: [] }, false],
    [{ type: 'extra', name: 'e', value: {} }, false],
    [{ type: 'start', provider: 'p', model: 'm' }, false],
    [{ type: 'note', from: 'cache', facts: {} }, false],
    [{ type: 'usage', usage }, false],
    [{ type: 'finish', reason: 'stop' }, false]
  ])('says of %j: %s', (chunk, content) => {
    expect(isContent(chunk)).toBe(content)
  })
})
