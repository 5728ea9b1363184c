import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type ScriptedFault, type ScriptedProvider, spawnScriptedProvider, startScriptedProvider } from '../src/index.ts'
import { becomes } from './support.ts'

let provider: ScriptedProvider
beforeEach(async () => {
  provider = await startScriptedProvider()
})
afterEach(() => provider.close())

const anthropic = { 'anthropic-version': '2023-06-01' }
const post = (path: string, body: object, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(`${provider.url}${path}`, { method: 'POST', headers, body: JSON.stringify({ model: 'm', ...body }) })
const ask = { messages: [{ role: 'user', content: 'How do tides work?' }] }
const chat = (more: object = {}): Promise<Response> => post('/chat/completions', { ...ask, ...more })

/** What was read of a body that breaks off, and how it ended. */
async function readBroken(response: Response): Promise<{ text: string; cause: unknown }> {
  let text = ''
  try {
    for await (const part of response.body ?? []) text += Buffer.from(part).toString()
  } catch (error) {
    return { text, cause: ((error as Error).cause as { code?: string } | undefined)?.code }
  }
  return { text, cause: 'it ended whole' }
}

describe('rate-limit', () => {
  it('answers every request with a 429 that says to come back in a second', async () => {
    provider.setFault('rate-limit')
    const paths: [Promise<Response>, object][] = [
      [chat(), { error: { type: 'requests', code: 'rate_limit_exceeded' } }],
      [post('/responses', { input: 'hi' }), { error: { type: 'requests' } }],
      [post('/embeddings', { input: 'hi' }), { error: { type: 'requests' } }],
      [post('/messages', { ...ask, max_tokens: 5 }, anthropic), { type: 'error', error: { type: 'rate_limit_error' } }],
      [fetch(`${provider.url}/models`), { error: { type: 'requests' } }]
    ]
    for (const [pending, body] of paths) {
      const response = await pending
      expect([response.status, response.headers.get('retry-after')]).toEqual([429, '1'])
      expect(await response.json()).toMatchObject(body)
    }
    expect(provider.stats()).toMatchObject({ requests: 5, rateLimited: 5, accepted: 0, tokensIn: 0 })
    provider.setFault('none')
    expect((await chat()).status).toBe(200)
  })
})

describe('reset', () => {
  it('resets the connection of each second stream before its head, and of the others after the third token', async () => {
    provider.setFault('reset')
    for (const path of ['/chat/completions', '/responses']) {
      const stream = (): Promise<Response> => post(path, { ...ask, input: 'How do tides work?', stream: true })
      await expect(stream()).rejects.toMatchObject({ cause: { code: 'ECONNRESET' } })
      const { tokensOut } = provider.stats()
      const { text, cause } = await readBroken(await stream())
      expect(cause).toBe('ECONNRESET')
      expect(text.match(/"(content|delta)":"[^"]+"/g)).toHaveLength(3)
      expect(provider.stats().tokensOut).toBe(tokensOut + 3)
    }
    await becomes(() => provider.stats().openAnswers, 0)
  })

  it('breaks a plain answer off in the middle of its body', async () => {
    provider.setFault('reset')
    for (const [path, body] of [['/chat/completions', ask] as const, ['/embeddings', { input: 'hi' }] as const]) {
      await expect(post(path, body)).rejects.toMatchObject({ cause: { code: 'ECONNRESET' } })
      const response = await post(path, body)
      const { text, cause } = await readBroken(response)
      expect(cause).toBe('ECONNRESET')
      expect(text.length).toBe(Math.floor(Number(response.headers.get('content-length')) / 2))
    }
  })

  it('breaks off what is shorter than three tokens after its last one', async () => {
    provider.setFault('reset')
    await expect(chat()).rejects.toThrow('fetch failed')
    const { text, cause } = await readBroken(await chat({ stream: true, max_tokens: 2 }))
    expect(cause).toBe('ECONNRESET')
    expect(text).not.toContain('[DONE]')
  })

  it('begins anew when it is switched on again, and leaves answers that began before alone', async () => {
    await using slow = await startScriptedProvider({ tokensPerSecond: 100 })
    const body = JSON.stringify({ model: 'm', ...ask, stream: true, max_tokens: 20 })
    const before = await fetch(`${slow.url}/chat/completions`, { method: 'POST', body })
    slow.setFault('reset')
    expect(await before.text()).toContain('[DONE]')
    for (let round = 0; round < 2; round++) {
      slow.setFault('reset')
      await expect(fetch(`${slow.url}/chat/completions`, { method: 'POST', body })).rejects.toThrow('fetch failed')
    }
  })
})

describe('slow', () => {
  it('keeps an answer that begins meanwhile at four seconds and five tokens a second', { timeout: 30_000 }, async () => {
    provider.setFault('slow')
    const startedAt = performance.now()
    const pending = chat({ stream: true, max_tokens: 4 })
    // The switch is read when an answer begins: it must have begun before it is switched back.
    await becomes(() => provider.stats().openAnswers, 1)
    provider.setFault('none')
    await (await chat()).text()
    expect(performance.now() - startedAt).toBeLessThan(3900)
    const response = await pending
    const headAt = performance.now()
    // A timer may fire up to a millisecond early.
    expect(headAt - startedAt).toBeGreaterThanOrEqual(3999)
    expect(await response.text()).toContain('[DONE]')
    // The fourth token comes three fifths of a second after the first; the head may have been read late.
    expect(performance.now() - startedAt).toBeGreaterThanOrEqual(4598)
  })
})

it('is switched over HTTP in a process of its own, which counts none of it', async () => {
  await using spawned = await spawnScriptedProvider()
  const status = async () => (await fetch(`${spawned.url}/models`)).status
  await spawned.setFault('rate-limit')
  expect(await status()).toBe(429)
  await spawned.setFault('none')
  expect(await status()).toBe(200)
  const wrong = await fetch(new URL('/faults', spawned.url), { method: 'PUT', body: '{"fault":"flood"}' })
  expect(wrong.status).toBe(400)
  expect(await wrong.text()).toContain('none, slow, rate-limit, reset')
  expect(await spawned.stats()).toMatchObject({ requests: 2, rateLimited: 1 })
  await expect(spawned.setFault('flood' as ScriptedFault)).rejects.toThrow(TypeError)
})

it('refuses a fault it does not know and says which there are', () => {
  expect(() => provider.setFault('flood' as ScriptedFault)).toThrow(/one of none, slow, rate-limit, reset/)
})
