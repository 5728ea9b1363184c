import { afterEach, beforeEach, expect, it } from 'vitest'
import { type ScriptedProvider, startScriptedProvider } from '../src/index.ts'

let provider: ScriptedProvider
beforeEach(async () => {
  provider = await startScriptedProvider()
})
afterEach(() => provider.close())

const post = (body: object): Promise<Response> =>
  fetch(`${provider.url}/embeddings`, { method: 'POST', body: JSON.stringify({ model: 'm', ...body }) })
const embed = async (body: object) => JSON.parse(await (await post(body)).text())

it('gives each text a unit vector of its own, always the same one', async () => {
  const { data, usage } = await embed({ input: ['tides', 'moon', 'tides'] })
  const vectors = data.map(({ embedding }: { embedding: number[] }) => embedding)
  expect(vectors[0]).toHaveLength(64)
  expect(Math.hypot(...vectors[0])).toBeCloseTo(1, 6)
  expect(vectors[2]).toEqual(vectors[0])
  expect(vectors[1]).not.toEqual(vectors[0])
  expect(data.map(({ index }: { index: number }) => index)).toEqual([0, 1, 2])
  expect((await embed({ input: 'tides' })).data[0].embedding).toEqual(vectors[0])
  expect(usage).toEqual({ prompt_tokens: 5, total_tokens: 5 })
  expect(provider.stats()).toMatchObject({ accepted: 2, tokensIn: 7, tokensOut: 0 })
})

it('encodes the same numbers as base64, in as many dimensions as asked', async () => {
  const numbers = (await embed({ input: 'tides', dimensions: 3 })).data[0].embedding
  const bytes = Buffer.from(
    (await embed({ input: 'tides', dimensions: 3, encoding_format: 'base64' })).data[0].embedding,
    'base64'
  )
  expect([0, 4, 8].map((offset) => bytes.readFloatLE(offset))).toEqual(numbers)
  expect(bytes).toHaveLength(12)
})

it('takes lists of tokens, which count as what they are', async () => {
  expect(await embed({ input: [1, 2, 3] })).toMatchObject({ data: [{ index: 0 }], usage: { prompt_tokens: 3 } })
  expect(await embed({ input: [[1, 2], [3]] })).toMatchObject({ data: [{ index: 0 }, { index: 1 }], usage: { prompt_tokens: 3 } })
})

it.each([
  ['no input', {}, 'input'],
  ['an empty list', { input: [] }, 'input'],
  ['an empty text', { input: ['tides', ''] }, 'input'],
  ['more than 2048 texts', { input: Array.from({ length: 2049 }, () => 'a') }, 'input'],
  ['dimensions above 4096', { input: 'a', dimensions: 5000 }, 'dimensions'],
  ['another encoding', { input: 'a', encoding_format: 'hex' }, 'encoding_format']
])('refuses %s', async (_, body, param) => {
  const response = await post(body)
  expect(response.status).toBe(400)
  expect(await response.json()).toMatchObject({ error: { type: 'invalid_request_error', param } })
})
