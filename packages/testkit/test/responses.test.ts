import { afterEach, beforeEach, expect, it } from 'vitest'
import { type ScriptedProvider, startScriptedProvider } from '../src/index.ts'
import { eventsOf } from './support.ts'

let provider: ScriptedProvider
beforeEach(async () => {
  provider = await startScriptedProvider()
})
afterEach(() => provider.close())

const respond = (body: object): Promise<Response> =>
  fetch(`${provider.url}/responses`, { method: 'POST', body: JSON.stringify({ model: 'm', ...body }) })
const plain = async (body: object) => JSON.parse(await (await respond(body)).text())
const streamed = async (body: object) => {
  const events = await eventsOf(await respond({ ...body, stream: true }))
  return events.map(({ event, data }) => ({ event, ...JSON.parse(data) }))
}

const tools = [{ type: 'function', name: 'get_weather', parameters: { properties: { city: { type: 'string' } } } }]
const weather = { input: [{ role: 'user', content: [{ type: 'input_text', text: 'Please get weather for Lisbon' }] }], tools }

it('answers a text with one message about it, and tells what the request set', async () => {
  const answer = await plain({ input: 'Tell me about tides', instructions: 'Be kind.', temperature: 0.5, metadata: { a: 'b' } })
  expect(answer).toMatchObject({
    object: 'response',
    status: 'completed',
    instructions: 'Be kind.',
    temperature: 0.5,
    metadata: { a: 'b' },
    output: [{ type: 'message', role: 'assistant', status: 'completed', content: [{ type: 'output_text', annotations: [] }] }]
  })
  expect(answer.output[0].content[0].text).toMatch(/tides/)
  expect(answer.usage.total_tokens).toBe(answer.usage.input_tokens + answer.usage.output_tokens)
})

it('streams numbered events in the order of the real API, which say the same as the plain answer', async () => {
  const expected = await plain({ input: 'Tell me about tides' })
  const events = await streamed({ input: 'Tell me about tides' })
  for (const [index, { event, type, sequence_number }] of events.entries()) {
    expect([event, sequence_number]).toEqual([type, index])
  }
  const types = events.map(({ type }) => type).filter((type, index, all) => type !== all[index - 1])
  expect(types).toEqual([
    'response.created',
    'response.in_progress',
    'response.output_item.added',
    'response.content_part.added',
    'response.output_text.delta',
    'response.output_text.done',
    'response.content_part.done',
    'response.output_item.done',
    'response.completed'
  ])
  const { text } = expected.output[0].content[0]
  expect(events.map(({ delta }) => delta ?? '').join('')).toBe(text)
  expect(events.find(({ type }) => type === 'response.output_text.done').text).toBe(text)
  expect(events[0].response).toMatchObject({ status: 'in_progress', output: [] })
  expect(events.at(-1).response).toMatchObject({ status: 'completed', usage: expected.usage, output: [{ content: [{ text }] }] })
})

it('calls the function that the last user message mentions, its arguments in pieces', async () => {
  const { output } = await plain(weather)
  expect(output).toMatchObject([{ type: 'function_call', name: 'get_weather', status: 'completed' }])
  expect(JSON.parse(output[0].arguments)).toEqual({ city: 'Lisbon' })
  const events = await streamed(weather)
  const pieces = events.filter(({ type }) => type === 'response.function_call_arguments.delta')
  expect(pieces.length).toBeGreaterThan(1)
  expect(pieces.map(({ delta }) => delta).join('')).toBe(output[0].arguments)
  expect(events[2]).toMatchObject({ type: 'response.output_item.added', item: { type: 'function_call', arguments: '' } })
  expect(events.at(-1).response.output[0]).toMatchObject({ type: 'function_call', arguments: output[0].arguments })
})

it('speaks after the output of a function, and with tool_choice none', async () => {
  const call = { type: 'function_call', call_id: 'c1', name: 'get_weather', arguments: '{}' }
  const output = { type: 'function_call_output', call_id: 'c1', output: 'sunny' }
  const after = await plain({ ...weather, input: [...weather.input, call, output] })
  const reference = await plain({ ...weather, input: [...weather.input, { type: 'item_reference', id: 'fc_1' }, output] })
  const none = await plain({ ...weather, tool_choice: 'none' })
  for (const answer of [after, reference, none]) expect(answer.output[0].content[0].text).toMatch(/Lisbon/)
})

it('is incomplete at max_output_tokens', async () => {
  const body = { input: 'Tides', max_output_tokens: 5 }
  const cut = { status: 'incomplete', incomplete_details: { reason: 'max_output_tokens' }, usage: { output_tokens: 5 } }
  expect(await plain(body)).toMatchObject(cut)
  expect((await streamed(body)).at(-1)).toMatchObject({ type: 'response.incomplete', response: cut })
})

it.each([
  ['no model', { model: '', input: 'hi' }, 'model'],
  ['no input', {}, 'input'],
  ['no items', { input: [] }, 'input'],
  ['an item that is no object', { input: ['hi'] }, 'input[0]'],
  ['an unknown role', { input: [{ role: 'robot', content: '' }] }, 'input[0].role'],
  ['a function without a name', { input: 'hi', tools: [{ type: 'function' }] }, 'tools[0].name'],
  ['a response that it would have had to keep', { input: 'hi', previous_response_id: 'resp_1' }, 'previous_response_id']
])('refuses %s', async (_, body, param) => {
  const response = await respond(body)
  expect(response.status).toBe(400)
  expect(await response.json()).toMatchObject({ error: { type: 'invalid_request_error', param } })
})

it('can be scripted, and told from a chat by its api', async () => {
  await using scripted = await startScriptedProvider({ reply: ({ api, prompt }) => `${api}: ${prompt}` })
  const body = JSON.stringify({ model: 'm', input: 'hi' })
  const answer = JSON.parse(await (await fetch(`${scripted.url}/responses`, { method: 'POST', body })).text())
  expect(answer.output[0].content[0].text).toBe('openai-responses: hi')
  expect(scripted.stats()).toMatchObject({ tokensIn: answer.usage.input_tokens, tokensOut: answer.usage.output_tokens })
})
