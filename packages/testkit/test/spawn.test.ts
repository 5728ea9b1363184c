import { expect, it } from 'vitest'
import { spawnScriptedProvider } from '../src/index.ts'

it('answers from a process of its own and ends with close', async () => {
  const provider = await spawnScriptedProvider({ tokensPerSecond: 5000, rateLimit: { requests: 1, perMs: 60_000 } })
  const ask = (): Promise<Response> =>
    fetch(`${provider.url}/chat/completions`, {
      method: 'POST',
      body: JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'hi' }] })
    })
  expect((await ask()).status).toBe(200)
  expect((await ask()).status).toBe(429)
  expect(await provider.stats()).toMatchObject({ requests: 2, rateLimited: 1 })
  expect(provider.pid).not.toBe(process.pid)
  await provider.close()
  await provider.close()
  expect(() => process.kill(provider.pid, 0)).toThrow(/ESRCH/)
})

it('says in one line why it does not listen', async () => {
  await using first = await spawnScriptedProvider()
  const { port } = new URL(first.url)
  await expect(spawnScriptedProvider({ port: Number(port) })).rejects.toThrow(/^scripted provider: listen EADDRINUSE.*$/)
})
