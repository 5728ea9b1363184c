import { type Chunk, MillraceError } from '@millrace/core'
import { expect, test } from 'vitest'
import { plainEvents } from '../src/plain-events.ts'

test('writes each chunk as it is, and keeps notes back', () => {
  const writer = plainEvents().begin()
  const chunk: Chunk = { type: 'text', text: 'two\nlines \ud83d' }
  const text = writer.write(chunk)
  expect(text).toMatch(/^data: .*\n\n$/)
  expect(JSON.parse(text.slice(6))).toEqual(chunk)
  expect(writer.write({ type: 'note', from: 'fallback', facts: { tried: ['backup-provider'] } })).toBe('')
  expect(writer.end()).toBe('')
})

test('tells of an error by code, sentence, and whether and when to try again', () => {
  const told = plainEvents()
    .begin()
    .fail(new MillraceError('rate-limited', 'key sk-secret has had enough', { details: { status: 429, retryAfterMs: 250 } }))
  expect(told).toBe(
    'event: error\ndata: {"code":"rate-limited","message":"too many requests or tokens just now","retryable":true,"retryAfterMs":250}\n\n'
  )
})

test('tells nothing of an error that is not ours', () => {
  expect(plainEvents().begin().fail(new Error('sk-secret'))).toBe(
    'event: error\ndata: {"code":"internal","message":"the stream failed","retryable":false}\n\n'
  )
})
