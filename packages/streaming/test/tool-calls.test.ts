import { type Chunk, collect, isMillraceError, type ToolCallChunk } from '@millrace/core'
import { loadRecordings } from '@millrace/testkit'
import fc from 'fast-check'
import { describe, expect, it, test } from 'vitest'
import { createToolCalls, type GrowingToolCall, onlyToolCalls } from '../src/tool-calls.ts'
import { finish, from, gather, start, text } from './source.ts'

const piece = (index: number, args: string, names: Partial<ToolCallChunk> = {}): ToolCallChunk => ({
  type: 'tool-call',
  index,
  arguments: args,
  ...names
})

const plain = (value: unknown): unknown => (value === undefined ? undefined : JSON.parse(JSON.stringify(value)))
const facts = ({ id, name, arguments: args }: GrowingToolCall) => ({ id, name, arguments: args })

/** What `work` throws, which must be ours. */
function reasonOf(work: () => void): string | undefined {
  try {
    work()
  } catch (error) {
    return isMillraceError(error, 'protocol') ? error.details.reason : String(error)
  }
  return undefined
}

describe('createToolCalls', () => {
  it('gives the call of each piece with what it says so far, and nothing for other chunks', () => {
    const { add } = createToolCalls()
    expect(add(start)).toBeUndefined()
    expect(add(text('x'))).toBeUndefined()
    const call = add(piece(0, '', { id: 'c1', name: 'weather' }))
    expect({ ...call }).toEqual({ index: 0, id: 'c1', name: 'weather', arguments: '', state: 'partial', value: undefined })
    expect(add(piece(0, '{"city":"Ber'))).toBe(call)
    expect(plain(call?.value)).toEqual({ city: 'Ber' })
    add(piece(0, 'lin"}'))
    expect({ ...call, value: plain(call?.value) }).toEqual({
      index: 0,
      id: 'c1',
      name: 'weather',
      arguments: '{"city":"Berlin"}',
      state: 'complete',
      value: { city: 'Berlin' }
    })
  })

  it('keeps interleaved calls apart, in the order of their indices, whatever order they came in', () => {
    const tools = createToolCalls()
    tools.add(piece(7, '[7', { id: 'b', name: 'g' }))
    tools.add(piece(1, '{"a"', { name: 'f' }))
    tools.add(piece(7, ',8'))
    tools.add(piece(1, ':1', { id: 'late' }))
    tools.add(piece(7, ']'))
    tools.add(piece(1, '}'))
    expect(tools.calls.map(({ index, id, name, state }) => [index, id, name, state])).toEqual([
      [1, 'late', 'f', 'complete'],
      [7, 'b', 'g', 'complete']
    ])
    expect(tools.calls.map(({ value }) => plain(value))).toEqual([{ a: 1 }, [7, 8]])
    expect(tools.calls).toBe(tools.calls)
  })

  it('takes the later of two ids and names, and no empty one', () => {
    const tools = createToolCalls()
    tools.add(piece(0, '', { id: 'a', name: 'f' }))
    tools.add(piece(0, '', { id: '', name: '' }))
    expect(tools.calls[0]).toMatchObject({ id: 'a', name: 'f' })
    tools.add(piece(0, '', { id: 'b', name: 'g' }))
    expect(tools.calls[0]).toMatchObject({ id: 'b', name: 'g' })
  })

  it('refuses an index that is none, one from 1024 up, and keeps what it has', () => {
    const tools = createToolCalls()
    for (const index of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, '0' as never, '__proto__' as never, undefined as never]) {
      expect([index, reasonOf(() => tools.add(piece(index, '')))]).toEqual([index, 'malformed'])
    }
    for (const index of [1024, 2 ** 31, Number.MAX_SAFE_INTEGER]) {
      expect([index, reasonOf(() => tools.add(piece(index, '')))]).toEqual([index, 'too-large'])
    }
    for (let index = 0; index < 1024; index++) tools.add(piece(index, '1'))
    expect(tools.calls).toHaveLength(1024)
    expect(reasonOf(() => tools.add(piece(1024, '')))).toBe('too-large')
    expect(tools.calls).toHaveLength(1024)
  })

  it('refuses more characters than maxChars, of all calls together, before it takes them', () => {
    const tools = createToolCalls({ maxChars: 10 })
    tools.add(piece(0, '12345'))
    tools.add(piece(1, '12345'))
    for (const index of [0, 2]) expect(reasonOf(() => tools.add(piece(index, '6')))).toBe('too-large')
    expect(tools.calls.map((call) => call.arguments)).toEqual(['12345', '12345'])
    tools.add(piece(1, '', { id: 'still' }))
    expect(tools.calls[1]?.id).toBe('still')
    const roomy = createToolCalls()
    roomy.add(piece(0, ' '.repeat(1_048_576)))
    expect(reasonOf(() => roomy.add(piece(0, ' ')))).toBe('too-large')
  })

  it('says what to write instead of wrong options', () => {
    for (const create of [createToolCalls, onlyToolCalls]) {
      for (const maxChars of [0, -1, Number.NaN]) expect(() => create({ maxChars })).toThrow('maxChars must be a number above 0')
      expect(() => create({ maxBytes: 1 } as object)).toThrow('it has maxChars')
    }
  })

  it('has the calls that collect has, after any pieces (seed 3)', async () => {
    const names = fc.constantFrom(undefined, '', 'a', 'b')
    const pieces = fc.array(fc.tuple(fc.nat(3), fc.constantFrom('', '{"a":', '1', '}', '"\\ud8', '3d'), names, names), {
      maxLength: 30
    })
    await fc.assert(
      fc.asyncProperty(pieces, async (all) => {
        const chunks = all.map(([index, args, id, name]) => piece(index, args, { id, name }))
        const tools = createToolCalls()
        for (const chunk of chunks) tools.add(chunk)
        const { toolCalls } = await collect(from([start, ...chunks, finish]))
        expect(tools.calls.map(facts)).toEqual(toolCalls)
      }),
      { seed: 3, numRuns: 300 }
    )
  })
})

describe('onlyToolCalls', () => {
  it('gives the growing calls once a piece, and nothing else, each stream with calls of its own', async () => {
    const chunks: Chunk[] = [
      start,
      text('x'),
      piece(0, '{', { id: 'c', name: 'f' }),
      piece(1, '[1'),
      piece(0, '"a":"b"}'),
      finish
    ]
    const operator = onlyToolCalls()
    for (let round = 0; round < 2; round++) {
      const seen: unknown[] = []
      for await (const { index, state, value } of operator(from(chunks))) seen.push([index, state, plain(value)])
      expect(seen).toEqual([
        [0, 'partial', {}],
        [1, 'partial', []],
        [0, 'complete', { a: 'b' }]
      ])
    }
  })

  it('fails the stream at a call that is too much, behind the calls before it', async () => {
    const stream = onlyToolCalls({ maxChars: 4 })(from([start, piece(0, '1234'), piece(0, '5'), finish]))
    const seen: string[] = []
    const reading = (async () => {
      for await (const call of stream) seen.push(call.arguments)
    })()
    await expect(reading).rejects.toMatchObject({ code: 'protocol', details: { reason: 'too-large' } })
    expect(seen).toEqual(['1234'])
    expect(await gather(onlyToolCalls()(from([start, finish])))).toEqual([])
  })
})

const recordings = [...(loadRecordings({ api: 'openai.chat' }) ?? []), ...(loadRecordings({ api: 'anthropic.messages' }) ?? [])]

describe.skipIf(recordings.length === 0)('arguments of recorded streams (skipped without ../shared/real)', () => {
  const streams = recordings
    .filter(({ stream }) => stream)
    .map((recording) => [recording.id, piecesOf(recording.body.toString())] as const)
  const withCalls = streams.filter(([, pieces]) => pieces.some(({ arguments: args }) => args !== ''))
  test('there are enough of them', () => expect(withCalls.length).toBeGreaterThan(20))

  test.each(withCalls)('%s: partial until the last piece, growing with each, then what JSON.parse gives', (_, pieces) => {
    const tools = createToolCalls()
    const last = new Map(pieces.map(({ index }, at) => [index, at]))
    const texts = new Map<number, string>()
    for (const [at, chunk] of pieces.entries()) {
      const joined = (texts.get(chunk.index) ?? '') + chunk.arguments
      texts.set(chunk.index, joined)
      // In pieces of one character too, for the recorded ones are often a whole call.
      let call: GrowingToolCall | undefined
      for (const letter of chunk.arguments.split('')) {
        call = tools.add({ ...chunk, arguments: letter })
        expect(call?.state).not.toBe('invalid')
      }
      if (call !== undefined && at === last.get(chunk.index)) expect(call.state).toBe(isJson(joined) ? 'complete' : 'partial')
      if (call?.state === 'complete') expect(plain(call.value)).toEqual(JSON.parse(joined))
    }
    const given = tools.calls.map((call) => [call.index, call.arguments])
    expect(given).toEqual([...texts].filter(([, args]) => args !== '').toSorted(([a], [b]) => a - b))
    expect(given.length).toBeGreaterThan(0)
  })

  /** Some fixtures hold an answer that was broken off. */
  function isJson(args: string): boolean {
    try {
      JSON.parse(args)
      return true
    } catch {
      return false
    }
  }

  /** Read the plain way, without our readers: only the pieces of arguments. Some fixtures hold several answers in a row. */
  function piecesOf(body: string): ToolCallChunk[] {
    const events = body.split(/\r?\n/).filter((line) => line.startsWith('data:') && !line.includes('[DONE]'))
    const answers = new Set<string>()
    return events.flatMap((line): ToolCallChunk[] => {
      const event = JSON.parse(line.slice(5)) as {
        id?: string
        message?: { id: string }
        index?: number
        delta?: { partial_json?: string }
        choices?: { index?: number; delta?: { tool_calls?: { index?: number; function?: { arguments?: string } }[] } }[]
      }
      answers.add(event.id ?? event.message?.id ?? [...answers].at(-1) ?? '')
      const offset = 100 * answers.size
      if (typeof event.delta?.partial_json === 'string') return [piece(offset + (event.index ?? 0), event.delta.partial_json)]
      const calls = event.choices?.find((choice) => (choice.index ?? 0) === 0)?.delta?.tool_calls ?? []
      return calls.flatMap((call, position) =>
        typeof call.function?.arguments === 'string' ? [piece(offset + (call.index ?? position), call.function.arguments)] : []
      )
    })
  }
})
