import { describe, expect, it } from 'vitest'
import { formatOf, readItem } from '../src/batch-line.ts'
import { urlOf } from '../src/endpoint.ts'

const good = { custom_id: 'a', method: 'POST', url: '/v1/chat/completions', body: { model: 'm' } }
const read = (json: unknown, format: 'openai' | 'anthropic' = 'openai') =>
  readItem({ number: 7, text: typeof json === 'string' ? json : JSON.stringify(json) }, format)

describe('readItem', () => {
  it('reads a request of both formats', () => {
    expect(read(good)).toEqual({ line: 7, customId: 'a', path: '/v1/chat/completions', body: { model: 'm' } })
    expect(read({ custom_id: 'b', params: { model: 'm' } }, 'anthropic')).toEqual({
      line: 7,
      customId: 'b',
      path: '/v1/messages',
      body: { model: 'm' }
    })
  })

  it.each<[string, unknown]>([
    ['is not valid JSON', '{"custom_id": "a"'],
    ['must be a JSON object', '[]'],
    ['needs a custom_id', { ...good, custom_id: undefined }],
    ['needs a custom_id', { ...good, custom_id: 5 }],
    ['needs a custom_id', { ...good, custom_id: '' }],
    ['needs "method": "POST"', { ...good, method: 'GET' }],
    ['needs a "url"', { ...good, url: undefined }],
    ['needs a "url"', { ...good, url: 'https://elsewhere.example/v1/chat' }],
    ['needs a "url"', { ...good, url: '//elsewhere.example/v1' }],
    ['needs a "url"', { ...good, url: '/v1/../admin' }],
    ['needs a "url"', { ...good, url: '/v1/%2E%2e/admin' }],
    ['needs a "url"', { ...good, url: '/v1/chat?key=1' }],
    ['needs a "url"', { ...good, url: '/v1/..;/admin' }],
    ['needs a "url"', { ...good, url: '/v1/..%2f..%2fadmin' }],
    [
      'is nested deeper than 1000',
      JSON.stringify({ ...good, body: { deep: 0 } }).replace(':0', `:${'['.repeat(8000)}${']'.repeat(8000)}`)
    ],
    ['holds a number beyond', JSON.stringify(good).replace('"m"', '1e400')],
    ['needs "body"', { ...good, body: [] }],
    ['asks for a stream', { ...good, body: { stream: true } }],
    ['is a result', { id: 'batch_req_1', custom_id: 'a', response: { status_code: 200 }, error: null }]
  ])('%s', (problem, json) => {
    expect(read(json)).toMatchObject({ line: 7, problem: expect.stringContaining(problem) as string })
  })

  it('tells what is wrong in a line of Anthropic', () => {
    expect(read({ custom_id: 'a', params: 1 }, 'anthropic')).toMatchObject({
      problem: expect.stringContaining('params') as string
    })
    expect(read({ custom_id: 'a', result: {} }, 'anthropic')).toMatchObject({
      problem: expect.stringContaining('is a result') as string
    })
  })
})

it('the format is told by the first line', () => {
  expect(formatOf({ number: 1, text: JSON.stringify(good) })).toBe('openai')
  expect(formatOf({ number: 1, text: '{"custom_id":"a","params":{}}' })).toBe('anthropic')
  expect(formatOf({ number: 1, text: 'nothing' })).toBe('openai')
})

it.each([
  ['https://api.openai.com', '/v1/embeddings', 'https://api.openai.com/v1/embeddings'],
  ['https://api.openai.com/v1/', '/v1/embeddings', 'https://api.openai.com/v1/embeddings'],
  ['https://a.example/api/v1', '/v1/messages', 'https://a.example/api/v1/messages'],
  ['https://a.example/openai?api-version=2', '/deployments/x/chat', 'https://a.example/openai/deployments/x/chat?api-version=2']
])('%s with %s is %s', (base, path, url) => {
  expect(urlOf(new URL(base), path)).toBe(url)
})
