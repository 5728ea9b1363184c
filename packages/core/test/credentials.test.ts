import { describe, expect, test } from 'vitest'
import { redactCredentials } from '../src/index.ts'

test.each([
  ['Incorrect API key provided: sk-proj-0123456789abc.', 'Incorrect API key provided: [redacted].'],
  ['gsk_0123456789 and xai-0123456789', '[redacted] and [redacted]'],
  ['KEY_sk-proj-0123456789abc', 'KEY_[redacted]'],
  ['authorization: Bearer abc.def-ghi=', 'authorization: [redacted]'],
  ['authorization: Basic dXNlcjpwYXNz', 'authorization: [redacted]'],
  ['curl -H "Authorization: Bearer letmeinplease"', 'curl -H "Authorization: [redacted]"'],
  ['Authorization=Basic%20dXNlcjpwYXNz', 'Authorization=[redacted]'],
  ['Bearer\tabcdef0123', '[redacted]'],
  ['Bearer sk-abcdefgh1', '[redacted]'],
  ['\u001b[32msk-proj-0123456789abc\u001b[0m', '\u001b[32m[redacted]\u001b[0m'],
  ['{"out":"\\u001b[33msk-proj-0123456789abc"}', '{"out":"\\u001b[33m[redacted]"}'],
  ['redis://user:p@ssw0rd@host:6379/1', 'redis://[redacted]@host:6379/1'],
  ['use glpat-0123456789abcdef_xyz', 'use [redacted]'],
  ['struct sk_buff_head and pk_order_items', 'struct sk_buff_head and pk_order_items'],
  ['Basic\n--------', 'Basic\n--------'],
  [
    'basic functions.js, basic 2024/2025, basic multi-line-comment-support',
    'basic functions.js, basic 2024/2025, basic multi-line-comment-support'
  ],
  ['a bearer responsibilities list', 'a bearer responsibilities list'],
  ['token eyJhbGciOiJIUzI1.eyJzdWIiOiIx.c2lnbmF0dXJl end', 'token [redacted] end'],
  ['token eyJhbGciOiJIUzI1.eyJzdWIiOi', 'token [redacted]'],
  ['GET /v1?key=abc&model=m', 'GET /v1?key=[redacted]&model=m'],
  ['GET /v1?model=m&api-key=abc', 'GET /v1?model=m&api-key=[redacted]'],
  ['GET /v1?access_token=abc&subscription-key=def', 'GET /v1?access_token=[redacted]&subscription-key=[redacted]'],
  ['{"next":"/v1?a=1\\u0026X-Amz-Signature=abc\\u0026b=2"}', '{"next":"/v1?a=1\\u0026X-Amz-Signature=[redacted]\\u0026b=2"}'],
  ['https://user:pass@example.com/path', 'https://[redacted]@example.com/path']
])('%s', (text, redacted) => {
  expect(redactCredentials(text)).toBe(redacted)
})

// In halves, so that no scanner takes them for keys: they are none.
const letters = 'SyD4x9QaB7Lm2Zr8TnC6Wv0Kp3Hj5Gf1Ue'
const keys = [
  `AIza${letters.slice(0, 35)}`,
  `hf_${letters}`,
  `nvapi-${letters}_${letters}`,
  `pplx-${letters}`,
  `r8_${letters}`,
  `ghp_${letters}`,
  `github_pat_${letters.slice(0, 22)}_${letters}`,
  `AKIA${letters.slice(0, 16).toUpperCase()}`,
  `ya29.a0Af_${letters}`,
  `xoxb-1234567890-${letters}`,
  `sk-proj-${letters.repeat(20)}`,
  `Bearer ${letters.repeat(200)}`,
  `Basic ${letters.repeat(200)}==`,
  `eyJhbGciOiJIUzI1NiJ9.${letters.repeat(200)}.${letters}`
]

describe.each(keys.map((key) => [`${key.slice(0, 12)} of ${key.length}`, key] as const))('%s characters', (_, key) => {
  test('goes out whole, also in JSON, in JSON within JSON, and in a URL', () => {
    expect(redactCredentials(`a ${key} b, (${key}), key=${key}, KEY_${key}`)).toBe(
      'a [redacted] b, ([redacted]), key=[redacted], KEY_[redacted]'
    )
    const result = { stdout: `key:\n${key}\n\t${key}\u001f${key}` }
    const clean = { stdout: 'key:\n[redacted]\n\t[redacted]\u001f[redacted]' }
    for (const write of [JSON.stringify, (value: unknown) => JSON.stringify(JSON.stringify(value))]) {
      expect(redactCredentials(write(result))).toBe(write(clean))
    }
    expect(redactCredentials(`/login?next=%2F%3Fa%3D${key} b`)).toBe('/login?next=%2F%3Fa%3D[redacted] b')
  })
})

test.each([
  'ask a task-force about the skeleton key=board',
  'see https://example.com/@name and mail me@example.com',
  'Basic programming, basic arithmetic. Basic JavaScript, basic PostgreSQL; a basic state-of-the-art; BASIC PROGRAMMING',
  'basic responsibilities of a bearer instrument, of bearer securities.',
  'the AsiaPacificRegionalOffice at https://example.com/path?sort=name'
])('prose is left as it is: %s', (text) => {
  expect(redactCredentials(text)).toBe(text)
})

test('no text takes much longer than to look at each of its letters', () => {
  const time = (run: () => unknown): number => {
    const startedAt = performance.now()
    run()
    return performance.now() - startedAt
  }
  const starts = ['sk-', 'AIza', 'hf_', 'github_pat_', 'AKIA', 'ya29.', 'eyJ', 'eyJaaaaaaaa.', '?key=', '?a-key', '://', '://a']
  const schemes = ['Bearer ', 'Bearer abcdefgh', 'Bearer abcdefgh ', 'Basic\\n', 'Bearer%20']
  const pieces = [...starts, ...schemes, 'eyJ-', 'sk-sk', 'eyJ-.', '?', '\\n', '\\u000a', '%3D', 'a', ' ', '\\', '[redacted]']
  const slow = pieces.filter((piece) => {
    const text = piece.repeat(Math.ceil(2 ** 18 / piece.length))
    const long = `Bearer ${text}@ sk-${text} eyJ${text}`
    // What grows with the square takes hundreds of times as long. The best of three, since other work may come between.
    const tries = [1, 2, 3].map(() => {
      const redaction = time(() => [redactCredentials(text), redactCredentials(long)])
      return redaction / time(() => [text.replace(/[^]/g, ''), long.replace(/[^]/g, '')])
    })
    return Math.min(...tries) > 25
  })
  expect(slow).toEqual([])
})
