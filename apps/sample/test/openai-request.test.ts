import { openai } from '@millrace/adapter/openai'
import { checkRequest, collect, isMillraceError, type JsonObject } from '@millrace/core'
import { loadRecordings } from '@millrace/testkit'
import { expect, test } from 'vitest'
import { readRequest } from '../src/openai-request.ts'

type Outcome = { readonly passedOn: true } | { readonly refused: string } | { readonly sent: Record<string, unknown> }

/** What becomes of a request: the gateway passes it on as it is, refuses a field of it, or its provider sends it. */
async function follow(body: Record<string, unknown>): Promise<Outcome> {
  const request = readRequest(body as JsonObject)
  if (request === undefined) return { passedOn: true }
  try {
    checkRequest(request)
  } catch (error) {
    if (isMillraceError(error, 'invalid-request')) return { refused: error.details.path ?? '' }
    throw error
  }
  let sent: Record<string, unknown> | undefined
  const wire = openai({ apiKey: 'k', maxTokensField: 'max_tokens' }).connect((http) => {
    sent = JSON.parse(http.body as string) as Record<string, unknown>
    return Promise.reject(new Error('far enough'))
  })
  await expect(collect(wire(request, { stream: body.stream === true }))).rejects.toThrow('far enough')
  return { sent: sent as Record<string, unknown> }
}

/**
 * Ways to write the same request: one choice said or not, null or nothing for absent, one name for the token bound, `stop`
 * as a list, the usage of a stream asked for or not.
 */
function normal(body: Record<string, unknown>): unknown {
  const { stream_options: asked, n, stream, max_completion_tokens: more, max_tokens, stop, ...rest } = body
  const { include_usage: _, ...options } = (asked ?? {}) as Record<string, unknown>
  const tidy = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(tidy)
    if (typeof value !== 'object' || value === null) return value
    const entries = Object.entries(value).filter(
      ([key, field]) => field !== null && field !== undefined && !(key === 'content' && field === '')
    )
    return Object.fromEntries(entries.map(([key, field]) => [key, tidy(field)]))
  }
  return tidy({
    ...rest,
    bounds: [max_tokens, more].filter((bound) => bound !== undefined && bound !== null),
    stop: typeof stop === 'string' ? [stop] : stop,
    ...(n === 1 ? {} : { n }),
    ...(stream === false ? {} : { stream }),
    options
  })
}

const call = { id: 'call_1', type: 'function', function: { name: 'look', arguments: '{}' } }
const everything: Record<string, unknown> = {
  model: 'm',
  messages: [
    { role: 'system', content: [{ type: 'text', text: 'Be brief.' }] },
    {
      role: 'user',
      name: 'ann',
      content: [
        { type: 'text', text: 'Look' },
        { type: 'image_url', image_url: { url: 'https://x.test/a.png', detail: 'low' } },
        { type: 'input_audio', input_audio: { data: 'AAAA', format: 'wav' } },
        { type: 'file', file: { file_id: 'f' } }
      ]
    },
    { role: 'assistant', content: null, tool_calls: [call] },
    { role: 'tool', tool_call_id: 'call_1', content: 'seen' },
    { role: 'assistant', content: 'Seen.' },
    { role: 'user', content: 'And?' }
  ],
  tools: [{ type: 'function', function: { name: 'look', description: 'd', parameters: { type: 'object' }, strict: true } }],
  tool_choice: { type: 'function', function: { name: 'look' } },
  response_format: { type: 'json_schema', json_schema: { name: 's', schema: { type: 'object' }, strict: true } },
  max_tokens: 9,
  temperature: 0.5,
  top_p: 0.9,
  stop: 'x',
  seed: 1,
  n: 1,
  stream: true,
  stream_options: { include_usage: true },
  metadata: { a: 'b' }
}

/** Every place of a value: the path of keys that leads there. */
function placesOf(value: unknown, path: readonly string[] = []): (readonly string[])[] {
  if (typeof value !== 'object' || value === null) return [path]
  return [path, ...Object.entries(value).flatMap(([key, child]) => placesOf(child, [...path, key]))]
}

/** The value with one place changed. */
function changed(value: unknown, [key, ...deeper]: readonly string[], change: (old: unknown) => unknown): unknown {
  if (key === undefined) return change(value)
  const copy = structuredClone(value) as Record<string, unknown>
  copy[key] = changed(copy[key], deeper, change)
  return copy
}

const isObject = (value: unknown): boolean => typeof value === 'object' && value !== null && !Array.isArray(value)
const further = { google: { thought_signature: 'abc' } }

test('a further field anywhere in a request reaches the provider, or the request is passed on untouched', async () => {
  const fates: Record<string, string[]> = { sent: [], passedOn: [] }
  for (const place of placesOf(everything)) {
    for (const name of ['extra_content', 'name', 'refusal', 'audio', 'annotations', 'cache_control', 'index', 'type']) {
      let added = false
      const body = changed(everything, place, (old) => {
        if (!isObject(old) || Object.hasOwn(old as object, name)) return old
        added = true
        return { ...(old as object), [name]: name === 'name' || name === 'refusal' ? 'x' : further }
      }) as Record<string, unknown>
      if (!added) continue
      const outcome = await follow(body)
      if ('refused' in outcome) throw new Error(`${place.join('.')}.${name} is refused: ${outcome.refused}`)
      if ('sent' in outcome) expect(normal(outcome.sent), place.join('.')).toEqual(normal(body))
      fates['sent' in outcome ? 'sent' : 'passedOn']?.push([...place, name].join('.'))
    }
  }
  expect(fates.sent).toEqual(
    expect.arrayContaining([
      'extra_content',
      'messages.3.name',
      'messages.4.audio',
      'messages.4.refusal',
      'messages.0.content.0.cache_control',
      'messages.1.content.1.image_url.extra_content',
      'tools.0.cache_control',
      'stream_options.extra_content'
    ])
  )
  expect(fates.passedOn).toEqual(
    expect.arrayContaining(['messages.2.tool_calls.0.extra_content', 'tools.0.function.extra_content', 'tool_choice.name'])
  )
})

test('a value of a wrong type is refused by name, passed on untouched, or sent as it is', async () => {
  for (const place of placesOf(everything).slice(1)) {
    for (const wrong of ['x', '', 7, -1, true, false, null, [], {}, ['x'], [null], { a: 1 }, 'true']) {
      const body = changed(everything, place, () => wrong) as Record<string, unknown>
      const outcome = await follow(body)
      const where = `${place.join('.')}: ${JSON.stringify(wrong)}`
      if ('sent' in outcome) expect(normal(outcome.sent), where).toEqual(normal(body))
      expect(outcome, where).not.toEqual({ refused: '' })
    }
  }
})

test.each([
  [{ tools: 'x' }, { refused: 'tools' }],
  [{ messages: [{ role: 'assistant', content: 'a', tool_calls: 'x' }] }, { refused: 'messages[0].toolCalls' }],
  [{ messages: [{ role: 'user', content: null }] }, { refused: 'messages[0].content' }],
  [{ stream: 'true' }, { passedOn: true }],
  [{ max_tokens: 1, max_completion_tokens: 2 }, { passedOn: true }],
  [{ messages: [{ role: 'assistant', content: null, audio: { id: 'a' } }] }, { passedOn: true }]
])('%j: %j', async (part, outcome) => {
  expect(await follow({ model: 'm', messages: [{ role: 'user', content: 'x' }], ...part })).toEqual(outcome)
})

const recordings = loadRecordings({ api: 'openai.chat' })
test.skipIf(recordings === undefined)(
  'every recorded request reaches the provider as it was sent, or is passed on (skipped without ../shared/real)',
  async () => {
    let carried = 0
    for (const { id, request } of recordings ?? []) {
      const body = request?.body as Record<string, unknown> | undefined
      if (typeof body !== 'object' || body === null || !Array.isArray(body.messages)) continue
      const outcome = await follow(body)
      expect(outcome, id).not.toHaveProperty('refused')
      if (!('sent' in outcome)) continue
      expect(normal(outcome.sent), id).toEqual(normal(body))
      carried++
    }
    expect(carried).toBeGreaterThan(80)
  }
)
