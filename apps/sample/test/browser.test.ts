import { createAdapter } from '@millrace/adapter'
import { openai } from '@millrace/adapter/openai'
import { startBrowser, startScriptedProvider } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import { expect, test } from 'vitest'
import { startGateway } from '../src/gateway.ts'

test('a page in a real browser shows how to call the gateway and reads a stream from it as it comes', async (context) => {
  const started = await startBrowser()
  if ('skip' in started) return context.skip(started.skip)
  await using provider = await startScriptedProvider({ reply: () => ({ text: 'word '.repeat(60), tokensPerSecond: 60 }) })
  await using transport = createTransport()
  const upstream = { apiKey: 'k', baseURL: provider.url }
  const adapter = createAdapter({ provider: openai(upstream), transport })
  await using gateway = await startGateway({ adapter, transport, upstream, host: '127.0.0.1', port: 0, model: 'scripted-large' })
  try {
    const page = await started.browser.newPage()
    const errors: string[] = []
    page.on('console', (message) => message.type() === 'error' && errors.push(message.text()))
    page.on('pageerror', (error) => errors.push(error.message))
    await page.goto(gateway.url)
    expect(await page.textContent('pre')).toContain(`curl ${gateway.url}/v1/chat/completions`)
    // The page's own words, run in the page: a stream read with fetch, and when each piece came.
    const pieces = (await page.evaluate(`(async () => {
      const body = JSON.stringify({ model: 'scripted-large', stream: true, messages: [{ role: 'user', content: 'Hi' }] })
      const response = await fetch('/v1/chat/completions', { method: 'POST', body })
      const pieces = []
      for await (const bytes of response.body) pieces.push([performance.now(), new TextDecoder().decode(bytes)])
      return pieces
    })()`)) as [at: number, text: string][]
    const text = pieces.map(([, piece]) => piece).join('')
    expect(text.split('"content":"word').length + text.split('"content":" word').length - 2).toBe(60)
    expect(text).toContain('data: [DONE]')
    // 60 words at 60 a second: what comes in one lump at the end was not streamed.
    expect((pieces.at(-1)?.[0] ?? 0) - (pieces[0]?.[0] ?? 0)).toBeGreaterThan(500)
    expect(errors).toEqual([])
  } finally {
    await started.close()
  }
}, 60_000)
