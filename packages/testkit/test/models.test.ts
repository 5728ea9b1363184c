import { afterEach, beforeEach, expect, it } from 'vitest'
import { type ScriptedProvider, startScriptedProvider } from '../src/index.ts'

let provider: ScriptedProvider
beforeEach(async () => {
  provider = await startScriptedProvider()
})
afterEach(() => provider.close())

const anthropic = { 'anthropic-version': '2023-06-01' }
const get = async (path: string, headers: Record<string, string> = {}) => {
  const response = await fetch(`${provider.url}${path}`, { headers })
  return { status: response.status, body: JSON.parse(await response.text()) }
}

it("lists its models and describes one in OpenAI's words", async () => {
  const { body } = await get('/models')
  expect(body).toMatchObject({ object: 'list', data: [{ id: 'scripted-large', object: 'model', owned_by: 'scripted' }, {}, {}] })
  expect(await get('/models/scripted-large')).toEqual({ status: 200, body: body.data[0] })
  expect(await get('/models/none')).toMatchObject({ status: 404, body: { error: { code: 'model_not_found' } } })
})

it("does so in Anthropic's words for those who send its version", async () => {
  const { body } = await get('/models', anthropic)
  expect(body).toMatchObject({
    has_more: false,
    first_id: 'scripted-large',
    data: [{ id: 'scripted-large', type: 'model' }, {}, {}]
  })
  expect(await get('/models/scripted-large', anthropic)).toEqual({ status: 200, body: body.data[0] })
  const missing = { type: 'error', error: { type: 'not_found_error' } }
  expect(await get('/models/none', anthropic)).toMatchObject({ status: 404, body: missing })
  expect(await get('/nothing', anthropic)).toMatchObject({ status: 404, body: missing })
})

it('counts the tokens of a message without charging for it', async () => {
  const ask = { model: 'm', messages: [{ role: 'user', content: 'How do tides work?' }], system: 'Be kind.' }
  const post = async (path: string, body: object) => {
    const init = { method: 'POST', headers: anthropic, body: JSON.stringify(body) }
    return JSON.parse(await (await fetch(`${provider.url}${path}`, init)).text())
  }
  const count = await post('/messages/count_tokens', ask)
  expect(provider.stats()).toMatchObject({ accepted: 1, tokensIn: 0, tokensOut: 0 })
  const { usage } = await post('/messages', { ...ask, max_tokens: 5 })
  expect(count).toEqual({ input_tokens: usage.input_tokens })
  expect(await post('/messages/count_tokens', { model: 'm' })).toMatchObject({ error: { type: 'invalid_request_error' } })
})
