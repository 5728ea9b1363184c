import { checkRequest, type ErrorCode, MillraceError } from '@millrace/core'
import { expect, test } from 'vitest'
import { openaiError } from '../src/openai-error.ts'
import { createStreams } from '../src/streams.ts'
import { tellError } from '../src/told-error.ts'

const all: Record<ErrorCode, [status: number, code: string]> = {
  network: [502, 'network'],
  timeout: [504, 'timeout'],
  'rate-limited': [429, 'rate_limit_exceeded'],
  'quota-exceeded': [429, 'insufficient_quota'],
  overloaded: [503, 'overloaded'],
  unavailable: [502, 'unavailable'],
  'circuit-open': [503, 'circuit_open'],
  'queue-full': [503, 'queue_full'],
  unauthorized: [502, 'unauthorized'],
  'invalid-request': [400, 'invalid_request'],
  'context-overflow': [400, 'context_length_exceeded'],
  'content-filtered': [400, 'content_filter'],
  protocol: [502, 'protocol'],
  closed: [503, 'closed']
}

test.each(Object.entries(all))('%s has its status, its code and a fixed sentence', (code, [status, told]) => {
  const error = new MillraceError(code as 'unavailable', 'sk-secret at 10.0.0.1', {
    details: { status: 500, retryAfterMs: 70_500 }
  })
  const answer = openaiError(error)
  expect([answer.status, answer.body.error.code]).toEqual([status, told])
  expect(JSON.stringify(answer)).not.toContain('sk-secret')
  expect(answer.headers).toEqual({ 'retry-after': '71', 'retry-after-ms': '70500' })
})

test.each([
  [{ maxOutputTokens: -1 }, 'max_tokens'],
  [{ extra: { metadata: { a: undefined, ['__proto__x']: () => 1 } } }, 'metadata.__proto__x'],
  [{ messages: [{ role: 'assistant', content: '', toolCalls: 'x' }] }, 'messages[0].tool_calls'],
  [{ messages: [{ role: 'tool', content: '', toolCallId: 5 }] }, 'messages[0].tool_call_id']
])('names the refused field of %o as OpenAI does', (part, param) => {
  let thrown: unknown
  try {
    checkRequest({ model: 'm', messages: [{ role: 'user', content: 'x' }], ...part } as never)
  } catch (error) {
    thrown = error
  }
  const { status, body } = openaiError(thrown)
  expect([status, body.error.param]).toEqual([400, param])
  expect(body.error.message.startsWith(param)).toBe(true)
})

test('a failure that is not ours is told as no more than that', () => {
  expect(openaiError(new TypeError('sk-secret'))).toEqual({
    status: 500,
    headers: {},
    body: { error: { message: 'the stream failed', type: 'server_error', param: null, code: 'internal_error' } }
  })
})

test('a refusal of our own keeps its status and its words', async () => {
  await using streams = createStreams()
  const error: unknown = await streams.resume('AAAAAAAAAAAAAAAAAAAAAA/3').catch((thrown: unknown) => thrown)
  const { status, body } = openaiError(error)
  expect([status, body.error.message, body.error.param]).toEqual([
    404,
    'there is no such stream, or it has expired: begin a new one',
    'lastEventId'
  ])
  expect(tellError(error)).toMatchObject({ code: 'invalid-request', status: 404, path: 'lastEventId' })
})

test("a provider's refusal does not, whatever it names", () => {
  const details = { status: 404, path: 'model' }
  const error = new MillraceError('invalid-request', 'sk-secret', { details, context: { provider: 'openai' } })
  const { status, body } = openaiError(error)
  expect([status, body.error.message, body.error.param]).toEqual([400, 'the provider refused the request', null])
})

test('a store of ours that is away is not told as a provider', () => {
  const of = (context: object): string =>
    openaiError(new MillraceError('network', 'Redis at 10.0.0.1 is away', { details: { phase: 'body' }, context })).body.error
      .message
  expect(of({})).toBe('a connection that the service needs could not be made, or broke')
  expect(of({ provider: 'openai' })).toBe('the provider could not be reached, or the connection to it broke')
})

test.each([
  [0, { 'retry-after': '0', 'retry-after-ms': '0' }],
  [0.5, { 'retry-after': '1', 'retry-after-ms': '1' }],
  [Number.NaN, {}],
  [Number.POSITIVE_INFINITY, {}],
  [-5, {}],
  [-0.5, {}],
  [1e300, {}]
])('asks for a wait of %d ms only as far as it is one', (retryAfterMs, headers) => {
  const error = new MillraceError('rate-limited', 'x', { details: { retryAfterMs } })
  expect(openaiError(error).headers).toEqual(headers)
  expect('retryAfterMs' in tellError(error)).toBe('retry-after' in headers)
})
