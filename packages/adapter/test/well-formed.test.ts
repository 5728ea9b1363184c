import type { Chunk } from '@millrace/core'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { WellFormed } from '../src/well-formed.ts'

const text = (value: string): Chunk => ({ type: 'text', text: value })

function through(batches: readonly (readonly Chunk[])[]): Chunk[] {
  const mending = new WellFormed()
  const out: Chunk[] = []
  for (const batch of batches) {
    const from = out.length
    out.push(...batch)
    mending.mend(out, from)
  }
  mending.end(out)
  return out
}

const seed = 62

describe('WellFormed', () => {
  test('joins the halves of a pair that came in two chunks', () => {
    expect(through([[text('a\ud83d')], [text('\ude00b')]])).toEqual([text('a'), text('😀b')])
    expect(through([[text('\ud83d')], [text('\ude00')]])).toEqual([text('😀')])
  })

  test('keeps fields apart, however they alternate', () => {
    const call = (index: number, value: string): Chunk => ({ type: 'tool-call', index, arguments: value })
    const chunks = [text('\ud83d'), call(0, '"\ud83d'), call(1, 'x'), text('\ude00'), call(0, '\ude01"')]
    expect(through([chunks])).toEqual([call(0, '"'), call(1, 'x'), text('😀'), call(0, '😁"')])
  })

  test('shows half a pair without its other half as U+FFFD, at the end too', () => {
    expect(through([[text('a\ud83d')], [text('b')]])).toEqual([text('a'), text('\ufffdb')])
    expect(through([[text('\ude00')]])).toEqual([text('\ufffd')])
    expect(through([[text('a\ud83d')]])).toEqual([text('a'), text('\ufffd')])
  })

  test('drops no id, name or signature with a piece that is held', () => {
    const named: Chunk = { type: 'tool-call', index: 0, id: 'a', name: 'f', arguments: '\ud83d' }
    expect(through([[named]])).toEqual([
      { ...named, arguments: '' },
      { type: 'tool-call', index: 0, arguments: '\ufffd' }
    ])
    const signed: Chunk = { type: 'reasoning', text: '\ud83d', signature: 's' }
    expect(through([[signed]])).toEqual([{ ...signed, text: '\ufffd' }])
    const seal: Chunk = { type: 'reasoning', text: '', signature: 's' }
    const half: Chunk = { type: 'reasoning', text: 'a\ud83d' }
    expect(through([[half], [seal]])).toEqual([
      { ...half, text: 'a' },
      { ...seal, text: '\ufffd' }
    ])
  })

  test('leaves what is well-formed as the same object', () => {
    const chunk = text('plain 😀')
    expect(through([[chunk]])[0]).toBe(chunk)
  })

  test(`gives the text of the whole, made well-formed, for any cuts (seed ${seed})`, () => {
    const unit = fc.oneof(fc.constantFrom('a', '\ud83d', '\ude00', 'é', '水'), fc.string({ unit: 'binary', maxLength: 2 }))
    fc.assert(
      fc.property(fc.array(unit, { maxLength: 20 }), (pieces) => {
        const out = through(pieces.filter((piece) => piece !== '').map((piece) => [text(piece)]))
        expect(out.map((chunk) => (chunk as { text: string }).text).join('')).toBe(pieces.join('').toWellFormed())
        expect(out.every((chunk) => (chunk as { text: string }).text.isWellFormed())).toBe(true)
      }),
      { seed, numRuns: 2000 }
    )
  })
})
