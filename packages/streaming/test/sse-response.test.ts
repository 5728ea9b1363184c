import { setTimeout as delay } from 'node:timers/promises'
import { type Chunk, MillraceError } from '@millrace/core'
import { expect, test } from 'vitest'
import { onlyText } from '../src/only-text.ts'
import { openaiEvents } from '../src/openai-events.ts'
import { toSSEResponse } from '../src/sse-response.ts'
import { fed, finish, from, start, text } from './source.ts'

const event = (chunk: Chunk): string => `data: ${JSON.stringify(chunk)}\n\n`
const bodyOf = (response: Response): ReadableStream<Uint8Array> => response.body as ReadableStream<Uint8Array>

test('gives a web response with the events of the stream', async () => {
  const response = await toSSEResponse(from([start, text('a'), finish]), {
    format: openaiEvents(),
    headers: { 'Cache-Control': 'no-store' }
  })
  expect(response.status).toBe(200)
  expect(Object.fromEntries(response.headers)).toEqual({
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-store',
    'x-accel-buffering': 'no'
  })
  expect(await response.text()).toMatch(/"content":"a"[^]*data: \[DONE\]\n\n$/)
})

test('rejects with what the source failed with before its first content', async () => {
  const error = new MillraceError('rate-limited', 'no', { details: {} })
  const source = fed()
  source.give(start)
  source.fail(error)
  await expect(toSSEResponse(source)).rejects.toBe(error)
})

test('reads the source only when its reader does', async () => {
  const source = fed()
  source.give(start)
  source.give(text('a'))
  const reader = bodyOf(await toSSEResponse(source)).getReader()
  const { reads } = source
  await delay(10)
  expect(source.reads).toBe(reads)
  source.give(text('b'))
  await reader.read()
  await delay(10)
  expect(source.reads).toBe(reads)
  await reader.read()
  expect(source.reads).toBe(reads + 1)
  await reader.cancel()
})

test.each(['while a read waits', 'between reads'])('a reader that cancels %s leaves the source at once', async (when) => {
  const source = fed()
  source.give(start)
  source.give(text('a'))
  const reader = bodyOf(await toSSEResponse(source)).getReader()
  await reader.read()
  const read = when === 'while a read waits' ? reader.read() : undefined
  void reader.cancel()
  expect(source.returned).toBe(1)
  if (read !== undefined) expect(await read).toEqual({ done: true, value: undefined })
})

test('a signal that aborts while the head waits rejects with its reason and leaves the source', async () => {
  const source = fed()
  const controller = new AbortController()
  const response = toSSEResponse(source, { signal: controller.signal })
  controller.abort('the client left')
  await expect(response).rejects.toBe('the client left')
  expect(source.returned).toBe(1)
})

test('a header that is not allowed rejects and leaves the source', async () => {
  const source = fed()
  source.give(start)
  source.give(text('a'))
  await expect(toSSEResponse(source, { headers: { bad: 'a\r\nb' } })).rejects.toThrow(TypeError)
  expect(source.returned).toBe(1)
})

test('the bytes of one read are those of whole events, also of characters of several bytes', async () => {
  const words = Array.from({ length: 5000 }, (_, at) => text(`${at}é😀`))
  const all = [start, ...words, finish]
  expect(await (await toSSEResponse(from(all))).text()).toBe(all.map(event).join(''))
})

test('refuses wrong options', async () => {
  await expect(toSSEResponse(from([]), { heartbeatMs: -1 })).rejects.toThrow('heartbeatMs must be milliseconds above 0')
})

test('texts that are no events are refused before the head, with what to write instead', async () => {
  const words = onlyText()(from([start, text('a'), finish]))
  await expect(toSSEResponse(words)).rejects.toThrow('give ready events, or chunks with a format')
})

test('a stream of nothing rejects', async () => {
  await expect(toSSEResponse(from([]))).rejects.toMatchObject({ code: 'protocol' })
})

test('a function that gives a promise of a stream is refused', async () => {
  await expect(toSSEResponse((async () => from([])) as never)).rejects.toThrow('await the stream first')
  await expect(toSSEResponse(Promise.resolve(from([])) as never)).rejects.toThrow('await a promise of it first')
})
