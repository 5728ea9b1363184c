import { expect, test } from 'vitest'
import { redactCredentials } from '../src/index.ts'

test.each([
  ['Incorrect API key provided: sk-proj-0123456789abc.', 'Incorrect API key provided: [redacted].'],
  ['gsk_0123456789 and xai-0123456789', '[redacted] and [redacted]'],
  ['authorization: Bearer abc.def-ghi=', 'authorization: [redacted]'],
  ['authorization: Basic dXNlcjpwYXNz', 'authorization: [redacted]'],
  ['token eyJhbGciOiJIUzI1.eyJzdWIiOiIx.c2lnbmF0dXJl end', 'token [redacted] end'],
  ['GET /v1?key=abc&model=m', 'GET /v1?key=[redacted]&model=m'],
  ['GET /v1?model=m&api-key=abc', 'GET /v1?model=m&api-key=[redacted]'],
  ['https://user:pass@example.com/path', 'https://[redacted]@example.com/path'],
  ['ask a task-force about the skeleton key=board', 'ask a task-force about the skeleton key=board'],
  ['see https://example.com/@name and mail me@example.com', 'see https://example.com/@name and mail me@example.com']
])('%s', (text, redacted) => {
  expect(redactCredentials(text)).toBe(redacted)
})

test('no text makes it slow', () => {
  for (const piece of ['sk-', 'Bearer ', 'eyJ', '?key=', '://', 'eyJaaaaaaaa.', 'a', '://a']) {
    const text = piece.repeat(Math.ceil(1_000_000 / piece.length))
    const startedAt = performance.now()
    redactCredentials(text)
    expect(performance.now() - startedAt).toBeLessThan(3000)
  }
})
