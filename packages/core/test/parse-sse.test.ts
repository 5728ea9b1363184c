import { describe, expect, test } from 'vitest'
import { createSSEParser, type EventShortcut, nextBatch, parseSSE } from '../src/index.ts'

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)

/** A body that counts its reads and knows that it was left. */
function bodyOf(batches: readonly (Uint8Array | readonly Uint8Array[] | Error)[]): AsyncIterable<
  Uint8Array | readonly Uint8Array[]
> & {
  reads: number
  returned: number
} {
  const body = {
    reads: 0,
    returned: 0,
    [Symbol.asyncIterator]: () => ({
      async next() {
        const value = batches[body.reads++]
        if (value instanceof Error) throw value
        return value === undefined ? ({ done: true, value } as const) : ({ done: false, value } as const)
      },
      async return() {
        body.returned++
        return { done: true, value: undefined } as const
      }
    })
  }
  return body
}

describe('parseSSE', () => {
  test('hands over all events of one read at once, and says with the last that there are no more', async () => {
    const events = parseSSE(bodyOf([[bytes('data: a\n\nda'), bytes('ta: b\n\n')], [bytes('data: c\n\n')]]))
    expect((await nextBatch(events))?.map(({ data }) => data)).toEqual(['a', 'b'])
    expect(events.ended).toBe(false)
    expect((await nextBatch(events))?.map(({ data }) => data)).toEqual(['c'])
    expect(await nextBatch(events)).toBeUndefined()
    expect(events.ended).toBe(true)
  })

  test('gives them one by one too, in any mixture with batches', async () => {
    const events = parseSSE(bodyOf([[bytes('data: a\n\ndata: b\n\ndata: c\n\n')], [bytes('data: d')]]))
    expect((await events.next()).value?.data).toBe('a')
    expect((await nextBatch(events))?.map(({ data }) => data)).toEqual(['b', 'c'])
    expect((await events.next()).value?.data).toBe('d')
    expect((await events.next()).done).toBe(true)
  })

  test('gives what came before a fault of the bytes, then the fault, and leaves the body', async () => {
    const body = bodyOf([[bytes(`data: a\n\ndata: ${'x'.repeat(100)}\n\n`)], [bytes('data: b\n\n')]])
    const seen: string[] = []
    const reading = (async () => {
      for await (const { data } of parseSSE(body, { maxEventChars: 50 })) seen.push(data)
    })()
    await expect(reading).rejects.toMatchObject({ code: 'protocol', details: { reason: 'too-large' } })
    expect(seen).toEqual(['a'])
    expect(body.returned).toBe(1)
  })

  test('gives what came before a failure of the body, then the failure, once', async () => {
    const boom = new Error('boom')
    const body = bodyOf([bytes('data: a\n\n'), boom])
    const events = parseSSE(body)
    expect((await events.next()).value?.data).toBe('a')
    await expect(events.next()).rejects.toBe(boom)
    expect((await events.next()).done).toBe(true)
    expect(body.returned).toBe(0)
  })

  test('leaves the body with the loop, and reads no further than asked', async () => {
    const body = bodyOf([bytes('data: a\n\ndata: b\n\n'), bytes('data: c\n\n')])
    for await (const { data } of parseSSE(body)) if (data === 'b') break
    expect({ reads: body.reads, returned: body.returned }).toEqual({ reads: 1, returned: 1 })
  })
})

describe('a shortcut', () => {
  /** Takes every event that is exactly `data: known`. */
  function knowing(known: string): EventShortcut & { readonly taken: string[]; readonly learnt: string[] } {
    const taken: string[] = []
    const learnt: string[] = []
    return {
      taken,
      learnt,
      take(text, start) {
        if (!text.startsWith(known, start)) return -1
        taken.push(known)
        return start + known.length
      },
      learn: (text, start, end) => learnt.push(text.slice(start, end))
    }
  }

  test('is asked where an event begins, also behind its id, and told of the others that came whole', () => {
    const shortcut = knowing('data: known\n\n')
    const parsed: string[] = []
    const parser = createSSEParser(({ data }) => parsed.push(data), { shortcut })
    parser.push(bytes('\ufeffdata: known\n\ndata: other\n\ndata: two\ndata: known\n\ndata: known\n\nid: 1\ndata: known\n\nda'))
    parser.push(bytes('ta: known\n\ndata: known\n\n'))
    parser.push(bytes('data: known\n'))
    parser.push(bytes('\ndata: x\r\n\r\n'))
    expect(shortcut.taken).toHaveLength(4)
    expect(parsed).toEqual(['other', 'two\nknown', 'known', 'known', 'x'])
    expect(shortcut.learnt).toEqual(['data: other\n\n', 'data: two\ndata: known\n\n', 'data: x\r\n\r\n'])
  })

  test('does not lift the bound of an event', () => {
    const known = `data: ${'x'.repeat(100)}\n\n`
    const parser = createSSEParser(() => {}, { shortcut: knowing(known), maxEventChars: 50 })
    expect(() => parser.push(bytes(known))).toThrow(/maxEventChars/)
  })

  test('is not told where the line feed of a CR LF may still come', () => {
    const shortcut = knowing('never')
    const parser = createSSEParser(() => {}, { shortcut })
    parser.push(bytes('data: a\r\n\r'))
    parser.push(bytes('\ndata: b\r\r'))
    expect(shortcut.learnt).toEqual([])
  })
})
